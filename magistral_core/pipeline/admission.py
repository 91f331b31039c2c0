"""Admission: how many completions may be started now. Pure; inputs are pushed in, nothing is owned.

    admit ──charges──> generating (<= n_async) ──finished──> verifying, queued ──settled──> free
          └─charges──> open (<= max_open) ─────────────────────────────────────settled──> free

Three bounds, in completions. `n_async` limits what is generated at the same time. `max_open` limits what is admitted and not
yet settled (trained, filtered or failed), and so the age of what is trained: a completion sees at most about
`max_open / n_batch` weight updates. `queue` limits what waits for the trainers. Nothing is ever dropped or aborted to meet a
bound; admission waits.

Asynchronous: completions are admitted one by one in group order, so at most one group is partly admitted. Worked example with
G = 4, n_async = 6: groups 0 (4 completions) and 1 (2 of 4) start; when 3 completions finish, 1.2, 1.3 and 2.0 follow.

Synchronous: whole groups, only while nothing is being generated, verified or trained, and only as many as the next batch lacks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from magistral_core.config.schema import PipelineSettings


@dataclass(frozen=True, slots=True)
class Slot:
    """One admitted completion."""

    group_id: int
    index: int


class Admission:
    """Counts what is generating, open and queued, and hands out slots.

    Args:
        settings: the recipe's `pipeline` section.
        open_group: called when a new group is needed; returns its id (the ledger's `open`).
        resume: groups that were in flight at the checkpoint; they are admitted first, in this order.
        queued: completions that were waiting for the trainers at the checkpoint.
    """

    def __init__(self, settings: PipelineSettings, open_group: Callable[[], int], *, resume: Iterable[int] = (), queued: int = 0) -> None:
        self._settings = settings
        self._open_group = open_group
        self._resume = list(resume)[::-1]
        self._partial: Slot | None = None
        self.generating = 0
        self.queued = queued
        self.open = queued
        self.training = False

    def admit(self) -> list[Slot]:
        """Every completion that may start now, charged."""
        slots = []
        for _ in range(self._room()):
            slot = self._next_slot()
            slots.append(slot)
        self.generating += len(slots)
        self.open += len(slots)
        return slots

    def finished(self, completions: int) -> None:
        """So many completions left the generators."""
        self.generating -= completions

    def enqueued(self, completions: int) -> None:
        """So many verified completions joined the queue."""
        self.queued += completions

    def dequeued(self, completions: int) -> None:
        """So many completions left the queue for the trainers."""
        self.queued -= completions

    def settled(self, completions: int) -> None:
        """So many completions were trained, filtered or failed."""
        self.open -= completions

    def _room(self) -> int:
        s = self._settings
        if s.schedule == "sync":
            idle = self.open == self.queued and not self.training
            return max(0, s.n_batch - self.queued) if idle else 0
        if self.queued >= s.queue:
            return 0
        return max(0, min(s.n_async - self.generating, s.max_open - self.open))

    def _next_slot(self) -> Slot:
        if self._partial is None:
            self._partial = Slot(self._resume.pop() if self._resume else self._open_group(), 0)
        slot = self._partial
        following = slot.index + 1
        self._partial = Slot(slot.group_id, following) if following < self._settings.group_size else None
        return slot
