"""What the caller sees of a sandbox from outside, in /proc: how much memory its program holds, and how long it waited for a core.

Inside there is no /proc. The limit on address space is loose, because threads reserve large stacks that they never touch; and a wall clock
alone would punish programs for a busy machine.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path

_PAGE = os.sysconf("SC_PAGE_SIZE")


class Watch:
    """Watches the children of one supervisor."""

    def __init__(self, pid: int, layers: int) -> None:
        """`pid`: the process that was started; `layers`: how many processes it is above the supervisor's children."""
        self._pid = pid
        self._layers = layers
        self._waited: dict[int, float] = {}
        #: Without this file (CONFIG_PROC_CHILDREN) nothing can be seen.
        self.works = Path(f"/proc/{pid}/task/{pid}/children").exists()

    def programs(self) -> list[int]:
        """Process ids of the program that runs now, and of its children."""
        level = [self._pid]
        for _ in range(self._layers):
            level = [child for pid in level for child in _children(pid)]
        found: list[int] = []
        while level:
            found += level
            level = [child for pid in level for child in _children(pid)]
        return found

    def resident_bytes(self, programs: list[int]) -> int:
        """Resident memory of all of them together."""
        sizes = [_read(f"/proc/{pid}/statm").split() for pid in programs]  # empty for one that has ended meanwhile
        return sum(int(size[1]) * _PAGE for size in sizes if size)

    def start(self) -> None:
        """A new run begins."""
        self._waited.clear()

    def waited_s(self, programs: list[int]) -> float:
        """Seconds of this run in which one of them, or one that has ended since the last look, was ready to run and had no core.

        A compiler's driver sleeps while its parts work one after the other, so theirs count as well. Of a process's threads the one counts
        that waited longest: the first may sleep while another works.
        """
        for pid in programs:
            for thread in _threads(pid):
                words = _read(f"/proc/{pid}/task/{thread}/schedstat").split()
                if len(words) > 1:
                    self._waited[pid] = max(self._waited.get(pid, 0.0), int(words[1]) / 1e9)
        return sum(self._waited.values())

    def kill(self, programs: list[int]) -> None:
        """End them, if they still are children of the supervisor: a process id may have gone to another process meanwhile."""
        for pid in programs:
            try:
                handle = os.pidfd_open(pid)
            except ProcessLookupError:
                continue
            try:
                if pid in self.programs():
                    signal.pidfd_send_signal(handle, signal.SIGKILL)
            except ProcessLookupError:
                pass
            finally:
                os.close(handle)


def _children(pid: int) -> list[int]:
    return [int(word) for word in _read(f"/proc/{pid}/task/{pid}/children").split()]


def _threads(pid: int) -> list[str]:
    try:
        return os.listdir(f"/proc/{pid}/task")
    except OSError:  # it ended
        return []


def _read(path: str) -> str:
    try:
        with open(path, encoding="ascii") as file:
            return file.read()
    except OSError:
        return ""
