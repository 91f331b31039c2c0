"""One exercise of a tiny world, and the slips that an imperfect author makes while working it out."""

from __future__ import annotations

import random
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Exercise:
    """A problem before it becomes text for others.

    Attributes:
        kind: `add`, `sub`, `chain`, `mod` or `word`.
        level: from 1; more digits or more steps.
        numbers: the operands. Column work: `(a, b)`. Chains and stories: the start, then signed changes. Remainders: `(n, divisor)`.
        language: ISO 639-1 code of the statement.
        question: the statement.
        answer: the right answer.
        thing: which of a world's objects the story is about.
    """

    kind: str
    level: int
    numbers: tuple[int, ...]
    language: str
    question: str
    answer: int
    thing: int = 0

    @property
    def key(self) -> str:
        """The arithmetic without its wording: exercises with equal keys never lie on both sides of a split."""
        numbers = tuple(sorted(self.numbers)) if self.kind == "add" else self.numbers
        family = "chain" if self.kind == "word" else self.kind
        return f"{family}:{','.join(map(str, numbers))}"


@dataclass(frozen=True, slots=True)
class Slips:
    """How often an author goes wrong in a step; after a slip the work goes on consistently from the wrong value."""

    rng: random.Random
    probability: float = 0.0

    def now(self) -> bool:
        """Whether this step goes wrong."""
        return self.probability > 0 and self.rng.random() < self.probability

    def near(self, value: int, *, low: int = 0, high: int = 10**9) -> int:
        """A value one away from `value`, within `low..high`."""
        return self.rng.choice([other for other in (value - 1, value + 1) if low <= other <= high])


def draw_changes(rng: random.Random, start: int, count: int, *, low: int, high: int) -> tuple[int, ...]:
    """`count` signed one-digit changes of at least 2 each that keep the running total within `low..high`."""
    changes: list[int] = []
    total = start
    for _ in range(count):
        options = [change for change in (*range(-9, -1), *range(2, 10)) if low <= total + change <= high]
        changes.append(rng.choice(options))
        total += changes[-1]
    return tuple(changes)


def running_totals(numbers: tuple[int, ...], slips: Slips) -> list[int]:
    """The totals after each change; a slip is off by one, or by ten as when a carry is forgotten."""
    totals: list[int] = []
    total = numbers[0]
    for change in numbers[1:]:
        right = total + change
        crossed = right // 10 != total // 10
        if not slips.now():
            total = right
        elif crossed and slips.rng.random() < 0.5:
            total = right - 10 if change > 0 else right + 10
        else:
            total = slips.near(right, low=-99)  # after an earlier slip the total may fall below zero
        totals.append(total)
    return totals
