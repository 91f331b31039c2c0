"""A training through the flow `train`, against a real Prefect server of its own, whose process dies when all is done."""

from __future__ import annotations

from pathlib import Path

import pytest
from prefect.client.orchestration import get_client
from prefect.testing.utilities import prefect_test_harness

from flows.parameters import TrainForm
from flows.train import train
from magistral_core.config import load_recipe
from magistral_core.storage import RunIndex, open_store

PIPELINE_TESTS = Path(__file__).parents[1] / "pipeline"
#: Every Python reads it first. What Ray, torch or the machine can do to a process that is just ending.
DIES_AT_ITS_END = """
import atexit, os, signal, sys
if "--direct" in sys.orig_argv:
    atexit.register(os.kill, os.getpid(), signal.SIGKILL)
"""


@pytest.mark.timeout(600)
def test_a_run_that_has_ended_is_not_trained_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MAGISTRAL_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("PREFECT_LOCAL_STORAGE_PATH", str(tmp_path / "results"))
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(DIES_AT_ITS_END)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "site"))
    monkeypatch.syspath_prepend(str(PIPELINE_TESTS))
    from random_writer import make_model
    from small_run import SMALL

    changes = {
        **SMALL,
        "model.path": str(make_model(tmp_path / "writer")),
        "pipeline.runtime": "local",
        "pipeline.schedule": "sync",
        "training.max_steps": 1,
        "storage.uri": f"file:{tmp_path}/store",
        "tracking.uri": f"sqlite:{tmp_path}/mlflow.db",
    }
    settings = load_recipe("tiny", [f"{name}={value}" for name, value in changes.items()]).model_dump(mode="json")
    with prefect_test_harness(server_startup_timeout=180):
        result = train(TrainForm(settings=settings, fresh=True))
        with get_client(sync_client=True) as client:
            [run] = client.read_flow_runs()
            [task] = [task for task in client.read_task_runs() if task.name.startswith("train")]
    assert (result["steps"], task.run_count) == (1, 1)
    assert [handle.run_id for handle in RunIndex(open_store(f"file:{tmp_path}/store")).list()] == [result["run_id"]]
    folder = tmp_path / "home" / "flow-runs" / str(run.id)
    assert [path.name for path in folder.glob("begun-*")] == [f"begun-{settings['name']}"], "tried again, it would not begin anew"
