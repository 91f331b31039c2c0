"""Difficulty: from what k samples answered to a verdict on the problem (Magistral, section 4). Pure.

    samples -> answers -> classes of equal answers -> Grade -> judge() -> kept, or a reason

A grade knows no threshold, so that a problem is judged anew with others without being sampled again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from magistral_core.config.grading import PassSettings
from magistral_core.curation.reasons import GradingReason
from magistral_core.rewards.votes import leaders, most_votes_first

#: Share of the samples that must have been graded: fewer say more about the verifier than about the problem.
_LEAST_GRADED = 0.5
#: What is less than this can be no majority.
_HALF = 0.5


@dataclass(frozen=True, slots=True)
class AnswerClass:
    """Answers to one problem that mean the same.

    Attributes:
        answer: the one given most often.
        votes: samples that gave one of them.
        correct: whether they equal the reference.
    """

    answer: str
    votes: int
    correct: bool


@dataclass(frozen=True, slots=True)
class Grade:
    """What one grader's samples made of one problem.

    Attributes:
        samples: how many were drawn (k).
        errors: of these, how many got no verdict because the verifier broke or the reference is unusable.
        truncated: how many were cut at the maximum length; they are wrong and have no vote.
        tokens: mean length of a sample.
        answers: classes of equal answers, most votes first. Samples without an answer are in none.
    """

    samples: int
    errors: int
    truncated: int
    tokens: float
    answers: tuple[AnswerClass, ...]

    @property
    def graded(self) -> int:
        """Samples with a verdict."""
        return self.samples - self.errors

    @property
    def correct(self) -> int:
        """Samples that were right."""
        return sum(group.votes for group in self.answers if group.correct)

    @property
    def pass_rate(self) -> float | None:
        """Share of right samples among the graded; None if none was graded."""
        return self.correct / self.graded if self.graded else None

    @property
    def agreement(self) -> float:
        """Share of the graded samples that the most frequent answer has; samples without an answer count as against it."""
        return self.answers[0].votes / self.graded if self.answers and self.graded else 0.0


def equal_classes(right: Mapping[str, int], others: Mapping[str, int], equal: set[tuple[str, str]]) -> tuple[AnswerClass, ...]:
    """Merge answers that mean the same, most votes first.

    Args:
        right: samples by answer, of answers that equal the reference.
        others: the same of all other answers.
        equal: pairs of others that mean the same, in either order.

    Of answers tied for first place the right one leads, so that a tie outvotes nobody.
    """
    classes: Counter[str] = Counter()
    for answer, leader in leaders(others, equal).items():
        classes[leader] += others[answer]
    found = [AnswerClass(answer, count, False) for answer, count in classes.items()]
    if right:
        found.append(AnswerClass(min(right.items(), key=most_votes_first)[0], sum(right.values()), True))
    return tuple(sorted(found, key=lambda group: (-group.votes, not group.correct, group.answer)))


def contested(grade: Grade | None, settings: PassSettings) -> bool:
    """Whether a pass that votes has more than half of its samples for one answer other than the reference."""
    return grade is not None and settings.majority is not None and _other_majority(grade, _HALF)


def judge(grade: Grade | None, settings: PassSettings, again: Grade | None = None, lead: float = _HALF) -> GradingReason | None:
    """Why a pass removes a problem; None if it stays. Without a grade the prompt was too long.

    The vote comes before difficulty, though the paper names it last: a wrong reference is never met, and `too_hard` would say less.

    Args:
        grade: of the pass.
        settings: its thresholds.
        again: samples of a second look, which vote instead.
        lead: by a larger share of these another answer is ahead of a reference that is outvoted.
    """
    if grade is None:
        return GradingReason.PROMPT_TOO_LONG
    rate = grade.pass_rate
    if rate is None or grade.graded < _LEAST_GRADED * grade.samples:
        return GradingReason.UNGRADED
    if _led(again, lead) if again is not None else _outvoted(grade, settings):
        return GradingReason.GOLD_OUTVOTED
    if rate <= settings.above:
        return GradingReason.TOO_HARD
    return GradingReason.TOO_EASY if rate >= settings.below else None


def _led(grade: Grade, lead: float) -> bool:
    """Whether another answer is ahead of the reference by more than a share of the samples."""
    return bool(grade.answers) and grade.answers[0].votes - grade.correct > lead * grade.graded


def _outvoted(grade: Grade, settings: PassSettings) -> bool:
    return settings.majority is not None and _other_majority(grade, settings.majority) and (grade.pass_rate or 0.0) <= settings.support


def _other_majority(grade: Grade, majority: float) -> bool:
    """Whether more than a share of the samples agree on one answer that is not the reference."""
    return grade.agreement > majority and not grade.answers[0].correct


def votes_by_agreement(grades: Sequence[Grade], edges: Sequence[float] = (0.25, 0.5, 0.75, 1.0)) -> list[dict[str, float | int]]:
    """How often the most frequent answer is not the reference, by how many samples agree on it.

    As agreement grows, a model errs less, and what remains is the share of wrong references: where the share stops falling is where a vote
    can be trusted. No label is needed for that.

    Returns:
        One row a bin `(last edge, edge]`: `agreement` (its upper edge), `problems`, `against` (the reference).
    """
    count: Counter[float] = Counter()
    against: Counter[float] = Counter()
    for grade in grades:
        if grade.answers:
            edge = next(edge for edge in edges if grade.agreement <= edge)
            count[edge] += 1
            against[edge] += not grade.answers[0].correct
    return [{"agreement": edge, "problems": count[edge], "against": against[edge]} for edge in edges if count[edge]]
