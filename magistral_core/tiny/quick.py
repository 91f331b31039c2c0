"""The quick world: sums worked out column by column or step by step, in forty tokens or so.

Levels 1 to 4 have `level + 1` digits or steps. The work is what a pupil writes beside the sum, for instance 48+27 as
`8+7=15 4+2+1=7` and 4821 mod 7 as `4:4 48:6 62:6 61:5`.
"""

from __future__ import annotations

import random

from magistral_core.tiny.exercise import Exercise, Slips, draw_changes, running_totals

LEVELS = (1, 2, 3, 4)
LANGUAGES = ("en",)
KINDS = ("add", "sub", "chain", "mod", "word")
DIVISORS = (3, 4, 7)
NAMES = ("Ann", "Ben", "Eva", "Tom")
THINGS = ("pens", "cups", "eggs")


def draw(rng: random.Random, level: int) -> Exercise:
    """A random exercise of a level."""
    kind = rng.choice(KINDS)
    low, high = 10**level, 10 ** (level + 1) - 1
    if kind == "add":
        a, b = rng.randint(low, high), rng.randint(low, high)
        return Exercise(kind, level, (a, b), "en", f"{a}+{b}=?", a + b)
    if kind == "sub":
        b, a = sorted(rng.sample(range(low, high + 1), 2))
        return Exercise(kind, level, (a, b), "en", f"{a}-{b}=?", a - b)
    if kind == "mod":
        n, divisor = rng.randint(low, high), rng.choice(DIVISORS)
        return Exercise(kind, level, (n, divisor), "en", f"{n} mod {divisor}=?", n % divisor)
    start = rng.randint(10, 99)
    changes = draw_changes(rng, start, level + 1, low=0, high=99)
    numbers = (start, *changes)
    if kind == "chain":
        return Exercise(kind, level, numbers, "en", "".join([str(start), *(f"{change:+d}" for change in changes), "=?"]), sum(numbers))
    name, thing = rng.choice(NAMES), rng.randrange(len(THINGS))
    story = "".join(f", gets {change}" if change > 0 else f", loses {-change}" for change in changes)
    return Exercise(kind, level, numbers, "en", f"{name} has {start} {THINGS[thing]}{story}. How many?", sum(numbers), thing)


def work(exercise: Exercise, slips: Slips) -> tuple[list[str], int]:
    """The written steps and the answer that they lead to, wrong where the author slipped."""
    if exercise.kind == "add":
        return _add(exercise.numbers, slips)
    if exercise.kind == "sub":
        return _subtract(exercise.numbers, slips)
    if exercise.kind == "mod":
        return _remainder(exercise.numbers, slips)
    totals = running_totals(exercise.numbers, slips)
    return [f"{change:+d}={total}" for change, total in zip(exercise.numbers[1:], totals, strict=True)], totals[-1]


def _add(numbers: tuple[int, ...], slips: Slips) -> tuple[list[str], int]:
    """Columns from the right; a carry shows as `+1`. A slip forgets the carry, or is off by one."""
    steps, answer, carry, place = [], 0, 0, 1
    for x, y in _columns(numbers):
        slipped = slips.now()
        if slipped and carry:
            carry, slipped = 0, False
        total = x + y + carry
        if slipped:
            total = slips.near(total)
        steps.append(f"{x}+{y}+1={total}" if carry else f"{x}+{y}={total}")
        carry, digit = divmod(total, 10)
        answer += digit * place
        place *= 10
    return steps, answer + carry * place


def _subtract(numbers: tuple[int, ...], slips: Slips) -> tuple[list[str], int]:
    """Columns from the right; a borrow shows as ten more above, then `-1`. A slip forgets the borrow, or is off by one."""
    steps, answer, borrow, place = [], 0, 0, 1
    for x, y in _columns(numbers):
        slipped = slips.now()
        if slipped and borrow:
            borrow, slipped = 0, False
        taken, borrow = borrow, int(x - y - borrow < 0)
        digit = x + 10 * borrow - y - taken
        if slipped:
            digit = slips.near(digit, high=9)
        steps.append(f"{x + 10 * borrow}-{y}-1={digit}" if taken else f"{x + 10 * borrow}-{y}={digit}")
        answer += digit * place
        place *= 10
    return steps, answer


def _remainder(numbers: tuple[int, ...], slips: Slips) -> tuple[list[str], int]:
    """Long division of which only the remainders are written; a slip is a remainder off by one."""
    n, divisor = numbers
    steps, rest = [], 0
    for digit in map(int, str(n)):
        value = 10 * rest + digit
        rest = value % divisor
        if slips.now():
            rest = slips.near(rest, high=divisor - 1)
        steps.append(f"{value}:{rest}")
    return steps, rest


def _columns(numbers: tuple[int, ...]) -> list[tuple[int, int]]:
    """The digits of two numbers of the same length, above one another, from the right."""
    above, below = (map(int, reversed(str(number))) for number in numbers)
    return list(zip(above, below, strict=True))
