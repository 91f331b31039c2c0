"""Bad input: one clear line on stderr, exit code 2, nothing on stdout, no traceback."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

# A port that answers nobody: reserved for discarding, and closed here.
CLOSED = "http://127.0.0.1:9"


@pytest.fixture
def magistral(tmp_path: Path):
    def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("MAGISTRAL_", "PREFECT_", "MLFLOW_", "AWS_"))}
        home = {"MAGISTRAL_HOME": str(tmp_path / "home"), "MAGISTRAL_CACHE": str(tmp_path / "cache")}
        command = [sys.executable, "-m", "magistral_core.cli", *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=120, env={**kept, **home, **environment}, cwd=Path.cwd())

    return run


def refused(result: subprocess.CompletedProcess[str], *words: str) -> None:
    lines = result.stderr.strip().splitlines()
    assert result.returncode == 2, result.stderr
    assert len(lines) == 1 and lines[0].startswith("magistral: "), result.stderr
    assert not result.stdout
    for word in words:
        assert word in lines[0]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["frobnicate"], ["invalid choice: 'frobnicate'"]),
        (["run"], ["RECIPE"]),
        (["run", "nope"], ["unknown recipe 'nope'", "tiny", "gsm8k-0.5b"]),
        (["run", "nope.yaml"], ["nope.yaml: no such file"]),
        (["run", "tiny", "--set", "training.max_stps=3"], ["unknown key training.max_stps", "did you mean training.max_steps?"]),
        (["run", "tiny", "--set", "training.max_steps=many"], ["training.max_steps", "'many'"]),
        (["run", "tiny", "--set", "training.max_steps"], ["--set training.max_steps"]),
        (["run", "tiny", "--set", "name=2024-13-45"], ["--set name=2024-13-45", "not YAML"]),
        (["run", "tiny", "--set", "pipeline.group_size=7"], ["group_size (7) must divide"]),
        (["run", "tiny", "--set", "pipeline.n_async=1024", "--set", "pipeline.max_open=2048"], ["allow_stale"]),
        (["run", "tiny", "--direct", "--dry-run", "--set", "problems.path=missing.jsonl"], ["missing.jsonl"]),
        (["run", "tiny-staged", "--until", "stage"], ["--until stage goes with --direct"]),
        (["run", "tiny", "--events", "events.jsonl"], ["--events goes with --direct"]),
        (["run", "tiny", "--direct", "--events", "no/such/folder/x"], ["--events no/such/folder/x", "No such file"]),
        (["run", "tiny-staged", "--set", "curriculum.stages.1.steps=3"], ["stages is a list", "--set 'curriculum.stages=[...]'"]),
        (["run", "tiny", "--set", "curriculum.stages=[{steps: 1, n_batch: 24}, {}]"], ["curriculum.stages.0: group_size (16) must divide"]),
        (["checkpoints", "list"], ["no storage", "--storage"]),
        (["checkpoints", "list", "--storage", "ftp://host/x"], ["ftp://host/x", "s3://bucket/prefix"]),
        (["bench"], ["bench --list"]),
        (["bench", "collision"], ["unknown benchmark 'collision'", "collation"]),
        (["bench", "collation", "--set", "sise=1"], ["--set sise", "sequences"]),
        (["bench", "collation", "--set", "longest"], ["--set longest", "KEY=VALUE"]),
        (["bench", "collation", "--out", "no/such/folder/x.json"], ["no/such/folder"]),
        (["bench", "collation", "--out", "."], ["--out .", "folder", "name of a file"]),
        (["demo", "--set", "model.pth=tiny"], ["model.pth", "did you mean model.path?"]),
    ],
    ids=lambda value: " ".join(value)[:60],
)
def test_bad_arguments(magistral, arguments: list[str], words: list[str]) -> None:
    refused(magistral(*arguments), *words)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", ["empty"]),
        ('{"question": "1+1?", "answer": "2"}\nnot json\n', [":2"]),
        ('{"question": "1+1?", "answer": "2"}\n{"question": "2+2?"', [":2"]),
        ('{"question": "1+1?", "answer": "2"}\n{"question": "2+2?"}\n', [":2", "answer"]),
    ],
    ids=["empty", "not JSON", "half-written", "no answer"],
)
def test_bad_problem_files(magistral, tmp_path: Path, content: str, words: list[str]) -> None:
    path = tmp_path / "problems.jsonl"
    path.write_text(content)
    refused(magistral("run", "tiny", "--direct", "--dry-run", "--set", f"problems.path={path}"), str(path), *words)


def test_recipe_that_is_not_a_mapping(magistral, tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("- a\n- b\n")
    refused(magistral("run", str(path)), "mine.yaml", "mapping")


def test_model_folder_without_tokenizer(magistral, tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text(json.dumps({"model_type": "mistral"}))
    problems = tmp_path / "problems.jsonl"
    problems.write_text('{"question": "1+1?", "answer": "2"}\n')
    arguments = ("--direct", "--dry-run", "--set", f"problems.path={problems}", "--set", f"model.path={tmp_path / 'model'}")
    refused(magistral("run", "tiny", *arguments), "tokenizer", str(tmp_path / "model"))


@pytest.mark.parametrize(
    ("variable", "value", "word"),
    [
        ("PREFECT_API_URL", f"{CLOSED}/api", "prefect"),
        ("MLFLOW_TRACKING_URI", CLOSED, "mlflow"),
        ("AWS_ENDPOINT_URL", CLOSED, "s3"),
    ],
)
def test_unreachable_production_endpoint(magistral, tmp_path: Path, variable: str, value: str, word: str) -> None:
    keys = {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b", "AWS_DEFAULT_REGION": "us-east-1"}
    refused(magistral("stack", "up", **{variable: value}, **keys), word, variable, value)
    refused(magistral("run", "tiny", **{variable: value}, **keys), word, variable, value)
    assert not (tmp_path / "home" / "stack.json").exists()  # nothing was started


def test_unreachable_storage_and_tracking_of_a_direct_run(magistral, tmp_path: Path) -> None:
    keys = {"AWS_ENDPOINT_URL": CLOSED, "AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b", "AWS_DEFAULT_REGION": "us-east-1"}
    tracking = f"tracking.uri=sqlite:{tmp_path}/mlflow.db"
    refused(magistral("run", "tiny", "--direct", "--set", "storage.uri=s3://bucket", "--set", tracking, **keys), "s3://bucket", CLOSED)
    storage = f"storage.uri=file:{tmp_path}/out"
    refused(magistral("run", "tiny", "--direct", "--set", storage, "--set", f"tracking.uri={CLOSED}"), CLOSED)
    assert not (tmp_path / "cache").exists()  # found out before the base model is trained


def test_neither_storage_nor_stack(magistral) -> None:
    refused(magistral("run", "tiny", "--direct"), "storage.uri", "magistral stack up")


def test_unexpected_errors_say_how_to_see_more(magistral, tmp_path: Path) -> None:
    problems = tmp_path / "problems.jsonl"
    problems.write_text('{"question": "How much is 1+1?", "answer": "2"}\n')
    # A file that can be opened and takes no line.
    arguments = ("curate", "math", str(problems), "--out", str(tmp_path / "out"), "--events", "/proc/self/oom_score_adj")
    short, long = magistral(*arguments), magistral(*arguments, MAGISTRAL_DEBUG="1")
    assert (short.returncode, long.returncode) == (1, 1)
    assert len(short.stderr.splitlines()) == 1 and "MAGISTRAL_DEBUG=1" in short.stderr
    assert "Traceback" in long.stderr


def test_a_full_disk_is_none_of_them(magistral, tmp_path: Path) -> None:
    problems = tmp_path / "problems.jsonl"
    problems.write_text('{"question": "How much is 1+1?", "answer": "2"}\n')
    events = magistral("curate", "math", str(problems), "--out", str(tmp_path / "out"), "--events", "/dev/full")
    refused(events, "the disk is full", "free some space")
    with open("/dev/full", "w") as full:
        command = [sys.executable, "-m", "magistral_core.cli", "bench", "--list"]
        listed = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert (listed.returncode, len(listed.stderr.splitlines())) == (2, 1) and "the disk is full" in listed.stderr
