"""Finished parts of a long benchmark, kept as soon as they are done, so that a run that was cut off goes on where it was."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any


class Journal:
    """A file of JSON lines, one a part; with an empty path nothing is kept."""

    def __init__(self, path: str) -> None:
        self._path = Path(path) if path else None
        self._done: dict[str, dict[str, Any]] = {}
        if self._path is not None and self._path.exists():
            for line in self._path.read_text(encoding="utf-8").splitlines():
                entry = json.loads(line)
                self._done[entry["key"]] = entry

    def once(self, key: str, repetitions: int, measure: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """What the file holds of this part, if it has as many repetitions; else what `measure` finds now."""
        entry = self._done.get(key)
        if entry is None or entry["repetitions"] < repetitions:
            entry = {"key": key, "repetitions": repetitions, "found": measure()}
            if self._path is not None:
                with self._path.open("a", encoding="utf-8") as lines:
                    lines.write(json.dumps(entry) + "\n")
        return entry["found"]
