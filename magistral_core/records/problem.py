"""A verifiable problem, as read from a file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any


class ProblemKind(StrEnum):
    """What kind of verifier judges the answer (Magistral, section 2.2)."""

    MATH = "math"
    CODE = "code"


@dataclass(frozen=True, slots=True)
class TestCase:
    """One test of a code problem: standard input and the expected standard output."""

    __test__ = False  # not a pytest class, in spite of its name

    input: str
    output: str


@dataclass(frozen=True, slots=True)
class Problem:
    """One problem with what is needed to judge an answer.

    Attributes:
        id: unique within its source; stable between runs.
        question: the statement that the model sees.
        answer: the reference answer of a math problem; empty for code problems.
        kind: which verifier judges it.
        language: ISO 639-1 code of the statement (`en`, `fr`, ...); empty means "detect it".
        level: difficulty on the source's own scale, 0 if it has none.
        tests: tests of a code problem.
        source: where it was read, `file:line`, for messages.
        extra: other fields of the source's line, for a user's own reward functions.
    """

    id: str
    question: str
    answer: str = ""
    kind: ProblemKind = ProblemKind.MATH
    language: str = ""
    level: int = 0
    tests: tuple[TestCase, ...] = ()
    source: str = ""
    extra: Mapping[str, Any] = field(default_factory=dict)
