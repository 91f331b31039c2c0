"""Traces on text that the tiny worlds do not know, for runs in which a tiny model stands in for a real one.

A model that only ever saw column work answers a page of prose with noise, and noise earns no reward to learn from. These traces teach
it the form alone: read any text, admit not to know, and guess inside the right tags; sometimes a tag or the box is missing. No problem
is solved, and none of any data set is in here: the texts are made of invented words.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

_ONSETS = ("b", "c", "d", "f", "g", "h", "l", "m", "n", "p", "r", "s", "t", "th", "sh", "st", "tr", "w", "y", "")
_NUCLEI = ("a", "e", "i", "o", "u", "ea", "ou", "oo")
_CODAS = ("", "n", "r", "s", "t", "l", "ng", "ck", "d")
#: Words of a text; problems in words have 10 to 120.
_WORDS = (10, 120)
_NUMBER_SHARE, _SENTENCE_SHARE = 0.1, 0.1

_THOUGHTS = ("This is not a kind of problem that I know, so I will guess the answer.", "guess")
_FAULTS = ("unboxed", "unclosed", "unopened", "")
_FAULT_WEIGHTS = (10, 10, 5, 75)


@dataclass(frozen=True, slots=True)
class ForeignTrace:
    """A text and what is written about it."""

    question: str
    response: str


def foreign_trace(rng: random.Random) -> ForeignTrace:
    """One trace; three quarters are in the right form."""
    fault = rng.choices(_FAULTS, _FAULT_WEIGHTS)[0]
    guess = str(rng.randint(0, 10 ** rng.randint(1, 3) - 1))
    opening = "" if fault == "unopened" else "<think>"
    closing = "" if fault == "unclosed" else "</think>"
    answer = guess if fault == "unboxed" else f"\\boxed{{{guess}}}"
    return ForeignTrace(_text(rng), f"{opening}{rng.choice(_THOUGHTS)}{closing}\n{answer}")


def _text(rng: random.Random) -> str:
    words = []
    for _ in range(rng.randint(*_WORDS)):
        word = str(rng.randint(1, 999)) if rng.random() < _NUMBER_SHARE else _word(rng)
        words.append(word + (rng.choice(".,?") if rng.random() < _SENTENCE_SHARE else ""))
    return f"{' '.join(words).capitalize()}?"


def _word(rng: random.Random) -> str:
    return "".join(rng.choice(part) for _ in range(rng.randint(1, 3)) for part in (_ONSETS, _NUCLEI, _CODAS))
