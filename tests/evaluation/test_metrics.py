"""pass@k and maj@k against their definitions, and what a summary holds."""

from __future__ import annotations

from itertools import combinations
from statistics import fmean

import pytest
from hypothesis import given
from hypothesis import strategies as st

from magistral_core.evaluation.metrics import Outcome, contested, majority_correct, pass_at_k, summarise


def outcome(answer: str, *, right: str = "7", valid: bool = True, tokens: int = 10, truncated: bool = False) -> Outcome:
    return Outcome(answer, answer == right, valid, tokens, truncated)


@given(st.lists(st.booleans(), min_size=1, max_size=9), st.data())
def test_pass_at_k_is_the_share_of_subsets_with_a_right_sample(samples: list[bool], data: st.DataObject) -> None:
    k = data.draw(st.integers(1, len(samples)))
    subsets = list(combinations(samples, k))
    assert pass_at_k(len(samples), sum(samples), k) == pytest.approx(sum(map(any, subsets)) / len(subsets))


def test_pass_at_k_needs_k_samples() -> None:
    with pytest.raises(ValueError, match="at least 5 samples"):
        pass_at_k(4, 2, 5)


@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        ("7", 1.0),
        ("5", 0.0),
        ("775", 1.0),
        ("755", 0.0),
        ("75", 0.5),  # a tie shares the vote
        ("7755699", 1 / 3),  # a tie of two wrong answers with a right one: 7, 5, 9
        ("", 0.0),
    ],
)
def test_majority(answers: str, expected: float) -> None:
    assert majority_correct([outcome(answer) for answer in answers]) == pytest.approx(expected)


def test_samples_without_an_answer_do_not_vote() -> None:
    assert majority_correct([outcome(""), outcome(""), outcome(""), outcome("7"), outcome("7"), outcome("5")]) == 1.0
    assert majority_correct([outcome(""), outcome("")]) == 0.0


def test_right_answers_vote_together_however_they_are_written() -> None:
    votes = [Outcome(answer, correct, True, 10, False) for answer, correct in (("x+1", True), ("1+x", True), ("x", False), ("y", False))]
    assert majority_correct(votes) == 1.0
    assert majority_correct([*votes, votes[-1]]) == 0.5


@given(st.lists(st.sampled_from("12345670"), max_size=8))
def test_answers_are_compared_only_where_the_vote_may_turn_on_it(answers: list[str]) -> None:
    """Whatever classes the wrong ones fall into, the share of a vote that is not contested stays what it is. `7` is right."""
    votes = [outcome(answer if answer != "0" else "") for answer in answers]
    wrong = contested(votes)
    assert set(wrong) <= {vote.answer for vote in votes if not vote.correct}
    pooled = [vote if vote.correct or not vote.answer else outcome("9") for vote in votes]
    if not wrong:
        assert majority_correct(pooled) == majority_correct(votes)
    else:
        assert majority_correct(votes) > 0.0


@given(st.lists(st.sampled_from("1257"), min_size=1, max_size=8), st.randoms())
def test_majority_does_not_depend_on_the_order(answers: list[str], random) -> None:
    before = majority_correct([outcome(answer) for answer in answers])
    random.shuffle(answers)
    assert majority_correct([outcome(answer) for answer in answers]) == before
    assert 0.0 <= before <= 1.0


def test_summary() -> None:
    problems = [
        [outcome("7", tokens=4), outcome("7", tokens=6), outcome("5", tokens=8), outcome("", valid=False, tokens=20, truncated=True)],
        [outcome("1", tokens=2), outcome("1", tokens=2), outcome("7", valid=False, tokens=2), outcome("2", tokens=4)],
    ]
    summary = summarise(problems, 4)
    assert summary["problems"] == 2
    assert summary["pass_at_1"] == pytest.approx(fmean([2 / 4, 1 / 4]))
    assert summary["pass_at_1_valid"] == pytest.approx(2 / 6)
    assert summary["pass_at_4"] == 1.0 and summary["maj_at_4"] == 0.5
    assert summary["valid_format"] == pytest.approx(6 / 8) and summary["truncated"] == pytest.approx(1 / 8)
    assert summary["mean_length"] == pytest.approx(48 / 8)
    assert summary["pass_at_1_error"] == pytest.approx(0.125)  # standard deviation 0.1768 over the root of 2 problems


def test_summary_of_single_samples_has_no_majority() -> None:
    summary = summarise([[outcome("7", valid=False)]], 1)
    assert "maj_at_1" not in summary and summary["pass_at_1"] == 1.0 and summary["pass_at_1_valid"] is None


def test_samples_that_nobody_judged_count_in_nothing() -> None:
    problems = [[outcome("7"), outcome("5"), outcome("7"), outcome("5")], [outcome("5"), outcome("7", tokens=40)], []]
    summary = summarise(problems, 4)
    assert summary["problems"] == 2 and summary["pass_at_1"] == 0.5
    assert summary["pass_at_4"] == 1.0 and summary["maj_at_4"] == 0.5
    assert summary["mean_length"] == 15.0
