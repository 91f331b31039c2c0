"""Where the formulas and the code of a text stand, and its prose without them. Pure; time grows linearly with the text."""

from __future__ import annotations

import re

#: Where a block of code or formulas opens, and with what each closes; `\begin{x}` closes with its own name.
_OPENING = re.compile(r"```|\$\$|\\\[|\\\(|\[asy\]|\\begin\{(\w{1,20}\*?)\}")
_CLOSING = {"```": "```", "$$": "$$", "\\[": "\\]", "\\(": "\\)", "[asy]": "[/asy]"}
_INLINE = re.compile(
    r"`[^`\n]*`"
    r"|\$(?=\S)[^$\n]{1,300}?(?<=\S)\$(?!\d)"  # inline formulas, but not the text between two prices
    r"|https?://\S+"
)
_BOX = re.compile(r"\\(?:boxed|text|mathrm|frac|d?frac|sqrt)\s*(?:\{[^{}]*\})+")
_COMMAND = re.compile(r"\\[a-zA-Z]+")


def strip_markup(text: str) -> str:
    """The prose of a text: without code, formulas, boxes and LaTeX commands."""
    kept, position = [], 0
    for start, end in _blocks(text):
        kept.append(text[position:start])
        position = end
    text = _INLINE.sub(" ", " ".join((*kept, text[position:])))
    if "\\" in text:
        text = _COMMAND.sub(" ", _BOX.sub(" ", text))
    return text


def markup_spans(text: str) -> list[tuple[int, int]]:
    """Start and end of every formula, piece of code and address, in order; none overlaps another."""
    spans, position = [], 0
    for start, end in [*_blocks(text), (len(text), len(text))]:
        spans += [found.span() for found in _INLINE.finditer(text, position, start)]
        spans.append((start, end))
        position = end
    return spans[:-1]


def _blocks(text: str) -> list[tuple[int, int]]:
    """Closed blocks (code to the end if it never closes). Each kind of closing is missed once at most, so time stays linear."""
    blocks: list[tuple[int, int]] = []
    missing: set[str] = set()
    searched = 0
    while found := _OPENING.search(text, searched):
        closing = _CLOSING.get(found.group()) or f"\\end{{{found.group(1)}}}"
        end = -1 if closing in missing else text.find(closing, found.end())
        searched = found.end()
        if end >= 0:
            searched = end + len(closing)
            blocks.append((found.start(), searched))
        elif closing == "```":
            blocks.append((found.start(), len(text)))
            break
        else:
            missing.add(closing)
    return blocks
