"""Which of the answers to one problem mean the same, for a vote among them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations

from magistral_core.rewards.verifier import Verifier


def most_votes_first(item: tuple[str, int]) -> tuple[int, str]:
    """Order of answers in a vote: the most frequent first, equally frequent ones by their text."""
    return -item[1], item[0]


def leaders(votes: Mapping[str, int], equal: set[tuple[str, str]]) -> dict[str, str]:
    """For each answer the one that stands for all that mean the same; their leader stands for itself.

    Args:
        votes: samples by answer.
        equal: pairs of answers that mean the same, in either order.

    Equality of answers need not be transitive (numbers are compared with a tolerance): an answer joins the class whose most frequent
    member it equals, the class whose member is most frequent first.
    """
    found: dict[str, str] = {}
    firsts: list[str] = []
    for answer, _ in sorted(votes.items(), key=most_votes_first):
        found[answer] = next((first for first in firsts if (first, answer) in equal or (answer, first) in equal), answer)
        if found[answer] == answer:
            firsts.append(answer)
    return found


def equal_pairs(votes: Sequence[Mapping[str, int]], verifier: Verifier) -> list[set[tuple[str, str]]]:
    """Pairs of answers that the verifier holds equal, for each problem's answers; all problems' are compared together."""
    pairs = [list(combinations(sorted(answers), 2)) for answers in votes]
    verdicts = iter(verifier.answers_equal([pair for found in pairs for pair in found]))
    return [{pair for pair in found if next(verdicts).correct} for found in pairs]
