"""A curated set in MLflow, in a real database: data sets with digests, counts, artifacts; and the command from end to end."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from magistral_core.cli import main
from magistral_core.errors import InfrastructureError

ROWS = '{"question": "What is 3+4?", "answer": "7"}\n{"question": "Prove it.", "answer": "x"}\n'


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MAGISTRAL_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    path = tmp_path / "in.jsonl"
    path.write_text(ROWS)
    return path


def test_the_command_logs_the_set(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from mlflow import MlflowClient

    database, out, events = tmp_path / "mlflow.db", tmp_path / "out", tmp_path / "events"
    sets = ["--set", f"tracking.uri=sqlite:{database}", "--set", "gold.workers=1"]
    assert main(["curate", "math", str(source), "--out", str(out), *sets, "--events", str(events), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["read"], report["kept"]) == (2, 1)

    client = MlflowClient(f"sqlite:///{database}")
    [run] = client.search_runs([client.get_experiment_by_name("magistral").experiment_id])
    assert run.info.status == "FINISHED"
    assert run.data.metrics == {"curation/read": 2, "curation/kept": 1, "rejected/proof": 1}
    assert run.data.tags["dataset.version"] == report["version"]
    data = {item.tags[0].value: item.dataset for item in run.inputs.dataset_inputs}
    assert data["curation-input"].digest == report["sources"][0]["sha256"][:36]
    assert (data["curated"].name, data["curated"].digest) == ("math", report["version"])
    assert json.loads(data["curated"].profile) == {"num_rows": 1}
    assert {Path(item.path).name for item in client.list_artifacts(run.info.run_id, "curation")} == {path.name for path in out.iterdir()}

    shown = [json.loads(line) for line in events.read_text().splitlines()]
    assert shown[-1]["event"] == "end"
    assert [event["stage"] for event in shown[:-1]][-1] == "writing"


def test_what_mlflow_did_not_take_is_complete_all_the_same(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was there when the work began; a repetition would ask the language models everything anew."""
    from magistral_core.curation import publish

    def away(*_: object, **__: object) -> str:
        raise InfrastructureError("MLflow is away")

    monkeypatch.setattr(publish, "publish", away)
    sets = ["--set", f"tracking.uri=sqlite:{tmp_path / 'mlflow.db'}", "--set", "gold.check=false"]
    assert main(["curate", "math", str(source), "--out", str(tmp_path / "out"), *sets, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["mlflow_url"] == ""
    assert (tmp_path / "out" / "kept.jsonl").read_text().count("\n") == 1
    assert "not logged in MLflow: MLflow is away" in caplog.text


def test_the_command_without_tracking(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["curate", "math", str(source), "--out", str(tmp_path / "out"), "--set", "gold.check=false"]) == 0
    said = capsys.readouterr().out
    assert "proof 1" in said
    assert "1 of 2 rows kept" in said
    assert "no model is configured" in said


@pytest.mark.parametrize(
    ("content", "options", "told"),
    [
        (ROWS + "{", [], "in.jsonl:3"),
        (ROWS + "[1]\n", [], "in.jsonl:3"),
        ("", [], "the file is empty"),
        (ROWS, ["--recipe", "nope"], "known: math"),
        (ROWS, ["--set", "duplicates.treshold=1"], "did you mean duplicates.threshold?"),
        (ROWS, ["--set", "decontaminate.against=[none.jsonl]"], "none.jsonl: no such problem file"),
        (ROWS, ["--set", "problems.fields.answer=gold"], "in.jsonl:1: no field gold"),
        (ROWS, ["--set", "llm.model=."], "llm.model .: no config.json there"),
        (ROWS, ["--set", "tracking.uri=nowhere"], "not an MLflow URI"),
    ],
)
def test_bad_input_is_one_line(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str, options: list[str], told: str
) -> None:
    source.write_text(content)
    assert main(["curate", "math", str(source), "--out", str(tmp_path / "out"), *options]) == 2
    said = capsys.readouterr().err.splitlines()
    assert told in said[-1]
    assert said[-1].startswith("magistral: ")
    assert not (tmp_path / "out").exists()
