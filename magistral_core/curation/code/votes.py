"""Which output of a test is right, by the votes of the solutions and of the file's own output. Pure.

A voter is a solution, or the file (`GIVEN`), whose outputs are one more opinion. On a test each voter that has an output stands behind it,
and behind every other answer that the problem's comparison takes it for. Votes weigh what the voter is worth:

    leader of a test     the answer with the most weight behind it, of at least two voters
    accuracy of a voter  share of the tests on which it stands behind the leader, smoothed:  (agreed + 1) / (answered + 2)
    weight               log(accuracy / (1 - accuracy)), and 0 below one half

in turn, beginning with equal weights, until the leaders stay. This is naive Bayes with unknown right answers (Dawid and Skene, 1979), with
one accuracy a voter. It is what tells two right solutions from two that share a mistake: those fail elsewhere.

    leader is the given output, with a share of at least `keep`         -> kept
    leader is another, of at least `solutions` solutions and `repair`   -> replaces the given output, or supplies one
    else                                                                -> removed
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from magistral_core.config.code_curation import AgreementSettings

#: The voter that is the file.
GIVEN = -1
#: Leaders settle after a few rounds; two sets of leaders that alternate are stopped here.
_MOST_ROUNDS = 50


@dataclass(frozen=True, slots=True)
class Answer:
    """An output that was proposed for a test, and the voters behind it. That of the file has `GIVEN` among them and is the first."""

    text: str
    voters: frozenset[int]


class Fate(StrEnum):
    """What becomes of a test."""

    KEPT = "kept"
    REPLACED = "replaced"
    SUPPLIED = "supplied"
    REMOVED = "removed"


@dataclass(frozen=True, slots=True)
class Decision:
    """One test.

    Attributes:
        fate: what becomes of it.
        output: its expected output; None if it is removed.
        share: of the weight behind the leader; 0 without one.
        voters: who stands behind the leader.
    """

    fate: Fate
    output: str | None
    share: float
    voters: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True)
class Outcome:
    """All tests of a problem, and the accuracy of every voter that answered any of those with a leader."""

    decisions: tuple[Decision, ...]
    accuracy: dict[int, float]


def decide(tests: Sequence[Sequence[Answer]], settings: AgreementSettings) -> Outcome:
    """Decide every test of a problem; for each test its proposed answers."""
    weights = {voter: 1.0 for answers in tests for answer in answers for voter in answer.voters}
    accuracy: dict[int, float] = {}
    leaders: list[Answer | None] = []
    for _ in range(_MOST_ROUNDS):
        before, leaders = leaders, [_leader(answers, weights) for answers in tests]
        if leaders == before:
            break
        accuracy = _accuracies(tests, leaders)
        weights = {voter: _weight(accuracy.get(voter, 0.5)) for voter in weights}
    return Outcome(tuple(_decision(answers, leader, weights, settings) for answers, leader in zip(tests, leaders, strict=True)), accuracy)


def _leader(answers: Sequence[Answer], weights: dict[int, float]) -> Answer | None:
    """The first of the heaviest answers with two voters, so that in a tie the file's own stays."""
    shared = [answer for answer in answers if len(answer.voters) > 1]
    return max(shared, key=lambda answer: _behind(answer.voters, weights), default=None)


def _accuracies(tests: Sequence[Sequence[Answer]], leaders: Sequence[Answer | None]) -> dict[int, float]:
    answered: dict[int, int] = {}
    agreed: dict[int, int] = {}
    for answers, leader in zip(tests, leaders, strict=True):
        if leader is None:
            continue
        for voter in _everyone(answers):
            answered[voter] = answered.get(voter, 0) + 1
            agreed[voter] = agreed.get(voter, 0) + (voter in leader.voters)
    return {voter: (agreed[voter] + 1) / (answered[voter] + 2) for voter in answered}


def _weight(accuracy: float) -> float:
    return max(0.0, math.log(accuracy / (1 - accuracy)))


def _decision(answers: Sequence[Answer], leader: Answer | None, weights: dict[int, float], settings: AgreementSettings) -> Decision:
    if leader is None:
        return Decision(Fate.REMOVED, None, 0.0)
    whole = _behind(_everyone(answers), weights)
    share = _behind(leader.voters, weights) / whole if whole else 0.0
    first_is_given = GIVEN in answers[0].voters
    if leader is answers[0] and first_is_given:
        fate = Fate.KEPT if share >= settings.keep else Fate.REMOVED
    elif share >= settings.repair and len(leader.voters - {GIVEN}) >= settings.solutions:
        fate = Fate.REPLACED if first_is_given else Fate.SUPPLIED
    else:
        fate = Fate.REMOVED
    return Decision(fate, None if fate is Fate.REMOVED else leader.text, share, leader.voters)


def _everyone(answers: Sequence[Answer]) -> frozenset[int]:
    return frozenset().union(*(answer.voters for answer in answers))


def _behind(voters: frozenset[int], weights: dict[int, float]) -> float:
    return math.fsum(weights[voter] for voter in sorted(voters))
