"""A program with everything that it starts: a variable in their environment marks them, whoever adopts them."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).resolve().parents[2]
_VARIABLE = "MAGISTRAL_TEST_MARK"


SMALL_RUN = Path(__file__).with_name("small_run.py")
_SHARED_MEMORY = "/dev/shm/"


class Program:
    """A run of `small_run.py`, or of another script that takes its job as JSON."""

    def __init__(self, job: dict[str, Any], log: Path, script: Path = SMALL_RUN, environment: Mapping[str, str] | None = None) -> None:
        self.mark, self.log = uuid.uuid4().hex, log
        self._descendants: set[psutil.Process] = set()
        own = {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "DS_ACCELERATOR": "cpu", _VARIABLE: self.mark}
        with log.open("ab") as errors:
            self.process = subprocess.Popen(
                [sys.executable, str(script), json.dumps(job)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                env={**os.environ, **own, **(environment or {})},
            )

    def events(self) -> Iterator[dict[str, Any]]:
        """What it tells, until its output ends."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith(b"{"):  # engines print, too
                yield json.loads(line)

    def until(self, event: str) -> list[dict[str, Any]]:
        """Its events up to one; AssertionError with its errors if that never comes."""
        seen = []
        for found in self.events():
            seen.append(found)
            if found["event"] == event:
                return seen
        raise AssertionError(f"no {event!r} after {[e['event'] for e in seen]}:\n{self.log.read_text()[-4000:]}")

    def go_on(self) -> None:
        """End its wait for a line."""
        assert self.process.stdin is not None
        self.process.stdin.write(b"\n")
        self.process.stdin.flush()

    def end(self) -> int:
        """Let it end; its exit code."""
        self.process.communicate(timeout=60)
        return self.process.returncode

    def family(self) -> list[psutil.Process]:
        """Every process that it started, directly or not; zombies hold nothing and do not count.

        Some write their title over the mark: these are known as descendants, from calls before the program ended.
        """
        found = []
        with contextlib.suppress(psutil.NoSuchProcess):
            self._descendants.update(psutil.Process(self.process.pid).children(recursive=True))
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
                ours = process in self._descendants or process.environ().get(_VARIABLE) == self.mark
                if ours and process.pid != self.process.pid and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
        return found

    def left_after(self, seconds: float) -> list[str]:
        """Command lines of the family that is still there after so long."""
        deadline = time.monotonic() + seconds
        while (left := self.family()) and time.monotonic() < deadline:
            time.sleep(0.2)
        return [describe(process) for process in left]

    def weight_folders(self) -> list[Path]:
        """Folders of weight files that a process of the family is to remove."""
        words = [word for process in self.family() for word in command(process)]
        return [Path(word) for word in words if "/magistral-weights-" in word]

    def ports(self) -> set[int]:
        """TCP ports on which the family listens."""
        found = set()
        for process in self.family():
            with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
                found |= {link.laddr.port for link in process.net_connections("tcp") if link.status == psutil.CONN_LISTEN}
        return found

    def shared_memory(self) -> set[Path]:
        """Files of shared memory that the family has mapped, and the folders of weights."""
        found = set(self.weight_folders())
        for process in self.family():
            with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
                found |= {Path(area.path) for area in process.memory_maps() if area.path.startswith(_SHARED_MEMORY)}
        return found

    def kill_all(self) -> None:
        """Whatever a failed test has left; what would remove the folders of weights is killed as well."""
        folders = self.weight_folders()
        for process in [*self.family(), self.process]:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        self.process.communicate()
        for folder in folders:
            shutil.rmtree(folder, ignore_errors=True)


def command(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def describe(process: psutil.Process) -> str:
    return f"{process.pid} {' '.join(command(process))[:120]}"


@contextlib.contextmanager
def program(job: dict[str, Any], log: Path, script: Path = SMALL_RUN, environment: Mapping[str, str] | None = None) -> Iterator[Program]:
    """A program that leaves nothing behind, however the test ends."""
    running = Program(job, log, script, environment)
    try:
        yield running
    finally:
        running.kill_all()
