"""Progress of a curation as events, for bars in terminals and for flows."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

OnEvent = Callable[[dict[str, Any]], None]
#: Least time between two events of one step.
_EVENT_S = 0.5


class Progress:
    """Passes progress on, not too often."""

    def __init__(self, on_event: OnEvent) -> None:
        self._on_event = on_event
        self._last = 0.0
        self._stage = ""

    def __call__(self, stage: str, done: int, total: int) -> None:
        now = time.monotonic()
        if stage != self._stage or done == total or now - self._last > _EVENT_S:
            self._stage, self._last = stage, now
            self._on_event({"event": "progress", "stage": stage, "done": done, "total": total})
