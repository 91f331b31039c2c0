"""What an answer says, once it is read: a small tree that keeps apart what looks alike (a tuple, a set, an interval, a list)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from fractions import Fraction


class UnreadableError(ValueError):
    """The text is not one whole answer in the notation that is understood."""


class UnsupportedError(UnreadableError):
    """The text is ordinary mathematics beyond this grammar (sums, integrals, limits); math-verify may know it."""


@dataclass(frozen=True, slots=True)
class Num:
    """A number as written, exact; `places` counts the decimals that were written, which matter behind an approximation sign only."""

    value: Fraction
    places: int = field(default=0, compare=False)


@dataclass(frozen=True, slots=True)
class Const:
    """`pi`, `e`, `i`, `infinity`, or a named set: `reals`, `integers`, `rationals`, `naturals`, `complexes`."""

    name: str


@dataclass(frozen=True, slots=True)
class Sym:
    r"""A variable or a name: `x`, `x_1`, `AB`, `\angle ABC`. Case matters."""

    name: str


@dataclass(frozen=True, slots=True)
class Op:
    """A value computed from others: `add`, `mul`, `div`, `pow`, `neg`, `pm`, `sqrt`, `sin`, ..., or `call:f` for an unknown function f."""

    name: str
    args: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Group:
    """Several items: `kind` is the brackets as written (`()`, `[]`, `(]`, `[)`), `set`, `list` (no brackets) or `ratio` (3:2)."""

    kind: str
    items: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class SetOp:
    """`union`, `intersection` or `difference` of sets, or of conditions on one variable."""

    name: str
    args: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Relation:
    """A chain `terms[0] ops[0] terms[1] ...`; an op is one of `= ~ < <= > >= != in` (`~`: approximately)."""

    terms: tuple[Node, ...]
    ops: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Matrix:
    """Rows of equal length."""

    rows: tuple[tuple[Node, ...], ...]


@dataclass(frozen=True, slots=True)
class Quantity:
    """A value with its unit's canonical name."""

    value: Node
    unit: str


@dataclass(frozen=True, slots=True)
class Numeral:
    """Digits in a base other than ten."""

    digits: str
    base: int


@dataclass(frozen=True, slots=True)
class Choice:
    """The letter of a multiple choice, with the text of the choice where it is given."""

    letter: str
    content: Node | None = None


@dataclass(frozen=True, slots=True)
class Text:
    """Words, in lower case and with single spaces."""

    words: str


@dataclass(frozen=True, slots=True)
class Residue:
    r"""A residue class: `3 \pmod 7`."""

    value: Node
    modulus: Node


Node = Num | Const | Sym | Op | Group | SetOp | Relation | Matrix | Quantity | Numeral | Choice | Text | Residue


def children(node: Node) -> tuple[Node, ...]:
    """The nodes directly below."""
    match node:
        case Op() | SetOp():
            return node.args
        case Group():
            return node.items
        case Relation():
            return node.terms
        case Matrix():
            return tuple(cell for row in node.rows for cell in row)
        case Quantity():
            return (node.value,)
        case Residue():
            return (node.value, node.modulus)
        case Choice():
            return () if node.content is None else (node.content,)
        case _:
            return ()


def walk(node: Node) -> Iterator[Node]:
    """The node and everything below it."""
    yield node
    for child in children(node):
        yield from walk(child)


def symbols(*nodes: Node) -> frozenset[str]:
    """Names of the variables that occur."""
    return frozenset(part.name for node in nodes for part in walk(node) if isinstance(part, Sym))


def is_closed(node: Node) -> bool:
    """Whether the node holds no variable and no unknown function: it has one value."""
    return not any(isinstance(part, Sym) or (isinstance(part, Op) and part.name.startswith("call:")) for part in walk(node))
