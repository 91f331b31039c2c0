"""A side of a comparison that trains in processes of its own: it is told to take some steps, and stands still otherwise.

    start ──first line──> stopped ──advance(k): SIGCONT──> running ──k step lines──> stopped (SIGSTOP) ... ──close──> gone

Both sides stay warm and each has the cores to itself while it runs. What is stopped is the whole tree of processes, so an asynchronous
pipeline cannot work ahead while the other side is measured.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import psutil

from magistral_core.errors import InfrastructureError
from magistral_core.processes import THREAD_ENVIRONMENT, die_with_parent

#: For a side on Ray, whose servers stand still for minutes while the other side runs: that must not look like a death.
RAY_ENVIRONMENT = {
    **THREAD_ENVIRONMENT,
    "RAY_health_check_timeout_ms": "3600000",
    "RAY_health_check_period_ms": "3600000",
    "RAY_grpc_client_keepalive_timeout_ms": "3600000",
}

_ROOT = Path(__file__).resolve().parents[1]
_CLOSE_SECONDS = 30.0
#: What the command line of a role's process holds.
_ROLES = {
    "EngineCore": "engine",
    "ray::GeneratorActor": "generator",
    "ray::TrainerActor": "trainer",
    "ray::VerifierActor": "verifier",
    "benchmarks.sides": "main",
}


@dataclass(frozen=True)
class Steps:
    """What a side did in one turn.

    Attributes:
        seconds: of running.
        lines: what was told of each step.
        cpu_seconds: processor time, of all cores together, by role.
    """

    seconds: float
    lines: tuple[dict[str, Any], ...]
    cpu_seconds: dict[str, float]


class Side:
    """A process that trains, and what it started.

    Args:
        function: `module:function`, called in the child with `arguments` and a function `emit(**values)`, to be called after each
            optimiser step, and once, before the first step, when everything is loaded.
        arguments: JSON.
        environment: variables of the child, beside this process's; None: the child has none of that name.
    """

    def __init__(self, function: str, arguments: Mapping[str, Any], environment: Mapping[str, str | None] | None = None) -> None:
        self._function = function
        self._log = tempfile.TemporaryFile()  # noqa: SIM115  (closed by `close`)
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.sides", function, json.dumps(arguments)],
            cwd=_ROOT,
            env={name: value for name, value in {**os.environ, **(environment or {})}.items() if value is not None},
            stdout=subprocess.PIPE,
            stderr=self._log,
        )
        self.ready = self._line()
        self._wait_for_its_stop()
        self._signal(signal.SIGSTOP)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    @property
    def pid(self) -> int:
        """Of the child."""
        return self._process.pid

    def advance(self, steps: int) -> Steps:
        """Run for so many optimiser steps, then stand still. Raises InfrastructureError if the child fails."""
        before = cpu_seconds(tree(self._process.pid))
        began = time.monotonic()
        self._signal(signal.SIGCONT)
        lines: list[dict[str, Any]] = []
        while len(lines) < steps:
            line = self._line()
            if line["at"] >= began:  # earlier: a step that was done before the last turn's stop had reached it
                lines.append(line)
        self._signal(signal.SIGSTOP)
        return Steps(lines[-1]["at"] - began, tuple(lines), cpu_seconds_since(before, tree(self._process.pid)))

    def close(self) -> None:
        """End the child and all that it started; nothing the second time."""
        if self._log.closed:
            return
        family = tree(self._process.pid)
        self._signal(signal.SIGCONT)
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(_CLOSE_SECONDS)
            except subprocess.TimeoutExpired:
                self._process.kill()
        _, alive = psutil.wait_procs(family, timeout=5.0)
        for process in alive:
            process.kill()
        psutil.wait_procs(alive, timeout=5.0)
        self._process.wait()
        self._log.close()

    def _line(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        text = self._process.stdout.readline()
        if not text:
            self._log.seek(0)
            said = self._log.read().decode(errors="replace").strip()
            raise InfrastructureError(f"{self._function} ended in its process: {said[-1500:]}")
        return json.loads(text)  # type: ignore[no-any-return]

    def _wait_for_its_stop(self) -> None:
        """The child stops itself right after the first line. If ours came first, it would do so after SIGCONT, and stand still for ever."""
        while psutil.Process(self._process.pid).status() not in (psutil.STATUS_STOPPED, psutil.STATUS_ZOMBIE):
            time.sleep(0.001)

    def _signal(self, signum: int) -> None:
        signal_all(tree(self._process.pid), signum)


def tree(*roots: int) -> list[psutil.Process]:
    """Processes with all that they started, parents first."""
    found: list[psutil.Process] = []
    for pid in roots:
        with suppress(psutil.NoSuchProcess):
            root = psutil.Process(pid)
            found += [root, *root.children(recursive=True)]
    return found


def cpu_seconds(processes: Sequence[psutil.Process]) -> dict[int, tuple[str, float]]:
    """Role and processor time of each process, by its id."""
    found = {}
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            times = process.cpu_times()
            found[process.pid] = _role(" ".join(process.cmdline())), times.user + times.system
    return found


def cpu_seconds_since(before: Mapping[int, tuple[str, float]], processes: Sequence[psutil.Process]) -> dict[str, float]:
    """Processor time by role since `before`, what `cpu_seconds` said then."""
    spent: defaultdict[str, float] = defaultdict(float)
    for process, (role, seconds) in cpu_seconds(processes).items():
        spent[role] += seconds - before.get(process, (role, 0.0))[1]
    return dict(spent)


def signal_all(processes: Sequence[psutil.Process], signum: int) -> None:
    """SIGSTOP or SIGCONT to a tree: parents are the first to stop and the last to go on."""
    for process in processes if signum == signal.SIGSTOP else reversed(processes):
        with suppress(psutil.NoSuchProcess):
            # A reaper is a shell that waits for its parent's end; it must be awake to clean up if this process is killed.
            if process.name() != "sh":
                process.send_signal(signum)


def _role(command: str) -> str:
    return next((role for word, role in _ROLES.items() if word in command), "other")


def main() -> None:
    """The child: `python -m benchmarks.sides MODULE:FUNCTION JSON`. Only `emit` writes to stdout."""
    import importlib

    die_with_parent()
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    ready = False

    def emit(**values: Any) -> None:
        nonlocal ready
        out.write(json.dumps({**values, "at": time.monotonic()}) + "\n")
        out.flush()
        if not ready:
            ready = True
            os.kill(os.getpid(), signal.SIGSTOP)  # at once, and not only when the parent gets round to it

    module, _, name = sys.argv[1].partition(":")
    function: Callable[..., None] = getattr(importlib.import_module(module), name)
    function(emit=emit, **json.loads(sys.argv[2]))


if __name__ == "__main__":
    main()
