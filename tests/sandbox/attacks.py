"""Programs that attack the sandbox, read from `programs/attacks_*.txt`. There each has a heading:

    === name | what it is after | the layers that hold it, the first one first | every way in which it may end

An attack prints `refused ...` for an attempt that failed and `BREACH ...` for one that succeeded, or a limit ends it. They are bounded
(memory, children, files), so that they would do little harm if the sandbox did not hold; files outside are ones that the test planted.
Signals go to processes that exist only because the canary has passed before.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

_FOLDER = Path(__file__).with_name("programs")
_HEADING = re.compile(r"^=== (.+)\n", re.MULTILINE)
#: What Python attacks begin with; `{secret}`, `{writable}` and `{mark}` stand for what the test planted.
PRELUDE = (_FOLDER / "prelude.txt").read_text(encoding="utf-8")
#: How an attack ends that says itself that it was refused; the other ways are a run's statuses.
REFUSED, COMPILE = "refused", "compile_error"


@dataclass(frozen=True)
class Attack:
    """One program. `ends`: every way in which it may end."""

    name: str
    after: str
    layers: str
    ends: tuple[str, ...]
    source: str
    cpp: bool


def _read(name: str, cpp: bool) -> list[Attack]:
    parts = _HEADING.split((_FOLDER / name).read_text(encoding="utf-8"))[1:]
    attacks = []
    for heading, source in zip(parts[::2], parts[1::2], strict=True):
        title, after, layers, ends = (field.strip() for field in heading.split("|"))
        attacks.append(Attack(title, after, layers, tuple(ends.split(", ")), source, cpp))
    return attacks


ATTACKS = _read("attacks_python.txt", cpp=False)
CPP_ATTACKS = _read("attacks_cpp.txt", cpp=True)
