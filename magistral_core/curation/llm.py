"""The optional step through a language model, by the same sampler as everything else.

    multiple choice that rules cannot rewrite -> "say it without its options"  -> through the rules and the gold check again
    survivor with a doubt                     -> "is it usable"                -> rejected, or kept

A reply that cannot be read changes nothing: the rules' decision stands, and the report counts it. The sampler's journal lies in the work
folder, so that a killed command does not sample a finished problem again.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from magistral_core.config.curation import LlmSettings
from magistral_core.curation.asking import Asker, Question, is_encodable, read_object
from magistral_core.curation.entry import Entry
from magistral_core.curation.reasons import Reason

SYSTEM = """\
You prepare mathematics problems for an automatic grader, which sees only the final answer. Think first, between {open} and {close}, if \
it helps. End with one JSON object on a line of its own and nothing behind it."""

_REWRITE = """\
The problem below is a multiple choice. Say it again as a problem that can be answered without seeing the options, so that the right \
option's content is its only correct answer. Change nothing else: keep all numbers and conditions, add no hint. If other answers would \
be just as right once the options are gone, it cannot be done.

Problem:
{question}

Options:
{options}

Right option: {right}

Reply with {{"question": "...", "answer": "..."}}, or with {{"impossible": "why"}}."""

_JUDGE = """\
Can the problem below be used? It must be complete as text, with nothing missing such as a figure; it must ask one thing; and that must \
have one final answer that can be compared with the reference, not a proof. A rule was in doubt: it {doubt}.

Problem:
{question}

Reference answer: {answer}

Reply with {{"usable": true}}, or with {{"usable": false, "why": "..."}}."""


@dataclass(frozen=True, slots=True)
class Reply:
    """A reply, understood.

    `rewritten` has question and answer; `usable`, `unusable` and `impossible` say it themselves, the last two with `why`; `unreadable` is
    anything else.
    """

    kind: Literal["rewritten", "usable", "unusable", "impossible", "unreadable"]
    question: str = ""
    answer: str = ""
    why: str = ""


def task_for(entry: Entry) -> str | None:
    """What the model is asked about a row; None if the rules are sure of it."""
    if entry.reason == Reason.MULTIPLE_CHOICE and entry.options:
        options = "\n".join(f"- {option}" for option in entry.options)
        return _REWRITE.format(question=entry.question, options=options, right=entry.right)
    if not entry.reason and entry.doubt:
        return _JUDGE.format(question=entry.question, answer=entry.answer, doubt=entry.doubt)
    return None


def parse_reply(text: str) -> Reply:
    """Read the last JSON object of an answer."""
    content = read_object(text)
    if content is None or not is_encodable(json.dumps(content, ensure_ascii=False)):
        return Reply("unreadable")
    question, answer = content.get("question"), content.get("answer")
    if isinstance(question, str) and question.strip() and isinstance(answer, str | int | float) and str(answer).strip():
        return Reply("rewritten", question.strip(), str(answer).strip())
    if "impossible" in content:
        return Reply("impossible", why=str(content["impossible"]))
    if content.get("usable") is True:
        return Reply("usable")
    if content.get("usable") is False:
        return Reply("unusable", why=str(content.get("why", "")))
    return Reply("unreadable")


def ask(
    entries: Iterable[Entry], model: Path, settings: LlmSettings, journal: Path, on_done: Callable[[int], None] = lambda _: None
) -> Iterator[tuple[Entry, Reply | None]]:
    """Ask about every row that has a task; yields in order of finishing, with None where the prompt is too long for the model.

    Raises:
        InputError: the model cannot be used.
        InfrastructureError: an engine process died.
    """
    waiting: dict[int, Entry] = {}

    def questions() -> Iterator[Question]:
        for entry in entries:
            task = task_for(entry)
            if task is not None:
                waiting[entry.index] = entry
                yield Question(entry.index, task, f"{entry.file}:{entry.line}")

    with Asker(model, settings, journal, SYSTEM) as asker:
        for question, answer in asker.ask(questions(), on_done):
            reply = None if answer is None else parse_reply(answer)
            yield waiting.pop(question.row), reply
