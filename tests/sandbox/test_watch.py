"""The watch over programs from outside, on processes of the test's own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from magistral_core.sandbox.watch import Watch

_TREE = (
    "import subprocess, sys, time\n"
    "child = subprocess.Popen([sys.executable, '-c', 'import time; a = bytearray(64 << 20); print(1, flush=True); time.sleep(100)'])\n"
    "time.sleep(100)\n"
)


@pytest.fixture
def tree() -> Iterator[subprocess.Popen[str]]:
    """A process with a child that holds 64 MiB."""
    with subprocess.Popen([sys.executable, "-c", _TREE], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "1\n"
        watch = Watch(process.pid, 1)
        yield process
        watch.kill(watch.programs())
        process.kill()


def test_it_finds_measures_and_ends_programs(tree: subprocess.Popen[str]) -> None:
    watch = Watch(tree.pid, 1)
    if not watch.works:
        pytest.skip("this kernel does not list children")
    watch.start()
    [child] = watch.programs()
    assert watch.resident_bytes([child]) > 64 << 20
    assert 0.0 <= watch.waited_s([child]) < 100
    watch.kill([child])
    deadline = time.monotonic() + 20
    while watch.resident_bytes(watch.programs()) > 0 and time.monotonic() < deadline:
        time.sleep(0.05)
    assert watch.resident_bytes(watch.programs()) == 0


def test_a_thread_that_waits_for_a_core_counts_though_the_first_one_sleeps() -> None:
    core = min(os.sched_getaffinity(0))
    busy = (
        f"import os, threading, time\nos.sched_setaffinity(0, {{{core}}})\n"
        "def work():\n    while True: pass\n"
        "threading.Thread(target=work, daemon=True).start()\nprint(1, flush=True)\ntime.sleep(100)"
    )
    command = [sys.executable, "-c", busy]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as one, subprocess.Popen(command, stdout=subprocess.PIPE) as other:
        try:
            watch = Watch(os.getpid(), 1)
            watch.start()
            deadline = time.monotonic() + 30
            while (waited := watch.waited_s([one.pid])) < 0.5 and time.monotonic() < deadline:
                time.sleep(0.05)
            assert waited >= 0.5
        finally:
            one.kill()
            other.kill()


def test_it_ends_nobody_elses_process(tree: subprocess.Popen[str]) -> None:
    watch = Watch(os.getpid(), 2)  # two levels down: the tree's child, not the tree
    assert tree.pid not in watch.programs()
    watch.kill([tree.pid, 2**22 - 1])
    time.sleep(0.1)
    assert tree.poll() is None


def test_what_has_ended_counts_nothing() -> None:
    with subprocess.Popen(["sleep", "100"]) as process:
        process.send_signal(signal.SIGKILL)
    watch = Watch(process.pid, 1)
    assert (watch.programs(), watch.resident_bytes([process.pid]), watch.waited_s([process.pid])) == ([], 0, 0.0)
