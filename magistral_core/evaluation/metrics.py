"""Measures over graded samples: pass@k, maj@k, valid format, lengths. Pure.

pass@k is the unbiased estimate `1 - C(n - c, k) / C(n, k)` from `n` samples of which `c` are right. maj@k takes the most frequent
answer of all `k` samples, where right answers are one, however they are written, and so are wrong ones that the verifier holds equal;
answers tied for first place share the vote, so a tie between one right and one wrong answer counts one half. Samples without an answer
do not vote.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Any

#: The vote of every right answer; no answer has a line break.
_RIGHT = "\n"


@dataclass(frozen=True, slots=True)
class Outcome:
    """One graded sample: its canonical answer (empty if none), the verdict, and its form."""

    answer: str
    correct: bool
    valid_format: bool
    tokens: int
    truncated: bool


def pass_at_k(n: int, correct: int, k: int) -> float:
    """Probability that at least one of `k` samples, drawn from `n` of which `correct` are right, is right."""
    if not 0 < k <= n:
        raise ValueError(f"pass@{k} needs at least {k} samples, there are {n}")
    return 1.0 - math.comb(n - correct, k) / math.comb(n, k)


def majority_correct(outcomes: Sequence[Outcome]) -> float:
    """Share of the first place that right answers hold in the vote of these samples; 0 if nobody votes.

    Where the vote is `contested`, wrong answers that mean the same must be written the same.
    """
    votes = Counter(_RIGHT if outcome.correct else outcome.answer for outcome in outcomes if outcome.answer)
    most = max(votes.values(), default=0)
    return (votes[_RIGHT] == most) / sum(count == most for count in votes.values()) if votes else 0.0


def contested(outcomes: Sequence[Outcome]) -> Counter[str]:
    """Samples by wrong answer, where the vote may turn on which of these mean the same; empty where it cannot."""
    right = sum(outcome.correct for outcome in outcomes if outcome.answer)
    wrong = Counter(outcome.answer for outcome in outcomes if outcome.answer and not outcome.correct)
    return wrong if max(wrong.values(), default=0) <= right <= wrong.total() else Counter()


def summarise(problems: Sequence[Sequence[Outcome]], k: int) -> dict[str, Any]:
    """Measures over problems with `k` samples each; a problem may have fewer where some could not be judged, and counts if it has any.

    Returns:
        `problems`, `pass_at_1` (mean over all samples), `pass_at_1_valid` (among samples of valid format; null if none),
        `pass_at_1_error` (standard error over problems), `pass_at_{k}` and `maj_at_{k}` for k > 1, `valid_format`,
        `mean_length` in tokens, `truncated` (shares are fractions in [0, 1]).
    """
    problems = [outcomes for outcomes in problems if outcomes]
    samples = [outcome for outcomes in problems for outcome in outcomes]
    valid = [outcome.correct for outcome in samples if outcome.valid_format]
    rates = [fmean(outcome.correct for outcome in outcomes) for outcomes in problems]
    summary = {
        "problems": len(problems),
        "pass_at_1": fmean(rates),
        "pass_at_1_valid": fmean(valid) if valid else None,
        "pass_at_1_error": stdev(rates) / math.sqrt(len(rates)) if len(rates) > 1 else 0.0,
    }
    if k > 1:
        summary[f"pass_at_{k}"] = fmean(pass_at_k(n := len(outcomes), sum(o.correct for o in outcomes), min(k, n)) for outcomes in problems)
        summary[f"maj_at_{k}"] = fmean(majority_correct(outcomes) for outcomes in problems)
    return summary | {
        "valid_format": fmean(outcome.valid_format for outcome in samples),
        "mean_length": fmean(outcome.tokens for outcome in samples),
        "truncated": fmean(outcome.truncated for outcome in samples),
    }
