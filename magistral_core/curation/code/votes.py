"""Which output of a test is right, by the votes of the solutions and of the file's own output. Pure.

A voter is a solution, or the file (`GIVEN`), whose outputs are one more opinion. On a test each voter that has an output stands behind it,
and behind every other answer that the problem's comparison takes it for. Votes weigh what the voter is worth:

    leader of a test     the answer with the most weight behind it
    accuracy of a voter  share of the tests on which it stands behind the leader, smoothed:  p = (agreed + 1) / (answered + 2); the file
                         begins with ten tests more, `file_accuracy` of them right: most files are
    weight               log(p / (1 - p)) + log(K - 1), and 0 for p up to one half: a voter may be worthless, but is no reversed oracle

in turn, until the leaders stay. K is the number of different outputs that the problem's tests have by simple majority, at least 2: whoever
is wrong gives one of the K - 1 others, so that agreement means more where there are many. This is the model of Dawid and Skene (1979) with
one accuracy a voter and hard assignments. It has several fixed points; all voters equal is one beginning, each alone in the right another,
and the likeliest end counts. So two right solutions are told from four that share a mistake: those fail elsewhere, too. Of ends that are as
likely, that which the file agrees with more; and where these differ on a test, nothing is known of it.

    probability of an answer   1 / (1 + sum over its rivals of exp(weight behind the rival only - weight behind the answer only))
    share of an answer         solutions behind it, of those that have an output and any weight

    leader is the given output, with a probability of at least `keep`     -> kept
    leader is another, with `repair`, `share` and `solutions` behind it   -> replaces the given output, or supplies one
    else, fewer than two voters of any weight behind it, or not known     -> removed
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from magistral_core.config.code_curation import AgreementSettings

#: The voter that is the file.
GIVEN = -1
#: Tests that the file's accuracy before any vote counts for.
_FILE_TESTS = 10
#: Up to this accuracy a voter is worth nothing.
_GUESS = 0.5
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
        probability: of the leader; 0 without one.
        voters: who stands behind the leader.
    """

    fate: Fate
    output: str | None
    probability: float
    voters: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True)
class Outcome:
    """All tests of a problem, and the accuracy of every voter that answered any."""

    decisions: tuple[Decision, ...]
    accuracy: dict[int, float]


@dataclass(frozen=True, slots=True)
class _Belief:
    """A fixed point: leaders (None for a test that nobody answered), what they say of the voters, and how likely it makes the votes."""

    leaders: list[Answer | None]
    accuracy: dict[int, float]
    weights: dict[int, float]
    likelihood: float


def decide(tests: Sequence[Sequence[Answer]], settings: AgreementSettings) -> Outcome:
    """Decide every test of a problem; for each test its proposed answers."""
    voters = sorted({voter for answers in tests for answer in answers for voter in answer.voters})
    equal = dict.fromkeys(voters, 1.0)
    beginnings = [equal] + [dict.fromkeys(voters, 0.0) | {voter: 1.0} for voter in voters]
    majority = {leader.text for answers in tests if (leader := _leader(answers, equal)) is not None}
    others = max(2, len(majority)) - 1
    beliefs = [_settled(tests, weights, others, settings.file_accuracy) for weights in beginnings]
    best = max(map(_rank, beliefs))
    # Where ends are equally likely, and the file is as right in each, nothing tells which it is: they must agree on a test.
    likeliest = sorted((belief for belief in beliefs if _rank(belief) == best), key=_texts)
    belief = likeliest[0]
    decisions = []
    for answers, leader, texts in zip(tests, belief.leaders, zip(*map(_texts, likeliest), strict=True), strict=True):
        decided = _decision(answers, leader, belief.weights, settings)
        decisions.append(decided if len(set(texts)) == 1 else Decision(Fate.REMOVED, None, 0.0))
    return Outcome(tuple(decisions), belief.accuracy)


def _rank(belief: _Belief) -> tuple[float, int]:
    """By likelihood; among equals the file stays."""
    return round(belief.likelihood, 9), sum(leader is not None and GIVEN in leader.voters for leader in belief.leaders)


def _texts(belief: _Belief) -> list[str]:
    return ["" if leader is None else leader.text for leader in belief.leaders]


def _settled(tests: Sequence[Sequence[Answer]], weights: Mapping[int, float], others: int, file_accuracy: float) -> _Belief:
    """The fixed point that a beginning leads to; `others` is K - 1."""
    leaders: list[Answer | None] = []
    for _ in range(_MOST_ROUNDS):
        before, leaders = leaders, [_leader(answers, weights) for answers in tests]
        if leaders == before:
            break
        answered, agreed = _agreement(tests, leaders)
        if GIVEN in answered:
            answered[GIVEN] += _FILE_TESTS
            agreed[GIVEN] += _FILE_TESTS * file_accuracy
        accuracy = {voter: (agreed[voter] + 1) / (count + 2) for voter, count in answered.items()}
        weights = {voter: math.log(p / (1 - p)) + math.log(others) if p > _GUESS else 0.0 for voter, p in accuracy.items()}
    likelihood = 0.0
    for voter, p in accuracy.items():
        wrong = answered[voter] - agreed[voter]
        likelihood += agreed[voter] * math.log(max(p, _GUESS)) + wrong * math.log(min(1 - p, _GUESS) / others)
    return _Belief(leaders, accuracy, dict(weights), likelihood)


def _leader(answers: Sequence[Answer], weights: Mapping[int, float]) -> Answer | None:
    """The first of the heaviest answers, so that in a tie the file's own stays."""
    return max(answers, key=lambda answer: _behind(answer.voters, weights), default=None)


def _agreement(tests: Sequence[Sequence[Answer]], leaders: Sequence[Answer | None]) -> tuple[dict[int, float], dict[int, float]]:
    """Tests that each voter answered, and those on which it stands behind the leader."""
    answered: dict[int, float] = {}
    agreed: dict[int, float] = {}
    for answers, leader in zip(tests, leaders, strict=True):
        for voter in _everyone(answers):
            answered[voter] = answered.get(voter, 0) + 1
            agreed[voter] = agreed.get(voter, 0) + (leader is not None and voter in leader.voters)
    return answered, agreed


def _decision(answers: Sequence[Answer], leader: Answer | None, weights: Mapping[int, float], settings: AgreementSettings) -> Decision:
    trusted = frozenset(voter for voter, weight in weights.items() if weight > 0)
    if leader is None or len(leader.voters & trusted) < 2:
        return Decision(Fate.REMOVED, None, 0.0)
    # An answer with nobody else behind it is the same to this comparison, not a rival.
    rivals = {answer.voters for answer in answers if not answer.voters <= leader.voters}
    odds = math.fsum(math.exp(_behind(rival - leader.voters, weights) - _behind(leader.voters - rival, weights)) for rival in rivals)
    probability = 1 / (1 + odds)
    first_is_given = GIVEN in answers[0].voters
    behind, all_solutions = ((voters & trusted) - {GIVEN} for voters in (leader.voters, _everyone(answers)))
    if leader is answers[0] and first_is_given:
        fate = Fate.KEPT if probability >= settings.keep else Fate.REMOVED
    elif probability >= settings.repair and len(behind) >= max(settings.solutions, settings.share * len(all_solutions)):
        fate = Fate.REPLACED if first_is_given else Fate.SUPPLIED
    else:
        fate = Fate.REMOVED
    return Decision(fate, None if fate is Fate.REMOVED else leader.text, probability, leader.voters)


def _everyone(answers: Sequence[Answer]) -> frozenset[int]:
    return frozenset().union(*(answer.voters for answer in answers))


def _behind(voters: frozenset[int], weights: Mapping[int, float]) -> float:
    return math.fsum(weights[voter] for voter in voters)
