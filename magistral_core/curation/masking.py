r"""Formulas and code of a statement, out of a translator's reach: marks stand for them and are put back afterwards. Pure.

    Find $x^2$ if `f(x)` is 5.  ->  Find [[1]] if [[2]] is 5.   and   ("$x^2$", "`f(x)`")

What a text has of such marks by itself is masked too, so that each mark stands for one piece and any text comes back to the character.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass

from magistral_core.rewards.markup import markup_spans

_MARK = re.compile(r"\[\[(\d+)\]\]")
#: Braces, with at most one pair inside.
_BRACES = r"\{(?:[^{}]|\{[^{}]*\})*\}"
#: What else is no prose: marks, formulas with spaces beside their dollars, LaTeX commands outside formulas. Of a command that sets words
#: (`\textbf{nice}`) the name alone, since its words are prose.
_LOOSE = re.compile(
    r"\[\[\d+\]\]"
    r"|\$\s[^$\n]{0,300}?[\\^_=][^$\n]{0,300}\$"
    r"|\\(?:text\w*|emph|underline|mbox)(?![a-zA-Z])"
    rf"|\\(?:[a-zA-Z]+\*?(?:\s*(?:\[[^\[\]\n]*\]|{_BRACES}))*|[^a-zA-Z\s])"
)
#: Signs of formulas that were not masked, and of markup; no language changes their number.
_SIGNS = frozenset("\\{}$^_=<>+%")


class MaskingError(ValueError):
    """A masked text came back with marks that are missing, doubled or unknown, or that cannot stand where they do."""


@dataclass(frozen=True, slots=True)
class Masked:
    """A text with marks in place of `pieces`; mark `[[n]]` stands for `pieces[n - 1]`."""

    text: str
    pieces: tuple[str, ...]

    @property
    def prose(self) -> str:
        """The text without its marks."""
        return _MARK.sub(" ", self.text)

    def restore(self, text: str) -> str:
        """Another text with these marks, each put back.

        Raises:
            MaskingError: a mark is not there exactly once, or put back, a piece would be read otherwise for what stands beside it (`$a$`
                before a digit).
        """
        found = Counter(int(number) for number in _MARK.findall(text))
        for number in range(1, len(self.pieces) + 1):
            if found[number] != 1:
                raise MaskingError(f"[[{number}]] stands {found[number]} times")
        if unknown := found.keys() - set(range(1, len(self.pieces) + 1)):
            raise MaskingError(f"[[{min(unknown)}]] was never given out")
        restored = _MARK.sub(lambda mark: self.pieces[int(mark.group(1)) - 1], text)
        if Counter(mask(restored).pieces) != Counter(self.pieces):
            raise MaskingError("put back, the text has other formulas than before")
        return restored


def mask(text: str) -> Masked:
    """A text with every formula, piece of code and address masked."""
    parts: list[str] = []
    pieces: list[str] = []
    position = 0
    for start, end in _spans(text):
        pieces.append(text[start:end])
        parts += [text[position:start], f"[[{len(pieces)}]]"]
        position = end
    return Masked("".join((*parts, text[position:])), tuple(pieces))


def signs(prose: str) -> Counter[str]:
    """How often each sign of a formula or of markup stands in a prose."""
    return Counter(character for character in prose if character in _SIGNS)


def _spans(text: str) -> list[tuple[int, int]]:
    spans, position = [], 0
    for start, end in [*markup_spans(text), (len(text), len(text))]:
        spans += [found.span() for found in _LOOSE.finditer(text, position, start)]
        spans.append((start, end))
        position = end
    return spans[:-1]
