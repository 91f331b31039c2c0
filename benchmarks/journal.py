"""Finished parts of a long benchmark, kept as soon as they are done, so that a run that was cut off goes on where it was."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any


class Journal:
    """A file of JSON lines, one a part; with an empty path nothing is kept. A part that was measured with other `settings` does not count.

    Attributes:
        earlier_seconds: that the parts which were found there took.
    """

    def __init__(self, path: str, settings: dict[str, Any] | None = None) -> None:
        self._settings = json.loads(json.dumps(settings or {}))
        self._path = Path(path) if path else None
        self._done: dict[str, dict[str, Any]] = {}
        self.earlier_seconds = 0.0
        if self._path is not None and self._path.exists():
            for line in self._path.read_text(encoding="utf-8").splitlines():
                entry = json.loads(line)
                if entry.get("settings", self._settings) == self._settings:
                    self._done[entry["key"]] = entry

    def has(self, key: str, repetitions: int) -> bool:
        """Whether the file holds this part with as many repetitions."""
        return key in self._done and self._done[key]["repetitions"] >= repetitions

    def once(self, key: str, repetitions: int, measure: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """What the file holds of this part, if it has as many repetitions; else what `measure` finds now."""
        if not self.has(key, repetitions):
            began = time.monotonic()
            found = measure()
            seconds = round(time.monotonic() - began, 1)
            entry = {"key": key, "repetitions": repetitions, "settings": self._settings, "seconds": seconds, "found": found}
            if self._path is not None:
                with self._path.open("a", encoding="utf-8") as lines:
                    lines.write(json.dumps(entry) + "\n")
        else:
            entry = self._done[key]
            self.earlier_seconds += entry["seconds"]
        return entry["found"]


def without_journal(settings: Any) -> dict[str, Any]:
    """A benchmark's settings for its result file: where its parts were kept is nobody's business."""
    return {name: value for name, value in asdict(settings).items() if name != "journal"}
