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
    """One test of a code problem.

    Attributes:
        input: standard input; where the problem has an `entry_point`, the function's arguments: a JSON list of them, or one JSON
            value a line.
        output: the expected standard output, or the expected result as JSON.
        check: in place of both, Python code that fails (an AssertionError) if the function is wrong, as HumanEval and MBPP have it. It
            calls the function as `candidate`, or by its own name.
        name: what reports call it; empty: its number.
    """

    __test__ = False  # not a pytest class, in spite of its name

    input: str = ""
    output: str = ""
    check: str = ""
    name: str = ""


@dataclass(frozen=True, slots=True)
class Checker:
    """How the output of a code problem is compared with the expected one (Kattis/ICPC problem package format).

    Attributes:
        flags: `float_tolerance E`, `float_relative_tolerance E`, `float_absolute_tolerance E`, `case_sensitive`, `space_change_sensitive`
            for the built-in comparison; arguments for a validator.
        validator: source files of an output validator by name, for problems with several right outputs; empty: the built-in comparison.
        main: the validator's main file if it is in Python; empty: C++, all files together.
    """

    flags: tuple[str, ...] = ("case_sensitive",)
    validator: Mapping[str, bytes] = field(default_factory=dict)
    main: str = ""


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
        entry_point: the function that a code problem asks for; empty: a program that reads standard input.
        checker: how a code problem's outputs are compared.
        time_limit_s, memory_limit_mb: a code problem's own limits, for `magistral verify code`; training has the recipe's.
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
    entry_point: str = ""
    checker: Checker = Checker()
    time_limit_s: float | None = None
    memory_limit_mb: int | None = None
    source: str = ""
    extra: Mapping[str, Any] = field(default_factory=dict)
