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

from collections.abc import Sequence
from fractions import Fraction

from magistral_core.rewards.math import words
from magistral_core.rewards.math.nodes import (
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
    UnreadableError,
    UnsupportedError,
    is_closed,
)
from magistral_core.rewards.math.normalise import clean
from magistral_core.rewards.math.tokens import Token, tokenise
from magistral_core.rewards.math.units import MULTIPLIERS, canonical_unit

_CURRENCIES = ("$", "€", "£", "¥", "₹")
_PRODUCTS = {"*": "mul", "\\times": "mul", "\\cdot": "mul", "\\ast": "mul", "/": "div", "\\div": "div"}
_SIGNS = {"+": "add", "-": "sub", "\\pm": "pm", "\\mp": "mp"}
_BARS = ("|", "\\vert", "\\lvert", "\\rvert", "\\mid")
_MAX_BASE = 36


def parse_formula(text: str, thousands: bool = True) -> Node:
    """The tree of a cleaned formula. Raises UnreadableError, or UnsupportedError for mathematics that math-verify may know.

    `thousands`: `1,000` outside brackets is one number; otherwise two.
    """
    try:
        return _Parser(tokenise(text, thousands)).answer()
    except RecursionError:
        raise UnreadableError("nested too deeply") from None


class _Parser:
    def __init__(self, tokens: list[Token]) -> None:
        self._tokens = tokens
        self._at = 0
        self._inside_bars = False  # a bar closes here, it does not open
        self._inside_square = False  # `[` closes here, as in ]1,2[
        self._no_ratio = False  # `:` ends a set's variable
        self._currency = ""

    def answer(self) -> Node:
        node = self._statements()
        if self._peek().kind != "stop":
            raise self._unexpected()
        return node

    # Tokens

    def _peek(self, ahead: int = 0) -> Token:
        return self._tokens[min(self._at + ahead, len(self._tokens) - 1)]

    def _take(self) -> Token:
        token = self._peek()
        if token.kind == "stop":
            raise UnreadableError("the text ends too soon")
        self._at += 1
        return token

    def _accept(self, *texts: str) -> bool:
        token = self._peek()
        if token.kind in ("sym", "cmd") and token.text in texts:
            self._at += 1
            return True
        return False

    def _expect(self, *texts: str) -> None:
        if not self._accept(*texts):
            raise self._unexpected()

    def _unexpected(self) -> UnreadableError:
        token = self._peek()
        if token.kind == "cmd" and token.text[1:] in words.UNSUPPORTED:
            return UnsupportedError(f"{token.text} is left to math-verify")
        return UnreadableError(f"unexpected {token.text!r}" if token.text else "the text ends too soon")

    # Statements

    def _statements(self) -> Node:
        items, joints = [self._statement()], set()
        while joint := self._joint():
            if self._peek().kind == "stop" and joint == ",":
                break
            items.append(self._statement())
            joints.add(joint)
        return _combine(items, joints)

    def _joint(self) -> str:
        joint = "," if self._accept(",", ";") else ""
        token = self._peek()
        word = token.text.strip(" ,;").lower() if token.kind in ("text", "word") else ""
        if word in ("and", "or"):
            self._at += 1
            return word
        if self._accept("\\lor", "\\vee"):
            return "or"
        if self._accept("\\land", "\\wedge", "\\&"):
            return "and"
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
        if self._peek().kind == "sym" and self._peek().text in _CURRENCIES and not currency:
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
        if found and found[0].lower() in ("percent", "percentage", "pct"):
            found.pop(0)
            value = Op("percent", (value,))
        if not found:
            return value, ""
        unit = canonical_unit(" ".join(found), bare)
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

    # Arithmetic

    def _sum(self) -> Node:
        left: Node | None = None
        token = self._peek()
        if token.kind in ("sym", "cmd") and token.text in _SIGNS:
            self._at += 1
            term = self._term()
            left = {"add": term, "sub": Op("neg", (term,))}.get(_SIGNS[token.text]) or Op(_SIGNS[token.text], (term,))
        else:
            left = self._term()
        while (token := self._peek()).kind in ("sym", "cmd") and token.text in _SIGNS:
            self._at += 1
            right = Op("neg", (self._term(),)) if self._accept("-") else self._term()
            name = _SIGNS[token.text]
            if name == "sub" and _is_named_set(left):
                left = SetOp("difference", (left, right))
            else:
                left = Op("add", (left, Op("neg", (right,)))) if name == "sub" else Op(name, (left, right))
        return left

    def _term(self) -> Node:
        left = self._factor()
        while True:
            token = self._peek()
            if token.kind in ("sym", "cmd") and token.text in _PRODUCTS:
                self._at += 1
                right = Op("neg", (self._factor(),)) if self._accept("-") else self._factor()
                left = Op(_PRODUCTS[token.text], (left, right))
            elif self._starts_factor(left):
                left = Op("mul", (left, self._factor()))
            else:
                return left

    def _starts_factor(self, left: Node) -> bool:
        """Whether the next token goes on with a product; a number does not, and neither does a unit."""
        token = self._peek()
        if token.kind == "word":
            if token.text in ("and", "or", "mod") or (token.space and len(token.text) > 3 and not words.is_formula_word(token.text)):
                return False
            return not (len(token.text) > 1 and is_closed(left) and self._unit_follows())
        if token.kind == "text":
            return _is_formula_text(token.text) and not token.text.strip()[0].isdigit() and not self._unit_follows()
        if token.kind == "begin":
            return True
        if token.kind == "num" or token.kind in ("stop", "end"):
            return False
        if token.text == "(":
            return self._peek(1).text not in ("\\mod", "mod", "\\bmod")
        if token.text == "[":
            return not self._inside_square
        if token.text in _BARS:
            return not self._inside_bars and token.text != "\\mid"
        if token.kind == "cmd":
            name = token.text[1:]
            return (
                name in words.FUNCTIONS or name in words.LETTERS or token.text in words.CONSTANTS or name in words.ACCENTS | words.DECORATIONS
                or name in ("frac", "sqrt", "binom", "lfloor", "lceil", "mathbb", "langle", "boxed", "fbox", "mathcal")
            )  # fmt: skip
        return token.text == "{"

    def _factor(self) -> Node:
        node = self._atom()
        while True:
            if self._accept("^"):
                node = Op("pow", (node, self._exponent()))
            elif self._accept("!"):
                if self._peek().text == "!":
                    raise UnreadableError("a double factorial")
                node = Op("factorial", (node,))
            elif self._accept("deg"):
                node = Op("deg", (node,))
            elif self._accept("%"):
                node = Op("percent", (node,))
            elif isinstance(node, Num) and self._peek().text == "_":
                node = self._numeral(node)
            else:
                return node

    def _exponent(self) -> Node:
        negative = self._accept("-")
        node = self._argument(whole_number=True)
        return Op("neg", (node,)) if negative else node

    def _argument(self, whole_number: bool = False) -> Node:
        """What a command takes: a group in braces or one token; one digit of a number unless `whole_number`."""
        token = self._peek()
        if token.kind == "num" and not whole_number and token.text.isdigit():
            rest = token.text[1:]
            if rest:
                self._tokens[self._at] = Token("num", rest, False, Fraction(rest))
            else:
                self._at += 1
            return Num(Fraction(token.text[0]))
        if token.kind == "num":
            self._at += 1
            return Num(token.value or Fraction(0))
        if token.kind == "word" and len(token.text) > 1 and not words.is_formula_word(token.text):
            self._split_word(list(token.text))
        return self._atom()

    def _raw_argument(self) -> str:
        """The text of an argument, for names: `12` of `x_{12}`."""
        if not self._accept("{"):
            return self._take().text.strip()
        pieces, depth = [], 1
        while True:
            token = self._take()
            depth += (token.text == "{") - (token.text == "}")
            if depth == 0:
                return "".join(pieces)
            pieces.append(token.text.strip())

    # Atoms

    def _atom(self) -> Node:
        token = self._take()
        if token.kind == "num":
            return self._number(token)
        if token.kind == "word":
            return self._word(token)
        if token.kind == "text":
            return self._text(token.text)
        if token.kind == "begin":
            return self._matrix(token.text)
        if token.kind == "cmd":
            return self._command(token.text)
        if token.text in ("(", "[", "]"):
            return self._bracket(token.text)
        if token.text == "{":
            return self._braces()
        if token.text == "\\{":
            return self._set_braces()
        if token.text == "|" and not self._inside_bars:
            return self._bars(("|",))
        if token.text in _CURRENCIES and not self._currency:
            self._currency = token.text
            number = self._take()
            if number.kind == "num":
                return self._number(number)
        self._at -= 1
        raise self._unexpected()

    def _number(self, token: Token) -> Node:
        """A number, with the fraction that makes it a mixed one."""
        value = Num(token.value or Fraction(0), len(token.text.partition(".")[2]) if token.text[-1:].isdigit() else 0)
        following = self._peek()
        if following.kind == "num":
            bottom = self._peek(2)
            if token.text.isdigit() and following.space and self._peek(1).text == "/" and bottom.kind == "num":
                self._at += 3
                return _mixed(value, following.value, bottom.value)
            raise UnreadableError("two numbers side by side")
        if token.text.isdigit() and following.text == "\\frac":
            start, kept = self._at, list(self._tokens)
            self._at += 1
            top, bottom_node = self._argument(), self._argument()
            if isinstance(top, Num) and isinstance(bottom_node, Num) and 0 < top.value < bottom_node.value:
                return _mixed(value, top.value, bottom_node.value)
            self._at, self._tokens = start, kept
        return value

    def _numeral(self, number: Num) -> Node:
        self._expect("_")
        name = self._raw_argument()
        base = words.BASE_WORDS.get(name, int(name) if name.isdigit() and len(name) < 3 else 0)
        digits = str(number.value)
        if not 2 <= base <= _MAX_BASE or not digits.isdigit() or any(int(digit) >= base for digit in digits):
            raise UnreadableError("not a numeral of its base")
        return number if base == 10 else Numeral(digits, base)  # noqa: PLR2004

    def _word(self, token: Token) -> Node:
        word = token.text
        if word in words.CONSTANTS:
            return Const(words.CONSTANTS[word])
        if word == "sqrt":
            return Op("sqrt", (self._argument(whole_number=True),))
        if word == "cbrt":
            return Op("root", (self._argument(whole_number=True), Num(Fraction(3))))
        if word in words.FUNCTIONS and len(word) > 1:
            return self._function(word)
        if word in words.LIST_FUNCTIONS:
            return self._list_function(word)
        if word in words.LETTERS:
            return self._symbol(word)
        if word[:-1] in words.FUNCTIONS and len(word) > 2 and word[:-1] not in ("cis", "det", "abs"):  # noqa: PLR2004
            self._at -= 1
            self._split_word([word[:-1], word[-1]])
            return self._function(self._take().text)
        if len(word) > 3 and (self._peek().text == "=" or word.isupper()):  # noqa: PLR2004
            return Sym(word)
        if len(word) > 3 and token.space:  # noqa: PLR2004
            raise UnreadableError(f"the word {word!r} in a formula")
        parts = words.letters_of(word)
        if len(parts) > 1:
            self._at -= 1
            self._split_word(parts)
            self._at += 1
        return self._letter(parts[0])

    def _split_word(self, parts: Sequence[str]) -> None:
        """Replace the next token by several words."""
        self._tokens[self._at : self._at + 1] = [Token("word", part, self._peek().space and not i) for i, part in enumerate(parts)]

    def _letter(self, letter: str) -> Node:
        if letter in ("i", "e") and self._peek().text != "_":
            return Const(letter)
        return self._symbol(letter)

    def _symbol(self, name: str) -> Node:
        """A variable with index and primes, or a function that is applied."""
        while True:
            if self._peek().text == "_" and self._peek().kind == "sym":
                self._at += 1
                name += "_" + self._raw_argument()
            elif self._accept("'"):
                name += "'"
            else:
                break
        token = self._peek()
        if token.text == "(" and not token.space and (name.rstrip("'") in words.FUNCTION_LETTERS and self._is_call(name)):
            self._at += 1
            bracket = self._bracket("(")
            arguments = bracket.items if isinstance(bracket, Group) and bracket.kind == "()" else (bracket,)
            return Op("call:" + name, arguments)
        return Sym(name)

    def _is_call(self, name: str) -> bool:
        """`f(2)` is a value of f; `P(1+r)` is a product unless the whole side of an equation is `P(x)`."""
        if name.rstrip("'") in ("f", "g", "h"):
            return True
        ahead = 1
        while self._peek(ahead).kind in ("word", "cmd") or self._peek(ahead).text == ",":
            ahead += 1
        return ahead > 1 and self._peek(ahead).text == ")" and self._peek(ahead + 1).text == "="

    def _text(self, content: str) -> Node:
        content = content.strip()
        if content in words.FUNCTIONS and len(content) > 1:
            return self._function(content)
        if content in words.LIST_FUNCTIONS:
            return self._list_function(content)
        if content.isalpha() and content.isascii() and len(content) == 1:
            return self._letter(content)
        if _is_formula_text(content):
            return parse_formula(clean(content))
        if content.lower() in ("and", "or", "not", "") or not content.replace(" ", "").isalpha() or self._peek().text != "=":
            raise UnreadableError(f"the words {content!r} in a formula")
        return Sym(" ".join(content.lower().split()))

    def _command(self, command: str) -> Node:
        name = command[1:]
        if command in words.CONSTANTS:
            return Const(words.CONSTANTS[command])
        if name == "frac":
            top = self._argument()
            return Op("div", (top, self._argument()))
        if name == "sqrt":
            if self._accept("["):
                degree = self._sum()
                self._expect("]")
                return Op("root", (self._argument(whole_number=True), degree))
            return Op("sqrt", (self._argument(whole_number=True),))
        if name == "binom":
            top = self._argument()
            return Op("binom", (top, self._argument()))
        if name in words.FUNCTIONS:
            return self._function(name)
        if name in words.LIST_FUNCTIONS:
            return self._list_function(name)
        if name in words.LETTERS:
            return self._symbol(name)
        if name in ("lfloor", "lceil"):
            inside = self._sum()
            self._expect("\\r" + name[1:])
            return Op(name[1:], (inside,))
        if name in ("lvert", "vert") and not self._inside_bars:
            return self._bars(("\\rvert", "\\vert"))
        if name == "langle":
            return self._closed_by("\\rangle")
        if name == "mathbb":
            letter = self._raw_argument()
            if letter in words.BLACKBOARD:
                return Const(words.BLACKBOARD[letter])
        if name in ("boxed", "fbox", "mathcal"):
            return self._argument()
        if name in words.FIGURES:
            return Sym(f"{name} {self._raw_argument()}")
        if name in words.DECORATIONS:
            return self._argument()
        if name in words.ACCENTS:
            inside = self._argument()
            if isinstance(inside, Sym):
                return inside if name == "overline" and inside.name.isupper() else Sym(f"{name} {inside.name}")
            raise UnsupportedError(f"{command} over a formula")
        self._at -= 1
        raise self._unexpected()

    def _function(self, name: str) -> Node:
        power: Node | None = None
        base: Node | None = None
        while True:
            if power is None and self._accept("^"):
                power = self._exponent()
            elif base is None and name == "log" and self._accept("_"):
                base = self._argument(whole_number=True)
            else:
                break
        if power in (Op("neg", (Num(Fraction(1)),)), Num(Fraction(-1))) and name in words.INVERSES:
            name, power = words.INVERSES[name], None
        argument = self._atom() if self._peek().text in ("(", "{", "[") else self._open_argument()
        if isinstance(argument, Group) and argument.kind == "[]" and len(argument.items) == 1:
            argument = argument.items[0]
        node: Node = Op(words.FUNCTIONS[name], (argument,) if base is None else (argument, base))
        return node if power is None else Op("pow", (node, power))

    def _open_argument(self) -> Node:
        r"""The argument of a function without brackets: numbers, letters and constants up to the next operator (`\sin 2x`, `\cos \pi/3`)."""
        if self._accept("-"):
            return Op("neg", (self._open_argument(),))
        node = self._factor()
        while True:
            token = self._peek()
            name = token.text.removeprefix("\\")
            letters = (
                token.kind == "word"
                and name not in words.FUNCTIONS
                and name not in words.LIST_FUNCTIONS
                and name not in ("sqrt", "and", "or")
            )
            if letters and not (token.space and len(name) > 2):  # noqa: PLR2004
                node = Op("mul", (node, self._factor()))
            elif token.kind == "cmd" and (token.text in words.CONSTANTS or name in words.LETTERS):
                node = Op("mul", (node, self._factor()))
            elif token.text == "/" and self._peek(1).kind == "num" and is_closed(node):
                self._at += 1
                node = Op("div", (node, self._factor()))
            else:
                return node

    def _list_function(self, name: str) -> Node:
        bracket = self._argument()
        items = bracket.items if isinstance(bracket, Group) else (bracket,)
        return Op(name, items)

    # Brackets

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
            return condition
        while self._accept(",", ";"):
            items.append(self._statement())
        self._expect("\\}")
        self._inside_bars, self._no_ratio = kept
        return Group("set", tuple(items))

    def _bars(self, closings: tuple[str, ...]) -> Node:
        kept, self._inside_bars = self._inside_bars, True
        inside = self._sum()
        self._expect(*closings)
        self._inside_bars = kept
        return Op("abs", (inside,))

    def _matrix(self, environment: str) -> Node:
        if environment not in words.MATRIX_ENVIRONMENTS:
            raise UnsupportedError(f"the environment {environment}")
        if environment == "array":
            self._raw_argument()
        rows: list[tuple[Node, ...]] = []
        while self._peek().kind != "end":
            row = [self._statement()]
            while self._accept("&"):
                row.append(self._statement())
            rows.append(tuple(row))
            if not self._accept("\\\\"):
                break
        token = self._take()
        if token.kind != "end" or token.text != environment or len({len(row) for row in rows}) != 1:
            raise UnreadableError("a matrix whose rows differ in length, or that is not closed")
        matrix = Matrix(tuple(rows))
        return Op("det", (matrix,)) if environment == "vmatrix" else matrix


def _is_formula_text(content: str) -> bool:
    r"""Whether `\text{...}` holds a formula: digits, or one letter that is no unit by itself."""
    content = content.strip()
    if len(content) == 1:
        return content.isalnum()
    return content in words.FUNCTIONS or (
        any(c.isdigit() for c in content) and not any(w.isalpha() and len(w) > 1 for w in content.split())
    )


def _mixed(whole: Num, top: Fraction | None, bottom: Fraction | None) -> Node:
    if not top or not bottom or top >= bottom or top.denominator != 1 or bottom.denominator != 1:
        raise UnreadableError("a mixed number whose fraction is not a proper one")
    return Num(whole.value + top / bottom)


def _degrees(node: Node) -> Node | None:
    """The number of degrees, where every term is in degrees."""
    if isinstance(node, Op) and node.name == "deg":
        return node.args[0]
    if isinstance(node, Op) and node.name in ("add", "neg", "pm", "mp"):
        parts = [_degrees(argument) for argument in node.args]
        return Op(node.name, tuple(part for part in parts if part is not None)) if None not in parts else None
    return None


def _is_named_set(node: Node) -> bool:
    return isinstance(node, Const) and node.name in words.BLACKBOARD.values()


def _is_condition(node: Node) -> bool:
    return isinstance(node, Relation | SetOp)


def _combine(items: list[Node], joints: set[str]) -> Node:
    """One statement, a list, or conditions joined by `and` and `or`."""
    if len(items) == 1:
        return items[0]
    inequalities = [isinstance(item, Relation) and any(op not in ("=", "~") for op in item.ops) for item in items]
    if any(inequalities) and all(map(_is_condition, items)) and joints in ({"or"}, {"and"}):
        return SetOp("union" if joints == {"or"} else "intersection", tuple(items))
    return Group("list", tuple(items))
