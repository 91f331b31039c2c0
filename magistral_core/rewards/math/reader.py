r"""Reads a whole answer: a choice, a numeral with its base, words, or a formula (`grammar.py`)."""

from __future__ import annotations

import functools
import re

from magistral_core.rewards.math import words
from magistral_core.rewards.math.grammar import parse_formula
from magistral_core.rewards.math.nodes import Choice, Const, Node, Numeral, Text, UnreadableError
from magistral_core.rewards.math.normalise import clean

_WRAPPED = re.compile(r"\\(?:text|boxed|fbox)\s*\{([^{}]*)\}\s*")
_LEADING_LETTER = re.compile(r"\\text\s*\{\s*(\(?[A-Za-z]\)?[.:)]?)\s*([^{}]*)\}")
_CHOICE = re.compile(r"\(\s*([A-Za-z])\s*\)|([A-Z])|(?i:option|choice|answer)\s+\(?([A-Z])\)?")
#: What follows a letter is no text of that choice where it begins with a word that joins it to another.
_CHOICE_WITH_TEXT = re.compile(
    r"(?:\(([A-Z])\)|([A-Z])\s*[.:)])\s*(?![,\s]*$)(?!\s*[,;=<>+\-*/^_&])(?!\s*(?:\\&|(?:\\text\w*\s*\{\s*)?(?i:or|and|oder|und|ou|et)\b[\s}]*\(?[A-Z]\b))(.+)",
    re.DOTALL,
)
_ANOTHER_CHOICE = re.compile(r"\([A-Z]\)")
_NUMERAL = re.compile(r"\(?(?:\\text\s*\{)?([0-9A-Fa-f]+)\}?\)?\s*_\s*(?:\{?\s*(?:\\text\s*\{)?\s*([a-z]+|\d{1,2})\s*\}?\s*\}?)")
_PHRASE = re.compile(r"[^\W\d_]+(?:[ '\-.,]+[^\W\d_]+)*[.!]?")
_DECIMAL_BASE = 10
#: Words of one or two letters that are an answer by themselves.
_SHORT_WORDS = frozenset(("no", "ok"))


@functools.lru_cache(maxsize=4096)
def read(text: str, thousands: bool = True, factors: frozenset[str] = frozenset()) -> Node:
    """The tree of an answer that was cleaned. Raises UnreadableError.

    `thousands`: a comma in `1,000` belongs to a number; otherwise it separates two. `factors`: letters that are no functions.
    """
    wrapped = _WRAPPED.fullmatch(text)
    if wrapped is not None:
        text = clean(wrapped.group(1))
    text = _LEADING_LETTER.sub(r"\1 \2", text, count=1) if text.startswith("\\text") and _is_choice(text) else text
    if not text:
        raise UnreadableError("empty")
    if found := _CHOICE.fullmatch(text):
        return Choice(next(filter(None, found.groups())))
    if found := _NUMERAL.fullmatch(text):
        numeral = _numeral(found.group(1), found.group(2))
        if numeral is not None:
            return numeral
    if found := _CHOICE_WITH_TEXT.fullmatch(text):
        letter, content = found.group(1) or found.group(2), clean(found.group(3))
        if not _CHOICE.fullmatch(content) and not _ANOTHER_CHOICE.match(content):
            return Choice(letter, _read_content(content))
    if is_phrase(text):
        said = phrase(text)
        return Const("empty") if said == Text("empty set") else said
    return parse_formula(text, thousands, factors)


def is_phrase(text: str) -> bool:
    """Whether a text is words and no formula: it has a word of three letters or more that is no function, constant or name in capitals."""
    if not _PHRASE.fullmatch(text):
        return False
    parts = re.findall(r"[^\W\d_]+", text)
    if len(parts) == 1 and parts[0].lower() in _SHORT_WORDS:
        return True
    if any(words.is_formula_word(part) for part in parts):
        return len(parts) > 1 and sum(len(part) > 3 and not words.is_formula_word(part) for part in parts) > 0
    if any(len(part) > 1 and part not in ("and", "or") and not part.isupper() and len(part) > 2 for part in parts):
        return True
    return len(parts) == 1 and parts[0].isupper() and len(parts[0]) > 1


def phrase(text: str) -> Text:
    """Words in one spelling: lower case (names in capitals stay), single spaces, no punctuation at the ends."""
    text = re.sub(r"\\text\s*\{([^{}]*)\}", r" \1 ", text)
    if text.isupper() and " " not in text.strip():
        return Text(text.strip(" ."))
    return Text(" ".join(re.sub(r"[-,.!;:]+", " ", text).casefold().split()))


def _is_choice(text: str) -> bool:
    found = _LEADING_LETTER.match(text)
    return found is not None and found.group(1)[-1] in ").:"


def _read_content(content: str) -> Node:
    try:
        return read(content)
    except UnreadableError:
        return phrase(content)


def _numeral(digits: str, name: str) -> Node | None:
    """A numeral of a base, or None where it is none: `A_1` is a variable, `12_{10}` a plain number."""
    base = words.BASE_WORDS.get(name, int(name) if name.isdigit() else 0)
    digits = digits.upper().lstrip("0") or "0"
    if not 2 <= base <= 36 or base == _DECIMAL_BASE:
        return None
    if not any(digit.isdigit() for digit in digits) and base < 16:
        return None
    if any(int(digit, 36) >= base for digit in digits):
        return None
    return Numeral(digits, base)
