"""The ledger: in which state every prompt group is. Pure; it owns no process and no completion.

    open() ──> GENERATING ──> VERIFYING ──┬──> QUEUED ──> trained
                                          ├──> filtered (equal rewards)
                                          └──> failed   (the verifier broke)

Groups are numbered in the order of the problem stream, so "settled" needs no list: every id below `submitted` that is not
open is settled. Conservation holds at every moment:

    submitted == trained + filtered + failed + in flight
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from enum import StrEnum
from typing import Any

from magistral_core.errors import MagistralError


class GroupState(StrEnum):
    """State of a group that is in flight."""

    GENERATING = "generating"
    VERIFYING = "verifying"
    QUEUED = "queued"


_NEXT = {GroupState.GENERATING: GroupState.VERIFYING, GroupState.VERIFYING: GroupState.QUEUED}


class LedgerError(MagistralError):
    """A group was lost, or settled twice: a defect of the loop, never of its input."""


class Ledger:
    """Counts groups and knows the state of those in flight."""

    def __init__(self) -> None:
        self.submitted = 0
        self.trained = 0
        self.resampled = 0
        self.filtered: Counter[str] = Counter()
        self.failed: Counter[str] = Counter()
        self._open: dict[int, GroupState] = {}

    def open(self) -> int:
        """Admit the next group of the stream; returns its id."""
        group_id = self.submitted
        self.submitted += 1
        self._open[group_id] = GroupState.GENERATING
        return group_id

    def advance(self, group_id: int, state: GroupState) -> None:
        """Move a group to its next state."""
        if _NEXT.get(self._state(group_id)) is not state:
            raise LedgerError(f"group {group_id} cannot go from {self._state(group_id)} to {state}")
        self._open[group_id] = state

    def train(self, group_id: int) -> None:
        """Settle a queued group as trained."""
        self._settle(group_id, GroupState.QUEUED)
        self.trained += 1

    def filter(self, group_id: int, reason: str) -> None:
        """Settle a verified group as dropped, for want of a training signal."""
        self._settle(group_id, GroupState.VERIFYING)
        self.filtered[reason] += 1

    def fail(self, group_id: int, reason: str) -> None:
        """Settle a group that infrastructure broke; another takes its place."""
        self._settle(group_id, GroupState.VERIFYING)
        self.failed[reason] += 1

    def ids(self, state: GroupState) -> list[int]:
        """Groups in flight in a state, in ascending order."""
        return sorted(group_id for group_id, found in self._open.items() if found is state)

    @property
    def open_ids(self) -> Collection[int]:
        """Groups in flight."""
        return self._open.keys()

    @property
    def in_flight(self) -> int:
        """Groups admitted and not settled."""
        return len(self._open)

    def check(self) -> None:
        """Raise LedgerError unless every submitted group is accounted for exactly once."""
        settled = self.trained + sum(self.filtered.values()) + sum(self.failed.values())
        if self.submitted != settled + self.in_flight:
            raise LedgerError(f"the ledger does not balance: {self.summary()}")

    def summary(self) -> dict[str, Any]:
        """The counts, for people and for the end of a run."""
        return {
            "submitted": self.submitted,
            "trained": self.trained,
            "filtered": sum(self.filtered.values()),
            "failed": sum(self.failed.values()),
            "in_flight": self.in_flight,
            "filtered_by_reason": dict(self.filtered),
            "failed_by_reason": dict(self.failed),
            "resampled": self.resampled,
        }

    def to_json(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return {
            "submitted": self.submitted,
            "trained": self.trained,
            "resampled": self.resampled,
            "filtered": dict(self.filtered),
            "failed": dict(self.failed),
            "open": {str(group_id): state.value for group_id, state in self._open.items()},
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Ledger:
        """Restore a ledger for a resumed run: groups that were being generated or verified are to be sampled again."""
        ledger = cls()
        ledger.submitted, ledger.trained, ledger.resampled = data["submitted"], data["trained"], data["resampled"]
        ledger.filtered, ledger.failed = Counter(data["filtered"]), Counter(data["failed"])
        for key, value in data["open"].items():
            queued = value == GroupState.QUEUED
            ledger._open[int(key)] = GroupState.QUEUED if queued else GroupState.GENERATING
            ledger.resampled += not queued
        ledger.check()
        return ledger

    def _state(self, group_id: int) -> GroupState:
        if group_id not in self._open:
            raise LedgerError(f"group {group_id} is {'settled' if group_id < self.submitted else 'not admitted'}")
        return self._open[group_id]

    def _settle(self, group_id: int, expected: GroupState) -> None:
        if self._state(group_id) is not expected:
            raise LedgerError(f"group {group_id} is {self._state(group_id)}, not {expected}")
        del self._open[group_id]
