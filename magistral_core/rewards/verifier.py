"""The verifier: scores groups of completions, with all parts of the reward composed (Magistral, section 2.2).

    format invalid -> total 0, nothing else graded
    format valid   -> format + correct + length (<= 0) + language + a user's own parts

What is pure Python and safe (format, length, plain answers, language) runs in the caller's thread; formulas and a user's functions go to
the worker pool; code goes to sandboxes. A part that could not be computed is an ERROR, which masks the completion; it is never a zero.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from types import TracebackType
from typing import Self

from magistral_core.boxed import extract_boxed
from magistral_core.config.schema import LengthReward, PromptSettings, RewardSettings
from magistral_core.records import Completion, Group, Problem, ProblemKind, Score, ScoreStatus
from magistral_core.rewards import language
from magistral_core.rewards.code import CodeJudge, CodeVerdict, check_problem, usable_workers
from magistral_core.rewards.extra import part_names
from magistral_core.rewards.format import answer_part, check_format
from magistral_core.rewards.length import length_penalty
from magistral_core.rewards.math import Verdict, quick_gold_verdict, quick_verdict
from magistral_core.rewards.poolsize import PoolSize
from magistral_core.rewards.workers import Ending, Job, Outcome, WorkerPool
from magistral_core.sandbox import SandboxError


def check_supported(problems: Iterable[Problem]) -> None:
    """Refuse problems that no verifier can judge, when a run is planned. Raises InputError that names the first one."""
    for problem in problems:
        if problem.kind is ProblemKind.CODE:
            check_problem(problem)


@dataclass(slots=True)
class _Pending:
    """A score in the making: parts known so far, and the jobs whose outcome is awaited."""

    started: float
    parts: dict[str, float]
    verdict: Verdict | None = None
    math: Future[Outcome] | None = None
    code: Future[CodeVerdict] | None = None
    extra: dict[str, Future[Outcome]] = field(default_factory=dict)


class Verifier:
    """Scores groups; thread-safe, so that several groups may be in flight. Use as a context manager, or `start` and `close`.

    Args:
        rewards, prompt: of the recipe.
        lengths: the length penalty of each stage of a curriculum, by which a group of that stage is scored; empty: `rewards.length`.
    """

    def __init__(self, rewards: RewardSettings, prompt: PromptSettings, lengths: Sequence[LengthReward | None] = ()) -> None:
        self._rewards = rewards
        self._lengths = tuple(lengths) or (rewards.length,)
        self._prompt = prompt
        self._extra = part_names(rewards.extra)
        self._pool = WorkerPool(
            PoolSize.of(rewards), rewards.timeout_s, rewards.memory_mb, rewards.retries, rewards.extra, rewards.extra_folder
        )
        self._code = CodeJudge(rewards.code, rewards.retries)
        self._sandboxes = ThreadPoolExecutor(usable_workers(rewards.code.workers), "sandbox")

    @property
    def part_names(self) -> tuple[str, ...]:
        """Names of every part that the scores have."""
        built_in = ["format", "correct"]
        if any(self._lengths):
            built_in.append("length")
        if self._rewards.language:
            built_in.append("language")
        return (*built_in, *self._extra)

    def check_supported(self, problems: Iterable[Problem]) -> None:
        """Refuse, before a run starts, problems that no verifier judges and functions that cannot be loaded.

        Functions are loaded in a worker of a pool of its own; this verifier need not be started.

        Raises:
            InputError: a problem or a function.
            SandboxError: there are code problems, and no sandbox holds on this machine.
        """
        problems = list(problems)
        check_supported(problems)
        if any(problem.kind is ProblemKind.CODE for problem in problems):
            self._code.prepare()
        if self._rewards.extra:
            rewards = self._rewards
            pool = WorkerPool(PoolSize(1, 1), rewards.timeout_s, rewards.memory_mb, 0, rewards.extra, rewards.extra_folder)
            pool.start()
            pool.close()

    def start(self) -> None:
        """Start the workers. Raises InputError if a function of `rewards.extra` cannot be loaded."""
        if self._rewards.language:
            language.load()
        self._pool.start()

    def close(self) -> None:
        """End the workers."""
        self._sandboxes.shutdown(cancel_futures=True)
        self._pool.close()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def score(self, group: Group) -> Group:
        """The group with its scores. Raises InfrastructureError if the pool cannot run, or no sandbox holds for a code problem."""
        return self.score_many([group])[0]

    def score_many(self, groups: Sequence[Group]) -> list[Group]:
        """Score groups together: all their formulas and programs are in their pools at the same time."""
        check_supported(group.problem for group in groups)
        if any(group.problem.kind is ProblemKind.CODE for group in groups):
            self._code.prepare()
        jobs: list[tuple[_Pending, str, Job]] = []
        pending = [[self._begin(group, completion, jobs) for completion in group.completions] for group in groups]
        if jobs:
            for (waiting, part, _), future in zip(jobs, self._pool.submit([job for _, _, job in jobs]), strict=True):
                if part:
                    waiting.extra[part] = future
                else:
                    waiting.math = future
        return [replace(group, scores=tuple(map(self._finish, waiting))) for group, waiting in zip(groups, pending, strict=True)]

    def answers_equal(self, pairs: Sequence[tuple[str, str]]) -> list[Verdict]:
        r"""Compare (reference, predicted) answers; each may be plain, in `$...$` or in `\boxed{...}`.

        ERROR: the reference is unusable, or the verifier `broke`.
        """
        started = time.perf_counter()
        quick = [quick_verdict(gold, pred) for gold, pred in pairs]
        share = (time.perf_counter() - started) / max(len(pairs), 1)
        slow = [Job("math", pair) for pair, verdict in zip(pairs, quick, strict=True) if verdict is None]
        outcomes = iter(self._pool.submit(slow) if slow else [])
        return [_math_verdict(next(outcomes).result()) if verdict is None else verdict._replace(seconds=share) for verdict in quick]

    def grade_responses(self, pairs: Sequence[tuple[str, str]]) -> list[Verdict]:
        r"""Compare references with whole responses, whose answer is the last box after the thoughts (or of all, without a closing tag)."""
        boxed = [extract_boxed(answer_part(response, self._prompt.think_close), bare=True) for _, response in pairs]
        return self.answers_equal([(gold, pred or "") for (gold, _), pred in zip(pairs, boxed, strict=True)])

    def check_golds(self, golds: Sequence[str]) -> list[Verdict]:
        """Whether reference answers are usable: plain ones always, formulas if they parse and equal themselves. Else ERROR."""
        quick = [quick_gold_verdict(gold) for gold in golds]
        slow = [Job("gold", (gold,)) for gold, verdict in zip(golds, quick, strict=True) if verdict is None]
        outcomes = iter(self._pool.submit(slow) if slow else [])
        return [_math_verdict(next(outcomes).result()) if verdict is None else verdict for verdict in quick]

    def _begin(self, group: Group, completion: Completion, jobs: list[tuple[_Pending, str, Job]]) -> _Pending:
        """Compute what can be computed here, and note the jobs for the pool."""
        problem, length = group.problem, self._lengths[group.stage]
        waiting = _Pending(time.perf_counter(), dict.fromkeys(self.part_names, 0.0))
        response = check_format(completion.text, problem.kind, self._prompt, completion.finish_reason)
        if not response.valid:
            waiting.verdict = Verdict(ScoreStatus.BAD_FORMAT, response.fault, time.perf_counter() - waiting.started)
            return waiting
        waiting.parts["format"] = self._rewards.format
        if length is not None:
            waiting.parts["length"] = length_penalty(completion.length, length)
        if self._rewards.language and language.same_language(problem.question, response.thoughts, response.answer, problem.language):
            waiting.parts["language"] = self._rewards.language
        if problem.kind is ProblemKind.CODE:
            waiting.code = self._sandboxes.submit(self._code.judge_answer, problem, response.answer, _draw(completion))
        else:
            waiting.verdict = quick_verdict(problem.answer, response.result)
        if waiting.code is not None:
            pass
        elif waiting.verdict is None:
            jobs.append((waiting, "", Job("math", (problem.answer, response.result))))
        elif waiting.verdict.status is ScoreStatus.ERROR:
            return waiting
        for number, name in enumerate(self._extra):
            arguments = {
                "problem": problem,
                "response": completion.text,
                "thoughts": response.thoughts,
                "answer": response.answer,
                "length": completion.length,
            }
            jobs.append((waiting, name, Job("extra", (number, arguments))))
        if waiting.verdict is not None:
            waiting.verdict = waiting.verdict._replace(seconds=time.perf_counter() - waiting.started)
        return waiting

    def _finish(self, waiting: _Pending) -> Score:
        """Wait for the jobs and compose the score."""
        verdict, share = waiting.verdict, 1.0
        if waiting.code is not None:
            verdict, share = self._code_verdict(waiting.code)
        elif verdict is None:
            assert waiting.math is not None
            verdict = _math_verdict(waiting.math.result())
        seconds, parts = verdict.seconds, waiting.parts
        faults = [verdict.detail] if verdict.status is ScoreStatus.ERROR else []
        for name, future in waiting.extra.items():
            outcome = future.result()
            seconds += outcome.seconds
            if outcome.ending is Ending.VALUE:
                parts[name] = outcome.value
            else:
                faults.append(f"rewards.extra {name}: {outcome.detail}")
        if faults:
            return Score(0.0, ScoreStatus.ERROR, parts, "; ".join(faults), seconds)
        if verdict.correct or waiting.code is not None:
            parts["correct"] = self._rewards.correct * share
        return Score(sum(parts.values()), verdict.status, parts, verdict.detail, seconds)

    def _code_verdict(self, future: Future[CodeVerdict]) -> tuple[Verdict, float]:
        """The verdict on a program, and the share of the reward for a right answer that it earns."""
        try:
            judged = future.result()
        except SandboxError as error:
            return Verdict(ScoreStatus.ERROR, str(error)), 0.0
        except Exception as error:  # noqa: BLE001  (one program must not end a run: its completion is masked, and the reason counted)
            return Verdict(ScoreStatus.ERROR, f"judging the program failed ({type(error).__name__}: {error})"[:300]), 0.0
        share = judged.passed / judged.total if self._rewards.code.proportional and judged.total else float(judged.correct)
        return Verdict(judged.score_status, judged.detail, judged.seconds), share


def _math_verdict(outcome: Outcome) -> Verdict:
    if outcome.ending is Ending.VALUE:
        status, detail = outcome.value
        return Verdict(status, detail, outcome.seconds)
    if outcome.ending is Ending.TIMEOUT:
        return Verdict(ScoreStatus.TIMEOUT, outcome.detail, outcome.seconds)
    return Verdict(ScoreStatus.ERROR, outcome.detail, outcome.seconds, broke=True)


def _draw(completion: Completion) -> str:
    """What the tests of a code problem are drawn by: the same ones for a group, and for a problem in every validation."""
    return str(completion.group_id) if completion.group_id >= 0 else "held out"
