"""Are two expressions equal? Constants by value, formulas by their values at fixed points.

Rational expressions are compared exactly. Others are computed to at least sixty digits, and to more than both texts write out, so a long
decimal never passes for a root. Two formulas that agree to that many digits at several points, where both have a value, are equal;
the points are rational, positive and negative, and small integers, the same each time.
"""

from __future__ import annotations

import functools
import random
from collections.abc import Iterator
from fractions import Fraction
from typing import Any

from magistral_core.rewards.math.evaluate import Evaluator, InexactError, UndefinedError
from magistral_core.rewards.math.nodes import Const, Node, Num, Op, is_closed, symbols, walk

#: Digits beyond those that the answers write out.
_SPARE_DIGITS = 60
#: Points at which both sides must have a value, and agree.
_AGREEMENTS = 3
#: Per point the interval from which variables are drawn; the last are integers, for factorials and powers of -1.
_RANGES = ((1.0, 3.0), (0.0, 1.0), (-3.0, 0.0), (-2.0, 2.0), (3.0, 20.0), (-9.0, 9.0), (-1.0, 1.0))
_INTEGER_POINTS = 3


def same_value(a: Node, b: Node, exact_only: bool) -> bool:
    """Whether two expressions are equal.

    Raises InexactError with `exact_only` where fractions do not decide, UndefinedError where an expression has no value anywhere.
    """
    if a == b and is_closed(a):
        return _defined(a, exact_only)
    if is_closed(a) and is_closed(b):
        return _same_constant(a, b, exact_only)
    real = not any(part == Const("i") for node in (a, b) for part in walk(node))
    agreements = 0
    for evaluator in _evaluators(a, b, exact_only, real):
        try:
            left, right = evaluator.value(a), evaluator.value(b)
        except UndefinedError:
            continue
        if not _agree(evaluator, left, right):
            return False
        agreements += 1
        if agreements >= _AGREEMENTS:
            return True
    if agreements == 0 and a != b:
        raise UndefinedError("no value at any point")
    return True


def constant_ratio(a: Node, b: Node, exact_only: bool) -> Any:
    """The constant c with a = c b, a nonzero number; None if there is none."""
    ratio: Any = None
    found = 0
    for evaluator in _evaluators(a, b, exact_only, real=True):
        try:
            left, right = evaluator.value(a), evaluator.value(b)
            if (left == 0) is not (right == 0):
                return None
            if left == 0:
                continue
            quotient = evaluator.quotient(left, right)
        except UndefinedError:
            continue
        if ratio is not None and not evaluator.close(ratio, quotient):
            return None
        ratio = quotient
        found += 1
        if found >= _AGREEMENTS:
            return ratio
    return None


def constant(node: Node, exact_only: bool) -> tuple[Evaluator, Any]:
    """The value of an expression without variables, with the evaluator that compares it. Raises UndefinedError, InexactError."""
    try:
        evaluator = Evaluator()
        return evaluator, evaluator.value(node)
    except InexactError:
        if exact_only:
            raise
    evaluator = Evaluator(digits=_digits(node))
    return evaluator, evaluator.value(node)


def _defined(node: Node, exact_only: bool) -> bool:
    constant(node, exact_only)
    return True


def _same_constant(a: Node, b: Node, exact_only: bool) -> bool:
    try:
        evaluator = Evaluator()
        return bool(evaluator.value(a) == evaluator.value(b))
    except InexactError:
        if exact_only:
            raise
    digits = _digits(a, b)
    evaluator = Evaluator(digits=digits)
    left, right = evaluator.value(a), evaluator.value(b)
    if evaluator.close(left, right):
        return True
    if not (left == 0 or evaluator.tiny(left)) or not (right == 0 or evaluator.tiny(right)):
        return False
    # Both may be zeros hidden by rounding: a real zero shrinks with more digits, e^{-200} does not.
    finer = Evaluator(digits=3 * digits)
    values = [finer.value(a), finer.value(b)]
    return all(value == 0 or finer.tiny(value) for value in values)


def _agree(evaluator: Evaluator, left: Any, right: Any) -> bool:
    if evaluator.close(left, right):
        return True
    return (left == 0 or evaluator.tiny(left)) and (right == 0 or evaluator.tiny(right))


def _evaluators(a: Node, b: Node, exact_only: bool, real: bool) -> Iterator[Evaluator]:
    names = sorted(symbols(a, b))
    digits = None if exact_only or _rational(a, b) else _digits(a, b)
    for number in range(len(_RANGES) + _INTEGER_POINTS):
        yield Evaluator({name: _sample(name, number) for name in names}, digits, real)


@functools.lru_cache(maxsize=4096)
def _sample(name: str, number: int) -> Fraction:
    """The value of a variable at a point."""
    draw = random.Random(f"{name}/{number}")
    if number >= len(_RANGES):
        return Fraction(draw.randint(2, 12))
    low, high = _RANGES[number]
    return Fraction(round(draw.uniform(low, high) * 997) or 1, 997)


def _rational(*nodes: Node) -> bool:
    """Whether fractions suffice at every point: no constants, roots, functions or powers with variable exponents."""
    allowed = {"add", "neg", "mul", "div", "abs", "percent"}
    for node in nodes:
        for part in walk(node):
            if isinstance(part, Const):
                return False
            if isinstance(part, Op) and part.name == "pow":
                if not isinstance(part.args[1], Num) or part.args[1].value.denominator != 1:
                    return False
            elif isinstance(part, Op) and part.name not in allowed:
                return False
    return True


def _digits(*nodes: Node) -> int:
    written = 0
    for node in nodes:
        for part in walk(node):
            if isinstance(part, Num):
                written += (part.value.numerator.bit_length() + part.value.denominator.bit_length()) * 3 // 10
    return _SPARE_DIGITS + min(2 * written, 3000)
