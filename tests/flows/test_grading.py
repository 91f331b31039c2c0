"""The flow `grade-difficulty` against a real Prefect server of its own, with a real engine: result, artifacts, and bad input."""

import json
import sys
from pathlib import Path

import pytest
from prefect.client.orchestration import get_client
from prefect.testing.utilities import prefect_test_harness

from flows.grade_difficulty import grade_difficulty
from flows.parameters import GradeForm
from magistral_core.errors import InputError
from tasks.grading import pass_rows

sys.path.insert(0, str(Path(__file__).parents[1] / "pipeline"))  # importmode=importlib adds no folder


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_flow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from random_writer import make_model

    monkeypatch.setenv("MAGISTRAL_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("PREFECT_LOCAL_STORAGE_PATH", str(tmp_path / "results"))
    for name in ("MLFLOW_TRACKING_URI", "MAGISTRAL_STORAGE_URI"):
        monkeypatch.delenv(name, raising=False)
    model, source, broken = str(make_model(tmp_path / "model")), tmp_path / "in.jsonl", tmp_path / "broken.jsonl"
    wrong = {0, 3, 6}  # the model answers 1 whatever is asked: these are contested
    rows = [{"question": f"{number}-1=?", "answer": "2" if number in wrong else "1"} for number in range(8)]
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    broken.write_text("not JSON\n")
    changes = ["sampling.samples=4", "sampling.max_tokens=96", "generation.kv_cache_gib=0.0625", "recheck.samples=8"]
    with prefect_test_harness(server_startup_timeout=180):
        form = GradeForm(inputs=[str(source)], out=str(tmp_path / "out"), model=model, grader=model, recipe="tiny", overrides=changes)
        report = grade_difficulty(form)
        assert (report["read"], report["kept"] + report["rejected"], report["mlflow_url"]) == (8, 8, "")
        assert 0 < report["passes"][1]["rechecked"] <= len(wrong)
        with get_client(sync_client=True) as client:
            artifacts = {artifact.key: artifact.data for artifact in client.read_artifacts()}
        assert float(artifacts["grading"]) == 100.0
        rows = artifacts["grading-results"]
        assert (json.loads(rows) if isinstance(rows, str) else rows) == pass_rows(report)
        assert report["version"] in artifacts["grading-summary"]
        with pytest.raises(InputError, match=r"broken\.jsonl:1: not JSON"):
            grade_difficulty(GradeForm(inputs=[str(broken)], out=str(tmp_path / "other"), model=model))


def test_passes_as_rows() -> None:
    stages = [{"stage": "difficulty", "in": 5, "rejected": {"too_hard": 2, "too_easy": 1}, "out": 2}]
    report = {"read": 5, "passes": [{"model": "m", "stages": stages, "rechecked": 1, "kept": 2, "pass_rate": 0.25}]}
    counts = {"looked at again": 1, "too_hard": 2, "too_easy": 1, "kept": 2}
    assert pass_rows(report) == [{"pass": 1, "model": "m", "problems": 5, **counts, "mean pass rate": 0.25}]
