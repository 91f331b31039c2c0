"""Votes on the outputs of tests: what is kept, replaced, supplied and removed. Pure."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from magistral_core.config.code_curation import AgreementSettings
from magistral_core.curation.code.answers import answers_of
from magistral_core.curation.code.draft import Test
from magistral_core.curation.code.votes import GIVEN, Answer, Fate, Outcome, decide
from magistral_core.records import TestCase
from magistral_core.rewards.outputs import Comparison
from magistral_core.rewards.validator import ValidatorError


def tokens(test: TestCase, text: str) -> str:
    return Comparison().difference(test.output, text)


def outcome(given: list[str | None], solutions: list[list[str | None]], /, **settings: float) -> Outcome:
    """The decisions on tests with these outputs of the file and of the solutions."""
    columns = [[solution[at] for solution in solutions] for at in range(len(given))]
    ballots = [answers_of(Test("", output), column, tokens, every=True) for output, column in zip(given, columns, strict=True)]
    return decide(ballots, AgreementSettings(**settings))


def fates(found: Outcome) -> str:
    """`k`, `p`, `s`, `x` for kept, replaced, supplied, removed."""
    letters = {Fate.KEPT: "k", Fate.REPLACED: "p", Fate.SUPPLIED: "s", Fate.REMOVED: "x"}
    return "".join(letters[decision.fate] for decision in found.decisions)


RIGHT: list[str | None] = ["1", "2", "3", "4", "5", "6"]


def test_a_wrong_output_is_replaced_by_the_common_one() -> None:
    found = outcome(["1", "2", "7", "4", "5", "6"], [RIGHT, RIGHT, RIGHT])
    assert fates(found) == "kkpkkk"
    assert found.decisions[2].output == "3"
    assert found.accuracy[GIVEN] == pytest.approx((5 + 9 + 1) / (6 + 10 + 2))
    assert found.accuracy[0] == pytest.approx(7 / 8)


def test_missing_outputs_are_supplied_in_the_same_way() -> None:
    found = outcome([None, "2", None, "4", "5", "6"], [RIGHT, RIGHT, ["0", "2", None, "4", "5", "6"]])
    assert fates(found) == "skskkk"
    assert (found.decisions[0].output, found.decisions[2].output) == ("1", "3")


def test_one_solution_is_no_agreement_but_confirms() -> None:
    assert fates(outcome([None, "2", "9", "4", "5", "6"], [RIGHT])) == "xkxkkk"


def test_solutions_that_share_a_mistake_are_outweighed_by_what_they_get_wrong_elsewhere() -> None:
    """Three solutions agree on a wrong output of the last test against two right ones and the file."""
    bad: list[list[str | None]] = [["1", "2", "3", "x", "5", "0"], ["1", "2", "y", "4", "5", "0"], ["1", "z", "3", "4", "w", "0"]]
    found = outcome(RIGHT, [RIGHT, RIGHT, *bad])
    assert fates(found) == "kkkkkk"


def test_the_output_of_a_wrong_solution_does_not_stay() -> None:
    given = ["1", "2", "3", "0", "5", "6"]
    found = outcome(given, [RIGHT, RIGHT, RIGHT, given])
    assert fates(found) == "kkkpkk"


def test_of_two_camps_that_with_the_file_is_right() -> None:
    """Two right solutions and two that share mistakes, answers of two values: only the file's own record tells them apart."""
    right: list[str | None] = ["y", "n"] * 10
    shared: list[str | None] = ["n"] * 12 + right[12:]
    given = list(right)
    given[13], given[15] = "y", "y"
    found = outcome(given, [right, right, shared, shared])
    assert [decision.output for decision in found.decisions] == right


def test_a_solution_that_always_prints_the_same_is_worth_nothing() -> None:
    empty: list[str | None] = [""] * 6
    found = outcome(["1", "2", "", "4", "5", "6"], [RIGHT, empty, empty])
    assert fates(found) == "kkxkkk"


def test_disagreement_removes_a_test() -> None:
    assert fates(outcome(["1"], [["2"], ["3"]])) == "x"
    assert fates(outcome([None, None, None, None], [["1", "1", "1", "1"], ["2", "1", "1", "1"]])) == "xsss"


@pytest.mark.parametrize(("repair", "fate"), [(0.9, "p"), (0.9999, "x")])
def test_a_replacement_needs_its_share(repair: float, fate: str) -> None:
    found = outcome(["1", "2", "3", "4", "5", "9"], [RIGHT, RIGHT, RIGHT], repair=repair)
    assert fates(found) == "kkkkk" + fate


def test_a_replacement_needs_enough_solutions() -> None:
    assert fates(outcome(["1", "2", "3", "4", "5", "9"], [RIGHT, RIGHT], solutions=3)) == "kkkkkx"


@example(solutions=[["a", "a", "c", "b"], ["a", "a", "c", "b"], ["b", "a", "b", "a"], ["b", "a", "b", "a"]], random=Random(1))
@given(st.lists(st.lists(st.sampled_from(["a", "b", "c", None]), min_size=4, max_size=4), min_size=0, max_size=5), st.randoms())
def test_the_order_of_solutions_does_not_matter(solutions: list[list[str | None]], random: st.DataObject) -> None:
    given_outputs: list[str | None] = ["a", "a", "b", "c"]
    shuffled = list(solutions)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    first, second = outcome(given_outputs, solutions), outcome(given_outputs, shuffled)
    assert [(d.fate, d.output, d.probability) for d in first.decisions] == [(d.fate, d.output, d.probability) for d in second.decisions]


@given(st.lists(st.sampled_from(["a", "b", None]), min_size=3, max_size=3), st.integers(2, 5))
def test_what_all_solutions_agree_on_is_the_output(column: list[str | None], count: int) -> None:
    expected = ["a", "b", "c"]
    found = outcome(column, [[*expected]] * count)
    for decision, own, right in zip(found.decisions, column, expected, strict=True):
        wanted = Fate.KEPT if own == right else Fate.SUPPLIED if own is None else Fate.REPLACED
        assert (decision.fate, decision.output) == (wanted, right) or (decision.fate is Fate.REMOVED and own != right and count == 2)


def even(test: TestCase, text: str) -> str:
    """A validator that takes every even number, and breaks where the answer is no number."""
    if not test.output.isdigit():
        raise ValidatorError("broke")
    return "" if text.isdigit() and int(text) % 2 == 0 else "odd"


def test_a_validator_takes_several_outputs() -> None:
    found = answers_of(Test("", "2"), ["4", "6", "8", "3", "3", None], even, every=False)
    assert found[0] == Answer("2", frozenset({GIVEN, 0, 1, 2}))
    assert sorted(map(sorted, (answer.voters for answer in found[1:]))) == [[0], [1], [2], [3], [4]]


def test_outputs_that_a_validator_refuses_as_their_own_answer_do_not_agree() -> None:
    found = answers_of(Test("", None), ["3", "3", "4", "8"], even, every=False)
    assert {answer.text: answer.voters for answer in found if len(answer.voters) > 1} == {
        "4": frozenset({2, 3}),
        "8": frozenset({2, 3}),
    }


@pytest.mark.parametrize("given", ["2", None])
def test_an_output_at_which_a_validator_breaks_stands_alone(given: str | None) -> None:
    def numbers_only(test: TestCase, text: str) -> str:
        if not text.isdigit():
            raise ValidatorError("broke")
        return even(test, text)

    found = answers_of(Test("", given), ["4", "6", "abc"], numbers_only, every=False)
    assert found[0].voters == frozenset({0, 1} | ({GIVEN} if given else set()))
    assert [answer.voters for answer in found if answer.text == "abc"] == [frozenset({2})]


def test_a_validator_that_breaks_with_the_given_answer_refuses_it() -> None:
    found = answers_of(Test("", "?"), ["4", "6"], even, every=False)
    assert found[0] == Answer("?", frozenset({GIVEN}))
    assert decide([found] * 3, AgreementSettings()).decisions[0].fate is Fate.REMOVED  # never right: two of two against one
    right = answers_of(Test("", "2"), ["4", "6"], even, every=False)
    assert decide([found] + [right] * 5, AgreementSettings()).decisions[0].fate is Fate.REPLACED
    with pytest.raises(ValidatorError):
        answers_of(Test("", "?"), ["x"], even, every=False)
