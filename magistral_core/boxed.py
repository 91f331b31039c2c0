r"""Find the last `\boxed{...}` of a text. Pure, and linear in its length: completions are long and may be hostile."""

from __future__ import annotations

import re

#: A box's opening, an escaped character (an escaped brace does not count), or a brace.
_TOKEN = re.compile(r"\\boxed\s*\{|\\.|[{}]", re.DOTALL)


def extract_boxed(text: str) -> str | None:
    r"""Content of the last complete, outermost `\boxed{...}`, stripped; None if there is none.

    Braces are matched; escaped ones (`\{`) do not count. A box that never closes is passed over.
    """
    if "\\boxed" not in text:
        return None
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
    return None if best is None else text[best[1] : best[2]].strip()
