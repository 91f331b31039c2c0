r"""Reads a formula whole: tokens to a tree, by recursive descent.

    answer    = statement { ("," | ";" | "and" | "or") statement }
    statement = set { ("=" | "<" | "\in" | "\approx" | ...) set }
    set       = sum [unit] { ("\cup" | "\cap" | "\setminus") sum } | sum ":" sum
    sum       = ["+" | "-" | "\pm"] term { ("+" | "-" | "\pm") term }
    term      = factor { ["*" | "/"] factor }
    factor    = atom { "^" exponent | "_" index | "!" | "%" | degree }

A text that is not used up to its end is refused: a parser that reads `3 \garbage 7` as 7 rewards anything. So are two numbers side by
side (`2 7`), unknown commands, and words in formulas. Everything is linear in the text, whose length `limits.py` bounds.
"""

from __future__ import annotations

from fractions import Fraction

from magistral_core.rewards.math import words
from magistral_core.rewards.math.expressions import CURRENCIES, Expressions, is_formula_text
from magistral_core.rewards.math.nodes import (
    Const,
    Group,
    Matrix,
    Node,
    Num,
    Op,
    Quantity,
    Relation,
    Residue,
    SetOp,
    Sym,
    Text,
    UnreadableError,
    UnsupportedError,
)
from magistral_core.rewards.math.normalise import clean
from magistral_core.rewards.math.tokens import Token, tokenise
from magistral_core.rewards.math.units import MULTIPLIERS, canonical_unit


def parse_formula(text: str, thousands: bool = True, factors: frozenset[str] = frozenset()) -> Node:
    """The tree of a cleaned formula. Raises UnreadableError, or UnsupportedError for mathematics that math-verify may know.

    `thousands`: `1,000` outside brackets is one number; otherwise two. `factors`: letters that are no functions, `h` of `h(a+b)`.
    """
    try:
        return _Parser(tokenise(text, thousands), factors).answer()
    except RecursionError:
        raise UnreadableError("nested too deeply") from None


class _Parser(Expressions):
    def __init__(self, tokens: list[Token], factors: frozenset[str]) -> None:
        super().__init__(tokens, factors)
        self._no_ratio = False  # `:` ends a set's variable

    def answer(self) -> Node:
        node = self._statements()
        if self._peek().kind != "stop":
            raise self._unexpected()
        return node

    # Statements

    def _statements(self) -> Node:
        items: list[Node] = [self._statement()]
        joints: list[str] = []
        while joint := self._joint():
            if self._peek().kind == "stop" and joint in (",", ";"):
                break
            items.append(self._statement())
            joints.append(joint)
        return _combine(items, joints)

    def _joint(self) -> str:
        joint = "," if self._accept(",") else ";" if self._accept(";") else ""
        token = self._peek()
        word = token.text.strip(" ,;") if token.kind in ("text", "word") else ""
        if joins := words.joint(token.text) if token.kind == "text" else word.lower() if word.lower() in ("and", "or") else "":
            self._at += 1
            return joins
        if self._accept("\\lor", "\\vee"):
            return "or"
        if self._accept("\\land", "\\wedge", "\\&"):
            return "and"
        if self._condition_follows():
            return ","
        if token.kind == "text" and not word and token.text.strip():
            self._at += 1
            return ","
        return joint

    def _statement(self) -> Node:
        terms: list[Node] = []
        ops: list[str] = []
        if self._accept("\\approx", "\\simeq", "~"):
            terms.append(Text(""))
            ops.append("~")
        else:
            self._accept("=")
        terms.append(self._set())
        while (token := self._peek()).kind in ("sym", "cmd") and (op := words.RELATIONS.get(token.text)):
            self._at += 1
            ops.append("=" if op == "equiv" else op)
            terms.append(self._set())
        return Relation(tuple(terms), tuple(ops)) if ops else terms[0]

    def _set(self) -> Node:
        left = self._with_unit(self._sum())
        while (token := self._peek()).kind == "cmd" and (name := words.SET_OPERATIONS.get(token.text)):
            self._at += 1
            left = SetOp(name, (left, self._sum()))
        if not self._no_ratio and self._accept(":"):
            parts = [left, self._sum()]
            while self._accept(":"):
                parts.append(self._sum())
            return Group("ratio", tuple(parts))
        if self._accept("\\pmod"):
            return Residue(left, self._argument())
        if self._peek().text == "(" and self._peek(1).text in ("\\mod", "mod", "\\bmod"):
            self._at += 2
            modulus = self._sum()
            self._expect(")")
            return Residue(left, modulus)
        return left

    # Units

    def _with_unit(self, value: Node) -> Node:
        currency, self._currency = self._currency, ""
        if self._peek().kind == "sym" and self._peek().text in CURRENCIES and not currency:
            currency = self._take().text
        degrees = _degrees(value)
        if degrees is not None:
            token = self._peek()
            if token.kind in ("text", "word") and token.text.strip() in ("C", "F"):
                self._at += 1
                return Quantity(degrees, "°" + token.text.strip())
            return Quantity(degrees, "degree")
        value, unit = self._tail(value)
        if currency and unit in ("", "$"):
            return Quantity(value, currency)
        if currency:
            raise UnreadableError("two units")
        return Quantity(value, unit) if unit else value

    def _tail(self, value: Node) -> tuple[Node, str]:
        """Number words (`million`, `percent`) and a unit behind a value."""
        start = self._at
        pieces: list[str] = []
        bare = self._peek().kind != "text"
        touching = bare and not self._peek().space
        while True:
            token = self._peek()
            if token.kind in ("text", "word"):
                pieces.append(f" {token.text} ")
            elif token.text == "/" and pieces and self._peek(1).kind in ("text", "word"):
                pieces.append("/")
            elif token.text == "^" and pieces:
                self._at += 1
                pieces.append("^" + self._raw_argument())
                continue
            else:
                break
            self._at += 1
        found = " ".join(pieces).split()
        while found and found[0].lower().rstrip(".") in MULTIPLIERS:
            value = Op("mul", (value, Num(Fraction(MULTIPLIERS[found.pop(0).lower().rstrip(".")]))))
        if found and found[0].lower() in ("percent", "percentage", "pct", "prozent"):
            found.pop(0)
            value = Op("percent", (value,))
        if not found:
            return value, ""
        unit = canonical_unit(" ".join(found), bare, touching)
        if not unit:
            self._at = start
            return (value, "") if len(found) == len(" ".join(pieces).split()) else self._refuse()
        return value, unit

    def _refuse(self) -> tuple[Node, str]:
        raise self._unexpected()

    def _unit_follows(self) -> bool:
        """Whether what comes next is a unit up to the end of the statement."""
        start = self._at
        try:
            value, unit = self._tail(Num(Fraction(1)))
            token = self._peek()
            ends = token.kind in ("stop", "text", "word") or token.text in (",", ";", ")", "]", "}", "\\}") or token.text in words.RELATIONS
            return ends and (bool(unit) or value != Num(Fraction(1)))
        except UnreadableError:
            return False
        finally:
            self._at = start

    # Words and brackets

    def _text(self, content: str) -> Node:
        content = content.strip()
        if content in words.FUNCTIONS and len(content) > 1:
            return self._function(content)
        if content in words.LIST_FUNCTIONS:
            return self._list_function(content)
        if content.isalpha() and content.isascii() and len(content) == 1:
            return self._letter(content)
        if is_formula_text(content):
            return parse_formula(clean(content))
        if content.lower() in ("and", "or", "not", "") or not content.replace(" ", "").isalpha() or self._peek().text != "=":
            raise UnreadableError(f"the words {content!r} in a formula")
        return Sym(" ".join(content.lower().split()))

    def _bracketed(self, opening: str) -> Node | None:
        if opening in ("(", "[", "]"):
            return self._bracket(opening)
        return self._braces() if opening == "{" else self._set_braces() if opening == "\\{" else None

    def _bracket(self, opening: str) -> Node:
        items, closing = self._items((")", "]", "[") if opening != "(" else (")", "]"), square=opening != "(")
        left = "[" if opening == "[" else "("
        right = "]" if closing == "]" else ")"
        if len(items) == 1 and (isinstance(items[0], Matrix) or (opening, closing) == ("(", ")")):
            return items[0]
        if len(items) == 1 and (opening, closing) != ("[", "]"):
            raise UnreadableError("a bracket is not closed by its like")
        return Group(left + right, tuple(items))

    def _closed_by(self, closing: str) -> Node:
        items, _ = self._items((closing,))
        return Group("()", tuple(items))

    def _items(self, closings: tuple[str, ...], square: bool = False) -> tuple[list[Node], str]:
        """Statements up to one of the closing brackets, and that bracket."""
        kept = self._inside_bars, self._inside_square, self._no_ratio
        self._inside_bars, self._inside_square, self._no_ratio = False, square, False
        items = [self._statement()]
        while self._accept(",", ";"):
            items.append(self._statement())
        closing = self._peek().text
        self._expect(*closings)
        self._inside_bars, self._inside_square, self._no_ratio = kept
        return items, closing

    def _braces(self) -> Node:
        """A LaTeX group; with commas the set that someone meant."""
        kept = self._inside_bars, self._inside_square
        self._inside_bars = self._inside_square = False
        items = [self._statement()]
        if self._accept("\\over"):
            items = [Op("div", (items[0], self._statement()))]
        while self._accept(",", ";"):
            items.append(self._statement())
        self._expect("}")
        self._inside_bars, self._inside_square = kept
        return items[0] if len(items) == 1 else Group("set", tuple(items))

    def _set_braces(self) -> Node:
        r"""`\{1,2\}`, or `\{x : x > 2\}`, which is its condition."""
        if self._accept("\\}"):
            return Group("set", ())
        if self._peek().kind == "begin" and (system := self._system()) is not None:
            return system
        kept = self._inside_bars, self._no_ratio
        self._inside_bars = self._no_ratio = True
        items = [self._statement()]
        if self._accept("|", ":", "\\mid"):
            self._inside_bars, self._no_ratio = kept
            condition = self._statements()
            self._expect("\\}")
            if not (isinstance(items[0], Sym) or (isinstance(items[0], Relation) and items[0].ops == ("in",))) or not _is_condition(
                condition
            ):
                raise UnsupportedError("a set by a condition beyond inequalities")
            real = isinstance(items[0], Sym) or items[0].terms[-1] == Const("reals")
            return condition if real else SetOp("intersection", (items[0], condition))
        while self._accept(",", ";"):
            items.append(self._statement())
        self._expect("\\}")
        self._inside_bars, self._no_ratio = kept
        return Group("set", tuple(items))

    def _system(self) -> Node | None:
        r"""Equations below each other behind a brace, which need not be closed; None for anything else, such as a set of vectors."""
        start, kept = self._at, list(self._tokens)
        rows = self._matrix(self._take().text)
        if not (isinstance(rows, Matrix) and all(len(row) == 1 and isinstance(row[0], Relation) for row in rows.rows)):
            self._at, self._tokens = start, kept
            return None
        self._accept("\\}")
        return Group("list", tuple(row[0] for row in rows.rows))

    def _bars(self, closings: tuple[str, ...]) -> Node:
        kept, self._inside_bars = self._inside_bars, True
        inside = self._sum()
        self._expect(*closings)
        self._inside_bars = kept
        return Op("abs", (inside,))

    def _matrix(self, environment: str) -> Node:
        if environment not in (*words.MATRIX_ENVIRONMENTS, "cases"):
            raise UnsupportedError(f"the environment {environment}")
        if environment == "array":
            self._raw_argument()
        rows: list[tuple[Node, ...]] = []
        while self._peek().kind != "end":
            row = [self._statement()]
            while self._accept("&"):
                row.append(self._statement())
            if environment == "cases":
                self._accept(",", ";")
            rows.append(tuple(row))
            if not self._accept("\\\\"):
                break
        token = self._take()
        if token.kind != "end" or token.text != environment or len({len(row) for row in rows}) != 1:
            raise UnreadableError("a matrix whose rows differ in length, or that is not closed")
        matrix = Matrix(tuple(rows))
        if environment == "cases":
            if not all(len(row) == 1 and isinstance(row[0], Relation) for row in rows):
                raise UnsupportedError("a function by cases")
            return Group("list", tuple(row[0] for row in rows))
        return Op("det", (matrix,)) if environment == "vmatrix" else matrix


def _degrees(node: Node) -> Node | None:
    """The number of degrees, where every term is in degrees."""
    if isinstance(node, Op) and node.name == "deg":
        return node.args[0]
    if isinstance(node, Op) and node.name in ("add", "neg", "pm", "mp"):
        parts = [_degrees(argument) for argument in node.args]
        return Op(node.name, tuple(part for part in parts if part is not None)) if None not in parts else None
    return None


def _is_condition(node: Node) -> bool:
    return isinstance(node, Relation | SetOp)


def _combine(items: list[Node], joints: list[str]) -> Node:
    """One statement, a list, conditions joined by `and` and `or`, or several solutions of several variables."""
    if len(items) == 1:
        return items[0]
    inequalities = [isinstance(item, Relation) and any(op not in ("=", "~") for op in item.ops) for item in items]
    if any(inequalities) and all(map(_is_condition, items)):
        if set(joints) in ({"or"}, {"and"}):
            return SetOp("union" if joints[0] == "or" else "intersection", tuple(items))
        excluding = any(isinstance(item, Relation) and item.ops == ("!=",) for item in items)
        if set(joints) == {","} and all(inequalities) and excluding:  # what is left out of the rest
            return SetOp("intersection", tuple(items))
    if sum(isinstance(item, Group) and _is_system(item) for item in items) > 1:  # what belongs together stays together
        items = [Group("()", item.items) if isinstance(item, Group) and _is_system(item) else item for item in items]
    return _solutions(items, joints) or Group("list", tuple(items))


def _is_system(node: Group) -> bool:
    return node.kind == "list" and all(isinstance(item, Relation) for item in node.items)


def _solutions(items: list[Node], joints: list[str]) -> Node | None:
    r"""`x=1, y=2 \text{ or } x=2, y=1` as two solutions; None for what is one list."""
    outer = "or" if "or" in joints else ";"
    if not {outer} < set(joints) or not all(isinstance(item, Relation) and item.ops == ("=",) for item in items):
        return None
    solutions: list[list[Node]] = [[items[0]]]
    for joint, item in zip(joints, items[1:], strict=True):
        if joint == outer:
            solutions.append([])
        solutions[-1].append(item)
    alike = len({tuple(item.terms[0] for item in each if isinstance(item, Relation)) for each in solutions}) == 1
    return Group("list", tuple(Group("()", tuple(each)) for each in solutions)) if alike and len(solutions[0]) > 1 else None
