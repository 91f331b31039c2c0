r"""Statements as tokens, for finding duplicates: `$\dfrac{1}{2}$ of 1,000` and `\frac12 of 1000.` differ in presentation only. Pure."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

_PRESENTATION = re.compile(
    r"\\(?:left|right|displaystyle|textstyle|limits|[bB]igg?[lr]?)(?![a-zA-Z])"
    r"|\\(?:text|textbf|textit|mathrm|mathbf|mathit|mbox|operatorname|uline|underline|emph)(?![a-zA-Z])"
    r"|\\q?quad(?![a-zA-Z])|\\[,;:! ()\[\]$\\]|[$~{}]"
)
_SYNONYMS = (
    (re.compile(r"\\[dt]frac(?![a-zA-Z])"), r"\\frac"),
    (re.compile(r"\\textquotesingle(?![a-zA-Z])\s*"), "'"),
    (re.compile(r"\\leq(?![a-zA-Z])"), r"\\le"),
    (re.compile(r"\\geq(?![a-zA-Z])"), r"\\ge"),
    (re.compile(r"\\neq(?![a-zA-Z])"), r"\\ne"),
    (re.compile(r"\\%"), "%"),
    (re.compile(r"(?<=\d),(?=\d{3}(?!\d))"), ""),
)
_CHARACTERS = str.maketrans({"’": "'", "‘": "'", "−": "-", "–": "-", "×": r"\times ", "·": r"\cdot ", "÷": r"\div "})
_TOKEN = re.compile(
    r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]"  # scripts without spaces: a character is a token
    r"|\\[a-zA-Z]+|\d+(?:\.\d+)?|(?<![\w.])\.\d+|[^\W\d_]+|[^\w\s]"
)
#: Punctuation that says nothing about what is asked. Operators, signs and brackets do.
_IGNORED = frozenset(".,;:?\"`'\\、。，．？")


def tokens(text: str) -> list[str]:
    """Words in lower case, numbers, LaTeX commands and operators, in order."""
    if not text.isascii():
        text = unicodedata.normalize("NFKC", text).translate(_CHARACTERS)
    if "\\" in text or "," in text:
        for pattern, replacement in _SYNONYMS:
            text = pattern.sub(replacement, text)
    text = _PRESENTATION.sub(" ", text)
    return [_spelled(token) for token in _TOKEN.findall(text) if token not in _IGNORED]


def _spelled(token: str) -> str:
    """One spelling of a token: `.5` as `0.5`, words in lower case."""
    if token[0] == "." and len(token) > 1:
        return f"0{token}"
    return token if token[0] == "\\" else token.casefold()


def numbers(found: Sequence[str]) -> tuple[str, ...]:
    """The numbers among tokens, sorted: problems that differ in one are different problems, however alike their words are."""
    return tuple(sorted(token for token in found if token[0].isdigit()))
