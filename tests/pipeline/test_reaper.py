"""What must not outlive a process goes with it, and nothing else does."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from magistral_core.errors import InputError
from magistral_core.pipeline.handover import HandoverFolder, WeightFile
from magistral_core.pipeline.reaper import Reaper

HOLDER = """
import sys, time
from magistral_core.pipeline.handover import HandoverFolder
folder = HandoverFolder()
folder.file(1).write_bytes(b"weights")
folder.reaper.watch([int(sys.argv[1])])
print(folder.path, flush=True)
time.sleep(600)
"""


@pytest.fixture
def sleeper():
    process = subprocess.Popen(["sleep", "600"], start_new_session=True)
    yield process
    process.kill()
    process.wait()


def gone(path: Path) -> bool:
    deadline = time.monotonic() + 10
    while path.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    return not path.exists()


@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGTERM])
def test_it_acts_when_its_process_is_killed(signum: int, sleeper: subprocess.Popen) -> None:
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, str(sleeper.pid)], stdout=subprocess.PIPE, text=True)
    with holder:
        try:
            assert holder.stdout is not None
            folder = Path(holder.stdout.readline().strip())
            assert folder.is_dir()
            assert sleeper.poll() is None
        finally:
            holder.send_signal(signum)
    assert gone(folder)
    assert sleeper.wait(10) == -signal.SIGKILL


def test_close_acts_at_once_and_spares_others(tmp_path: Path, sleeper: subprocess.Popen) -> None:
    other = subprocess.Popen(["sleep", "600"])
    try:
        folder = tmp_path / "weights"
        folder.mkdir()
        reaper = Reaper(folder)
        reaper.watch([sleeper.pid, 2**22 + 1])  # the second is no process
        reaper.close()
        assert not folder.exists()
        assert sleeper.wait(10) == -signal.SIGKILL
        assert other.poll() is None
        reaper.close()
    finally:
        other.kill()
        other.wait()


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_to_all_processes_does_not_end_it_first(signum: int, tmp_path: Path) -> None:
    reaper = Reaper(tmp_path / "weights")
    (tmp_path / "weights").mkdir()
    reaper.watch([2**22 + 1])
    deadline = time.monotonic() + 10
    while not _ignores(reaper._shell.pid, signum) and time.monotonic() < deadline:
        time.sleep(0.02)
    reaper._shell.send_signal(signum)
    time.sleep(0.1)
    assert reaper._shell.poll() is None
    reaper.close()
    assert not (tmp_path / "weights").exists()


def test_a_killed_shell_leaves_no_folder_behind_a_close(tmp_path: Path) -> None:
    (tmp_path / "weights").mkdir()
    reaper = Reaper(tmp_path / "weights")
    reaper._shell.kill()
    reaper._shell.wait()
    reaper.close()
    assert not (tmp_path / "weights").exists()


def _ignores(pid: int, signum: int) -> bool:
    status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    ignored = next(line for line in status.splitlines() if line.startswith("SigIgn"))
    return bool(int(ignored.split()[1], 16) >> (signum - 1) & 1)


def test_a_number_that_belongs_to_another_process_by_now_is_spared(tmp_path: Path, sleeper: subprocess.Popen) -> None:
    reaper = Reaper(tmp_path / "none")
    assert reaper._shell.stdin is not None
    reaper._shell.stdin.write(f"{sleeper.pid} 1\n")  # announced with another start
    reaper.close()
    assert sleeper.poll() is None


def test_folders_of_weights(tmp_path: Path) -> None:
    folder = HandoverFolder()
    path = folder.file(7)
    path.write_bytes(b"weights")
    folder.remove(WeightFile(str(path), 7, ""))
    folder.remove(WeightFile(str(path), 7, ""))
    assert not path.exists()
    assert os.listdir(folder.path) == []  # noqa: PTH208
    folder.close()
    assert not folder.path.exists()


def test_all_weights_go_when_trainers_go_back() -> None:
    folder = HandoverFolder()
    for name in ("4.safetensors", "5.safetensors.tmp", "socket"):
        (folder.path / name).write_bytes(b"")
    folder.clear()
    assert [path.name for path in folder.path.iterdir()] == ["socket"]
    folder.close()


def test_a_folder_on_shared_storage(tmp_path: Path) -> None:
    folder = HandoverFolder(str(tmp_path))
    assert folder.path.parent == tmp_path
    folder.close()
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(InputError, match=r"none: no folder .*pipeline\.weights_folder"):
        HandoverFolder(str(tmp_path / "none"))
