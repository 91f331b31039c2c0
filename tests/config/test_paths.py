"""Folders below the cache: taken while they are needed, gone afterwards, also where a process was killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from magistral_core.errors import InputError
from magistral_core.paths import scratch_folder

HOLDS = """
import sys
from magistral_core.paths import scratch_folder
with scratch_folder("models") as folder:
    (folder / "weights").write_bytes(b"large")
    print(folder, flush=True)
    sys.stdin.read()
"""


def test_what_a_killed_command_left_goes_with_the_next_and_what_a_living_one_holds_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MAGISTRAL_CACHE", str(tmp_path))
    holder = subprocess.Popen([sys.executable, "-c", HOLDS], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout is not None
        held = Path(holder.stdout.readline().strip())
        with scratch_folder("models") as folder:
            assert folder.is_dir() and folder != held
            assert (held / "weights").read_bytes() == b"large"
        assert list((tmp_path / "models").iterdir()) == [held]
        os.kill(holder.pid, signal.SIGKILL)
        holder.wait()
        with scratch_folder("models") as folder:
            assert list((tmp_path / "models").iterdir()) == [folder]
    finally:
        holder.kill()
        holder.communicate()
    assert list((tmp_path / "models").iterdir()) == []


def test_a_cache_that_cannot_be_written_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("MAGISTRAL_CACHE", str(tmp_path / "file"))
    with pytest.raises(InputError, match="cannot be written .*set MAGISTRAL_CACHE"), scratch_folder("models"):
        raise AssertionError("never entered")
