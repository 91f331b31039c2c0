"""Answers that mean the same are one in a vote."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from magistral_core.config.schema import PromptSettings, RewardSettings
from magistral_core.rewards import Verifier
from magistral_core.rewards.votes import equal_pairs, leaders


@given(
    st.dictionaries(st.sampled_from("abcdef"), st.integers(1, 9)), st.sets(st.tuples(st.sampled_from("abcdef"), st.sampled_from("abcdef")))
)
def test_a_leader_stands_for_itself_and_has_most_votes(votes: dict[str, int], equal: set[tuple[str, str]]) -> None:
    found = leaders(votes, equal)
    assert found.keys() == votes.keys()
    for answer, leader in found.items():
        assert found[leader] == leader
        assert votes[leader] >= votes[answer]
        assert leader == answer or (leader, answer) in equal or (answer, leader) in equal
    firsts = set(found.values())
    assert not [pair for pair in equal if pair[0] != pair[1] and set(pair) <= firsts], "no two leaders mean the same"


def test_the_verifier_says_which_mean_the_same() -> None:
    votes = [{"6": 2, "\\$6": 2, "7": 1}, {}, {"x+1": 1, "1+x": 1, "x": 1}]
    with Verifier(RewardSettings(language=0.0, workers=1), PromptSettings()) as verifier:
        equal = equal_pairs(votes, verifier)
    assert equal == [{("6", "\\$6")} if "6" < "\\$6" else {("\\$6", "6")}, set(), {("1+x", "x+1")}]
