r"""Mathematics beyond our grammar (sums, integrals, limits) goes to math-verify, with guards. In worker processes only.

math-verify reads what it can and drops the rest, which is how wrong answers pass. So it sees a text only if every command in it is one of
mathematics and no word stands in it, and it sees the text in a box: its search in plain text takes the last number of anything.
"""

from __future__ import annotations

import functools
import re
from typing import Any

from magistral_core.rewards.math import words

#: Digits to which math-verify compares floats; with its own 6, 1.414214 would equal the root of 2.
FLOAT_DIGITS = 12
_COMMAND = re.compile(r"\\([a-zA-Z]+)")
_LONG_WORD = re.compile(r"(?<![\\a-zA-Z])[a-zA-Z]{4,}")
_KNOWN = frozenset(
    {*words.UNSUPPORTED, *words.LETTERS, *words.FUNCTIONS, *words.LIST_FUNCTIONS, *words.ACCENTS, *words.DECORATIONS, *words.FIGURES}
    | {name.removeprefix("\\") for table in (words.CONSTANTS, words.RELATIONS, words.SET_OPERATIONS) for name in table}
    | {"mathbb", "pm", "mp", "div", "lfloor", "rfloor", "lceil", "rceil", "begin", "end", "frac", "sqrt", "binom"}
    | {"times", "cdot", "to", "rightarrow", "prime", "langle", "rangle", "lvert", "rvert", "vert", "mid", "mathbb"}
)


def may_see(text: str) -> bool:
    """Whether a cleaned text is formulas only."""
    return (
        "\\text" not in text
        and set(_COMMAND.findall(text)) <= _KNOWN
        and not _LONG_WORD.search(re.sub(r"\\(?:begin|end)\{\w+\}", "", text))
    )


def forms(text: str) -> tuple[Any, ...]:
    """SymPy forms of a cleaned text; empty if it may not be seen or cannot be read. Raises whatever SymPy raises."""
    return _forms(text) if may_see(text) else ()


def same(gold: tuple[Any, ...], pred: tuple[Any, ...]) -> bool:
    """Whether math-verify finds two parsed answers equal. Raises whatever SymPy raises."""
    from math_verify import verify

    options: dict[str, Any] = {"float_rounding": FLOAT_DIGITS, "allow_set_relation_comp": True, "timeout_seconds": None}
    return bool(verify(list(gold), list(pred), **options))


@functools.lru_cache(maxsize=256)
def _forms(text: str) -> tuple[Any, ...]:
    from math_verify import LatexExtractionConfig, parse

    boxes_only = [LatexExtractionConfig(boxed_match_priority=0)]
    return tuple(parse("\\boxed{" + text + "}", boxes_only, fallback_mode="no_fallback", parsing_timeout=None))
