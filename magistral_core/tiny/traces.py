"""Traces that a base model learns from: clean work first, then authors as imperfect as people are.

RL can only sharpen what a model sometimes does. So the last quarter of the traces comes from a mix of authors of whom few are careful, and
a good policy is in the model without being its habit.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from magistral_core.tiny import multilingual, quick
from magistral_core.tiny.exercise import Exercise, Slips
from magistral_core.tiny.problems import WORLDS, exercises

Author = Literal["careful", "slipping", "guessing", "unboxed", "unopened", "unclosed", "rambling"]
#: Percent of the imperfect traces by author; the three with a formal fault make up what fails the format check.
MIX: dict[Author, int] = {"careful": 18, "slipping": 50, "guessing": 12, "unboxed": 6, "unopened": 2, "unclosed": 4, "rambling": 8}
#: How often the slipping author goes wrong in a step.
SLIP = 0.35
#: Share of the optimiser steps that see clean work only, and the share of those that stay on the two lowest levels.
CLEAN_SHARE = 0.75
EASY_SHARE = 0.25
#: Share of imperfect traces of the multilingual world that leave the statement's language in the thoughts, and in the answer.
STRAY_THOUGHTS = 0.35
STRAY_ANSWER = 0.15
THINK_OPEN, THINK_CLOSE = "<think>", "</think>"


@dataclass(frozen=True, slots=True)
class Trace:
    """One demonstration: an exercise, who answered it and what they wrote."""

    exercise: Exercise
    author: Author
    response: str


def curriculum(world: str, steps: int, batch: int, seed: int) -> Iterator[Trace]:
    """`steps * batch` traces in the order of training, of training problems only."""
    levels = WORLDS[world].LEVELS
    clean = round(steps * CLEAN_SHARE) * batch
    easy = round(clean * EASY_SHARE)
    low = exercises(world, "train", levels[:2], seed, unique=False)
    full = exercises(world, "train", levels, seed + 1, unique=False)
    rng = random.Random(f"traces/{world}/{seed}")
    for index in range(steps * batch):
        exercise = next(low if index < easy else full)
        author: Author = "careful" if index < clean else rng.choices(list(MIX), weights=list(MIX.values()))[0]
        yield write(exercise, author, rng, world=world, stray=index >= clean)


def write(exercise: Exercise, author: Author, rng: random.Random, *, world: str, stray: bool = False) -> Trace:
    """What an author writes; with `stray` an author of the multilingual world may change the language."""
    thoughts, answer_part = (_sentences if world == "multilingual" else _column_work)(exercise, author, rng, stray)
    opening = "" if author == "unopened" else THINK_OPEN
    closing = "" if author == "unclosed" else THINK_CLOSE
    return Trace(exercise, author, f"{opening}{thoughts}{closing}\n{answer_part}")


def _column_work(exercise: Exercise, author: Author, rng: random.Random, stray: bool) -> tuple[str, str]:
    if author == "guessing":
        steps, answer = ["guess"], _guess(exercise.answer, rng)
    else:
        steps, answer = quick.work(exercise, _slips(author, rng))
    if author == "rambling":
        steps = [*steps, "again", *quick.work(exercise, Slips(rng))[0]]
    return " ".join(steps), str(answer) if author == "unboxed" else _box(answer)


def _sentences(exercise: Exercise, author: Author, rng: random.Random, stray: bool) -> tuple[str, str]:
    languages = (exercise.language, exercise.language)
    if stray and rng.random() < STRAY_THOUGHTS:
        other = _other(exercise.language, rng)
        languages = rng.choice([(exercise.language, other), (other, other)])
    phrases = multilingual.PHRASES[languages[1]]
    if author == "guessing":
        steps, answer = [phrases.guess], _guess(exercise.answer, rng)
    else:
        steps, answer = multilingual.work(exercise, _slips(author, rng), languages)
    if author == "rambling":
        steps = [*steps, phrases.check, *multilingual.work(exercise, Slips(rng), languages)[0]]
    language = _other(exercise.language, rng) if stray and rng.random() < STRAY_ANSWER else exercise.language
    return phrases.joint.join(steps), multilingual.answer_sentence(exercise, str(answer) if author == "unboxed" else _box(answer), language)


def _box(answer: int) -> str:
    return f"\\boxed{{{answer}}}"


def _slips(author: Author, rng: random.Random) -> Slips:
    return Slips(rng, SLIP if author == "slipping" else 0.0)


def _guess(answer: int, rng: random.Random) -> int:
    """A number as long as the answer, drawn without thinking."""
    digits = len(str(answer))
    return rng.randint(10 ** (digits - 1) if digits > 1 else 0, 10**digits - 1)


def _other(language: str, rng: random.Random) -> str:
    return rng.choice([other for other in multilingual.LANGUAGES if other != language])
