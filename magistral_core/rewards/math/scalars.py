"""Are two expressions equal? Constants by value, formulas by their values at fixed points.

Rational expressions are compared exactly. Others are computed to at least sixty digits, and to more than both texts write out, so a long
decimal never passes for a root. Two formulas that agree to that many digits at several points, where both have a value, are equal;
the points are rational, positive and negative, and small integers, the same each time. Where a floor, a maximum or an absolute value may
be one formula here and another there, all points count, and integers of both parities beyond every number written, up to some thousands.
"""

from __future__ import annotations

import functools
import math
import random
from collections.abc import Iterator
from fractions import Fraction
from typing import Any

from magistral_core.rewards.math.evaluate import Evaluator, InexactError, TooLargeError, UndefinedError
from magistral_core.rewards.math.nodes import Const, Node, Num, Op, is_closed, symbols, walk

#: Digits beyond those that the answers write out.
_SPARE_DIGITS = 60
#: Most digits that a comparison takes, where summands differ in size by as many.
_MOST_DIGITS = 10_000
#: Points at which both sides must have a value, and agree.
_AGREEMENTS = 3
#: Per point the interval from which variables are drawn; the last are integers, for factorials and powers of -1.
_RANGES = ((1.0, 3.0), (0.0, 1.0), (-3.0, 0.0), (-2.0, 2.0), (3.0, 20.0), (-9.0, 9.0), (-1.0, 1.0))
_INTEGER_POINTS = 3
#: Integers beyond what is written, and half of the farthest that this goes: factorials are computed there.
_FAR_POINTS, _FARTHEST = 4, 1400
_PIECEWISE = {"abs", "floor", "ceil", "max", "min", "gcd", "lcm"}


def same_value(a: Node, b: Node, exact_only: bool) -> bool:
    """Whether two expressions are equal.

    Raises InexactError with `exact_only` where fractions do not decide, UndefinedError where an expression has no value anywhere.
    """
    if a == b and is_closed(a):
        return _defined(a, exact_only)
    if is_closed(a) and is_closed(b):
        return _same_constant(a, b, exact_only)
    real = not any(part == Const("i") for node in (a, b) for part in walk(node))
    enough = None if _piecewise(a, b) else _AGREEMENTS
    agreements = 0
    for evaluator in _evaluators(a, b, exact_only, real):
        try:
            if not _agree(evaluator, a, b):
                return False
        except (UndefinedError, _SpreadError):
            continue
        agreements += 1
        if agreements == enough:
            return True
    if agreements == 0 and a != b:
        raise UndefinedError("no value at any point")
    return True


def constant_ratio(a: Node, b: Node, exact_only: bool) -> Any:
    """The constant c with a = c b, a nonzero number; None if there is none."""
    ratio: Any = None
    enough = None if _piecewise(a, b) else _AGREEMENTS
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
        if found == enough:
            return ratio
    return ratio if found >= _AGREEMENTS else None


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
    return _agree(Evaluator(digits=_digits(a, b)), a, b)


class _SpreadError(TooLargeError):
    """Summands too different in size for any rounding to tell their sum from the larger one."""


def _agree(evaluator: Evaluator, a: Node, b: Node) -> bool:
    """Whether two expressions have one value here. Raises UndefinedError, _SpreadError."""
    left, right = evaluator.value(a), evaluator.value(b)
    digits = evaluator.digits
    if digits is None:
        return bool(left == right)
    if evaluator.spread > digits:  # bits: of the smaller summand too few digits may be left
        digits += evaluator.spread * 3 // 10
        if digits > _MOST_DIGITS:
            if not evaluator.close(left, right):
                return False
            raise _SpreadError("summands too different in size")
        evaluator = evaluator.finer(digits)
        left, right = evaluator.value(a), evaluator.value(b)
    if evaluator.close(left, right):
        return True
    if not all(value == 0 or evaluator.tiny(value) for value in (left, right)):
        return False
    # Both may be zeros hidden by rounding: a real zero shrinks with more digits, e^{-200} does not.
    finer = evaluator.finer(3 * digits)
    values = finer.value(a), finer.value(b)
    return finer.close(*values) or all(
        new == 0 or (finer.tiny(new) and (old == 0 or abs(new) < abs(old) / 10 ** (digits // 2)))
        for old, new in zip((left, right), values, strict=True)
    )


def _evaluators(a: Node, b: Node, exact_only: bool, real: bool) -> Iterator[Evaluator]:
    names = sorted(symbols(a, b))
    digits = None if exact_only or _rational(a, b) else _digits(a, b)
    for number in range(len(_RANGES) + _INTEGER_POINTS):
        yield Evaluator({name: _sample(name, number) for name in names}, digits, real)
    if _piecewise(a, b):
        written = [abs(part.value) for node in (a, b) for part in walk(node) if isinstance(part, Num)]
        beyond = 2 * min(_FARTHEST, math.ceil(max(written, default=Fraction(0)) / 2))
        for number in range(_FAR_POINTS):
            yield Evaluator({name: _far_sample(name, number, beyond) for name in names}, digits, real)


@functools.lru_cache(maxsize=4096)
def _sample(name: str, number: int) -> Fraction:
    """The value of a variable at a point."""
    draw = random.Random(f"{name}/{number}")
    if number >= len(_RANGES):
        return Fraction(2 * draw.randint(1, 5) + number % 2)  # even and odd in turn, or (-1)^n were 1
    low, high = _RANGES[number]
    return Fraction(round(draw.uniform(low, high) * 997) or 1, 997)


@functools.lru_cache(maxsize=4096)
def _far_sample(name: str, number: int, beyond: int) -> Fraction:
    """An integer that is farther from zero than `beyond`, an even number: even and odd, positive and negative in turn."""
    size = beyond + 2 * random.Random(f"{name}/far/{number}").randint(1, 6) + number % 2
    return Fraction(size if number % 4 < 2 else -size)


def _piecewise(*nodes: Node) -> bool:
    """Whether one of them may be one formula here and another there.

    Of roots only those of a sum's even power are counted: of lengths, `ab` is the root of `a^2b^2`.
    """
    return any(isinstance(part, Op) and (part.name in _PIECEWISE or _is_distance(part)) for node in nodes for part in walk(node))


def _is_distance(node: Op) -> bool:
    match node:
        case Op("sqrt", (Op("pow", (Op("add"), Num(power))),)):
            return power % 2 == 0
        case _:
            return False


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
