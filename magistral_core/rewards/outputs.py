"""Comparing what a program printed, or a function returned, with what was expected. Pure; runs outside the sandbox.

The built-in comparison is that of the Kattis/ICPC problem package format's default output validator: token by token, white space and
case ignored unless a flag says otherwise, numbers compared as text unless a flag gives a tolerance.
"""

from __future__ import annotations

import ast
import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from magistral_core.errors import InputError

#: Results of functions in binary floating point may differ in the last digits from one correct order of additions to another.
RESULT_RELATIVE, RESULT_ABSOLUTE = 1e-9, 1e-12
_WHOLE_ABSOLUTE = 1e-6
#: Results nested deeper than this are not compared: no expected result is.
MAX_DEPTH = 100
_NUMBER = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?")
_SPLIT_SPACE = re.compile(r"(\s+)")
_SHOWN = 60


@dataclass(frozen=True, slots=True)
class Comparison:
    """The built-in comparison's options. A tolerance of None means: as text."""

    relative: float | None = None
    absolute: float | None = None
    case_sensitive: bool = False
    space_sensitive: bool = False

    @classmethod
    def from_flags(cls, flags: Sequence[str], place: str = "validator_flags") -> Comparison:
        """Read the flags. Raises InputError for an unknown one or a tolerance that is no number."""
        relative: float | None = None
        absolute: float | None = None
        case = space = False
        words = iter(flags)
        for word in words:
            if word in {"float_tolerance", "float_relative_tolerance", "float_absolute_tolerance"}:
                value = next(words, "")
                try:
                    tolerance = float(value)
                except ValueError:
                    tolerance = math.nan
                if not tolerance >= 0:
                    raise InputError(f"{place}: {word} needs a number that is not negative, this is {value!r}")
                relative = relative if word == "float_absolute_tolerance" else tolerance
                absolute = absolute if word == "float_relative_tolerance" else tolerance
            elif word == "case_sensitive":
                case = True
            elif word == "space_change_sensitive":
                space = True
            else:
                raise InputError(f"{place}: unknown flag {word!r}; known are float_tolerance, case_sensitive, space_change_sensitive, ...")
        return cls(relative, absolute, case, space)

    def difference(self, expected: str, got: str) -> str:
        """What is different, as one line for people; empty if the outputs count as equal."""
        split = _SPLIT_SPACE.split if self.space_sensitive else str.split
        wanted, found = split(expected), split(got)
        for position, (want, have) in enumerate(zip(wanted, found, strict=False), start=1):
            if not self._same(want, have):
                return f"token {position}: expected {want[:_SHOWN]!r}, found {have[:_SHOWN]!r}"
        if len(wanted) != len(found):
            return f"expected {len(wanted)} tokens, found {len(found)}"
        return ""

    def _same(self, want: str, have: str) -> bool:
        if want == have or (not self.case_sensitive and want.lower() == have.lower()):
            return True
        if self.relative is None and self.absolute is None:
            return False
        # float() also takes 1_000, nan and infinity, which are no numbers here.
        if not (_NUMBER.fullmatch(want) and _NUMBER.fullmatch(have)):
            return False
        a, b = float(want), float(have)
        gap = abs(a - b)
        if not math.isfinite(gap):  # beyond all floats
            return False
        close = self.absolute is not None and gap <= self.absolute
        return close or (self.relative is not None and gap <= self.relative * abs(a))


_EXACT = Comparison()


def _close(expected: float, got: float, comparison: Comparison) -> bool:
    if comparison.relative is not None or comparison.absolute is not None:
        gap = abs(expected - got)
        if expected == got or not math.isfinite(gap):
            return expected == got
        return (comparison.absolute is not None and gap <= comparison.absolute) or (
            comparison.relative is not None and gap <= comparison.relative * abs(expected)
        )
    whole = isinstance(expected, int) or isinstance(got, int)  # a large one has many neighbours within the last digits
    close = math.isclose(expected, got, rel_tol=RESULT_RELATIVE, abs_tol=RESULT_ABSOLUTE)
    return close and not (whole and abs(expected - got) >= _WHOLE_ABSOLUTE)


def expected_value(text: str) -> Any:
    """An expected result: JSON, else a Python literal, else the text itself."""
    try:
        return json.loads(text)
    except ValueError:
        pass
    try:
        return ast.literal_eval(text.strip())
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return text.strip()


def result_text(value: Any) -> str:
    """A function's result as text that `expected_value` reads back: JSON if JSON can hold it, else a Python literal.

    Raises ValueError for an integer of more digits than Python turns into text.
    """
    try:
        return json.dumps(value)
    except TypeError:
        return repr(value)


def same_result(expected: Any, got: Any, comparison: Comparison = _EXACT, depth: int = 0) -> bool:
    """Whether a function's result is the expected value: numbers exactly, floats to their last digits, lists and tuples alike.

    A `comparison` with tolerances has these for floats, in place of the last digits.
    """
    if depth > MAX_DEPTH:
        return False
    if isinstance(expected, bool) or isinstance(got, bool) or expected is None or got is None:
        return type(expected) is type(got) and expected == got
    if isinstance(expected, float) or isinstance(got, float):
        if not (isinstance(expected, int | float) and isinstance(got, int | float)):
            return False
        try:
            return (expected != expected and got != got) or _close(expected, got, comparison)
        except OverflowError:  # an integer beyond all floats
            return False
    if isinstance(expected, list | tuple) and isinstance(got, list | tuple):
        return len(expected) == len(got) and all(same_result(a, b, comparison, depth + 1) for a, b in zip(expected, got, strict=True))
    if isinstance(expected, dict) and isinstance(got, dict):
        try:  # JSON knows no keys but texts
            mine, theirs = ({str(key): value for key, value in item.items()} for item in (expected, got))
        except ValueError:  # an integer of more digits than Python turns into text
            return False
        return mine.keys() == theirs.keys() and all(same_result(value, theirs[key], comparison, depth + 1) for key, value in mine.items())
    if isinstance(expected, set | frozenset) and isinstance(got, set | frozenset):
        return expected == got
    return type(expected) is type(got) and expected == got
