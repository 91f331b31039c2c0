"""A training through the flow `train`, against a real Prefect server of its own, whose process dies when all is done."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from prefect import flow
from prefect.client.orchestration import get_client
from prefect.testing.utilities import prefect_test_harness

from flows.parameters import TrainForm
from flows.train import train
from flows.train_stage import train_stage
from magistral_core.config import load_recipe
from magistral_core.storage import RunIndex, open_store

PIPELINE_TESTS = Path(__file__).parents[1] / "pipeline"
#: Every Python reads it first. What Ray, torch or the machine can do to a process that is just ending.
DIES_AT_ITS_END = """
import atexit, os, signal, sys
if "--direct" in sys.orig_argv:
    atexit.register(os.kill, os.getpid(), signal.SIGKILL)
"""


@pytest.fixture
def changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Of the recipe `tiny`: one step of a run in one process."""
    monkeypatch.setenv("MAGISTRAL_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("PREFECT_LOCAL_STORAGE_PATH", str(tmp_path / "results"))
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(DIES_AT_ITS_END)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "site"))
    monkeypatch.syspath_prepend(str(PIPELINE_TESTS))
    from random_writer import make_model
    from small_run import SMALL

    return {
        **SMALL,
        "model.path": str(make_model(tmp_path / "writer")),
        "pipeline.runtime": "local",
        "pipeline.schedule": "sync",
        "training.max_steps": 1,
        "storage.uri": f"file:{tmp_path}/store",
        "tracking.uri": f"sqlite:{tmp_path}/mlflow.db",
    }


def settings_of(changes: dict[str, Any]) -> dict[str, Any]:
    return load_recipe("tiny", [f"{name}={value}" for name, value in changes.items()]).model_dump(mode="json")


@pytest.mark.timeout(600)
def test_a_run_that_has_ended_is_not_trained_again(tmp_path: Path, changes: dict[str, Any]) -> None:
    settings = settings_of(changes)
    with prefect_test_harness(server_startup_timeout=180):
        result = train(TrainForm(settings=settings, fresh=True))
        with get_client(sync_client=True) as client:
            [run] = client.read_flow_runs()
            [task] = [task for task in client.read_task_runs() if task.name.startswith("train")]
    assert (result["steps"], task.run_count) == (1, 1)
    assert [handle.run_id for handle in RunIndex(open_store(f"file:{tmp_path}/store")).list()] == [result["run_id"]]
    folder = tmp_path / "home" / "flow-runs" / str(run.id)
    assert [path.name for path in folder.glob("begun-*")] == [f"begun-{settings['name']}"], "tried again, it would not begin anew"


@pytest.mark.timeout(600)
def test_a_curriculum_whose_last_evaluation_was_cancelled_is_not_trained_again(tmp_path: Path, changes: dict[str, Any]) -> None:
    """Prefect makes a new subflow then, for the old one was cancelled, and the core by itself would begin anew."""
    settings = settings_of({**changes, "problems.levels": [1], "curriculum.stages": [{"levels": [1, 1]}], "evaluation.suite": "null"})

    @flow
    def again() -> list[dict[str, Any]]:
        return [train_stage(settings)["training"] for _ in range(2)]

    with prefect_test_harness(server_startup_timeout=180):
        first, second = again()
    assert first["finished"] and second == first
    assert [handle.run_id for handle in RunIndex(open_store(f"file:{tmp_path}/store")).list()] == [first["run_id"]]
