"""Admission: how many completions may be started now. Pure; inputs are pushed in, nothing is owned.

    admit ──charges──> generating (<= n_async) ──finished──> verifying ──enqueued──> queued ──dequeued──> training
          └─charges──> open ───────────────────────────────────────dropped, trained──> free

Bounds, in completions. `n_async` limits what is generated at the same time. `queue` is what may wait for the trainers: unless half of it is
empty or they wait themselves, a group begins only where what waits and what is coming is less than `queue` and the completions that are
trained while a group is made (the base-stock rule of inventories; `_wanted`). To stop at a full queue would be too late by all that is
under way then, and to begin at one that is not full by the time that a group takes: the queue would swell to several times its bound, then
run dry. `max_open` limits what is open: admitted, and not yet trained or dropped. It also limits age, for trained completions move from
the one term to the other and so the sum grows by admission alone:

    open + overtaken <= 2 max_open    overtaken: trained since the oldest group that is not yet queued was admitted

A group is therefore trained after fewer than `2 max_open` others, however slow it is (`largest_age`). Nothing is ever dropped
or aborted to meet a bound; admission waits.

Asynchronous: completions are admitted one by one in group order, so at most one group is partly admitted; a group that was
begun is charged whole, so that it can always be completed. Worked example with G = 4, n_async = 6: groups 0 (4 completions)
and 1 (2 of 4) start; when 3 completions finish, 1.2, 1.3 and 2.0 follow.

Synchronous: whole groups, only while nothing is being generated, verified or trained, and only as many as the next batch lacks.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from magistral_core.config.schema import PipelineSettings

#: Batches' worth of groups over which it is averaged how long they take and how many are kept. Fewer react to chance: a batch may be eight.
_AVERAGED_BATCHES = 8


@dataclass(frozen=True, slots=True)
class Slot:
    """One admitted completion."""

    group_id: int
    index: int


def largest_age(*stages: PipelineSettings) -> int:
    """No trained token is older than so many optimiser steps, whichever of the stages it was admitted and trained in.

    The steps of the overtaking groups, and those of two weight updates: a generator may still lack one when the next is due.
    """
    steps = max(settings.n_batch // settings.n_minibatch for settings in stages)
    if stages[0].schedule == "sync":
        return steps - 1
    overtaking = 2 * max(settings.max_open for settings in stages) - stages[0].group_size
    return overtaking // min(settings.n_minibatch for settings in stages) + 2 * steps


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
        # Groups not yet queued, in order of admission: completions trained before. Its first entry costs the same however many went before.
        self._begun: OrderedDict[int, int] = OrderedDict()
        self._trained = 0
        # Of the groups made: how many; of the last of them: completions that were trained while one was made, and the share that was kept.
        self._groups, self._trained_meanwhile, self._kept = 0, 0.0, 1.0
        self.generating = 0
        self.queued = queued
        self.open = queued
        self.training = False

    def change(self, settings: PipelineSettings) -> None:
        """Go by other bounds. What is beyond them stays; nothing starts until they hold."""
        self._settings = settings

    @property
    def overtaken(self) -> int:
        """Completions trained since the oldest group that is generated or verified was admitted."""
        return self._trained - next(iter(self._begun.values()), self._trained)

    def admit(self) -> list[Slot]:
        """Every completion that may start now, charged."""
        slots: list[Slot] = []
        room = self._room()
        while len(slots) < room and (self._partial or self._may_begin()):
            slots.append(self._next_slot())
        self.generating += len(slots)
        return slots

    def finished(self, completions: int) -> None:
        """So many completions left the generators."""
        self.generating -= completions

    def enqueued(self, group_id: int) -> None:
        """A verified group joined the queue."""
        self._made(group_id, kept=True)
        self.queued += self._settings.group_size

    def dropped(self, group_id: int) -> None:
        """A verified group was filtered or failed."""
        self._made(group_id, kept=False)
        self.open -= self._settings.group_size

    def dequeued(self, completions: int) -> None:
        """So many completions left the queue for the trainers."""
        self.queued -= completions

    def trained(self, completions: int) -> None:
        """So many completions were trained."""
        self.open -= completions
        self._trained += completions

    def _room(self) -> int:
        s = self._settings
        if s.schedule == "sync":
            idle = self.open == self.queued and not self.training
            return max(0, s.n_batch - self.queued) if idle else 0
        return max(0, s.n_async - self.generating)

    def _may_begin(self) -> bool:
        s = self._settings
        room = min(s.max_open, 2 * s.max_open - self.overtaken) - self.open
        return s.schedule == "sync" or (room >= s.group_size and self._wanted)

    @property
    def _wanted(self) -> bool:
        """Whether trainers wait, or soon will, or would when a group that begins now is ready."""
        s = self._settings
        short = self.queued < s.queue / 2 or (not self.training and self.queued < s.n_batch)
        coming = self._kept * len(self._begun) * s.group_size
        return short or self.queued + coming < s.queue + self._trained_meanwhile

    def _made(self, group_id: int, *, kept: bool) -> None:
        self._groups += 1
        weight = max(1 / self._groups, self._settings.group_size / (_AVERAGED_BATCHES * self._settings.n_batch))
        self._trained_meanwhile += weight * (self._trained - self._begun.pop(group_id) - self._trained_meanwhile)
        self._kept += weight * (kept - self._kept)

    def _next_slot(self) -> Slot:
        if self._partial is None:
            group_id = self._resume.pop() if self._resume else self._open_group()
            self._begun[group_id] = self._trained
            self.open += self._settings.group_size
            self._partial = Slot(group_id, 0)
        slot = self._partial
        following = slot.index + 1
        self._partial = Slot(slot.group_id, following) if following < self._settings.group_size else None
        return slot
