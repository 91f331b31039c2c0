"""The flows `curate-math` and `curate-code` against a real Prefect server of its own: result, artifacts, and bad input."""

import json
from pathlib import Path

import pytest
from prefect.client.orchestration import get_client
from prefect.testing.utilities import prefect_test_harness

from flows.curate_code import curate_code
from flows.curate_math import curate_math
from flows.parameters import CurateCodeForm, CurateForm
from magistral_core.errors import InputError
from tasks.curation import funnel_rows


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_flow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MAGISTRAL_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("PREFECT_LOCAL_STORAGE_PATH", str(tmp_path / "results"))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    source, broken = tmp_path / "in.jsonl", tmp_path / "broken.jsonl"
    source.write_text('{"question": "What is 3+4?", "answer": "7"}\n{"question": "Prove it.", "answer": "x"}\n')
    broken.write_text("not JSON\n")
    with prefect_test_harness(server_startup_timeout=180):
        report = curate_math(CurateForm(inputs=[str(source)], out=str(tmp_path / "out"), overrides=["gold.workers=1"]))
        assert (report["read"], report["kept"], report["mlflow_url"]) == (2, 1, "")
        with get_client(sync_client=True) as client:
            artifacts = {artifact.key: artifact.data for artifact in client.read_artifacts()}
        assert float(artifacts["curation"]) == 100.0
        rows = artifacts["curation-results"]
        assert (json.loads(rows) if isinstance(rows, str) else rows) == funnel_rows(report)
        assert report["version"] in artifacts["curation-summary"]
        tests = [{"input": f"{number}\n", "output": "7\n"} for number in range(3)]
        source.write_text(json.dumps({"statement": "Print 7.", "solutions": ["print(7)", "print(3 + 4)"], "tests": tests}) + "\n")
        code = curate_code(CurateCodeForm(inputs=[str(source)], out=str(tmp_path / "code")))
        assert (code["kept"], code["tests"], code["solutions"]) == (1, {"kept": 3}, {"correct": 2})
        with get_client(sync_client=True) as client:
            summaries = [artifact.data for artifact in client.read_artifacts() if artifact.key == "curation-summary"]
        assert any("Tests: kept 3." in str(summary) for summary in summaries)
        with pytest.raises(InputError, match=r"broken\.jsonl:1: not JSON"):
            curate_math(CurateForm(inputs=[str(broken)], out=str(tmp_path / "other")))


def test_the_funnel_as_rows() -> None:
    stages = [{"stage": "form", "in": 3, "rejected": {"proof": 1, "multi_part": 1}, "out": 1}]
    assert funnel_rows({"stages": stages}) == [{"filter": "form", "in": 3, "rejected": "proof 1, multi_part 1", "out": 1}]
