r"""Find the last `\boxed{...}` of a text. Pure, and linear in its length: completions are long and may be hostile."""

from __future__ import annotations

import re

#: A box's opening, an escaped character (an escaped brace does not count), or a brace.
_TOKEN = re.compile(r"\\boxed\s*\{|\\.|[{}]", re.DOTALL)
#: What a box without braces holds: a number, a command with its arguments, or a letter.
_BARE = re.compile(r"\\boxed\s*(-?(?:\d+(?:[.,]\d+)*|\.\d+)|-?\\(?!boxed)[a-zA-Z]+(?:\s*(?:\{[^{}]{0,200}\}|\d))*|[A-Za-z](?![A-Za-z]))")


def extract_boxed(text: str, bare: bool = False) -> str | None:
    r"""Content of the last complete, outermost `\boxed{...}`, stripped; None if there is none.

    Braces are matched; escaped ones (`\{`) do not count. A box that never closes is passed over. With `bare`, `\boxed 7` and
    `\boxed \frac{1}{2}` count as well.
    """
    if "\\boxed" not in text:
        return None
    found_braced = _braced(text)
    braced = found_braced and found_braced[:2]
    if bare:
        for found in _BARE.finditer(text, 0 if braced is None else braced[1]):
            braced = found.span(1)
    return None if braced is None else text[braced[0] : braced[1]].strip()


def boxed_in(text: str) -> tuple[str, str, str] | None:
    r"""Content of the last `\boxed{...}`, as above, and what stands before and behind the box; None if there is none."""
    braced = _braced(text)
    return None if braced is None else (text[braced[0] : braced[1]].strip(), text[: braced[2]], text[braced[1] + 1 :])


def _braced(text: str) -> tuple[int, int, int] | None:
    """Where the content of the last box with braces starts and ends, and where the box starts."""
    open_braces: list[tuple[int, int] | None] = []  # for a box where its token and its content start, None for a plain brace
    best: tuple[int, int, int] | None = None  # token start, content start, content end
    for match in _TOKEN.finditer(text):
        token = match.group()
        if token == "{":
            open_braces.append(None)
        elif token == "}":
            box = open_braces.pop() if open_braces else None
            # Boxes close from the inside out, so a later close is either a later box or one around the best so far.
            if box is not None:
                best = (*box, match.start())
        elif token.endswith("{") and token != "\\{":
            open_braces.append((match.start(), match.end()))
    return None if best is None else (best[1], best[2], best[0])
