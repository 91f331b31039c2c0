"""The format filter: every reason with the statements that deserve it and their neighbours that do not."""

from __future__ import annotations

import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from magistral_core.config.curation import FormatSettings
from magistral_core.config.schema import FieldNames
from magistral_core.curation.draft import read_draft
from magistral_core.curation.form import Passed, check_form
from magistral_core.curation.reasons import Reason
from magistral_core.errors import InputError
from magistral_core.problems import Row


def judge(question: Any, answer: Any = "7", *, rules: FormatSettings | None = None, **more: Any) -> Any:
    """What the filter says: Passed, or the reason."""
    row = {"question": question, "answer": answer, **more}
    result = check_form(read_draft(Row("f.jsonl", 1, row)), rules or FormatSettings())
    return result if isinstance(result, Passed) else result.reason


def test_half_a_character_in_an_option_can_be_written() -> None:
    draft = read_draft(Row("f.jsonl", 1, {"question": "Which?", "answer": 1, "choices": {"text": ["2\ud835", "3"], "label": ["A", "B"]}}))
    assert draft.choices == {"text": ["2\ufffd", "3"], "label": ["A", "B"]}


@pytest.mark.parametrize(
    ("question", "reason"),
    [
        (None, Reason.EMPTY),
        (" ? ", Reason.EMPTY),
        (17, Reason.EMPTY),
        ("In the figure, what is the length of AB?", Reason.MISSING_FIGURE),
        ("Twelve squares form a rectangle, as shown. What is its area?", Reason.MISSING_FIGURE),
        ("The graph below belongs to f. What is f(2)?", Reason.MISSING_FIGURE),
        ("Use the following table to find the mean of the ages.", Reason.MISSING_FIGURE),
        ("![triangle](t.png) What is its area?", Reason.MISSING_FIGURE),
        ("What is x in Figure 3?", Reason.MISSING_FIGURE),
        ("If Tom has 3 apples and gives away the", Reason.CUT_OFF),
        ("Find the value of x such that", Reason.CUT_OFF),
        ("How many apples are there if Tom has a", Reason.CUT_OFF),
        ("How many of the cards, the chips, ...", Reason.CUT_OFF),
        (r"Solve \begin{align} x + y &= 2", Reason.CUT_OFF),
        ("How many ways are there to choose three of the seven cards if they mu...", Reason.CUT_OFF),
        ("Tom has 3 apples. Ann has 5 apples.", Reason.NO_QUESTION),
        ("Prove that the sum of two odd numbers is even.", Reason.PROOF),
        ("Let n be odd. Show that $n^2-1$ is divisible by 8.", Reason.PROOF),
        ("Given a triangle, carefully verify that its altitudes meet.", Reason.PROOF),
        ("Let $a>b$. Demonstrate the following inequality: $a^2 > ab$ for $a>0$.", Reason.PROOF),
        ("(a) Find the mean. (b) Find the median.", Reason.MULTI_PART),
        ("A cube has edge 3.\n1. What is its volume?\n2. What is its surface?", Reason.MULTI_PART),
        ("Ann has 20 coins. How many are gold? How many are silver?", Reason.MULTI_PART),
        ("There are 5 red and 7 blue balls. How many red and blue balls are there respectively?", Reason.MULTI_PART),
        ("Half of 8 is ____ and a third of 9 is ____.", Reason.MULTI_PART),
    ],
)
def test_statements_that_are_rejected(question: Any, reason: Reason) -> None:
    assert judge(question) == reason


@pytest.mark.parametrize(
    "question",
    [
        "How many action figures does Tom have?",
        "If 3a + 5 = 20, find a",
        "Find the measure of angle A",
        "Find the 100th term of the sequence 1, 3, 5, 7, ...",
        "Brad figured that each guest drinks 2 glasses. How many does he need?",
        "A ball is drawn at random. What is the probability that it is red?",
        r"In the diagram, what is the area? [asy] draw((0,0)--(1,0)); [/asy]",
        "The ages are listed in the table below.\n| name | age |\n|---|---|\n| Ann | 7 |\nWhat is the mean?",
        "Find the sum below.\n$$30+40+50$$",
        "Calculate the total of 3 and 5",
        "The sum of 3 and 4 is",
        "Find, with proof, the least n such that 7 divides n.",
        "Prove that the limit exists, and evaluate it.",
        "What is 3+4? Justify your answer.",
        "The show starts at 7. How many hours until 9?",
        'She asks "How old is he?" and he says 7. How old is he?',
        "A stock follows these rules. (i) It starts at 5. (ii) It rises by 1 a day. What is it after 2 days?",
        "Lines are drawn from (a) the top and (b) the side. How many are there?",
        "Determine 3 (mod 5).",
        "Solve for $x$: $2^x = 128$.",
        "Find x. (1988 AIME)",
        "Calculez la somme de 3 et 4.",
        "求 3 与 4 的和。",
    ],
)
def test_statements_that_pass(question: str) -> None:
    assert isinstance(judge(question), Passed)


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (None, Reason.NO_ANSWER),
        ("", Reason.NO_ANSWER),
        ("None.", Reason.NO_ANSWER),
        ("Answers may vary", Reason.NO_ANSWER),
        ({"value": 3}, Reason.NO_ANSWER),
        (float("nan"), Reason.NO_ANSWER),
        ("(a) 3 (b) 5", Reason.SEVERAL_ANSWERS),
        ("1. 3 2. 5", Reason.SEVERAL_ANSWERS),
        (r"\boxed{3} or \boxed{4}", Reason.SEVERAL_ANSWERS),
        ("It goes up because the rate of interest is higher than before", Reason.PROSE_ANSWER),
        ("9" * 600, Reason.PROSE_ANSWER),
        ("(B)", Reason.MULTIPLE_CHOICE),
    ],
)
def test_answers_that_are_rejected(answer: Any, reason: Reason) -> None:
    assert judge("What is it?", answer) == reason


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        *[(27.0, "27"), ([1, 2], "1, 2"), ("so\n#### 72", "72"), (True, "True"), (r"\text{east}", r"\text{east}"), (0, "0")],
        *[([1.5, 2.5], "1.5, 2.5"), ("(1.5, 2.5)", "(1.5, 2.5)"), ("1.5 < x < 2.5", "1.5 < x < 2.5"), ("x = 1.2, y = 2.4",) * 2],
    ],
)
def test_answers_that_pass(answer: Any, text: str) -> None:
    assert judge("What is it?", answer).answer == text


def test_the_result_of_a_worked_solution() -> None:
    assert judge("What is the limit?", None, solution="The limit equals $-1$.").answer == "-1"
    assert judge("What is the limit?", None, solution=r"We add. So \boxed{4}.").answer == "4"
    assert judge("What is the limit?", None, solution="So $x=\\boxed{7}$.\n#### Remark").answer == "7"
    assert judge("What is the limit?", None, solution="Show that no such polynomials exist.") is Reason.PROSE_ANSWER


def test_order_of_the_filters() -> None:
    """Completeness comes before the answer, the answer before the form."""
    assert judge("Prove it with the figure below.", None) == Reason.MISSING_FIGURE
    assert judge("Prove that 2 is even.", None) == Reason.NO_ANSWER


def test_settings() -> None:
    assert judge("Is 7 odd?", "Yes", rules=FormatSettings(yes_no="reject")) == Reason.YES_NO
    assert isinstance(judge("Is 7 odd?", "Yes"), Passed)
    assert judge("What is 1+1? " + "x" * 50, rules=FormatSettings(max_question_chars=40)) == Reason.TOO_LONG
    assert judge("What is it?", "A", choices=["7", "8"], rules=FormatSettings(multiple_choice="reject")) == Reason.MULTIPLE_CHOICE


def test_doubts_are_noted() -> None:
    assert judge("How tall is the tower shown to him?").doubt == "may need a figure"
    assert judge("Prove that it converges and find the limit.").doubt == "asks for a proof beside a result"
    assert judge("What is 3+4?").doubt == ""


def test_a_field_that_is_set_must_exist() -> None:
    with pytest.raises(InputError, match=r"f\.jsonl:3: no field text"):
        read_draft(Row("f.jsonl", 3, {"question": "What?"}), FieldNames(question="text"))


def test_every_reason_explains_itself() -> None:
    assert all(reason.__doc__ and reason.stage and reason.value == reason for reason in Reason)


_PIECES = st.sampled_from(
    ["(a)", "?", "$", "\\", "{", "}", "[", "show", " ", "which", ".", "I.", "figure", "_", "|", "\n", "1.", "A)", "the"]
)


@settings(max_examples=200, deadline=None)
@given(
    st.lists(_PIECES, max_size=60).map("".join), st.one_of(st.none(), st.text(max_size=30), st.integers(), st.lists(st.text(max_size=5)))
)
def test_anything_gets_a_verdict(question: str, answer: Any) -> None:
    verdict = judge(question, answer)
    assert verdict in set(Reason) if not isinstance(verdict, Passed) else verdict.answer


@pytest.mark.parametrize(
    "piece",
    ["(", "I. ", "show ", "which ", "which? ", "? ", "...", "|a", "(a) ", "options ", "$", "_", "A) ", " ", "\n", "~", ";", "\\quad"],
)
def test_hostile_statements_take_no_time(piece: str) -> None:
    """Each is as long as a statement may be."""
    began = time.thread_time()
    for question in ("x" + piece * 20_000, "(A) 1" + piece * 20_000):
        assert judge(question[:19_980] + "y (B) 2", "A") is not Reason.TOO_LONG
        judge(question[:20_000], "A", choices=["1", "2"])
    assert time.thread_time() - began < 5, "of processor time; linear rules take a hundredth of it"
