r"""Sets of real numbers: intervals, inequalities in one variable, finite sets, and their unions, intersections and differences.

Two sets are equal when they agree at every end point of either, between any two neighbours, and outside. That decides equality of whatever
is built from such pieces, however it is written: `x < 2 \text{ or } x > 3` and `(-\infty,2)\cup(3,\infty)`.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from fractions import Fraction
from typing import Any, NamedTuple

from magistral_core.rewards.math.evaluate import Evaluator, InexactError, UndefinedError
from magistral_core.rewards.math.nodes import Const, Group, Node, Num, Op, Relation, SetOp, Sym, is_closed, symbols
from magistral_core.rewards.math.scalars import constant

_FLIPPED = {"<": ">", ">": "<", "<=": ">=", ">=": "<=", "=": "=", "!=": "!="}
_INEQUALITIES = frozenset(("<", "<=", ">", ">=", "!="))
_INFINITY = Const("infinity")


class _Line(NamedTuple):
    """A set of reals: its finite end points, and whether a number lies in it; `variable` is empty for a set without a name."""

    ends: tuple[Node, ...]
    holds: Callable[[_Number], bool]
    variable: str = ""


class _Number(NamedTuple):
    """A number on the line, with the evaluator that compares it."""

    evaluator: Evaluator
    value: Any

    def compare(self, other: _Number) -> int:
        """-1, 0 or 1."""
        fine = self.evaluator if not isinstance(self.value, Fraction) else other.evaluator
        if fine.close(self.value, other.value):
            return 0
        return -1 if self.value < other.value else 1


class NotASetError(ValueError):
    """Not a set of reals that this page can decide."""


def is_certainly_a_set(node: Node) -> bool:
    r"""Whether a node can mean nothing but a set or a condition; `(1,2)` may be a point and `\{1,2\}` is compared item by item."""
    match node:
        case SetOp() | Group("(]" | "[)") | Const("reals"):
            return True
        case Group("()" | "[]", (low, high)):
            return _is_infinite(low) or _is_infinite(high)
        case Relation((_, right), ("=",)):
            return is_certainly_a_set(right)
        case Relation():
            return any(op in _INEQUALITIES or op == "in" for op in node.ops)
        case _:
            return False


def same_set(a: Node, b: Node, exact_only: bool) -> bool:
    """Whether two nodes mean the same set of reals. Raises NotASetError, InexactError."""
    try:
        left, right = _line(a, exact_only), _line(b, exact_only)
        if left.variable and right.variable and left.variable != right.variable:
            return False
        points = [_number(end, exact_only) for end in (*left.ends, *right.ends)]
    except UndefinedError as error:
        raise NotASetError(str(error)) from None
    if any(not isinstance(point.value, Fraction) and not hasattr(point.value, "man_exp") for point in points):
        raise NotASetError("an end that is not real")
    ordered: list[_Number] = []
    for point in points:
        place = next((i for i, other in enumerate(ordered) if point.compare(other) <= 0), len(ordered))
        if place == len(ordered) or point.compare(ordered[place]) != 0:
            ordered.insert(place, point)
    return all(left.holds(test) == right.holds(test) for test in _tests(ordered))


def _tests(points: list[_Number]) -> list[_Number]:
    """The points, one number between each two neighbours, and one beyond each end."""
    if not points:
        return [_Number(Evaluator(), Fraction(0))]
    first, last = points[0], points[-1]
    tests = [_Number(first.evaluator, first.value - 1), _Number(last.evaluator, last.value + 1), *points]
    for low, high in itertools.pairwise(points):
        fine = low.evaluator if not isinstance(low.value, Fraction) else high.evaluator
        tests.append(_Number(fine, (_plain(fine, low.value) + _plain(fine, high.value)) / 2))
    return tests


def _plain(evaluator: Evaluator, value: Any) -> Any:
    """A value that can be added to the other end's."""
    return evaluator.value(Op("add", (Num(value), Num(Fraction(0))))) if isinstance(value, Fraction) else value


def _number(node: Node, exact_only: bool) -> _Number:
    return _Number(*constant(node, exact_only))


def _line(node: Node, exact_only: bool) -> _Line:
    match node:
        case Const("reals"):
            return _Line((), lambda _: True)
        case Const("empty"):
            return _Line((), lambda _: False)
        case Group("set", items):
            return _finite(items, exact_only)
        case Group("()" | "[]" | "(]" | "[)", (low, high)):
            return _interval(low, node.kind[0] == "[", high, node.kind[1] == "]", exact_only)
        case SetOp():
            return _combined(node.name, [_line(part, exact_only) for part in node.args])
        case Relation((Sym(name), inside), ("in",)):
            return _line(inside, exact_only)._replace(variable=name)
        case Relation((Sym(), inside), ("=",)) if is_certainly_a_set(inside):
            return _line(inside, exact_only)
        case Relation():
            parts = [_atomic(node.terms[i], op, node.terms[i + 1], exact_only) for i, op in enumerate(node.ops)]
            return _combined("intersection", parts)
        case _:
            raise NotASetError("not a set")


def _finite(items: tuple[Node, ...], exact_only: bool) -> _Line:
    if not all(map(is_closed, items)) or any(isinstance(item, Group) for item in items):
        raise NotASetError("items that are not numbers")
    points = [_number(item, exact_only) for item in items]
    return _Line(items, lambda x: any(x.compare(point) == 0 for point in points))


def _is_infinite(node: Node) -> bool:
    return node == _INFINITY or node == Op("neg", (_INFINITY,))


def _interval(low: Node, low_in: bool, high: Node, high_in: bool, exact_only: bool) -> _Line:
    if (_is_infinite(low) and (low_in or low == _INFINITY)) or (_is_infinite(high) and (high_in or high != _INFINITY)):
        raise NotASetError("an infinite end that belongs to the interval")
    bounds = [None if _is_infinite(end) else _number(end, exact_only) for end in (low, high)]
    if not all(_is_infinite(end) or is_closed(end) for end in (low, high)):
        raise NotASetError("ends with variables")
    below, above = bounds

    def holds(x: _Number) -> bool:
        from_below = 1 if below is None else x.compare(below)
        from_above = -1 if above is None else x.compare(above)
        return (from_below > 0 or (low_in and from_below == 0)) and (from_above < 0 or (high_in and from_above == 0))

    if below is not None and above is not None and below.compare(above) > 0:
        raise NotASetError("an interval whose ends are swapped")
    return _Line(tuple(end for end in (low, high) if not _is_infinite(end)), holds)


def _combined(name: str, parts: list[_Line]) -> _Line:
    variables = {part.variable for part in parts} - {""}
    if len(variables) > 1:
        raise NotASetError("several variables")
    ends = tuple(end for part in parts for end in part.ends)

    def holds(x: _Number) -> bool:
        inside = [part.holds(x) for part in parts]
        if name == "difference":
            return inside[0] and not inside[1]
        return any(inside) if name == "union" else all(inside)

    return _Line(ends, holds, next(iter(variables), ""))


def _atomic(left: Node, op: str, right: Node, exact_only: bool) -> _Line:
    """One inequality with one variable, linear in it."""
    names = symbols(left, right)
    if len(names) != 1 or op not in _FLIPPED:
        raise NotASetError("not one variable")
    variable = next(iter(names))
    if isinstance(right, Sym):
        left, op, right = right, _FLIPPED[op], left
    if not isinstance(left, Sym) or not is_closed(right):
        root, rising = _linear_root(Op("add", (left, Op("neg", (right,)))), variable)
        left, right, op = Sym(variable), Num(root), op if rising else _FLIPPED[op]
    if _is_infinite(right):
        if (op, right == _INFINITY) in (("<", True), (">", False)):
            return _Line((), lambda _: True, variable)
        raise NotASetError("beyond infinity")
    bound = _number(right, exact_only)
    accepted = {"<": (-1,), "<=": (-1, 0), ">": (1,), ">=": (0, 1), "=": (0,), "!=": (-1, 1)}[op]
    return _Line((right,), lambda x: x.compare(bound) in accepted, variable)


def _linear_root(difference: Node, variable: str) -> tuple[Fraction, bool]:
    """Where a linear expression with rational coefficients is zero, and whether it rises."""
    try:
        values = [Evaluator({variable: Fraction(x)}).value(difference) for x in (0, 1, 2, 5, -7)]
    except InexactError:
        raise NotASetError("coefficients that are not rational") from None
    slope = values[1] - values[0]
    if slope == 0 or any(values[0] + slope * x != value for x, value in zip((0, 1, 2, 5, -7), values, strict=True)):
        raise NotASetError("not linear")
    return -values[0] / slope, slope > 0
