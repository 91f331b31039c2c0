"""Expressions: sums, products, powers, numbers, letters and functions; `grammar.py` has the other half of the grammar."""

from __future__ import annotations

from abc import ABC, abstractmethod
from fractions import Fraction

from magistral_core.rewards.math import words
from magistral_core.rewards.math.nodes import (
    Const,
    Group,
    Node,
    Num,
    Numeral,
    Op,
    SetOp,
    Sym,
    UnreadableError,
    UnsupportedError,
    is_closed,
)
from magistral_core.rewards.math.stream import TokenStream
from magistral_core.rewards.math.tokens import Token

CURRENCIES = ("$", "€", "£", "¥", "₹")
_PRODUCTS = {"*": "mul", "\\times": "mul", "\\cdot": "mul", "\\ast": "mul", "/": "div", "\\div": "div"}
_SIGNS = {"+": "add", "-": "sub", "\\pm": "pm", "\\mp": "mp"}
_BARS = ("|", "\\vert", "\\lvert", "\\rvert", "\\mid")
_MAX_BASE = 36


class Expressions(TokenStream, ABC):
    """Sums and what they are made of; brackets, words and units are the subclass's."""

    def __init__(self, tokens: list[Token], factors: frozenset[str] = frozenset()) -> None:
        super().__init__(tokens)
        self._factors = factors  # letters that multiply a bracket, though they might be functions
        self._inside_bars = False  # a bar closes here, it does not open
        self._inside_square = False  # `[` closes here, as in ]1,2[
        self._currency = ""

    # What the other half reads

    @abstractmethod
    def _bracket(self, opening: str) -> Node: ...

    @abstractmethod
    def _bracketed(self, opening: str) -> Node | None: ...

    @abstractmethod
    def _closed_by(self, closing: str) -> Node: ...

    @abstractmethod
    def _bars(self, closings: tuple[str, ...]) -> Node: ...

    @abstractmethod
    def _matrix(self, environment: str) -> Node: ...

    @abstractmethod
    def _text(self, content: str) -> Node: ...

    @abstractmethod
    def _unit_follows(self) -> bool: ...

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
            return (
                is_formula_text(token.text)
                and not words.joint(token.text)
                and not token.text.strip()[0].isdigit()
                and not self._unit_follows()
            )
        if token.kind == "begin":
            return True
        if token.kind == "num" or token.kind in ("stop", "end"):
            return False
        if token.text == "(":
            return self._peek(1).text not in ("\\mod", "mod", "\\bmod") and not self._condition_follows()
        if token.text == "[":
            return not self._inside_square
        if token.text in _BARS:
            return not self._inside_bars and token.text != "\\mid"
        if token.kind == "cmd":
            name = token.text[1:]
            return (
                name in words.FUNCTIONS or name in words.LETTERS or token.text in words.CONSTANTS
                or name in words.ACCENTS or name in words.DECORATIONS
                or name in ("frac", "sqrt", "binom", "lfloor", "lceil", "mathbb", "langle", "boxed", "fbox", "mathcal")
            )  # fmt: skip
        return token.text == "{"

    def _condition_follows(self) -> bool:
        r"""Whether `(k \in ...)` comes next, which says what a letter stands for."""
        return self._peek().text == "(" and self._peek(1).kind == "word" and self._peek(2).text == "\\in"

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
        if (inside := self._bracketed(token.text)) is not None:
            return inside
        if token.text == "|" and not self._inside_bars:
            return self._bars(("|",))
        if token.text in CURRENCIES and not self._currency:
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
        return number if base == 10 else Numeral(digits, base)

    def _word(self, token: Token) -> Node:
        word = token.text
        if word in words.CONSTANTS:
            return Const(words.CONSTANTS[word])
        if word == "sqrt":
            return Op("sqrt", (self._argument(whole_number=True),))
        if word == "cbrt":
            return Op("root", (self._argument(whole_number=True), Num(Fraction(3))))
        if word in words.FUNCTIONS and len(word) > 1 and word not in words.NOT_BARE:
            return self._function(word)
        if word in words.LIST_FUNCTIONS:
            return self._list_function(word)
        if word in words.LETTERS:
            return self._symbol(word)
        if word[:-1] in words.FUNCTIONS and len(word) > 2 and word[:-1] not in {"cis", "det", "abs", *words.NOT_BARE}:
            self._at -= 1
            self._split_word([word[:-1], word[-1]])
            return self._function(self._take().text)
        if len(word) > 3 and (self._peek().text == "=" or word.isupper()):
            return Sym(word)
        if len(word) > 3 and token.space:
            raise UnreadableError(f"the word {word!r} in a formula")
        parts = words.letters_of(word)
        if len(parts) > 1:
            self._at -= 1
            self._split_word(parts)
            self._at += 1
        return self._letter(parts[0])

    def _letter(self, letter: str) -> Node:
        if letter in ("i", "e") and self._peek().text != "_":
            return Const(letter)
        return self._symbol(letter)

    def _symbol(self, name: str) -> Node:
        """A variable with index and primes, or a function that is applied."""
        start = self._at - 1
        while True:
            if self._peek().text == "_" and self._peek().kind == "sym":
                self._at += 1
                name += "_" + self._raw_argument()
            elif self._accept("'"):
                name += "'"
            else:
                break
        inverse = name in ("f", "g", "h") and self._inverse_follows(name)
        if inverse:
            self._at += 5
            name += "^-1"
        token = self._peek()
        if token.text == "(" and not token.space and (inverse or self._is_call(name, start)):
            self._at += 1
            bracket = self._bracket("(")
            arguments = bracket.items if isinstance(bracket, Group) and bracket.kind == "()" else (bracket,)
            return Op("call:" + name, arguments)
        return Sym(name)

    def _inverse_follows(self, name: str) -> bool:
        r"""Whether `^{-1}(` comes next, of a function; `h^{-1}(a+b)` is a quotient."""
        ahead = [self._peek(number) for number in range(8)]
        marks = [token.text for token in ahead[:6]]
        return marks == ["^", "{", "-", "1", "}", "("] and not ahead[5].space and (name == "f" or ahead[7].text == ")")

    def _is_call(self, name: str, start: int) -> bool:
        """`f(2)` is a value of f; `P(1+r)` is a product, and so is `v(t)`, unless it is the whole side of an equation."""
        if name in self._factors:
            return False
        if name.rstrip("'") in ("f", "g", "h"):
            return True
        ahead = 1
        while self._peek(ahead).kind in ("word", "cmd") or self._peek(ahead).text == ",":
            ahead += 1
        whole = ahead > 1 and self._peek(ahead).text == ")" and self._peek(ahead + 1).text == "="
        if name.rstrip("'") in words.FUNCTION_LETTERS or not whole:
            return whole
        # Of any other letter only what begins a statement and is applied to letters: `x(\cos a)+y(\sin a)=p` is a sum of products.
        begins = start == 0 or self._tokens[start - 1].text in (",", ";", "=") or words.joint(self._tokens[start - 1].text) != ""
        arguments = [self._peek(number).text for number in range(1, ahead)]
        return begins and all(text == "," or (text != name and (len(text) == 1 or text[1:] in words.LETTERS)) for text in arguments)

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
                return self._part_of(letter)
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
            if name == "underline":
                return inside
            raise UnsupportedError(f"{command} over a formula")
        self._at -= 1
        raise self._unexpected()

    def _part_of(self, letter: str) -> Node:
        r"""A set of numbers, or its part: `\mathbb{Z}^+`, `\mathbb{N}_+`, `\mathbb{N}^*`."""
        for opening, closing in (("{", "}"), ("", "")):
            marks = [self._peek(ahead).text for ahead in range(4)]
            part = marks[2 if opening else 1]
            if marks[0] in ("^", "_") and part in ("+", "-", "*") and (not opening or (marks[1], marks[3]) == (opening, closing)):
                self._at += 4 if opening else 2
                positive = letter in "NZ" and (part == "+" or (letter, part) == ("N", "*"))
                return Const("positive integers" if positive else f"{words.BLACKBOARD[letter]} {part}")
        return Const(words.BLACKBOARD[letter])

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
        argument = self._atom() if self._peek().text in ("(", "{", "[") else self._open_argument(words.FUNCTIONS[name])
        if isinstance(argument, Group) and argument.kind == "[]" and len(argument.items) == 1:
            argument = argument.items[0]
        node: Node = Op(words.FUNCTIONS[name], (argument,) if base is None else (argument, base))
        return node if power is None else Op("pow", (node, power))

    def _open_argument(self, function: str) -> Node:
        r"""The argument of a function without brackets: numbers, letters and constants up to an operator (`\sin 2x`, `\cos \pi/3`).

        `\arctan 1/2` has a fraction, but `\ln 2/2` is half a logarithm.
        """
        if self._accept("-"):
            return Op("neg", (self._open_argument(function),))
        node, logarithm = self._factor(), function in ("ln", "log")
        while True:
            token = self._peek()
            name = token.text.removeprefix("\\")
            if token.kind == "word":
                applied = name in words.FUNCTIONS or name in words.LIST_FUNCTIONS or name in ("sqrt", "and", "or")
                goes_on = not applied and not (token.space and len(name) > 2)
            else:
                goes_on = token.kind == "cmd" and (token.text in words.CONSTANTS or name in words.LETTERS)
            if goes_on:
                node = Op("mul", (node, self._factor()))
            elif token.text == "/" and self._peek(1).kind == "num" and is_closed(node) and (not logarithm or node == Num(Fraction(1))):
                self._at += 1
                node = Op("div", (node, self._factor()))
            else:
                return node

    def _list_function(self, name: str) -> Node:
        bracket = self._argument()
        items = bracket.items if isinstance(bracket, Group) else (bracket,)
        return Op(name, items)


def is_formula_text(content: str) -> bool:
    r"""Whether `\text{...}` holds a formula: digits, or one letter that is no unit by itself."""
    content = content.strip()
    if len(content) == 1:
        return content.isalnum() and content.isascii()
    return content in words.FUNCTIONS or (
        any(c.isdigit() for c in content) and not any(w.isalpha() and len(w) > 1 for w in content.split())
    )


def _mixed(whole: Num, top: Fraction | None, bottom: Fraction | None) -> Node:
    if not top or not bottom or top >= bottom or top.denominator != 1 or bottom.denominator != 1:
        raise UnreadableError("a mixed number whose fraction is not a proper one")
    return Num(whole.value + top / bottom)


def _is_named_set(node: Node) -> bool:
    return isinstance(node, Const) and node.name in words.BLACKBOARD.values()
