"""Questions to a language model, by the same sampler as everything else; its journal makes a killed command go on without asking twice."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from magistral_core.config.curation import AskSettings, LlmSettings
from magistral_core.errors import InputError
from magistral_core.records import FinishReason, Problem, Request
from magistral_core.rewards import answer_part

#: What becomes of a backslash that was not doubled: `\\frac` is a form feed and `rac`, within a formula `\\neq` a new line and `eq`.
_CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f]")
_NEW_LINE = re.compile(r"\n(?=(?:eq?|u|ot|otin|abla|mid|leq|geq|parallel|cong|exists)(?![a-zA-Z]))")
#: Seeds of one row's attempts lie so far apart that no other row has them.
_ATTEMPT_SEEDS = 1 << 32


@dataclass(frozen=True, slots=True)
class Question:
    """One question: about which row, its text, where the row stands (`file:line`), and which attempt this is, from 0."""

    row: int
    text: str
    place: str
    attempt: int = 0


class Asker:
    """Asks one model. A context manager: its engines start with the first question that the journal cannot answer.

    Args:
        model: folder of the model.
        settings: how it is sampled. A `prompt.system` of `default` stands for `system`.
        journal: folder of the sampler's journal.
        system: system prompt; `{open}` and `{close}` in it are the thinking tags. Empty: what every run has by default.

    Raises:
        InputError: the model cannot be used.
    """

    def __init__(self, model: Path, settings: AskSettings, journal: Path, system: str = "") -> None:
        from magistral_core.generation.arguments import model_context
        from magistral_core.generation.chat import ChatRenderer
        from magistral_core.generation.sampler import Sampler

        prompt = settings.prompt
        if system and prompt.system == "default":
            prompt = prompt.model_copy(update={"system": system.format(open=prompt.think_open, close=prompt.think_close)})
        wanted = prompt.max_tokens + settings.max_tokens
        self._context = min(model_context(model) or wanted, wanted)
        self._settings = settings
        self._renderer = ChatRenderer(model, prompt, max_prompt_tokens=self._context - min(settings.max_tokens, self._context // 2))
        self._sampler = Sampler(
            model, settings.generation, max_model_len=self._context, engines=settings.engines, journal=journal, prompt=prompt
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.rest()

    def rest(self) -> None:
        """End the engines until the next question, so that another model has their memory."""
        self._sampler.close()

    def ask(self, questions: Iterable[Question], on_done: Callable[[int], None] = lambda _: None) -> Iterator[tuple[Question, str | None]]:
        """The answer to every question, without the thoughts; in order of finishing, last those whose prompt is too long, with None.

        An answer that was cut at its longest length is empty: it has no end. `on_done` gets the number of answers so far.

        Raises:
            InfrastructureError: an engine process died.
        """
        from magistral_core.generation.tokens import Sampling

        asked: dict[tuple[int, int], Question] = {}
        too_long: list[Question] = []

        def requests() -> Iterator[Request]:
            for question in questions:
                row, attempt = question.row, question.attempt
                try:
                    prompt = self._renderer.render(Problem(id=str(row), question=question.text, source=question.place))
                except InputError:  # longer than the limit
                    too_long.append(question)
                    continue
                asked[row, attempt] = question
                seed = self._settings.seed + row + attempt * _ATTEMPT_SEEDS
                yield Request(row, attempt, prompt, seed, self._context - len(prompt.token_ids))

        for completion in self._sampler.sample(requests(), Sampling(self._settings.temperature, 1.0), on_done):
            whole = completion.finish_reason is not FinishReason.LENGTH
            text = answer_part(completion.text, self._settings.prompt.think_close) if whole else ""
            yield asked.pop((completion.group_id, completion.index)), text
        for question in too_long:
            yield question, None


def asked(settings: LlmSettings, replies: Mapping[str, int]) -> dict[str, Any]:
    """What a report says about the language-model step, by how its replies were read."""
    said = ", ".join(f"{kind} {count}" for kind, count in sorted(replies.items())) or "nothing to ask"
    return {"model": settings.model, "replies": dict(replies), "note": f"Language model `{settings.model}`: {said}."}


def not_asked(what: str) -> dict[str, Any]:
    """The same where no model is configured; `what` would have gone to it."""
    return {
        "model": None,
        "note": f"The language-model step was skipped: no model is configured (`llm.model`); {what} would have gone to it.",
    }


def read_object(text: str) -> dict[str, Any] | None:
    """The last JSON object of a text that is not empty and stands inside no other; None without, or if LaTeX in it lost a backslash."""
    decoder = json.JSONDecoder()
    found: dict[str, Any] | None = None
    at = text.find("{")
    while at >= 0:
        end = at + 1
        try:
            value, end = decoder.raw_decode(text, at)
            found = value or found
        except (ValueError, RecursionError):
            pass
        at = text.find("{", end)
    if found is None or any(_lost_a_backslash(value) for value in found.values() if isinstance(value, str)):
        return None
    return found


def is_encodable(text: str) -> bool:
    """Whether a file or a program can be given it: JSON may hold half a surrogate pair alone."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _lost_a_backslash(text: str) -> bool:
    lines = (match.start() for match in _NEW_LINE.finditer(text))
    return bool(_CONTROL.search(text)) or any(text.count("$", 0, start) % 2 for start in lines)
