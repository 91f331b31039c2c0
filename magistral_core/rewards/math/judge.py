"""The verdicts that may take long: floats, equations, mathematics beyond the grammar. Runs in worker processes, which can be killed.

SymPy and math-verify are imported inside functions, so that the process that trains loads nothing of them.
"""

from __future__ import annotations

import logging
from typing import Any

from magistral_core.records import ScoreStatus
from magistral_core.rewards.math import fallback
from magistral_core.rewards.math.compare import Comparison
from magistral_core.rewards.math.nodes import Const, Node, Num, Op, Sym
from magistral_core.rewards.math.normalise import clean, squeeze
from magistral_core.rewards.math.verdict import NeedsMathVerifyError, Verdict, as_gold_verdict, decide

_COMPARISON = Comparison(exact_only=False, solve=lambda one, two: same_solutions(one, two))


def warm_up() -> None:
    """Import everything and fill the parsers' tables, so that forked workers start with them."""
    for name in ("math_verify", "math_verify.parser", "math_verify.grader", "latex2sympy2_extended"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    judge(r"\frac{\sqrt{3}}{2}+\sin x", r"\sin(x)+\sin(\pi/3)")
    judge("y=1/x", "xy=1")
    judge(r"\sum_{k=1}^{3} k^2", r"\int_0^1 42x^2 dx")


def judge(gold: str, pred: str) -> tuple[ScoreStatus, str]:
    """Whether two answers mean the same. Returns a status and one line for people; ERROR means that the *reference* cannot be read."""
    try:
        verdict = decide(gold, pred, _COMPARISON)
    except NeedsMathVerifyError:
        return _with_math_verify(gold, pred)
    except Exception as error:  # noqa: BLE001  (RecursionError, MemoryError, OverflowError: a property of these answers, the same each time)
        return _after_failure(gold, pred, error)
    return verdict.status, verdict.detail


def check_gold(gold: str) -> tuple[ScoreStatus, str]:
    """Whether a reference answer can be read and equals itself; one that does not makes its problem unusable."""
    verdict = as_gold_verdict(gold, Verdict(*judge(gold, gold)))
    assert verdict is not None
    return verdict.status, verdict.detail


def same_solutions(one: Node, two: Node) -> bool:
    """Whether two rational expressions vanish together: their numerators are proportional (`xy - 1` and `y - 1/x`)."""
    import sympy

    try:
        first, second = (sympy.numer(sympy.together(_to_sympy(node))) for node in (one, two))
        ratio = sympy.cancel(first / second)
    except (TypeError, ValueError, ZeroDivisionError, sympy.PolynomialError):
        return False
    return bool(ratio.is_number and ratio.is_finite and ratio != 0)


def _with_math_verify(gold: str, pred: str) -> tuple[ScoreStatus, str]:
    gold_text, pred_text = clean(gold), clean(pred)
    try:
        gold_forms = fallback.forms(gold_text)
    except Exception as error:  # noqa: BLE001  (SymPy raises anything; it is the reference that it cannot digest)
        return ScoreStatus.ERROR, f"the reference answer {gold!r} cannot be read as math ({type(error).__name__})"
    if not gold_forms:
        return ScoreStatus.ERROR, f"the reference answer {gold!r} cannot be read as math"
    if squeeze(gold_text) == squeeze(pred_text):
        return ScoreStatus.CORRECT, pred
    try:
        pred_forms = fallback.forms(pred_text)
        if not pred_forms:
            return ScoreStatus.UNPARSABLE, pred
        same = fallback.same(gold_forms, pred_forms)
    except Exception as error:  # noqa: BLE001  (as above, of the answer)
        return ScoreStatus.UNPARSABLE, f"{pred} ({type(error).__name__})"
    return (ScoreStatus.CORRECT if same else ScoreStatus.WRONG), pred


def _after_failure(gold: str, pred: str, error: Exception) -> tuple[ScoreStatus, str]:
    """Whose fault it was: the reference's if it fails by itself too."""
    try:
        decide(gold, gold, _COMPARISON)
    except Exception as own:  # noqa: BLE001  (see `judge`)
        return ScoreStatus.ERROR, f"the reference answer {gold!r} cannot be computed ({type(own).__name__})"
    return ScoreStatus.UNPARSABLE, f"{pred} ({type(error).__name__})"


def _to_sympy(node: Node) -> Any:
    """A rational expression for SymPy. Raises ValueError for anything else."""
    import sympy

    match node:
        case Num():
            return sympy.Rational(node.value.numerator, node.value.denominator)
        case Sym():
            return sympy.Symbol(node.name)
        case Const("pi" | "e" | "i"):
            return {"pi": sympy.pi, "e": sympy.E, "i": sympy.I}[node.name]
        case Op("add" | "mul" | "neg" | "div" | "sqrt"):
            args = [_to_sympy(argument) for argument in node.args]
            if node.name == "add":
                return args[0] + args[1]
            if node.name == "mul":
                return args[0] * args[1]
            return -args[0] if node.name == "neg" else sympy.sqrt(args[0]) if node.name == "sqrt" else args[0] / args[1]
        case Op("pow", (base, Num(value))) if value.denominator == 1 and abs(value) < 100:
            return _to_sympy(base) ** int(value)
        case _:
            raise ValueError("not rational")
