"""The format filter (Magistral, section 4): complete, one verifiable final answer, no proofs, one part, no options. Pure.

    draft -> completeness -> answer -> form --> Passed (perhaps rewritten, perhaps with a doubt)
                  '------------'---------'-----> Finding, with its reason

The gold check follows in `run.py`: it needs worker processes.
"""

from __future__ import annotations

from dataclasses import dataclass

from magistral_core.config.curation import FormatSettings
from magistral_core.curation.answers import final_answer, is_yes_no
from magistral_core.curation.choices import Choice, names_an_option, rewrite, take_apart
from magistral_core.curation.draft import Draft
from magistral_core.curation.reasons import Reason
from magistral_core.curation.statements import Finding, doubt, incomplete, proof_only, several_parts


@dataclass(frozen=True, slots=True)
class Passed:
    """A problem that the rules let through.

    Attributes:
        question, answer: the plain statement and its one answer.
        rewritten: it was a multiple choice.
        doubt: what the rules could not decide; empty if nothing.
    """

    question: str
    answer: str
    rewritten: bool = False
    doubt: str = ""


def check_form(draft: Draft, settings: FormatSettings) -> Passed | Finding:
    """Put a draft through the rules, in the order of the filters."""
    question = draft.question
    if len(question) > settings.max_question_chars:
        return Finding(Reason.TOO_LONG, f"{len(question)} characters")
    choice = take_apart(question, draft.choices, draft.answer, draft.raw_answer)
    stem = question if choice is None else choice.stem
    if found := incomplete(stem, picture=draft.picture, has_choices=choice is not None):
        return found
    if choice is not None:
        return _check_choice(choice, draft, settings)
    answer, found = final_answer(draft, settings.max_answer_words)
    if found:
        return found
    found = proof_only(question) or several_parts(question)
    if found:
        return found
    if names_an_option(answer):
        return Finding(Reason.MULTIPLE_CHOICE, f"the answer is the option {answer}, and there are no options")
    if is_yes_no(answer) and settings.yes_no == "reject":
        return Finding(Reason.YES_NO, answer)
    return Passed(question, answer, doubt=doubt(question))


def _check_choice(choice: Choice, draft: Draft, settings: FormatSettings) -> Passed | Finding:
    if not draft.answer:
        return Finding(Reason.NO_ANSWER, "no answer")
    if choice.answer is None:
        return Finding(Reason.UNRESOLVED_CHOICE, f"{draft.answer[:40]} is none of {len(choice.options)} options")
    if settings.multiple_choice == "reject":
        return Finding(Reason.MULTIPLE_CHOICE, "format.multiple_choice is reject")
    if found := proof_only(choice.stem):
        return found
    plain = rewrite(choice)
    if isinstance(plain, str):
        return Finding(Reason.MULTIPLE_CHOICE, plain, choice.options, choice.answer)
    question, answer = plain
    if is_yes_no(answer) and settings.yes_no == "reject":
        return Finding(Reason.YES_NO, answer)
    if found := several_parts(question):
        return found
    return Passed(question, answer, rewritten=True, doubt=doubt(question))
