"""A curriculum through the flow `train` against a real Prefect server of its own: a stage is a subflow, and the core says which is next."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from prefect.client.orchestration import get_client
from prefect.testing.utilities import prefect_test_harness

from flows.parameters import TrainForm
from flows.train import train
from magistral_core.config import load_recipe

PIPELINE_TESTS = Path(__file__).parents[1] / "pipeline"
STAGES = [{"levels": [1, 1], "steps": 2}, {"levels": [1, 2], "steps": 1, "l_max": 40, "l_cache": 38}, {"levels": [2, 2], "l_cache": 46}]


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_each_stage_is_a_subflow_that_goes_on_from_the_last_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MAGISTRAL_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("PREFECT_LOCAL_STORAGE_PATH", str(tmp_path / "results"))
    monkeypatch.syspath_prepend(str(PIPELINE_TESTS))
    from random_writer import make_model
    from small_run import SMALL

    changes = {
        **SMALL,
        "model.path": str(make_model(tmp_path / "writer")),
        "pipeline.runtime": "local",
        "pipeline.schedule": "sync",
        "problems.levels": [1, 2],
        "training.max_steps": 4,
        "curriculum.stages": STAGES,
        "evaluation.problems": 8,
        "evaluation.samples": 1,
        "evaluation.max_tokens": 32,
        "evaluation.engines": 1,
        "storage.uri": f"file:{tmp_path}/store",
        "tracking.uri": f"sqlite:{tmp_path}/mlflow.db",
    }
    settings = load_recipe("tiny", [f"{name}={value}" for name, value in changes.items()]).model_dump(mode="json")
    file = tmp_path / "staged.yaml"
    file.write_text(yaml.safe_dump(settings))
    command = [sys.executable, "-m", "magistral_core.cli", "run", str(file), "--direct", "--until", "stage", "--json"]
    first = json.loads(subprocess.run(command, check=True, capture_output=True, timeout=600).stdout)
    assert (first["steps"], first["finished"]) == (2, False)

    with prefect_test_harness(server_startup_timeout=180):
        result = train(TrainForm(settings=settings))
        with get_client(sync_client=True) as client:
            runs = {run.name: run for run in client.read_flow_runs()}
            tasks = [run.name for run in client.read_task_runs()]
            by_age = sorted(client.read_artifacts(), key=lambda artifact: artifact.created)
            artifacts = {artifact.key: artifact.data for artifact in by_age}  # of each key the newest
    assert result["run_id"] == first["run_id"], "the flow goes on with what the command began"
    assert (result["steps"], result["finished"]) == (4, True)
    assert [row["ended"] for row in result["stages"]] == [2, 3, 4]
    assert runs.keys() >= {"stage 2 of 3", "stage 3 of 3"}
    assert not any(name.startswith("stage 1") for name in runs)
    assert all(runs[name].state_name == "Completed" and runs[name].parent_task_run_id for name in ("stage 2 of 3", "stage 3 of 3"))
    for name in ("select data", "train", "evaluate"):
        assert sum(found.startswith(name) and not found.startswith("train-stage") for found in tasks) == 2, tasks
    assert [report["suite"] for report in result["stage_evaluations"]] == ["tiny", "tiny"]
    rows = artifacts["stages"]
    assert (json.loads(rows) if isinstance(rows, str) else rows) == result["stages"]
