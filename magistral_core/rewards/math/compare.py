r"""Do two answers that were read mean the same? What is written apart stays apart: an ordered tuple, a set, an interval, a list.

The rules are docs/math-verifier.md's. In short: a name in front of `=` and a unit may be missing on one side; a chain of equations must
hold throughout; nothing is rounded, unless the reference itself is an approximation (`\approx 3.14`).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import NamedTuple

from magistral_core.rewards.math.evaluate import InexactError, UndefinedError
from magistral_core.rewards.math.nodes import (
    Choice,
    Const,
    Group,
    Matrix,
    Node,
    Num,
    Numeral,
    Op,
    Quantity,
    Relation,
    Residue,
    SetOp,
    Sym,
    Text,
    children,
    is_closed,
    symbols,
    walk,
)
from magistral_core.rewards.math.rewriting import expanded, folded, is_list, is_symbolic_constant, with_its_letter, written_out
from magistral_core.rewards.math.scalars import constant, constant_ratio, same_value
from magistral_core.rewards.math.sets import NotASetError, is_certainly_a_set, same_set

_BRACKETS = ("()", "[]", "(]", "[)")
_MIRRORED = {">": "<", ">=": "<=", "<": ">", "<=": ">="}
_HOURS, _MINUTES = 24, 60
#: Letters that may well be a product of variables, or the corners of a figure, and the words among them.
_LONGEST_PRODUCT = 4
_WORDS = frozenset(("yes", "no", "ok", "true", "none", "east", "west", "even", "odd", "left", "up", "down", "both"))


class ContradictionError(ValueError):
    """A chain of equations that does not hold: `5 = 7`."""


class _Reading(NamedTuple):
    """What a statement says: the value, what it is the value of, and whether it is an approximation."""

    value: Node | None
    name: Node | None = None
    approximate: bool = False


class Comparison:
    """Compares trees.

    Args:
        exact_only: raise InexactError where fractions do not decide, so that a worker can.
        solve: says whether two equations between expressions have the same solutions where they are not proportional; may be slow.
    """

    def __init__(self, exact_only: bool, solve: Callable[[Node, Node], bool] | None = None) -> None:
        self._exact_only = exact_only
        self._solve = solve

    def equal(self, gold: Node, pred: Node) -> bool:
        """Whether the answers mean the same. Raises UndefinedError if one has no value."""
        try:
            return self._equal(gold, pred)
        except (ContradictionError, NotASetError):
            return False

    def _equal(self, gold: Node, pred: Node) -> bool:
        pred = with_its_letter(gold, pred)
        if isinstance(gold, Choice) or isinstance(pred, Choice):
            return self._choices(gold, pred)
        if isinstance(gold, Text) or isinstance(pred, Text):
            return (_name_of(gold) is not None and _name_of(gold) == _name_of(pred)) or _same_word(gold, pred)
        if is_certainly_a_set(gold) or is_certainly_a_set(pred):
            return self._sets(gold, pred)
        if (first := _assignments(gold)) is not None and (second := _assignments(pred)) is not None:
            return first.keys() == second.keys() and all(self.equal(value, second[name]) for name, value in first.items())
        if isinstance(gold, Relation) or isinstance(pred, Relation):
            return self._statements(gold, pred)
        return self._values(gold, pred)

    # Statements

    def _statements(self, gold: Node, pred: Node) -> bool:
        one, two = self._read(gold), self._read(pred)
        if _is_equation(gold) and _is_equation(pred):
            if one.name is not None and _same_name(one.name, two.name):
                return one.value is not None and two.value is not None and self.equal(one.value, two.value)
            return self._same_equation(gold, pred)
        if one.value is None or two.value is None:
            return gold == pred
        if one.name is not None and two.name is not None and not _same_name(one.name, two.name):
            return False
        decimal, unit = _decimal(one.value)
        if one.approximate and decimal is not None and decimal.places:
            same_unit = not unit or not isinstance(two.value, Quantity) or two.value.unit == unit
            return same_unit and self._rounds_to(two.value, decimal)
        return self.equal(one.value, two.value)

    def _read(self, node: Node) -> _Reading:
        """Take a statement apart. Raises ContradictionError if its terms differ."""
        if not isinstance(node, Relation):
            return _Reading(node)
        if set(node.ops) - {"=", "~"}:
            return _Reading(None)
        first = node.ops.index("~") if "~" in node.ops else len(node.ops)
        exact, rounded = list(node.terms[: first + 1]), list(node.terms[first + 1 :])
        name: Node | None = None
        if exact == [Text("")]:
            exact = []
        elif _is_name(exact[0]) or (len(exact) > 1 and _is_letter_name(exact[0])):
            name = exact.pop(0)
            while len(exact) > 1 and _is_name(exact[0]) and not isinstance(exact[0], Sym):  # `y = f(x) = ...`: named twice, by either
                exact.pop(0)
                name = None
        elif len(exact) > 1 and _is_name(exact[-1]):
            name = exact.pop()
        if name is not None and any(_mentions(value, name) for value in (*exact, *rounded)):
            return _Reading(None)
        if not exact:
            return _Reading(rounded[-1], name, approximate=True)
        if name is None and len(exact) > 1 and not all(map(is_closed, exact)):
            return _Reading(None)
        if not all(self.equal(value, exact[-1]) for value in exact[:-1]):
            if not any(map(is_closed, exact)):  # three names of one thing that nobody knows
                return _Reading(None)
            raise ContradictionError
        for value in rounded:
            decimal, unit = _decimal(value)
            given = exact[-1].unit if isinstance(exact[-1], Quantity) else ""
            # In another unit it is another number: 5 km are about 3.1 mi, and \arctan 2 about 63.4 degrees.
            alike = unit == given or ("degree" not in (unit, given) and not (unit and given))
            if decimal is not None and alike and not self._rounds_to(exact[-1], decimal, _places(decimal)):
                raise ContradictionError
        return _Reading(exact[-1], name)

    def _rounds_to(self, value: Node, rounded: Num, places: int | None = None) -> bool:
        """Whether a constant, rounded to so many decimals (None: those of `rounded`), is that number."""
        if isinstance(value, Quantity):
            value = value.value
        if not is_closed(value) or isinstance(value, Group | Matrix | SetOp):
            return False
        evaluator, number = constant(Op("add", (value, Op("neg", (rounded,)))), self._exact_only)
        half = Fraction(1, 2) / Fraction(10) ** (rounded.places if places is None else places)
        if isinstance(number, Fraction):
            return abs(number) <= half
        return bool(abs(number) <= evaluator.value(Num(half)).numerator / half.denominator)

    def _same_equation(self, gold: Node, pred: Node) -> bool:
        golds, preds = written_out(gold), written_out(pred)
        if len(golds) > 1 or len(preds) > 1:
            return self._matched(golds, preds)
        one, two = _difference(gold), _difference(pred)
        if one is None or two is None:
            return False
        if constant_ratio(one, two, self._exact_only) is not None:
            return True
        if symbols(one) != symbols(two) or len(symbols(one)) == 1:
            return False
        if self._exact_only:
            raise InexactError
        return self._solve is not None and self._solve(one, two)

    # Sets and conditions

    def _sets(self, gold: Node, pred: Node) -> bool:
        gold, pred = (self._listed(_unnamed_set(node)) for node in (gold, pred))
        try:
            return same_set(expanded(gold), expanded(pred), self._exact_only)
        except NotASetError:
            pass
        if isinstance(gold, Relation) and isinstance(pred, Relation):
            return self._same_chain(gold, pred)
        if isinstance(gold, SetOp) and isinstance(pred, SetOp) and gold.name == pred.name:
            if gold.name == "difference":
                return all(self.equal(a, b) for a, b in zip(gold.args, pred.args, strict=True))
            return self._matched(_flat(gold), _flat(pred))
        if isinstance(gold, Group) and isinstance(pred, Group):
            return self._groups(gold, pred)
        return gold == pred

    def _listed(self, node: Node) -> Node:
        r"""The values of `1, 2` and `x = 1, x = 2` as a set, beside one that is written as a set; anything else as it is."""
        if not (isinstance(node, Group) and node.kind == "list"):
            return node
        name, items = self._collection(node)
        values = Group("set", tuple(items))
        return values if name is None else Relation((name, values), ("in",))

    def _same_chain(self, gold: Relation, pred: Relation) -> bool:
        """Inequalities term by term, or with one factor between their differences."""
        one, two = _ascending(gold), _ascending(pred)
        if one.ops == two.ops and all(self._same_term(a, b) for a, b in zip(one.terms, two.terms, strict=True)):
            return True
        if one.ops == two.ops == ("!=",) and all(self._same_term(a, b) for a, b in zip(one.terms, two.terms[::-1], strict=True)):
            return True
        if len(one.ops) != 1 or one.ops != two.ops or "in" in one.ops:
            return False
        first, second = _difference(one), _difference(two)
        if first is None or second is None:
            return False
        ratio = constant_ratio(first, second, self._exact_only)
        return ratio is not None and (one.ops == ("!=",) or bool(ratio > 0))

    def _same_term(self, a: Node, b: Node) -> bool:
        try:
            return self.equal(a, b)
        except UndefinedError:
            return a == b

    # Values

    def _values(self, gold: Node, pred: Node) -> bool:
        gold, pred = expanded(gold), expanded(pred)
        if isinstance(gold, Quantity) or isinstance(pred, Quantity):
            return self._quantities(gold, pred)
        if isinstance(gold, Numeral | Residue) or isinstance(pred, Numeral | Residue):
            return self._residues(gold, pred) if isinstance(gold, Residue) and isinstance(pred, Residue) else gold == pred
        gold, pred = folded(gold), folded(pred)
        if isinstance(gold, Matrix) or isinstance(pred, Matrix):
            if not (isinstance(gold, Matrix) and isinstance(pred, Matrix)):
                return False
            shapes = [(len(matrix.rows), len(matrix.rows[0])) for matrix in (gold, pred)]
            return shapes[0] == shapes[1] and all(self.equal(a, b) for a, b in zip(children(gold), children(pred), strict=True))
        if isinstance(gold, Group) and isinstance(pred, Group):
            return self._groups(gold, pred)
        if isinstance(gold, Group) or isinstance(pred, Group):
            return self._ratio_to_number(gold, pred)
        if isinstance(gold, SetOp) or isinstance(pred, SetOp):
            return gold == pred
        if is_symbolic_constant(gold) or is_symbolic_constant(pred):
            return gold == pred
        return same_value(gold, pred, self._exact_only)

    def _groups(self, gold: Group, pred: Group) -> bool:
        if gold.kind == pred.kind == "ratio":
            return self._ratios(gold, pred)
        if any(
            len(_names(one)) > 1 and not all(isinstance(item, Relation) for item in two.items) for one, two in ((gold, pred), (pred, gold))
        ):
            # Values without names, in place of several: only their order says whose they are.
            same = {gold.kind, pred.kind} <= {"list", "()"} and len(gold.items) == len(pred.items)
            same = same and (gold.kind == pred.kind == "list" or (_in_order(gold) and _in_order(pred)))
            return same and all(self._same_term(a, b) for a, b in zip(gold.items, pred.items, strict=True))
        if gold.kind in _BRACKETS or pred.kind in _BRACKETS or "ratio" in (gold.kind, pred.kind):
            same = gold.kind == pred.kind and len(gold.items) == len(pred.items)
            return same and all(self.equal(a, b) for a, b in zip(gold.items, pred.items, strict=True))
        (gold_name, gold_items), (pred_name, pred_items) = self._collection(gold), self._collection(pred)
        if gold_name is not None and pred_name is not None and gold_name != pred_name:
            return False
        if "set" in (gold.kind, pred.kind):
            gold_items, pred_items = self._distinct(gold_items), self._distinct(pred_items)
        return self._matched(gold_items, pred_items)

    def _collection(self, group: Group) -> tuple[Node | None, list[Node]]:
        """The items of a list or set, without the name that `x = 1, 2` or `x = 1, x = 2` gives them."""
        if not isinstance(group.items[0] if group.items else None, Relation):
            return None, list(group.items)
        readings = [self._read(item) for item in group.items]
        named = {reading.name for reading in readings} - {None}
        if len(named) != 1 or readings[0].name is None or any(reading.value is None for reading in readings):
            return None, list(group.items)
        values = [expanded(reading.value) for reading in readings if reading.value is not None]
        return readings[0].name, [item for value in values for item in (value.items if is_list(value) else (value,))]  # type: ignore[union-attr]

    def _distinct(self, items: Sequence[Node]) -> list[Node]:
        kept: list[Node] = []
        for item in items:
            if not any(self._same_term(item, other) for other in kept):
                kept.append(item)
        return kept

    def _matched(self, gold: Sequence[Node], pred: Sequence[Node]) -> bool:
        """Whether the items can be paired; equality is transitive, so the first partner that fits will do."""
        if len(gold) != len(pred):
            return False
        left = list(pred)
        for item in gold:
            partner = next((i for i, other in enumerate(left) if self._same_term(item, other)), None)
            if partner is None:
                return False
            del left[partner]
        return True

    def _quantities(self, gold: Node, pred: Node) -> bool:
        if isinstance(gold, Quantity) and isinstance(pred, Quantity):
            return gold.unit == pred.unit and self.equal(gold.value, pred.value)
        quantity, other = (gold, pred) if isinstance(gold, Quantity) else (pred, gold)
        assert isinstance(quantity, Quantity)
        if isinstance(other, Num | Op | Const | Sym | Group | Matrix) and self.equal(quantity.value, other):
            return True
        # `5m` reads as a product: with the unit m it is 5 m
        single = len(quantity.unit) == 1 and quantity.unit.isalpha() and quantity.unit in symbols(other)
        return single and self.equal(Op("mul", (quantity.value, Sym(quantity.unit))), other)

    def _residues(self, gold: Residue, pred: Residue) -> bool:
        if not self.equal(gold.modulus, pred.modulus):
            return False
        if is_closed(gold.value) and is_closed(pred.value) and isinstance(gold.modulus, Num) and gold.modulus.value:
            _, steps = constant(Op("div", (Op("add", (gold.value, Op("neg", (pred.value,)))), gold.modulus)), self._exact_only)
            return isinstance(steps, Fraction) and steps.denominator == 1
        return self.equal(gold.value, pred.value)

    def _ratios(self, gold: Group, pred: Group) -> bool:
        if len(gold.items) != len(pred.items):
            return False
        if all(self._same_term(a, b) for a, b in zip(gold.items, pred.items, strict=True)):
            return True
        if _is_clock(gold) or _is_clock(pred):
            return False
        pairs = list(zip(gold.items, pred.items, strict=True))
        first_gold, first_pred = pairs[0]
        if any(self.equal(first, Num(Fraction(0))) for first in (first_gold, first_pred)):
            return False  # by its multiples zero is in proportion to anything
        return all(self.equal(Op("mul", (a, first_pred)), Op("mul", (b, first_gold))) for a, b in pairs[1:])

    def _ratio_to_number(self, gold: Node, pred: Node) -> bool:
        group, other = (gold, pred) if isinstance(gold, Group) else (pred, gold)
        assert isinstance(group, Group)
        if group.kind != "ratio" or len(group.items) != 2 or _is_clock(group) or not isinstance(other, Num | Op):
            return False
        return self.equal(Op("div", group.items), other)

    def _choices(self, gold: Node, pred: Node) -> bool:
        if isinstance(gold, Choice) and isinstance(pred, Choice):
            if gold.letter != pred.letter:
                return False
            return gold.content is None or pred.content is None or self.equal(gold.content, pred.content)
        choice, other = (gold, pred) if isinstance(gold, Choice) else (pred, gold)
        assert isinstance(choice, Choice)
        if choice.content is not None:
            return self.equal(choice.content, other)
        return other in (Sym(choice.letter), Const(choice.letter))


def _places(number: Num) -> int:
    """Decimals to which a number may have been rounded: negative where an integer ends in zeros."""
    text = str(abs(number.value)) if not number.places and number.value else ""
    return number.places - (len(text) - len(text.rstrip("0")))


def _decimal(node: Node) -> tuple[Num | None, str]:
    """The number that a text writes, with its sign, and its unit if it has one; None: it is no written number."""
    if isinstance(node, Quantity):
        return _decimal(node.value)[0], node.unit
    if isinstance(node, Op) and node.name == "neg" and isinstance(node.args[0], Num):
        return Num(-node.args[0].value, node.args[0].places), ""
    return (node if isinstance(node, Num) else None), ""


def _name_of(node: Node) -> str | None:
    """The words of a text; a name in capitals and infinity may be written either way."""
    return node.words if isinstance(node, Text) else node.name if isinstance(node, Sym) and node.name.isupper() else None


def _same_word(a: Node, b: Node) -> bool:
    """Whether one is a word in capitals and the other the same word without. What may be letters of a figure or a product is no word."""
    if not (isinstance(a, Text) and isinstance(b, Text)) or a.words.casefold() != b.words.casefold():
        return False
    word = a.words.casefold()
    run = all(ord(second) - ord(first) == 1 for first, second in itertools.pairwise(word))  # ABCDE and a b c d e
    return word in _WORDS or (len(word) > _LONGEST_PRODUCT and not run)


def _names(group: Group) -> set[Node]:
    """The different names that the items of a list are the values of."""
    equations = [item.terms for item in group.items if isinstance(item, Relation) and item.ops[0] == "="]
    return {name for terms in equations if (name := _name_in(terms)) is not None}


def _name_in(terms: Sequence[Node]) -> Node | None:
    return next((term for term in (terms[0], terms[-1]) if _is_name(term)), terms[0] if _is_letter_name(terms[0]) else None)


def _is_letter_name(node: Node) -> bool:
    """Letters that are numbers, and names in front of an equals sign: an eccentricity, an index."""
    return node in (Const("e"), Const("i"))


def _in_order(group: Group) -> bool:
    """Whether the names of a list's items, if they have any, are in the order of the alphabet: that of a point's coordinates."""
    names = [item.terms[0] for item in group.items if isinstance(item, Relation)]
    letters = [name.name for name in names if isinstance(name, Sym)]
    return len(letters) == len(names) and letters == sorted(letters)


def _is_name(node: Node) -> bool:
    match node:
        case Sym() | Text():
            return True
        case Op() if node.name.startswith("call:"):
            return True
        case Group("()", items):
            return all(isinstance(item, Sym) for item in items)
        case Op("abs", (Sym(name),)):  # |z|, a length |AB|; |x| = 5 says something of x
            return name in ("z", "w") or (len(name) > 1 and name.isupper())
        case Group("[]", (Sym(name),)):  # the area [ABC]
            return len(name) > 1 and name.isupper()
        case Op("div", (Op("mul", (Sym("d"), Sym())), Op("mul", (Sym("d"), Sym())))):
            return True
        case Choice(_, None):
            return True
        case _:
            return False


def _same_name(a: Node, b: Node | None) -> bool:
    """`y(x)` and `y` are one name."""
    short = [node.name.removeprefix("call:") if isinstance(node, Op | Sym) else node for node in (a, b)]
    return a == b or (short[0] == short[1] and isinstance(a, Op) is not isinstance(b, Op))


def _mentions(value: Node, name: Node) -> bool:
    """Whether a value speaks of what it is said to be the value of, as in `x = x + 1`."""
    if isinstance(name, Op):
        called = name.name.startswith("call:")
        return any(isinstance(part, Op) and (part.name == name.name if called else part == name) for part in walk(value))
    return bool(symbols(name) & symbols(value))


def _is_equation(node: Node) -> bool:
    return isinstance(node, Relation) and node.ops == ("=",)


def _is_clock(group: Group) -> bool:
    """Whether a ratio may be a time: 3:30."""
    values = [item.value for item in group.items if isinstance(item, Num)]
    return len(values) == len(group.items) and values[0] <= _HOURS and all(value == 0 or 10 <= value < _MINUTES for value in values[1:])


def _difference(node: Node) -> Node | None:
    """Left side minus right side, if both are expressions."""
    assert isinstance(node, Relation)
    scalar = (Num, Const, Sym, Op)
    if len(node.terms) != 2 or not all(isinstance(term, scalar) for term in node.terms):
        return None
    return Op("add", (node.terms[0], Op("neg", (node.terms[1],))))


def _assignments(node: Node) -> dict[Node, Node] | None:
    """`x = 1, y = 2`, `x = y = 1` and `(x, y) = (1, 2)` as names with values; None for anything else."""
    match node:
        case Relation((Group("()", names), Group("()", values)), ("=",)) if all(isinstance(name, Sym) for name in names) and len(
            names
        ) == len(values):
            return dict(zip(names, values, strict=True))
        case Relation((*names, value)) if len(names) > 1 and all(isinstance(name, Sym) for name in names) and is_closed(value):
            return _named(node) or None  # `x = 1` alone is a statement about x
        case Group("list" | "()" | "set", items) if len(items) > 1:
            each = [_named(item) for item in items]
            found = {name: value for names in each for name, value in names.items()}
            return found if all(each) and len(found) == sum(map(len, each)) else None
        case _:
            return None


def _named(item: Node) -> dict[Node, Node]:
    """`x = 1` as a name with its value, `x = y = 1` as two; none for anything else."""
    if not isinstance(item, Relation) or set(item.ops) != {"="}:
        return {}
    *names, value = item.terms
    return dict.fromkeys(names, value) if all(_is_name(name) or _is_letter_name(name) for name in names) else {}


def _unnamed_set(node: Node) -> Node:
    r"""`D = (0,1)` without its name, `x \ne \pm 1` as two conditions, the empty set as a set without items."""
    if isinstance(node, Relation) and node.ops == ("=",) and _is_name(node.terms[0]) and is_certainly_a_set(node.terms[1]):
        node = node.terms[1]
    if isinstance(node, Relation) and node.ops == ("!=",) and is_list(values := expanded(node.terms[1])):
        assert isinstance(values, Group)
        return SetOp("intersection", tuple(Relation((node.terms[0], value), ("!=",)) for value in values.items))
    return Group("set", ()) if node == Const("empty") else node


def _flat(node: SetOp) -> list[Node]:
    """The parts of nested unions (or intersections)."""
    return [
        part
        for argument in node.args
        for part in (_flat(argument) if isinstance(argument, SetOp) and argument.name == node.name else [argument])
    ]


def _ascending(relation: Relation) -> Relation:
    """A chain of greater-than signs written from small to large."""
    if all(op in (">", ">=") for op in relation.ops):
        return Relation(relation.terms[::-1], tuple(_MIRRORED[op] for op in relation.ops[::-1]))
    return relation
