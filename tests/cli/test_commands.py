"""The command itself: start-up, doctor, checkpoints, what a run's events look like."""

import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from magistral_core.cli import main
from magistral_core.cli.common import local_stack, use_stack
from magistral_core.cli.progress import EventWriter, RunView
from magistral_core.cli.run import absolute_paths
from magistral_core.config import load_recipe
from magistral_core.storage import RunIndex, open_store

HEAVY = ("torch", "vllm", "ray", "prefect", "mlflow", "boto3", "transformers")


LIGHT = f"""
import sys
sys.argv = ["magistral", "--help"]
try:
    from magistral_core.cli import main
    main()
except SystemExit:
    print([name for name in {HEAVY} if name in sys.modules])
"""


def test_help_is_light() -> None:
    began = resource.getrusage(resource.RUSAGE_CHILDREN)
    output = subprocess.run([sys.executable, "-c", LIGHT], capture_output=True, text=True, check=True).stdout
    assert output.splitlines()[-1] == "[]"
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert ended.ru_utime + ended.ru_stime - began.ru_utime - began.ru_stime < 2  # processor time: 0.3 s


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main(["--version"])
    assert capsys.readouterr().out.startswith("magistral 0.")


def test_doctor(tmp_path: Path) -> None:
    environment = {**os.environ, "MAGISTRAL_HOME": str(tmp_path)}
    result = subprocess.run(
        [sys.executable, "-m", "magistral_core.cli", "doctor", "--json"], capture_output=True, text=True, env=environment
    )
    report = json.loads(result.stdout)
    checks = {check["name"]: check for check in report["checks"]}
    assert {"python", "memory", "disk", "torch", "vllm", "deepspeed", "ray", "prefect", "mlflow", "gpu"} <= checks.keys()
    assert checks["torch"]["ok"] and checks["vllm"]["ok"]
    assert report["ready"] == all(check["ok"] for check in checks.values() if check["required"])
    assert result.returncode == (0 if report["ready"] else 1)
    assert all(check["mend"] for check in checks.values() if not check["ok"])


@pytest.fixture
def stored(tmp_path: Path) -> str:
    """Two checkpoints of one run; returns the storage URI."""
    uri = f"file:{tmp_path / 'store'}"
    run = RunIndex(open_store(uri)).resolve("mine", "0" * 8)
    for step in (5, 10):
        folder = tmp_path / f"step-{step}"
        (folder / "hf").mkdir(parents=True)
        (folder / "hf" / "config.json").write_text("{}")
        (folder / "state.json").write_text(str(step))
        run.checkpoints().save(step, folder)
    return uri


def command(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict:
    assert main(["checkpoints", *arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_checkpoints(stored: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MAGISTRAL_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("MAGISTRAL_STORAGE_URI", stored)
    [run] = command(capsys, "list")["runs"]
    assert [checkpoint["step"] for checkpoint in run["checkpoints"]] == [5, 10]
    assert command(capsys, "show", "mine")["step"] == 10
    assert {file["path"] for file in command(capsys, "show", run["run"], "--step", "5")["files"]} == {"hf/config.json", "state.json"}
    assert command(capsys, "verify", "mine")["valid"] is True
    by_uri = run["checkpoints"][0]["uri"]
    assert command(capsys, "pull", by_uri, "--format", "hf", "--out", str(tmp_path / "model"))["step"] == 5
    assert [path.name for path in (tmp_path / "model").iterdir()] == ["config.json"]
    command(capsys, "pull", "mine", "--out", str(tmp_path / "all"))
    assert (tmp_path / "all" / "state.json").read_text() == "10" and (tmp_path / "all" / "hf" / "config.json").is_file()
    assert main(["checkpoints", "pull", "mine", "--out", str(tmp_path / "all")]) == 2  # never over what is there
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    command(capsys, "pull", "mine", "--out", ".")
    assert sorted(path.name for path in (tmp_path / "here").iterdir()) == ["hf", "state.json"]
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")], "nothing is left beside it"
    assert command(capsys, "prune", "mine", "--keep", "1")["deleted_steps"] == [5]
    assert main(["checkpoints", "show", "mine", "--step", "5"]) == 2


def test_damaged_checkpoint_is_reported(
    stored: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MAGISTRAL_HOME", str(tmp_path / "home"))
    [state] = (tmp_path / "store").rglob("step-00000010/*/state.json")
    state.write_text("11")  # same size
    assert main(["checkpoints", "verify", "mine", "--storage", stored]) == 3
    assert "state.json" in capsys.readouterr().err


def test_scale(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MAGISTRAL_HOME", str(tmp_path / "home"))
    uri = f"file:{tmp_path / 'store'}"
    monkeypatch.setenv("MAGISTRAL_STORAGE_URI", uri)
    index = RunIndex(open_store(uri))
    run, local = (index.resolve(name, "0" * 8) for name in ("mine", "single"))
    run.begin({"pipeline": {"runtime": "ray"}})
    local.begin({"pipeline": {"runtime": "local"}})
    assert main(["scale", "mine", "--generators", "3", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"run": run.run_id, "generators": 3}
    assert run.wanted_generators() == 3
    run.finish()
    for arguments, reason in (
        (["mine", "--generators", "0"], "at least one"),
        (["mine", "--generators", "2"], "has finished"),
        (["single", "--generators", "2"], "one generator"),
        (["other", "--generators", "2"], "no run is called other"),
    ):
        assert main(["scale", *arguments]) == 2
        assert reason in capsys.readouterr().err
    assert local.wanted_generators() is None
    assert run.wanted_generators() == 3


def test_local_paths_become_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.jsonl").touch()
    overrides = ["problems.path=mine.jsonl", "storage.uri=file:out", "tracking.uri=sqlite:mlflow.db"]
    assert absolute_paths(load_recipe("tiny", overrides)) == [
        f'problems.path="{tmp_path}/mine.jsonl"',
        f'storage.uri="file:{tmp_path}/out"',
        f'tracking.uri="sqlite:{tmp_path}/mlflow.db"',
    ]
    folder = tmp_path / "Data #1: mine"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setenv("HOME", str(tmp_path))
    overrides = ["problems.path=~/mine.jsonl", "storage.uri=file:~/out", "tracking.uri=sqlite:///mlflow.db"]
    elsewhere = load_recipe("tiny", [*overrides, *absolute_paths(load_recipe("tiny", overrides))])
    assert elsewhere.problems.path == f"{tmp_path}/mine.jsonl"
    assert elsewhere.storage.uri == f"file:{tmp_path}/out"
    assert elsewhere.tracking.uri == f"sqlite:{folder}/mlflow.db"
    assert absolute_paths(load_recipe("tiny", ["storage.uri=s3://bucket"])) == []
    (folder / "tiny").mkdir()
    (folder / "tiny-multilingual").mkdir()
    assert absolute_paths(load_recipe("tiny-multilingual", ["storage.uri=s3://bucket", "model.path=tiny"])) == []
    (folder / "held-out.jsonl").touch()
    validated = load_recipe("tiny", ["validation={problems: {path: held-out.jsonl}}"])
    assert absolute_paths(validated) == [f'validation.problems.path="{folder}/held-out.jsonl"']


def test_files_that_the_environment_names_are_meant_as_from_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker, and the runs that it starts, have another working folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MAGISTRAL_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("MAGISTRAL_STORAGE_URI", "file:out")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:mlflow.db")
    local_stack()
    assert os.environ["MAGISTRAL_STORAGE_URI"] == f"file:{tmp_path}/out"
    assert os.environ["MLFLOW_TRACKING_URI"] == f"sqlite:{tmp_path}/mlflow.db"
    monkeypatch.setenv("MAGISTRAL_STORAGE_URI", "s3://bucket/runs")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:5000")
    use_stack()
    assert os.environ["MAGISTRAL_STORAGE_URI"] == "s3://bucket/runs"
    assert os.environ["MLFLOW_TRACKING_URI"] == "http://127.0.0.1:5000"


def test_events_as_lines_and_as_text(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    events = [
        {"event": "start", "run_id": "r-1", "mlflow_run_id": "m", "mlflow_url": "http://x", "max_steps": 2, "resumed_step": 1},
        {"event": "step", "step": 2, "metrics": {"reward/mean": 0.5}},
        {"event": "unknown to this version"},
    ]
    with EventWriter(str(tmp_path / "events")) as writer, RunView() as view:
        for event in events:
            writer(event)
            view(event)
    assert [json.loads(line) for line in (tmp_path / "events").read_text().splitlines()] == events
    shown = capsys.readouterr().err
    assert "resumed at step 1" in shown and "step 2/2  reward 0.5" in shown


def test_benchmarks_are_listed_and_write_their_result(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "--list", "--json"]) == 0
    assert "arrival order" in json.loads(capsys.readouterr().out)["collation"]
    out = tmp_path / "collation.json"
    small = ["--set", "sequences=64", "--set", "budgets=2", "--set", "repetitions=2"]
    assert main(["bench", "collation", *small, "--out", str(out), "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed == json.loads(out.read_text())
    assert printed["settings"]["sequences"] == [64] and printed["full"] is False
    assert len(printed["repetitions"]) == 2 * len(printed["table"])
    assert all(cell["bound"] <= cell["greedy"] <= cell["arrival"] for cell in printed["repetitions"])
