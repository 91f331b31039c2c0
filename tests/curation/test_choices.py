"""Multiple choice: options found in every usual shape, the right one resolved, the statement rewritten or left alone."""

from __future__ import annotations

from typing import Any

import pytest

from magistral_core.curation.choices import rewrite, take_apart

STEM = "How much is 3 + 4?"


@pytest.mark.parametrize(
    ("choices", "answer", "raw"),
    [
        (["5", "7", "9"], "7", "7"),
        (["5", "7", "9"], "B", "B"),
        (["5", "7", "9"], "b)", "b)"),
        (["5", "7", "9"], "1", 1),
        (["A)5", "B)7", "C)9"], "B", "B"),
        (["(A) 5", "(B) 7", "(C) 9"], "(B)", "(B)"),
        ([[{"aoVal": "A", "content": "$$5$$ "}], [{"aoVal": "B", "content": "$$7$$ "}]], "B", "B"),
        ({"A": "5", "B": "7"}, "B", "B"),
        ({"label": ["1", "2"], "text": ["5", "7"]}, "2", "2"),
        ({"text": ["5", "7"]}, "B", "B"),
        ([{"label": "A", "text": "5"}, {"label": "B", "text": "7."}], "B", "B"),
        ('["5", "7", "9"]', "B", "B"),
        ("['5', '7', '9']", "B", "B"),
        ("a ) 5 , b ) 7 , c ) 9", "b", "b"),
        ("A. 5\nB. 7\nC. 9", "B", "B"),
    ],
)
def test_options_in_a_field(choices: Any, answer: str, raw: Any) -> None:
    choice = take_apart(STEM, choices, answer, raw)
    assert choice is not None
    assert (choice.stem, choice.answer) == (STEM, "7")
    assert rewrite(choice) == (STEM, "7")


@pytest.mark.parametrize(
    ("choices", "answer", "raw"),
    [
        (["1", "2", "3", "5"], "2", 2),  # the content of one, the number of another
        ({"label": ["1", "2", "3"], "text": ["3", "1", "2"]}, "3", "3"),
        ("see the picture", "B", "B"),
        ("{{5}}", "B", "B"),
        ("\n" * 20_000, "B", "B"),
        (["5"], "A", "A"),
    ],
)
def test_what_cannot_be_told_is_unresolved(choices: Any, answer: str, raw: Any) -> None:
    choice = take_apart(STEM, choices, answer, raw)
    assert choice is not None
    assert choice.answer is None


def test_a_field_without_options_makes_no_multiple_choice() -> None:
    assert take_apart(STEM, [], "7", "7") is None
    assert take_apart(STEM, "", "B", "B") is None
    assert take_apart(STEM, "none", "7", "7") is None


@pytest.mark.parametrize(
    "statement",
    [
        f"{STEM} (A) 5 (B) 7 (C) 9",
        f"{STEM}\nA. 5\nB. 7\nC. 9",
        f"{STEM} A) 5 B) 7 C) 9",
        f"{STEM} (a) 5. (b) 7. (c) 9. Which option is correct?",
        STEM + r" $\textbf{(A)}\ 5 \qquad \textbf{(B)}\ 7 \qquad \textbf{(C)}\ 9$",
        f"{STEM} (A) 5 (B) 7 (C) 9  Enter the letter of the correct option.",
    ],
)
def test_options_in_the_statement(statement: str) -> None:
    choice = take_apart(statement, None, "(B)", "(B)")
    assert choice is not None
    assert choice.stem == STEM
    assert choice.answer is not None
    assert choice.answer.strip("$ ") == "7"


@pytest.mark.parametrize(
    ("statement", "answer"),
    [
        ("Lines through (A) and (B) meet at (C). How long is AB?", "7"),
        ("Rules: (a) no ties; (b) no breaks. Who wins?", "Ann"),
        ("A ball is thrown. B catches it. How far did it fly?", "12 m"),
    ],
)
def test_no_multiple_choice(statement: str, answer: str) -> None:
    assert take_apart(statement, None, answer, answer) is None


def test_options_repeated_in_the_statement_are_cut_from_it() -> None:
    choice = take_apart(f"{STEM} (A) 5 (B) 7", ["5", "7"], "B", "B")
    assert choice is not None
    assert choice.stem == STEM


def test_an_answer_that_is_no_option() -> None:
    choice = take_apart(STEM, ["5", "9"], "E", "E")
    assert choice is not None
    assert choice.answer is None


@pytest.mark.parametrize(
    ("stem", "right"),
    [
        ("Which of the following is prime?", "7"),
        ("Which number is the smallest?", "7"),
        ("Of the following, what is the best guess?", "7"),
        ("What could be the value of x?", "7"),
        ("48 is not a multiple of", "7"),
        ("All of these are even except", "7"),
        ("The result is closest to", "7"),
        ("How many are there?", "None of these"),
        ("How many are there?", "Cannot be determined"),
        ("How many are there?", "I and III only"),
        ("What follows?", "The sum of its digits is even"),
    ],
)
def test_what_rules_cannot_rewrite(stem: str, right: str) -> None:
    choice = take_apart(stem, [right, "8", "9"], "A", "A")
    assert choice is not None
    assert isinstance(rewrite(choice), str)


@pytest.mark.parametrize(
    ("stem", "right", "plain"),
    [
        ("Which is longer: 3 hours or 175 minutes?", "3 hours", "Which is longer: 3 hours or 175 minutes?"),
        ("On which day of the week does it fall?", "Monday", "On which day of the week does it fall?"),
        ("The sum of the numbers is．", "7", "The sum of the numbers is ____."),
        ("A man, which is 40, is twice as old as his son. How old is the son?", "20", None),
        ("What is the largest number that can be formed?", "9", None),
        ("How many are there in the following sum?", "7", None),
    ],
)
def test_what_rules_rewrite(stem: str, right: str, plain: str | None) -> None:
    choice = take_apart(stem, [right, "8", "11"], "A", "A")
    assert choice is not None
    assert rewrite(choice) == (plain or stem, right)
