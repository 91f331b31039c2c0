r"""Formulas written otherwise before they are compared: plus-minus as a list, matrices carried out, a bound letter by another name."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

from magistral_core.rewards.math.evaluate import UndefinedError
from magistral_core.rewards.math.nodes import (
    Choice,
    Const,
    Group,
    Matrix,
    Node,
    Op,
    Quantity,
    Relation,
    SetOp,
    Sym,
    children,
    symbols,
    walk,
)
from magistral_core.rewards.math.sets import NotASetError

#: Signs of plus-minus that are written out: two values each.
_MAX_SIGNS = 4


def is_symbolic_constant(node: Node) -> bool:
    """Whether a node is a constant without a value, such as a set of numbers."""
    return isinstance(node, Const) and node.name not in ("pi", "e", "i")


def is_list(node: Node) -> bool:
    """Whether a node is several answers without brackets."""
    return isinstance(node, Group) and node.kind == "list"


def expanded(node: Node) -> Node:
    r"""Plus-minus written out: `1 \pm \sqrt 2` is a list of two, and so are its items within a list or a set."""
    if node == Const("empty"):
        return Group("set", ())
    if isinstance(node, Group) and node.kind in ("list", "set"):
        items = [part for item in node.items for part in _flattened(expanded(item))]
        return Group(node.kind, tuple(items))
    if isinstance(node, Quantity):
        inner = expanded(node.value)
        return (
            Group("list", tuple(Quantity(item, node.unit) for item in inner.items)) if isinstance(inner, Group) and is_list(inner) else node
        )
    if isinstance(node, Relation | SetOp | Choice | Matrix):
        return node
    signs = [part for part in walk(node) if isinstance(part, Op) and part.name in ("pm", "mp")]
    if not signs:
        return node
    if len(signs) > _MAX_SIGNS:
        raise NotASetError("too many signs")
    linked = any(sign.name == "mp" for sign in signs)
    choices = [(s,) * len(signs) for s in (1, -1)] if linked else list(itertools.product((1, -1), repeat=len(signs)))
    return Group("list", tuple(_with_signs(node, iter(choice)) for choice in choices))


def written_out(node: Node) -> list[Node]:
    r"""`x \pm 2y = 0` as two equations; without plus-minus itself."""
    assert isinstance(node, Relation)
    sides = expanded(Group("()", node.terms))
    if not is_list(sides):
        return [node]
    assert isinstance(sides, Group)
    return [Relation(children(each), node.ops) for each in sides.items]


def with_its_letter(gold: Node, pred: Node) -> Node:
    r"""`n\pi, n \in \mathbb{Z}` with the letter that the reference has there: it stands for any integer."""
    one, two = _any_number(gold), _any_number(pred)
    if one is None or two is None or one == two or one in symbols(pred):
        return pred
    return _renamed(pred, two, one)


def _any_number(node: Node) -> str | None:
    """The one letter of a list that stands for any number of a set, beside what depends on it."""
    if not is_list(node):
        return None
    assert isinstance(node, Group)
    others = [item for item in node.items if not _is_membership(item)]
    [*found] = (item.terms[0].name for item in node.items if _is_membership(item))  # type: ignore[union-attr]
    return found[0] if len(found) == 1 and found[0] in symbols(*others) else None


def _is_membership(item: Node) -> bool:
    return isinstance(item, Relation) and item.ops == ("in",) and isinstance(item.terms[0], Sym) and is_symbolic_constant(item.terms[1])


def _renamed(node: Node, old: str, new: str) -> Node:
    """A formula with one variable called otherwise."""

    def each(parts: Sequence[Node]) -> tuple[Node, ...]:
        return tuple(_renamed(part, old, new) for part in parts)

    match node:
        case Sym(name):
            return Sym(new) if name == old else node
        case Op(name, args):
            return Op(name, each(args))
        case Group(kind, items):
            return Group(kind, each(items))
        case Relation(terms, ops):
            return Relation(each(terms), ops)
        case _:
            return node


def _flattened(node: Node) -> tuple[Node, ...]:
    return node.items if isinstance(node, Group) and node.kind == "list" else (node,)


def _with_signs(node: Node, signs: Any) -> Node:
    match node:
        case Op():
            sign = next(signs) if node.name in ("pm", "mp") else 0
            args = tuple(_with_signs(argument, signs) for argument in node.args)
            if not sign:
                return Op(node.name, args)
            last = args[-1] if (sign > 0) is (node.name == "pm") else Op("neg", (args[-1],))
            return last if len(args) == 1 else Op("add", (args[0], last))
        case Group():
            return Group(node.kind, tuple(_with_signs(item, signs) for item in node.items))
        case _:
            return node


def folded(node: Node) -> Node:
    """Sums, multiples and products of matrices carried out; anything else as it is."""
    if not isinstance(node, Op) or not any(isinstance(part, Matrix) for part in walk(node)):
        return node
    args = [folded(argument) for argument in node.args]
    match node.name, args:
        case "neg", [Matrix() as only]:
            return _cells(only, lambda cell: Op("neg", (cell,)))
        case "add", [Matrix() as a, Matrix() as b] if len(a.rows) == len(b.rows) and len(a.rows[0]) == len(b.rows[0]):
            return Matrix(
                tuple(tuple(Op("add", pair) for pair in zip(one, two, strict=True)) for one, two in zip(a.rows, b.rows, strict=True))
            )
        case "mul", [Matrix() as a, Matrix() as b] if len(a.rows[0]) == len(b.rows):
            columns = list(zip(*b.rows, strict=True))
            return Matrix(tuple(tuple(_dot(row, column) for column in columns) for row in a.rows))
        case (("mul" | "div"), [Matrix() as a, b]) if not isinstance(b, Matrix):
            return _cells(a, lambda cell: Op(node.name, (cell, b)))
        case "mul", [a, Matrix() as b] if not isinstance(a, Matrix):
            return _cells(b, lambda cell: Op("mul", (a, cell)))
    raise UndefinedError("an operation on matrices")


def _cells(matrix: Matrix, change: Callable[[Node], Node]) -> Matrix:
    return Matrix(tuple(tuple(map(change, row)) for row in matrix.rows))


def _dot(row: Sequence[Node], column: Sequence[Node]) -> Node:
    total: Node = Op("mul", (row[0], column[0]))
    for a, b in zip(row[1:], column[1:], strict=True):
        total = Op("add", (total, Op("mul", (a, b))))
    return total
