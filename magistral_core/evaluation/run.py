"""Evaluate a model on a suite: load, render, sample, grade, summarise."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import xxhash

from magistral_core.config.schema import FieldNames, Recipe
from magistral_core.errors import InfrastructureError, InputError
from magistral_core.evaluation.metrics import Outcome, contested, summarise
from magistral_core.evaluation.report import EvaluationReport
from magistral_core.evaluation.suites import suite_named
from magistral_core.generation.arguments import model_context
from magistral_core.generation.chat import ChatRenderer
from magistral_core.generation.journal import journal_until_done
from magistral_core.generation.sampler import Sampler, sampling_identity
from magistral_core.generation.tokens import Sampling
from magistral_core.records import Completion, FinishReason, Problem, ProblemKind, Prompt, Request, ScoreStatus
from magistral_core.rewards import Verifier, answer_part, canonical_answer, check_format, extract_boxed
from magistral_core.rewards.votes import equal_pairs, leaders

Progress = Callable[[int, int], None]
#: Fewest tokens that must be left for a completion behind the longest prompt.
_LEAST_ROOM = 32


def evaluate(
    suite: str,
    model_dir: Path,
    recipe: Recipe,
    *,
    name: str = "",
    data: str | None = None,
    journals: Path | None = None,
    on_progress: Progress | None = None,
) -> EvaluationReport:
    """Sample and grade a suite (Magistral, section 5.1).

    Args:
        suite: name.
        model_dir: folder with config, weights and tokenizer.
        recipe: its `evaluation` section overrides the suite's protocol; `prompt`, `generation` (engine) and `rewards` (worker
            limits) apply as in training, and `problems.fields` to `data`.
        name: what the report calls the model.
        data: file or folder with the suite's problems, in place of its own source.
        journals: finished samples are kept below this folder until there is a report; the same evaluation, started again, goes on there.
        on_progress: called with finished and all completions.

    Returns:
        The report. A completion cut at the maximum length is wrong and has no vote in maj@k; one at which the verifier broke is left out.

    Raises:
        InputError: unknown suite, unreadable problems, a problem that no verifier judges, a prompt too long for the model.
        InfrastructureError: an engine died, or the verifier broke at every completion.
    """
    began = time.perf_counter()
    chosen, settings = suite_named(suite), recipe.evaluation
    problems = chosen.load(data, recipe.problems.fields if data else FieldNames(), recipe.model.tiny.world)[: settings.problems]
    samples = settings.samples or chosen.samples
    sampling = Sampling(chosen.temperature if settings.temperature is None else settings.temperature, chosen.top_p)
    # What a run adds to the verdict, its own functions and the language, is neither asked for here nor need it be at hand.
    verifier = Verifier(recipe.rewards.model_copy(update={"extra": (), "language": 0.0}), recipe.prompt)
    if code := sum(problem.kind is ProblemKind.CODE for problem in problems):
        raise InputError(f"suite {suite}: {code} code problems cannot be evaluated, only mathematics; judge single ones by verify code")
    verifier.check_supported(problems)
    wanted = settings.max_tokens or chosen.max_tokens
    context = model_context(model_dir) or recipe.prompt.max_tokens + wanted
    rendered = ChatRenderer(
        model_dir,
        recipe.prompt.model_copy(update={"on_long": "refuse"}),  # an evaluation may not skip any
        max_prompt_tokens=context - _LEAST_ROOM,
        mend="longer ones leave the model no room for an answer; take another model, or the problem out",
    ).render_all(problems)
    longest = max(len(prompt.token_ids) for _, prompt in rendered)
    max_tokens = min(wanted, context - longest)
    requests = list(_requests([prompt for _, prompt in rendered], samples, max_tokens, recipe.seed))
    with contextlib.ExitStack() as stack:
        journal = None
        if journals is not None:
            identity = sampling_identity(model_dir, recipe.generation, sampling, recipe.prompt, longest + max_tokens)
            journal = stack.enter_context(journal_until_done(journals, {**identity, "requests": _digest(requests)}))
        with Sampler(
            model_dir,
            recipe.generation,
            max_model_len=longest + max_tokens,
            engines=settings.engines,
            journal=journal,
            prompt=recipe.prompt,
            seed=recipe.seed,
        ) as sampler:
            grouped: list[list[Completion]] = [[] for _ in problems]
            report_progress = None if on_progress is None else lambda done: on_progress(done, len(requests))
            for completion in sampler.sample(requests, sampling, report_progress):
                grouped[completion.group_id].append(completion)
        with verifier:
            outcomes, unverifiable, unjudged = _grade(problems, grouped, verifier, recipe)
    return EvaluationReport(
        suite=suite,
        model=name or str(model_dir),
        samples=samples,
        totals=summarise(outcomes, samples),
        by_level=_split(outcomes, samples, [str(problem.level) for problem in problems]),
        by_language=_split(outcomes, samples, [problem.language for problem in problems]),
        unverifiable=unverifiable,
        unjudged=unjudged,
        seconds=round(time.perf_counter() - began, 2),
        settings={"temperature": sampling.temperature, "top_p": sampling.top_p, "max_tokens": max_tokens, "seed": recipe.seed},
    )


def _requests(prompts: Sequence[Prompt], samples: int, max_tokens: int, seed: int) -> Iterator[Request]:
    for i, prompt in enumerate(prompts):
        for j in range(samples):
            draw = int(np.random.SeedSequence([seed, i, j]).generate_state(1)[0]) & 0x7FFFFFFF
            yield Request(i, j, prompt, draw, max_tokens)


def _digest(requests: Sequence[Request]) -> str:
    asked = xxhash.xxh3_128()
    for request in requests:
        asked.update(f"{request.group_id} {request.index} {request.seed} {request.max_tokens} ".encode())
        asked.update(request.prompt.token_ids.tobytes())
    return asked.hexdigest()


def _grade(
    problems: Sequence[Problem], grouped: Sequence[Sequence[Completion]], verifier: Verifier, recipe: Recipe
) -> tuple[list[list[Outcome]], int, int]:
    """Outcomes by problem, how many problems have an unusable reference, and how many completions the verifier broke at."""
    close = recipe.prompt.think_close
    pairs = [(problem.answer, completion.text) for problem, group in zip(problems, grouped, strict=True) for completion in group]
    verdicts = iter(verifier.grade_responses(pairs))
    outcomes: list[list[Outcome]] = []
    unverifiable = unjudged = 0
    for problem, group in zip(problems, grouped, strict=True):
        graded, unusable = [], False
        for completion in group:
            verdict = next(verdicts)
            if verdict.broke:
                unjudged += 1
                continue
            unusable |= verdict.status is ScoreStatus.ERROR
            cut = completion.finish_reason is FinishReason.LENGTH
            answer = "" if cut else extract_boxed(answer_part(completion.text, close), bare=True) or ""
            form = check_format(completion.text, problem.kind, recipe.prompt, completion.finish_reason)
            graded.append(Outcome(canonical_answer(answer), verdict.correct and not cut, not form.fault, completion.length, cut))
        outcomes.append(graded)
        unverifiable += unusable
    if not any(outcomes):
        raise InfrastructureError("the verifier broke at every completion; run `magistral doctor`, and repeat the command")
    votes = [contested(graded) for graded in outcomes]
    classes = [leaders(wrong, equal) for wrong, equal in zip(votes, equal_pairs(votes, verifier), strict=True)]
    return [_pooled(graded, found) for graded, found in zip(outcomes, classes, strict=True)], unverifiable, unjudged


def _pooled(outcomes: Sequence[Outcome], leader: Mapping[str, str]) -> list[Outcome]:
    """The outcomes with each wrong answer as the one that stands for it."""
    return [each if each.correct else replace(each, answer=leader.get(each.answer, each.answer)) for each in outcomes]


def _split(outcomes: Sequence[Sequence[Outcome]], samples: int, keys: Sequence[str]) -> dict[str, dict[str, object]]:
    """Summaries by key, where there is more than one."""
    groups: dict[str, list[Sequence[Outcome]]] = {key: [] for key in sorted(set(keys))}
    for group, key in zip(outcomes, keys, strict=True):
        groups[key].append(group)
    return {key: summarise(own, samples) for key, own in groups.items() if any(own)} if len(groups) > 1 else {}
