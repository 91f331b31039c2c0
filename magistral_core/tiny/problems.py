"""Generated verifiable problems, graded in difficulty, that never repeat between training and held-out.

The split is a property of the arithmetic itself: a hash of the operands decides the side, whatever the seed, the wording or the
language. Two lists of different splits therefore cannot share a problem.
"""

from __future__ import annotations

import hashlib
import itertools
import random
from collections.abc import Iterator, Sequence
from types import ModuleType
from typing import Literal, cast, get_args

from magistral_core.config.schema import ProblemSettings
from magistral_core.errors import InputError
from magistral_core.records import Problem
from magistral_core.tiny import multilingual, quick
from magistral_core.tiny.exercise import Exercise

Split = Literal["train", "heldout"]
WORLDS: dict[str, ModuleType] = {"quick": quick, "multilingual": multilingual}
#: One key in so many is held out.
HELD_OUT_OF = 8
#: Draws without an unseen exercise after which the space counts as used up; then exercises repeat.
PATIENCE = 100


def side(exercise: Exercise) -> Split:
    """The split that an exercise belongs to: a hash of its arithmetic."""
    digest = hashlib.blake2b(exercise.key.encode(), digest_size=4).digest()
    return "heldout" if int.from_bytes(digest) % HELD_OUT_OF == 0 else "train"


def exercises(world: str, split: Split, levels: Sequence[int], seed: int, *, unique: bool = True) -> Iterator[Exercise]:
    """An endless stream of exercises, levels in turn; item `i` depends on the arguments and the items before it only.

    With `unique` an exercise comes once until draws find nothing new.
    """
    module, seen = WORLDS[world], set[tuple[str, str]]()
    for index in itertools.count():
        rng = random.Random(f"{world}/{split}/{seed}/{index}")
        level = levels[index % len(levels)]
        tries = 0
        while True:
            exercise = module.draw(rng, level)
            if side(exercise) != split:
                continue
            tries += 1
            identity = (exercise.key, exercise.language)
            if not unique or identity not in seen or tries > PATIENCE:
                break
        seen.add(identity)
        yield exercise


def generate(world: str, split: Split, count: int, levels: Sequence[int], seed: int) -> list[Problem]:
    """`count` problems, levels in turn; the first `n` do not depend on `count`.

    Problems of one list differ in their arithmetic (or their language) as long as their level has some left. For training the smallest
    level of the quick world has some 27,000, of the multilingual one 8,800. Raises InputError for an unknown world, split or level.
    """
    if world not in WORLDS:
        raise InputError(f"tiny world {world!r}: known are {', '.join(WORLDS)}")
    if split not in get_args(Split):
        raise InputError(f"problems.split {split!r}: the tiny worlds have {' and '.join(get_args(Split))}")
    known = WORLDS[world].LEVELS
    if not levels or not set(levels) <= set(known):
        raise InputError(f"problems.levels {list(levels)}: the tiny world {world} has the levels {', '.join(map(str, known))}")
    stream = itertools.islice(exercises(world, split, levels, seed), count)
    return [_problem(exercise, world, split, seed, index) for index, exercise in enumerate(stream)]


def load_quick(settings: ProblemSettings, seed: int) -> list[Problem]:
    """The problems of a recipe whose `problems.path` is `tiny`. Raises InputError."""
    return _load("quick", settings, seed)


def load_multilingual(settings: ProblemSettings, seed: int) -> list[Problem]:
    """The problems of a recipe whose `problems.path` is `tiny-multilingual`. Raises InputError."""
    return _load("multilingual", settings, seed)


def _load(world: str, settings: ProblemSettings, seed: int) -> list[Problem]:
    split = cast(Split, settings.split)  # `generate` refuses any other
    return generate(world, split, min(settings.count, settings.limit or settings.count), settings.levels, seed)


def _problem(exercise: Exercise, world: str, split: Split, seed: int, index: int) -> Problem:
    return Problem(
        id=f"tiny-{world}-{split}-{seed}-{index}",
        question=exercise.question,
        answer=str(exercise.answer),
        language=exercise.language,
        level=exercise.level,
        source=f"tiny:{world}",
        extra={"kind": exercise.kind, "numbers": exercise.numbers},
    )
