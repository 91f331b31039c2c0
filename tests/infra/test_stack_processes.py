"""Processes of the stack: ended with all that they started, and never another's."""

import contextlib
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from infra.stack import processes
from infra.stack.home import Running


def spawn(tmp_path: Path, code: str) -> Running:
    return processes.spawn([sys.executable, "-c", code], {}, tmp_path / "log", tmp_path, 0, "")


def alive(pid: int) -> bool:
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


def read_pid(path: Path) -> int:
    deadline = time.monotonic() + 20
    while not path.exists() or not path.read_text():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return int(path.read_text())


PARENT = """
import subprocess, sys, time, pathlib
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session={new_session})
pathlib.Path("child").write_text(str(child.pid))
time.sleep(600)
"""


STUBBORN = """
import pathlib, signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
pathlib.Path("child").write_text("1")
time.sleep(600)
"""


@pytest.fixture(autouse=True)
def nothing_left(tmp_path: Path) -> Iterator[None]:
    """What a failed test has not ended sleeps on for ten minutes."""
    yield
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.cwd() == str(tmp_path):
                process.kill()


@pytest.mark.parametrize("new_session", [False, True])
def test_descendants_end_too(tmp_path: Path, new_session: bool) -> None:
    running = spawn(tmp_path, PARENT.format(new_session=new_session))
    child = read_pid(tmp_path / "child")
    assert processes.end([running]) == []
    assert not alive(running.pid) and not alive(child)


def test_what_a_killed_leader_left_is_ended(tmp_path: Path) -> None:
    running = spawn(tmp_path, PARENT.format(new_session=False))
    child = read_pid(tmp_path / "child")
    psutil.Process(running.pid).kill()
    psutil.wait_procs([psutil.Process(running.pid)], timeout=5)
    assert processes.find(running) is None and alive(child)
    assert processes.end([running]) == []
    assert not alive(child)


def test_a_process_that_ignores_sigterm_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "_TERM_S", 0.5)
    running = spawn(tmp_path, STUBBORN)
    read_pid(tmp_path / "child")
    assert processes.end([running]) == []
    assert not alive(running.pid)


def test_a_recycled_pid_is_never_signalled() -> None:
    stranger = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
    try:
        started = psutil.Process(stranger.pid).create_time()
        recorded = Running(stranger.pid, started - 100, 0, "")  # the same number, given to another process since
        assert processes.find(recorded) is None
        assert processes.end([recorded]) == []
        assert stranger.poll() is None
        assert processes.find(replace(recorded, started=started)) is not None
    finally:
        stranger.kill()
        stranger.wait()


def test_last_line(tmp_path: Path) -> None:
    (tmp_path / "log").write_text("one\ntwo\n\n")
    assert processes.last_line(tmp_path / "log") == "two"
    assert processes.last_line(tmp_path / "none") == ""
