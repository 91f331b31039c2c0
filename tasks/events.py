"""Follow the events that a training run appends to a file, one JSON object a line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


class EventFile:
    """Reads what was appended since the last call; an unfinished line waits for its end."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = 0

    def read(self) -> list[dict[str, Any]]:
        """The new events."""
        if not self._path.exists():
            return []
        with self._path.open("rb") as file:
            file.seek(self._offset)
            data = file.read()
        complete = data[: data.rfind(b"\n") + 1]
        self._offset += len(complete)
        return [json.loads(line) for line in complete.splitlines()]
