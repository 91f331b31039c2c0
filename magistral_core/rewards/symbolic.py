"""Compare two formulas with math-verify. Runs in worker processes only: a parser and SymPy can hang, and only a kill stops them.

Every import of math-verify is inside a function, so that nothing of it is loaded by the process that trains.
"""

from __future__ import annotations

import functools
import logging
from typing import Any

from magistral_core.records import ScoreStatus
from magistral_core.rewards.math import clean, for_parser

#: Digits to which irrational numbers are compared; with math-verify's own 6, 1.414214 would equal the root of 2.
FLOAT_DIGITS = 10


def warm_up() -> None:
    """Import everything and fill the parser's tables, so that forked workers start with them."""
    for name in ("math_verify", "math_verify.parser", "math_verify.grader", "latex2sympy2_extended"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    judge(r"\frac{\sqrt{3}}{2}+x^2", r"x^{2}+\sin(\pi/3)")
    judge(r"\frac{\sqrt{2}}{2}", "3x")  # unequal answers take paths of their own
    judge(r"\left(3, \frac{\pi}{2}\right)", r"\begin{pmatrix}1\\2\end{pmatrix}")


def judge(gold: str, pred: str) -> tuple[ScoreStatus, str]:
    """Whether two answers mean the same. Returns a status and one line for people; ERROR means that the *reference* cannot be read."""
    from math_verify import verify

    try:
        gold_forms = _parse(for_parser(clean(gold)))
    except Exception as error:  # noqa: BLE001  (SymPy raises anything; it is the reference that it cannot digest)
        return ScoreStatus.ERROR, f"the reference answer {gold!r} cannot be read as math ({type(error).__name__})"
    if not gold_forms:
        return ScoreStatus.ERROR, f"the reference answer {gold!r} cannot be read as math"
    try:
        pred_forms = _parse(for_parser(clean(pred)))
        if not pred_forms:
            return ScoreStatus.UNPARSABLE, pred
        same = verify(list(gold_forms), list(pred_forms), float_rounding=FLOAT_DIGITS, allow_set_relation_comp=True, timeout_seconds=None)
    except Exception as error:  # noqa: BLE001  (RecursionError, MemoryError, TypeError, ...: a property of this answer, the same each time)
        return ScoreStatus.UNPARSABLE, f"{pred} ({type(error).__name__})"
    return (ScoreStatus.CORRECT if same else ScoreStatus.WRONG), pred


def check_gold(gold: str) -> tuple[ScoreStatus, str]:
    """Whether a reference answer can be read and equals itself; one that does not makes its problem unusable."""
    status, detail = judge(gold, gold)
    if status in (ScoreStatus.CORRECT, ScoreStatus.ERROR):
        return status, detail
    return ScoreStatus.ERROR, f"the reference answer {gold!r} does not equal itself"


@functools.lru_cache(maxsize=256)
def _parse(text: str) -> tuple[Any, ...]:
    """SymPy forms of one formula; empty if it cannot be read *whole*.

    The text is boxed and only boxes are looked for: math-verify's search in plain text takes the last number of anything.
    """
    from math_verify import LatexExtractionConfig, parse

    boxes_only = [LatexExtractionConfig(boxed_match_priority=0)]
    forms = parse("\\boxed{" + text + "}", boxes_only, fallback_mode="no_fallback", parsing_timeout=None)
    return tuple(_with_imaginary_unit(form) for form in forms)


def _with_imaginary_unit(form: Any) -> Any:
    """`i` parses as a plain symbol; as the imaginary unit, `(1+i)^2` is `2i`."""
    import sympy

    if not isinstance(form, sympy.Expr):
        return form
    symbols = [symbol for symbol in form.free_symbols if symbol.name == "i"]  # by name: the parser gives them assumptions of its own
    return sympy.expand(form.subs(dict.fromkeys(symbols, sympy.I))) if symbols else form
