"""`magistral verify code` and `magistral sandbox run`: what they print, and their exit codes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from magistral_core.sandbox import SandboxError, choose

ADD = {"id": "add", "statement": "Add.", "tests": [{"input": "1 2\n", "output": "3\n"}, {"input": "2 2\n", "output": "4\n"}]}
RIGHT = "print(sum(map(int, input().split())))"


def magistral(*arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "magistral_core.cli", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=200, env=os.environ | environment)


@pytest.fixture(scope="module")
def code(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a problem and solutions."""
    try:
        choose()
    except SandboxError as error:
        if "the canary could" in str(error):  # it leaks: that is no reason to skip
            raise
        pytest.skip(f"no sandbox here: {error}")
    folder = tmp_path_factory.mktemp("code")
    (folder / "add.json").write_text(json.dumps(ADD, indent=1))
    (folder / "function.json").write_text(json.dumps(ADD | {"entry_point": "add", "tests": [{"input": "[1, 2]", "output": "3"}]}))
    (folder / "deep.json").write_text("[" * 100_000)
    (folder / "long.json").write_text('{"id": ' + "9" * 5000 + "}")
    (folder / "right.py").write_text(RIGHT)
    (folder / "half.py").write_text("print(3)")
    (folder / "slow.py").write_text("while True: pass")
    (folder / "broken.cpp").write_text("int main() { no }")
    (folder / "function.py").write_text("def add(a, b): return a + b")
    (folder / "odd.py").write_text("import sys\nsys.stdout.buffer.write(b'\\xff\\n' + sys.stdin.buffer.read())\nsys.exit(3)")
    package = folder / "package" / "data" / "secret"
    package.mkdir(parents=True)
    (package / "1.in").write_text("1 2\n")
    (package / "1.ans").write_text("3\n")
    (folder / "package" / "problem.yaml").write_text("source: us\n")
    return folder


def answer(*arguments: str | Path) -> dict[str, Any]:
    done = magistral(*arguments, "--json")
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize(
    ("problem", "solution", "status", "tests"),
    [
        ("add.json", "right.py", "correct", ["correct", "correct"]),
        ("add.json", "half.py", "wrong", ["correct", "wrong"]),
        ("add.json", "broken.cpp", "compile_error", []),
        ("function.json", "function.py", "correct", ["correct"]),
        ("package", "right.py", "correct", ["correct"]),
    ],
)
def test_verify_code(code: Path, problem: str, solution: str, status: str, tests: list[str]) -> None:
    found = answer("verify", "code", code / problem, code / solution)
    assert (found["correct"], found["status"], [test["status"] for test in found["tests"]]) == (status == "correct", status, tests)


def test_limits_can_be_set(code: Path) -> None:
    found = answer("verify", "code", code / "add.json", code / "slow.py", "--time-limit", "0.2", "--memory-limit", "50")
    assert found["status"] == "timeout"
    assert all(0.2 <= test["cpu_seconds"] < 1.5 for test in found["tests"])


def test_for_people(code: Path) -> None:
    done = magistral("verify", "code", code / "add.json", code / "half.py")
    assert done.stdout.splitlines()[-1] == "wrong: 1 of 2 tests passed; test 2: token 1: expected '4', found '3'"


def test_sandbox_run(code: Path) -> None:
    (code / "in.txt").write_text("hello")
    found = answer("sandbox", "run", code / "odd.py", "--stdin", code / "in.txt")
    assert (found["status"], found["exit_code"], found["stdout"]) == ("runtime_error", 3, "\ufffd\nhello")
    assert found["peak_memory_bytes"] > 2**20 and 0 < found["cpu_seconds"] < 2 and found["wall_seconds"] > 0
    assert answer("sandbox", "run", code / "half.py")["status"] == "ok"
    broken = answer("sandbox", "run", code / "broken.cpp")
    assert broken["status"] == "compile_error" and "error" in broken["stderr"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["verify", "code", "nowhere", "right.py"], "nowhere: no such file or package folder"),
        (["verify", "code", ".", "right.py"], "it has no problem.yaml"),
        (["verify", "code", "right.py", "right.py"], "not JSON"),
        (["verify", "code", "add.json", "nowhere.py"], "nowhere.py: cannot be read"),
        (["verify", "code", "add.json", "add.json"], "unknown language"),
        (["verify", "code", "add.json", "right.py", "--time-limit", "0"], "--time-limit 0.0: a limit is a number above 0"),
        (["verify", "code", "add.json", "right.py", "--memory-limit", "10000000000000"], "above 0 and at most 1,073,741,824"),
        (["verify", "code", "deep.json", "right.py"], "deep.json: cannot be read"),
        (["verify", "code", "long.json", "right.py"], "long.json: cannot be read"),
        (["sandbox", "run", "nowhere.py"], "nowhere.py: cannot be read"),
        (["sandbox", "run", "right.py", "--stdin", "nowhere"], "--stdin"),
    ],
)
def test_bad_input(code: Path, arguments: list[str], words: str) -> None:
    named = [str(code / word) if "." in word or word == "nowhere" else word for word in arguments[:-2]] + [
        str(code / word) if word.endswith((".py", ".json", "nowhere")) else word for word in arguments[-2:]
    ]
    done = magistral(*named)
    assert (done.returncode, done.stdout) == (2, ""), done.stderr
    assert words in done.stderr and len(done.stderr.splitlines()) == 1


def test_without_a_sandbox_it_is_no_verdict(code: Path, tmp_path: Path) -> None:
    broken = tmp_path / "sitecustomize.py"
    broken.write_text("import magistral_core.sandbox.launch as l\nl.PYTHON = '/nowhere/python3'\n")
    paths = os.pathsep.join([str(tmp_path), str(Path.cwd())])
    for command, status in (
        (["verify", "code", code / "add.json", code / "right.py"], "error"),
        (["sandbox", "run", code / "right.py"], "sandbox_error"),
    ):
        done = magistral(*command, "--json", PYTHONPATH=paths)
        assert done.returncode == 3, done.stderr
        assert json.loads(done.stdout)["status"] == status
        assert "no untrusted code is run" in done.stderr
