"""The optional step through a language model, by the same sampler as everything else.

    multiple choice that rules cannot rewrite -> "say it without its options"  -> through the rules and the gold check again
    survivor with a doubt                     -> "is it usable"                -> rejected, or kept

A reply that cannot be read changes nothing: the rules' decision stands, and the report counts it. The sampler's journal lies in the work
folder, so that a killed command does not sample a finished problem again.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from magistral_core.config.curation import LlmSettings
from magistral_core.curation.entry import Entry
from magistral_core.curation.reasons import Reason
from magistral_core.errors import InputError
from magistral_core.records import Completion, FinishReason, Problem, Request
from magistral_core.rewards import answer_part

#: What becomes of a backslash that was not doubled: `\\frac` reads as a form feed and `rac`.
_CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f]")

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


def parse_reply(text: str, think_close: str) -> Reply:
    """Read the last JSON object behind the thoughts."""
    content = last_object(answer_part(text, think_close))
    if content is None or any(_CONTROL.search(value) for value in content.values() if isinstance(value, str)):
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

    def tasks() -> Iterator[tuple[int, Problem]]:
        for entry in entries:
            if (task := task_for(entry)) is not None:
                waiting[entry.index] = entry
                yield entry.index, Problem(id=entry.id, question=task, source=f"{entry.file}:{entry.line}")

    for index, completion in replies(tasks(), SYSTEM, model, settings, journal, on_done):
        yield waiting.pop(index), None if completion is None else _understood(completion, settings.prompt.think_close)


def replies(
    tasks: Iterable[tuple[int, Problem]],
    system: str,
    model: Path,
    settings: LlmSettings,
    journal: Path,
    on_done: Callable[[int], None] = lambda _: None,
) -> Iterator[tuple[int, Completion | None]]:
    """One completion a task, by its number, in order of finishing; at the end None for each whose prompt is too long for the model.

    Args:
        tasks: each with its number; the problem's statement is what the model is asked.
        system: system prompt, with {open} and {close} for the tags of thoughts.
        model, settings: the model and how it samples.
        journal: folder that keeps finished completions: none is sampled twice.
        on_done: gets the number of finished completions.

    Raises:
        InputError: the model cannot be used.
        InfrastructureError: an engine process died.
    """
    from magistral_core.generation.arguments import model_context
    from magistral_core.generation.chat import ChatRenderer
    from magistral_core.generation.sampler import Sampler
    from magistral_core.generation.tokens import Sampling

    system = system.format(open=settings.prompt.think_open, close=settings.prompt.think_close)
    prompt = settings.prompt.model_copy(update={"system": system if settings.prompt.system == "default" else settings.prompt.system})
    context = min(
        model_context(model) or settings.prompt.max_tokens + settings.max_tokens, settings.prompt.max_tokens + settings.max_tokens
    )
    limit = context - min(settings.max_tokens, context // 2)
    renderer = ChatRenderer(model, prompt, max_prompt_tokens=limit)
    too_long: list[int] = []

    def requests() -> Iterator[Request]:
        for number, task in tasks:
            try:
                rendered = renderer.render(task)
            except InputError:  # longer than the limit
                too_long.append(number)
                continue
            yield Request(number, 0, rendered, settings.seed + number, context - len(rendered.token_ids))

    sampling = Sampling(settings.temperature, 1.0)
    with Sampler(model, settings.generation, max_model_len=context, engines=settings.engines, journal=journal, prompt=prompt) as sampler:
        for completion in sampler.sample(requests(), sampling, on_done):
            yield completion.group_id, completion
    for number in too_long:
        yield number, None


def _understood(completion: Completion, think_close: str) -> Reply:
    if completion.finish_reason is FinishReason.LENGTH:
        return Reply("unreadable", why="the reply was cut at its longest length")
    return parse_reply(completion.text, think_close)


def last_object(text: str) -> dict[str, Any] | None:
    """The last JSON object of a text that is not empty and stands inside no other."""
    decoder = json.JSONDecoder()
    found = None
    at = text.find("{")
    while at >= 0:
        end = at + 1
        try:
            value, end = decoder.raw_decode(text, at)
            found = value or found
        except ValueError:
            pass
        at = text.find("{", end)
    return found
