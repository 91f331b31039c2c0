"""Processes that outlive the command that started them, and are ended without ever touching another's.

A process is known by its pid and start time, so a recycled pid is never signalled. Each leads a session of its own;
ending one ends its descendants and whatever else is left in that session, also where the leader itself is long gone.
"""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import psutil

from infra.stack.home import Running

_NICE = 10
_TERM_S = 15.0
_KILL_S = 30.0
#: For what a leader did not end itself, or told to end a moment ago.
_LEFT_BEHIND_S = 2.0
#: Start times of one process, read twice, differ by less than this; pids are not reused so fast.
_SAME_START_S = 1.0
#: Kept so that Python does not complain about children that are meant to stay.
_started: list[subprocess.Popen[bytes]] = []


def spawn(
    command: Sequence[str], environment: Mapping[str, str], log: Path, cwd: Path, port: int, digest: str, *, gives_way: bool = False
) -> Running:
    """Start a process in its own session, its output appended to `log`; one that `gives_way` does so to all else on busy cores."""
    with log.open("ab") as output:
        process = subprocess.Popen(
            command, cwd=cwd, env=dict(environment), stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
        )
    _started.append(process)
    if gives_way:
        _lower_priority(process.pid)
    return Running(process.pid, psutil.Process(process.pid).create_time(), port, digest)


def _lower_priority(pid: int) -> None:
    nice = min(19, os.getpriority(os.PRIO_PROCESS, 0) + _NICE)
    os.setpriority(os.PRIO_PROCESS, pid, nice)
    with suppress(OSError):  # where the kernel schedules sessions against each other, a process's own counts only within its session
        Path(f"/proc/{pid}/autogroup").write_text(str(nice))


def find(running: Running) -> psutil.Process | None:
    """The process, if it is the same one and alive."""
    try:
        process = psutil.Process(running.pid)
        same = abs(process.create_time() - running.started) < _SAME_START_S
        return process if same and process.status() != psutil.STATUS_ZOMBIE else None
    except psutil.NoSuchProcess:
        return None


def left(running: Running) -> bool:
    """Whether anything lives of what a process started in its session."""
    return bool(_session(running))


def end(all_running: Iterable[Running]) -> list[int]:
    """End processes with all that they started: SIGTERM, then SIGKILL. Returns the pids that are still there (none)."""
    leaders, members = [], set()
    for running in all_running:
        leader = find(running)
        members |= _session(running)
        if leader is not None:
            leaders.append(leader)
            members |= {leader, *leader.children(recursive=True)}
    _signal(leaders, signal.SIGTERM)
    psutil.wait_procs(leaders, timeout=_TERM_S)
    psutil.wait_procs(members, timeout=_LEFT_BEHIND_S)
    rest = {process for process in members if process.is_running() and _alive(process)}
    for process in tuple(rest):
        try:
            rest |= set(process.children(recursive=True))
        except psutil.NoSuchProcess:
            continue
    _signal(rest, signal.SIGKILL)
    _, alive = psutil.wait_procs(rest, timeout=_KILL_S)
    return [process.pid for process in alive if _alive(process)]


def _session(running: Running) -> set[psutil.Process]:
    """Processes of the session that the leader opened. While one lives, the kernel does not give its number away."""
    found = set()
    for process in psutil.process_iter():
        try:
            if os.getsid(process.pid) == running.pid and process.create_time() > running.started - _SAME_START_S and _alive(process):
                found.add(process)
        except (ProcessLookupError, PermissionError, psutil.NoSuchProcess):
            continue
    leader = next((process for process in found if process.pid == running.pid), None)
    if leader is not None and find(running) is None:
        return set()  # the number was given to another session's leader since
    return found


def _alive(process: psutil.Process) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _signal(processes: Iterable[psutil.Process], signum: int) -> None:
    for process in processes:
        try:
            process.send_signal(signum)
        except psutil.NoSuchProcess:
            continue


def last_line(log: Path) -> str:
    """The last line of a log that says something."""
    try:
        lines = [line.strip() for line in log.read_text(errors="replace").splitlines()[-50:]]
    except OSError:
        return ""
    return next((line[:300] for line in reversed(lines) if line), "")
