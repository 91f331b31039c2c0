"""Sampling and verifying: every problem that has no grade yet gets k samples, and its grade is stored before the next is counted.

    problems --requests--> Sampler --completions--> complete groups --> _Recorder (a thread): verify, store

A problem is finished once its grade is in the store; a command that was killed samples the others only.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import numpy as np
import xxhash

from magistral_core.config.grading import GradingRecipe
from magistral_core.config.schema import RewardSettings
from magistral_core.curation.grading import Grade, equal_classes
from magistral_core.curation.grading_store import GradeStore
from magistral_core.errors import InputError
from magistral_core.records import Completion, FinishReason, Problem, Prompt, Request, ScoreStatus
from magistral_core.rewards import Verdict, Verifier, answer_part, canonical_answer, extract_boxed
from magistral_core.rewards.votes import equal_pairs

if TYPE_CHECKING:
    from magistral_core.generation.sampler import OpenEngines

#: Problems, or seconds, after which finished ones are verified and stored: what a kill costs beyond the samples under way.
_STORE_PROBLEMS = 64
_STORE_SECONDS = 5.0
#: Batches that may wait for the verifier before sampling does.
_WAITING_BATCHES = 4

Group = tuple[str, Problem, list[Completion]]


@dataclass(frozen=True, slots=True)
class Grader:
    """A model that grades.

    Attributes:
        name: what reports call it.
        folder: config, weights and tokenizer; on a cluster every machine sees it under this path.
    """

    name: str
    folder: Path

    def fingerprint(self) -> dict[str, str]:
        """Checksums of everything in the folder that samples depend on."""
        from magistral_core.generation.weights import model_checksums

        return model_checksums(self.folder)


def problem_key(problem: Problem) -> str:
    """What a grade depends on in a problem: statement and reference. 32 hexadecimal digits."""
    return xxhash.xxh3_128_hexdigest("\0".join((problem.question, problem.answer)).encode("utf-8", "surrogatepass"))


def what_samples_depend_on(weights: Mapping[str, str], recipe: GradingRecipe) -> dict[str, Any]:
    """What a grade depends on but the problem: the grader's fingerprint, prompt and sampling; neither thresholds nor places."""
    return {
        "model": weights,
        "prompt": recipe.prompt.model_dump(exclude={"on_long"}),
        "sampling": recipe.sampling.model_dump(exclude={"engines", "ray_address"}),
        "dtype": recipe.generation.dtype,
    }


def grade_missing(
    problems: Mapping[str, Problem],
    recipe: GradingRecipe,
    grader: Grader,
    store: GradeStore,
    *,
    open_engines: OpenEngines | None = None,
    on_done: Callable[[int], None] = lambda _: None,
) -> int:
    """Sample and grade every problem that the store has no grade of; a prompt too long for the model gets none.

    Args:
        problems: mathematics problems by their key.
        recipe: settings of sampling.
        grader: the model.
        store: its grades.
        open_engines: engines elsewhere than on this machine.
        on_done: called with the number of problems that are finished.

    Returns:
        How many problems were sampled.

    Raises:
        InputError: the model cannot be used.
        InfrastructureError: an engine or the verifier's pool broke, or the store failed.
    """
    from magistral_core.generation.arguments import model_context
    from magistral_core.generation.chat import ChatRenderer
    from magistral_core.generation.sampler import Sampler
    from magistral_core.generation.tokens import Sampling

    finished = sum(store.get(key) is not None for key in problems)
    on_done(finished)
    if finished == len(problems):
        return 0
    sampling, asked_for = recipe.sampling, recipe.prompt.max_tokens + recipe.sampling.max_tokens
    context = min(model_context(grader.folder) or asked_for, asked_for)
    # A model too small for both gives half of its context to the completion.
    renderer = ChatRenderer(grader.folder, recipe.prompt, min(recipe.prompt.max_tokens, context - min(sampling.max_tokens, context // 2)))
    open_groups: dict[int, Group] = {}

    def requests() -> Iterator[Request]:
        for number, (key, problem) in enumerate(problems.items()):
            prompt = _rendered(renderer, problem) if store.get(key) is None else None
            if prompt is not None:
                open_groups[number] = key, problem, []
                room = min(sampling.max_tokens, context - len(prompt.token_ids))
                yield from (Request(number, i, prompt, _seed(sampling.seed, key, i), room) for i in range(sampling.samples))

    limits = RewardSettings(language=0.0, **recipe.verification.model_dump())
    with (
        Verifier(limits, recipe.prompt) as verifier,
        Sampler(
            grader.folder,
            recipe.generation,
            max_model_len=context,
            engines=sampling.engines,
            prompt=recipe.prompt,
            seed=sampling.seed,
            open_engines=open_engines,
        ) as sampler,
        _Recorder(verifier, store, recipe.prompt.think_close, lambda stored: on_done(finished + stored)) as recorder,
    ):
        for completion in sampler.sample(requests(), Sampling(sampling.temperature, sampling.top_p)):
            group = open_groups[completion.group_id]
            group[2].append(completion)
            if len(group[2]) == sampling.samples:
                recorder.add(open_groups.pop(completion.group_id))
        return recorder.finish()


def grade_groups(groups: Sequence[Group], verifier: Verifier, think_close: str) -> dict[str, Grade]:
    """Grades of complete groups, by problem key. Answers are compared by the verifier, all groups' together."""
    votes = [Counter(filter(None, (_answer(completion, think_close) for completion in completions))) for *_, completions in groups]
    against_gold = iter(
        verifier.answers_equal(
            [(problem.answer, answer) for (_, problem, _), counts in zip(groups, votes, strict=True) for answer in counts]
        )
    )
    sorted_votes = [_sorted_out(counts, {answer: next(against_gold) for answer in counts}) for counts in votes]
    grades = {}
    for (key, _, completions), found, equal in zip(
        groups, sorted_votes, equal_pairs([found.others for found in sorted_votes], verifier), strict=True
    ):
        truncated = sum(completion.finish_reason is FinishReason.LENGTH for completion in completions)
        tokens = fmean(completion.length for completion in completions)
        grades[key] = Grade(len(completions), found.errors, truncated, tokens, equal_classes(found.right, found.others, equal))
    return grades


class _Votes(NamedTuple):
    """Samples by answer, the wrong ones by canonical answer; and how many got no verdict."""

    right: dict[str, int]
    others: Counter[str]
    errors: int


def _sorted_out(votes: Mapping[str, int], verdicts: Mapping[str, Verdict]) -> _Votes:
    found = _Votes({answer: count for answer, count in votes.items() if verdicts[answer].correct}, Counter(), 0)
    for answer, count in votes.items():
        if verdicts[answer].status is ScoreStatus.ERROR:
            found = found._replace(errors=found.errors + count)
        elif answer not in found.right:
            found.others[canonical_answer(answer)] += count
    return found


class _Recorder:
    """Verifies and stores finished groups in a thread of its own, so that engines never wait for a slow formula."""

    def __init__(self, verifier: Verifier, store: GradeStore, think_close: str, on_stored: Callable[[int], None]) -> None:
        self._verifier = verifier
        self._store = store
        self._think_close = think_close
        self._on_stored = on_stored
        self._thread = ThreadPoolExecutor(1, "grades")
        self._batch: list[Group] = []
        self._batch_since = time.monotonic()
        self._waiting: deque[Future[Mapping[str, Grade]]] = deque()
        self._stored = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._send()  # where an engine died, what was complete by then is stored all the same
        self._thread.shutdown()

    def add(self, group: Group) -> None:
        """Take a complete group. Raises what went wrong with an earlier one."""
        self._batch.append(group)
        if len(self._batch) >= _STORE_PROBLEMS or time.monotonic() - self._batch_since > _STORE_SECONDS:
            self._send()
        self._settle(_WAITING_BATCHES)

    def finish(self) -> int:
        """Wait until everything is stored; returns how many problems were."""
        self._send()
        self._settle(0)
        return self._stored

    def _send(self) -> None:
        batch, self._batch, self._batch_since = self._batch, [], time.monotonic()
        if batch:
            self._waiting.append(self._thread.submit(self._record, batch))

    def _record(self, batch: Sequence[Group]) -> Mapping[str, Grade]:
        grades = grade_groups(batch, self._verifier, self._think_close)
        self._store.add(grades)
        return grades

    def _settle(self, allowed: int) -> None:
        while self._waiting and (self._waiting[0].done() or len(self._waiting) > allowed):
            self._stored += len(self._waiting.popleft().result())
            self._on_stored(self._stored)


def _rendered(renderer: Any, problem: Problem) -> Prompt | None:
    try:
        prompt: Prompt = renderer.render(problem)
    except InputError:  # longer than the limit
        return None
    return prompt


def _answer(completion: Completion, think_close: str) -> str:
    """The boxed answer behind the thoughts; empty if there is none, or the completion was cut."""
    if completion.finish_reason is FinishReason.LENGTH:
        return ""
    return extract_boxed(answer_part(completion.text, think_close), bare=True) or ""


def _seed(seed: int, key: str, index: int) -> int:
    """Of one sample: the same wherever the problem stands in the input."""
    return int(np.random.SeedSequence([seed, int(key[:16], 16), index]).generate_state(1)[0]) & 0x7FFFFFFF
