"""A cleaned text cut into tokens; numbers get their exact value here."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction

from magistral_core.rewards.math.nodes import UnreadableError


@dataclass(frozen=True, slots=True)
class Token:
    r"""One token.

    `kind` is `num` (an unsigned number), `word` (a run of letters), `cmd` (`\sin`), `text` (the content of `\text{}`), `begin` and
    `end` of an environment, `sym` (anything else), `stop` (after the last). `space` tells whether white space stood before it.
    """

    kind: str
    text: str
    space: bool
    value: Fraction | None = None


_DIGITS_THOUSANDS = r"[1-9]\d{0,2}(?:,\d{3})+(?![\d,])(?:\.\d+)?"
_NUMBER = re.compile(
    r"(?P<whole>\d*)\.(?P<fixed>\d*)(?:\\(?:overline|bar)\s*\{(?P<bar>\d+)\}|\\(?:overline|bar)\s*(?P<digit>\d)|\((?P<bracket>\d+)\))"
    r"|(?P<whole2>\d*)\.(?P<fixed2>\d*)\\dot\s*\{?(?P<first>\d)\}?(?:(?P<middle>\d*)\\dot\s*\{?(?P<last>\d)\}?)?"
    r"|(?P<whole3>\d*)\.(?P<shown>\d+)\s*(?:\.\.\.|\\[lc]?dots(?![a-zA-Z]))"
    r"|(?P<decimal>\d+\.?\d*|\.\d+)(?:[eE](?P<exponent>[+-]?\d{1,4})(?!\d))?"
)
_THOUSANDS = re.compile(_DIGITS_THOUSANDS)
_ELLIPSIS_BLOCK = re.compile(r"(\d*?)(\d+?)\2{2,}")
_TOKEN = re.compile(
    r"(?P<text>\\text\s*\{)|\\(?P<edge>begin|end)\s*\{(?P<environment>[a-zA-Z*]+)\}|(?P<deg>\^\\circ)"
    r"|(?P<cmd>\\[a-zA-Z]+)|(?P<sym>\\\\|\\.|\*\*|<=|>=|!=|==|:=|\.\.\.|[^\s\w]|_)|(?P<word>[A-Za-z]+)"
)
#: What stands before the brace of an argument, beside the end of another one. A plain brace elsewhere opens a set.
_BEFORE_ARGUMENT = {
    "\\frac",
    "\\dfrac",
    "\\tfrac",
    "\\cfrac",
    "\\sqrt",
    "\\binom",
    "\\dbinom",
    "\\tbinom",
    "\\boxed",
    "\\fbox",
    "^",
    "_",
    "]",
}
#: Escaped signs that mean the sign itself.
_PLAIN = {"\\%": "%", "\\$": "$", "**": "^", "==": "=", ":=": "=", "\\&": "&", "\\#": "#", "\\_": "_", "\\-": ""}


def tokenise(text: str, thousands: bool = True) -> list[Token]:
    """Cut a cleaned text into tokens, the last of kind `stop`. Raises UnreadableError.

    `thousands`: read `1,000` outside brackets as one number; otherwise as two.
    """
    tokens: list[Token] = []
    position = depth = 0
    arguments: list[bool] = []  # of the open plain braces: which hold the argument of a command or an exponent
    closed = False  # whether the last closing brace ended an argument
    while True:
        start = position
        while position < len(text) and text[position].isspace():
            position += 1
        space = position > start
        if position == len(text):
            return [*tokens, Token("stop", "", space)]
        character = text[position]
        if character.isdigit() or character == ".":
            found = _THOUSANDS.match(text, position) if thousands and depth == 0 else None
            if found:
                tokens.append(Token("num", found.group(), space, Fraction(found.group().replace(",", ""))))
                position = found.end()
                continue
            found = _NUMBER.match(text, position)
            if found:
                tokens.append(Token("num", found.group(), space, _value(found)))
                position = found.end()
                continue
        found = _TOKEN.match(text, position)
        if found is None:
            raise UnreadableError(f"unexpected {character!r}")
        position = found.end()
        kind = found.lastgroup
        if kind == "text":
            end = _closing_brace(text, position)
            tokens.append(Token("text", text[position:end], space))
            position = end + 1
        elif kind == "environment":
            tokens.append(Token(found.group("edge"), found.group("environment"), space))
        elif kind == "deg":
            tokens.append(Token("sym", "deg", space))
        elif kind == "sym":
            sign = _PLAIN.get(found.group(), found.group())
            if sign == "{":
                before = tokens[-1].text if tokens else ""
                arguments.append(before in _BEFORE_ARGUMENT or (before == "}" and closed))
                depth += not arguments[-1]
            elif sign == "}":
                closed = bool(arguments) and arguments.pop()
                depth -= not closed
            else:
                depth += (sign in ("(", "[", "\\{")) - (sign in (")", "]", "\\}"))
            if sign:
                tokens.append(Token("sym", sign, space))
        else:
            tokens.append(Token(str(kind), found.group(), space))


def _closing_brace(text: str, position: int) -> int:
    depth = 1
    for end in range(position, len(text)):
        if text[end] in "{}" and text[end - 1] != "\\":
            depth += 1 if text[end] == "{" else -1
            if depth == 0:
                return end
    raise UnreadableError("a brace is not closed")


def _value(found: re.Match[str]) -> Fraction:
    parts = found.groupdict()
    if parts["decimal"] is not None:
        value = Fraction(parts["decimal"].rstrip(".") if not parts["decimal"].startswith(".") else "0" + parts["decimal"])
        return value * Fraction(10) ** int(parts["exponent"] or 0)
    if parts["shown"] is not None:
        return _continued(parts["whole3"], parts["shown"])
    if parts["first"] is not None:
        block = parts["first"] if parts["last"] is None else parts["first"] + parts["middle"] + parts["last"]
        return repeating(parts["whole2"], parts["fixed2"], block)
    return repeating(parts["whole"], parts["fixed"], parts["bar"] or parts["digit"] or parts["bracket"])


def repeating(whole: str, fixed: str, block: str) -> Fraction:
    """Exact value of `whole.fixed` followed by `block` for ever."""
    head = Fraction(int(whole + fixed or "0"), 10 ** len(fixed))
    return head + Fraction(int(block), (10 ** len(block) - 1) * 10 ** len(fixed))


def _continued(whole: str, shown: str) -> Fraction:
    """`0.333...`: a block that is shown at least three times goes on for ever; anything else is not a number."""
    found = _ELLIPSIS_BLOCK.fullmatch(shown)
    if found is None:
        raise UnreadableError("an ellipsis that does not show what repeats")
    return repeating(whole, found.group(1), found.group(2))
