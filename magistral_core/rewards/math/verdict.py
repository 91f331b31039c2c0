r"""From two texts to a verdict: limits, cleaning, reading, comparing.

`quick_verdict` runs in the training process: reading is linear, and fractions decide most answers in a fraction of a millisecond. It
returns None for what needs floats, SymPy or math-verify; that is `judge.py`'s, in a worker that can be killed.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from fractions import Fraction
from typing import NamedTuple

from magistral_core.records import ScoreStatus
from magistral_core.rewards.math.compare import Comparison
from magistral_core.rewards.math.evaluate import UndefinedError
from magistral_core.rewards.math.limits import MAX_CHARS, too_costly
from magistral_core.rewards.math.nodes import Group, Node, Op, Relation, Text, UnreadableError, UnsupportedError, symbols, walk
from magistral_core.rewards.math.normalise import clean, squeeze
from magistral_core.rewards.math.reader import phrase, read
from magistral_core.rewards.math.scalars import constant

#: A height and an acceleration, which a bracket may follow; of f one says f(x) only.
_MAYBE_FACTORS = frozenset(("call:h", "call:g"))
_TEXT = re.compile(r"\\text\s*\{([^{}]*)\}")
_COMMA_THOUSANDS = re.compile(r"\d,\d{3}(?!\d)")


class Verdict(NamedTuple):
    """What comparing two answers gave: a status, and one line for people. `broke`: an ERROR of the verifier's, not of the reference."""

    status: ScoreStatus
    detail: str = ""
    seconds: float = 0.0
    broke: bool = False

    @property
    def correct(self) -> bool:
        """Whether the answers mean the same."""
        return self.status is ScoreStatus.CORRECT


class NeedsMathVerifyError(Exception):
    """One of the answers is mathematics beyond the grammar."""


def quick_verdict(gold: str, pred: str) -> Verdict | None:
    """Decide in this process where fractions do; None where a worker must. Both as given, not yet cleaned."""
    if gold.isdecimal() and pred.isdecimal() and len(gold) < MAX_CHARS and len(pred) < MAX_CHARS and gold.isascii() and pred.isascii():
        return Verdict(ScoreStatus.CORRECT if gold.lstrip("0") == pred.lstrip("0") else ScoreStatus.WRONG, pred)
    try:
        return decide(gold, pred, Comparison(exact_only=True))
    except Exception:  # noqa: BLE001  (also a recursion too deep or a number too long: a worker, which can be killed, tells what it is)
        return None


def quick_gold_verdict(gold: str) -> Verdict | None:
    """Whether a reference answer is usable, where that is plain: CORRECT or ERROR; None where a worker must tell."""
    return as_gold_verdict(gold, quick_verdict(gold, gold))


def as_gold_verdict(gold: str, itself: Verdict | None) -> Verdict | None:
    """The verdict on a reference from its comparison with itself: one that does not equal itself is unusable."""
    if itself is None or itself.correct or itself.status is ScoreStatus.ERROR:
        return itself
    return Verdict(ScoreStatus.ERROR, f"the reference answer {gold!r} does not equal itself", itself.seconds)


def decide(gold: str, pred: str, comparison: Comparison) -> Verdict:
    """The verdict on two answers as given. Raises InexactError where the comparison may not compute, NeedsMathVerifyError."""
    if not gold.strip():
        return Verdict(ScoreStatus.ERROR, "the reference answer is empty")
    if reason := too_costly(gold):
        return Verdict(ScoreStatus.ERROR, f"the reference answer is {reason}")
    if not pred.strip():
        return Verdict(ScoreStatus.NO_ANSWER, "empty answer")
    if reason := too_costly(pred):
        return Verdict(ScoreStatus.UNPARSABLE, reason)
    gold_text, pred_text = clean(gold), clean(pred)
    try:
        gold_node = _read_gold(gold_text)
    except UnsupportedError:
        raise NeedsMathVerifyError from None
    except UnreadableError as error:
        return Verdict(ScoreStatus.ERROR, f"the reference answer {gold!r} cannot be read as math ({error})")
    try:
        pred_node = read(pred_text)
    except UnsupportedError:
        raise NeedsMathVerifyError from None
    except UnreadableError as error:
        if squeeze(gold_text) == squeeze(pred_text) or (
            isinstance(gold_node, Text) and _is_wording(pred_text) and _wording(gold_text) == _wording(pred_text)
        ):
            return Verdict(ScoreStatus.CORRECT, pred)
        return Verdict(ScoreStatus.UNPARSABLE, f"{pred} ({error})")
    return Verdict(*_compared(gold, gold_node, pred_node, gold_text, pred_text, comparison))


def canonical_answer(text: str) -> str:
    """A key under which equal answers meet, for majority voting: exact numbers as `27` or `1/2`, words, other text without spaces."""
    text = text.strip()
    if too_costly(text):
        return text
    cleaned, node = clean(text), None
    try:
        node = read(cleaned)
        if isinstance(node, Relation | Group):
            return squeeze(cleaned)
        _, value = constant(node, exact_only=True)
        return str(value) if isinstance(value, Fraction) else squeeze(cleaned)
    except Exception:  # noqa: BLE001  (no number, or one too long or too deep to write out: its text is the key)
        return getattr(node, "words", "") or getattr(node, "letter", "") or squeeze(cleaned)


def _compared(
    gold: str, gold_node: Node, pred_node: Node, gold_text: str, pred_text: str, comparison: Comparison
) -> tuple[ScoreStatus, str]:
    try:
        same = (
            comparison.equal(gold_node, pred_node)
            or _with_commas_apart(gold_text, pred_text, gold_node, pred_node, comparison.equal)
            or _with_factors(gold_text, pred_text, gold_node, pred_node, comparison.equal)
        )
        undefined = False
    except UndefinedError:
        same, undefined = False, True
    if undefined or (not same and any(isinstance(part, Relation) for part in walk(gold_node))):
        try:
            if not comparison.equal(gold_node, gold_node):
                return ScoreStatus.ERROR, f"the reference answer {gold!r} does not equal itself"
        except UndefinedError as error:
            return ScoreStatus.ERROR, f"the reference answer {gold!r} has no value ({error})"
    return (ScoreStatus.CORRECT if same else ScoreStatus.WRONG), pred_text


def _with_commas_apart(gold_text: str, pred_text: str, gold: Node, pred: Node, equal: Callable[[Node, Node], bool]) -> bool:
    """`100,200` may be a list: it is read as one where the other answer is a list."""
    try:
        if isinstance(gold, Group) and _COMMA_THOUSANDS.search(pred_text):
            return equal(gold, read(pred_text, thousands=False))
        if isinstance(pred, Group) and _COMMA_THOUSANDS.search(gold_text):
            return equal(read(gold_text, thousands=False), pred)
    except UnreadableError:
        pass
    return False


def _with_factors(gold_text: str, pred_text: str, gold: Node, pred: Node, equal: Callable[[Node, Node], bool]) -> bool:
    """`h(a+b)` may be a product: it is read as one where `h` is a variable of the other answer."""
    try:
        if letters := _factors(gold, pred):
            return equal(read(gold_text, factors=letters), pred)
        if letters := _factors(pred, gold):
            return equal(gold, read(pred_text, factors=letters))
    except UnreadableError:
        pass
    return False


def _factors(node: Node, other: Node) -> frozenset[str]:
    """Letters of functions applied to a sum in a formula, which are variables, and no functions, in another one."""
    if not (isinstance(node, Op) and isinstance(other, Op)):
        return frozenset()
    calls = [part for part in walk(node) if isinstance(part, Op) and part.name in _MAYBE_FACTORS]
    if not all(len(call.args) == 1 and isinstance(call.args[0], Op) and call.args[0].name == "add" for call in calls):
        return frozenset()
    names = frozenset(call.name.removeprefix("call:") for call in calls)
    elsewhere = {part.name for part in walk(other) if isinstance(part, Op)}
    return names if names <= symbols(other) and not elsewhere & _MAYBE_FACTORS else frozenset()


def _read_gold(text: str) -> Node:
    """A reference; a sentence that is no formula is taken as words."""
    try:
        return read(text)
    except UnsupportedError:
        raise
    except UnreadableError:
        if not _is_wording(text):
            raise
        return phrase(text)


def _is_wording(text: str) -> bool:
    """Whether a text that is no formula may be a sentence: it has letters, and no sign of TeX but that of words."""
    return not any(sign in text.replace("\\text{", "") for sign in "\\_^$") and any(character.isalpha() for character in text)


def _wording(text: str) -> str:
    """A sentence in one spelling. Signs stay, numbers may need them; so do single letters and names in capitals."""
    words = _TEXT.sub(r" \1 ", text).split()
    return " ".join(word if word.isupper() else word.casefold() if len(word) > 1 else word for word in words).strip(" .!")
