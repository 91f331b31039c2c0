"""Why a problem is rejected, and at which filter: the vocabulary of `rejected.jsonl` and of the report."""

from __future__ import annotations

from enum import StrEnum
from typing import Self


class Stage(StrEnum):
    """The filters, in the order in which a problem meets them. Difficulty comes after the last: see `GradingStage`."""

    COMPLETENESS = "completeness"
    ANSWER = "answer"
    FORM = "form"
    GOLD = "gold check"
    LLM = "language model"
    DUPLICATES = "duplicates"
    DECONTAMINATION = "decontamination"


class CodeStage(StrEnum):
    """The filters of code problems, in order."""

    COMPLETENESS = "completeness"
    SOLUTIONS = "solutions"
    TESTS = "tests"


class GradingStage(StrEnum):
    """The filters of a pass, in the order in which they give a problem its reason. Which problems stay doesn't depend on it."""

    PROMPT = "prompt"
    VERIFIER = "verifier"
    MAJORITY = "majority against reference"
    DIFFICULTY = "difficulty"


class ReasonCode(StrEnum):
    """A reason: a text that has its filter as `stage` and a sentence for people as `__doc__`."""

    stage: StrEnum

    def __new__(cls, code: str, stage: StrEnum = Stage.COMPLETENESS, doc: str = "") -> Self:
        """A text with its filter and its explanation. The defaults are for type checkers, which take `Reason(code)` for a call of this."""
        member = str.__new__(cls, code)
        member._value_ = code
        member.stage = stage
        member.__doc__ = doc
        return member


class Reason(ReasonCode):
    """Reasons to reject a mathematics problem."""

    EMPTY = "empty", Stage.COMPLETENESS, "There is no statement."
    TOO_LONG = "too_long", Stage.COMPLETENESS, "The statement is longer than `format.max_question_chars`."
    MISSING_FIGURE = "missing_figure", Stage.COMPLETENESS, "The statement needs a figure, picture or table that the text does not hold."
    CUT_OFF = "cut_off", Stage.COMPLETENESS, "The statement stops in mid-sentence or in mid-formula."
    NO_QUESTION = "no_question", Stage.COMPLETENESS, "Nothing is asked."

    NO_ANSWER = "no_answer", Stage.ANSWER, "There is no reference answer."
    SEVERAL_ANSWERS = "several_answers", Stage.ANSWER, "The reference answer has several parts, labelled or boxed."
    PROSE_ANSWER = "prose_answer", Stage.ANSWER, "The reference answer is a text that no verifier can compare."
    UNRESOLVED_CHOICE = "unresolved_choice", Stage.ANSWER, "The reference answer of a multiple choice is none of its options."

    PROOF = "proof", Stage.FORM, "A proof is asked for, and nothing else."
    MULTI_PART = "multi_part", Stage.FORM, "Several tasks or questions share one statement."
    MULTIPLE_CHOICE = "multiple_choice", Stage.FORM, "A multiple choice that means nothing without its options; rules cannot rewrite it."
    YES_NO = "yes_no", Stage.FORM, "The answer is yes or no, and `format.yes_no` is reject."

    UNVERIFIABLE_GOLD = "unverifiable_gold", Stage.GOLD, "The reference answer cannot be read as mathematics, or does not equal itself."

    LLM_REJECTED = "llm_rejected", Stage.LLM, "The language model judged a doubtful problem unusable."

    LLM_CHANGED_ANSWER = (
        "llm_changed_answer",
        Stage.LLM,
        "The language model rewrote a multiple choice with another answer than its right option.",
    )

    EXACT_DUPLICATE = "exact_duplicate", Stage.DUPLICATES, "The normalised statement was kept before."
    NEAR_DUPLICATE = "near_duplicate", Stage.DUPLICATES, "A statement with the same numbers and nearly the same words was kept before."

    CONTAMINATED = "contaminated", Stage.DECONTAMINATION, "An evaluation item shares an n-gram with it, or is nearly the same."


class CodeReason(ReasonCode):
    """Reasons to reject a code problem."""

    MALFORMED = "malformed", CodeStage.COMPLETENESS, "Tests, solutions, limits or the comparison have a form that cannot be used."
    EMPTY = "empty", CodeStage.COMPLETENESS, "There is no statement."
    CHECKS_ONLY = "checks_only", CodeStage.COMPLETENESS, "Its tests are assertions, which have no outputs to compare."
    BROKEN_VALIDATOR = "broken_validator", CodeStage.COMPLETENESS, "Its output validator does not compile, or breaks."

    NOT_ASKED = "not_asked", CodeStage.COMPLETENESS, "It asks for a function, in Python, which is none of `languages`."

    NO_SOLUTIONS = "no_solutions", CodeStage.SOLUTIONS, "There is no solution in Python or C++."
    NONE_RUNS = "none_runs", CodeStage.SOLUTIONS, "No solution ended well on any test."

    TOO_FEW_TESTS = "too_few_tests", CodeStage.TESTS, "Fewer than `min_tests` tests are left that the solutions agree on."
    UNSOLVED = "unsolved", CodeStage.TESTS, "Fewer than `min_solutions` solutions pass every test that is left."
    AMBIGUOUS = "ambiguous", CodeStage.TESTS, "Without the tests that were removed, the others' arguments would be read otherwise."


class GradingReason(ReasonCode):
    """Reasons of grading."""

    PROMPT_TOO_LONG = "prompt_too_long", GradingStage.PROMPT, "The model has no room for the prompt (`prompt.max_tokens`)."
    UNGRADED = "ungraded", GradingStage.VERIFIER, "The verifier could not compare most of the samples with the reference."
    GOLD_OUTVOTED = "gold_outvoted", GradingStage.MAJORITY, "Most samples agree on another answer: the reference is probably wrong."
    TOO_HARD = "too_hard", GradingStage.DIFFICULTY, "Never or too seldom solved."
    TOO_EASY = "too_easy", GradingStage.DIFFICULTY, "Always or too often solved."
