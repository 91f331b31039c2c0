"""What must not outlive this process, however it ends: a folder in shared memory, and processes that do not notice by themselves."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path

#: Signals that end a whole group of processes must not end this one first. Reads "PID START" until its input ends, which comes with
#: close() or with the death of the process that holds the other end. A process is killed only if it still has the start time it was
#: announced with: its number may belong to another by then.
_SCRIPT = """
trap '' HUP INT TERM
while read -r pid start; do told="$told $pid:$start"; done
rm -rf -- "$0"
for one in $told; do
  found=$(sed 's/.*) //' "/proc/${one%:*}/stat" 2>/dev/null | cut -d ' ' -f 20)
  [ "$found" = "${one#*:}" ] && kill -9 "${one%:*}"
done
"""


class Reaper:
    """A small shell in a session of its own that cleans up after this process.

    Args:
        folder: removed at the end.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._shell = subprocess.Popen(
            ["/bin/sh", "-c", _SCRIPT, str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            text=True,
        )

    def watch(self, pids: Iterable[int]) -> None:
        """Kill these processes at the end, those that are still there."""
        assert self._shell.stdin is not None
        for pid in pids:
            try:
                start = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[19]
            except OSError:  # it ended already
                continue
            self._shell.stdin.write(f"{pid} {start}\n")
        self._shell.stdin.flush()

    def close(self) -> None:
        """Clean up now."""
        if self._shell.stdin is not None:
            self._shell.stdin.close()
        self._shell.wait()
        shutil.rmtree(self._folder, ignore_errors=True)  # somebody may have killed the shell
