"""The online loop: it moves completions from generators to trainers and weights back, and owns nothing heavy.

    admission ─> generators ─> complete groups ─> verifiers ─> filter ─> queue ─> batch ─> trainers ─┐
        ^            ^                                                                               │
        │            └───────────────── weights, swapped in flight <─────────────────────────────────┤
        └──────────────────────────────── settled completions <──────────────────────────────────────┘

One task trains, one watches for stalls, one a generator collects completions. Which generator does what, and what becomes of those
that die, join or leave, is `dispatch`'s. Any other error of a task, or of a verification or a weight update under way, ends the run.
The rules live in the pure parts (`admission`, `ledger`, `batches`, `curriculum`); this file applies them. Synchronous and asynchronous
schedules differ only in what admission permits and in whether a weight update is waited for.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from magistral_core.config.schema import Recipe
from magistral_core.errors import MagistralError
from magistral_core.pipeline.admission import Admission, Slot
from magistral_core.pipeline.batches import build_batch, failure, without_signal
from magistral_core.pipeline.curriculum import Course, WholeStream
from magistral_core.pipeline.dispatch import Dispatch
from magistral_core.pipeline.handover import WeightFile
from magistral_core.pipeline.ledger import GroupState
from magistral_core.pipeline.metrics import Clock, Window, policy_metrics, resample_metrics, rollout_metrics
from magistral_core.pipeline.runtime import Runtime
from magistral_core.pipeline.state import LoopState
from magistral_core.pipeline.validation import Validation
from magistral_core.problems import ProblemStream
from magistral_core.records import Batch, Completion, Group, Problem, Prompt, Request
from magistral_core.storage import explain_full_disk
from magistral_core.training.collation import collate, unused_share
from magistral_core.training.report import StepReport

_WATCH_SECONDS = 1.0


class StallError(MagistralError):
    """The run stopped because nothing moved, or because nothing that could be trained came through."""


class Observer(Protocol):
    """Who hears of the run's progress: tracking, checkpoints, the terminal."""

    def on_step(self, step: int, metrics: dict[str, float], batch: Batch) -> None:
        """`step` optimiser steps are done."""

    def on_validation(self, step: int, metrics: dict[str, float]) -> None:
        """A validation is over, and `step` optimiser steps are done. After a resume, what the checkpoint knows of is not told again."""

    def staging(self, step: int) -> Path:
        """An empty local folder for a checkpoint."""

    def on_checkpoint(self, step: int, folder: Path, metrics: dict[str, float]) -> None:
        """A checkpoint is complete in its folder; it may be uploaded from there."""

    def moved(self) -> int:
        """Bytes that storage has taken or given back so far. While it grows, a checkpoint that waits for earlier ones is no stall."""

    def on_restart(self, role: str, cause: str) -> None:
        """A role died and is being started again."""

    def on_stage(self, step: int, stages: list[dict[str, Any]]) -> None:
        """A stage of the curriculum ended after `step` optimiser steps; a row for each (`Curriculum.table`)."""


class Coordinator:
    """Runs a recipe's loop from a state to `training.max_steps`, or to the end of its curriculum.

    Args:
        recipe: the run.
        runtime: started generators, verifiers and trainers, all at `state.step`.
        stream: problem of each group, where the state has no curriculum.
        render: a problem's prompt.
        observer: told of steps and checkpoints.
        state: where to begin; changed in place.
        held_out: problems and prompts of the recipe's `validation`.
        one_stage: end with the stage of the curriculum that the state is in.

    Made and run within one event loop, whose clock it goes by.
    """

    def __init__(
        self,
        recipe: Recipe,
        runtime: Runtime,
        stream: ProblemStream,
        render: Callable[[Problem], Prompt],
        observer: Observer,
        state: LoopState,
        held_out: Sequence[tuple[Problem, Prompt]] = (),
        *,
        one_stage: bool = False,
    ) -> None:
        self._recipe, self._runtime, self._render = recipe, runtime, render
        self._course: Course = state.curriculum or WholeStream(stream)
        self._stages, self._one_stage = recipe.stages(), one_stage
        self._observer, self._state, self._clock = observer, state, asyncio.get_running_loop().time
        self._ledger, self._settings = state.ledger, self._stages[self._course.stage].pipeline
        queued = sum(len(group.completions) for group in state.queue)
        again = self._ledger.ids(GroupState.GENERATING)
        self._admission = Admission(self._settings, self._open_group, resume=again, queued=queued)
        self._again = frozenset(again)
        self._partial: dict[int, list[Completion]] = {}
        self._dispatch = Dispatch(
            runtime,
            recipe.pipeline.max_restarts,
            self._settings.update_timeout_s,
            spawn=self._spawn,
            take=self._take,
            on_restart=observer.on_restart,
        )
        self._queue_grew = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._delivery: asyncio.Task[None] | None = None
        self._validation = Validation(recipe.validation, held_out, recipe.seed, recipe.max_model_len) if recipe.validation else None
        self._validation_over = asyncio.Event()
        self._delivered = state.step  # version of the newest weights that every healthy generator has
        self._ending = False  # nothing more is admitted
        self._lost_in_a_row = 0
        self._checkpointed = state.step
        self._saving: Path | None = None  # where the trainers write a checkpoint
        self._handing_over = False  # a checkpoint, to the observer
        self._moved = 0  # bytes of the two
        self._last_metrics: dict[str, float] = {}
        self._window = Window()
        self._rollouts: dict[str, float] = {}  # of the last step before which a group was verified
        now = self._clock()
        self._progress = self._last_step = now
        self._trainer_clock = Clock(now)

    async def run(self) -> None:
        """Train until `max_steps`. Raises StallError, LedgerError, or what a role raised."""
        self._over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        try:
            self._spawn(self._train()).add_done_callback(self._finish)
            self._spawn(self._watch())
            self._dispatch.start()
            await self._over
        finally:
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
        self._ledger.check()

    def scale(self, generators: int) -> None:
        """Have generators join or leave towards so many, while `run` runs; to be called again until it is so."""
        if not self._over.done():
            self._dispatch.scale(generators)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Start a task of the loop; its error ends the run at once."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._settle)
        return task

    def _settle(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()  # asked for in any case, or asyncio complains of it
        if self._over.done():
            return
        if task.cancelled():
            self._over.cancel()
        elif error is not None:
            self._over.set_exception(error)

    def _finish(self, training: asyncio.Task[None]) -> None:
        if not self._over.done():
            self._over.set_result(None)

    def _pump(self) -> None:
        """Start every completion that admission permits."""
        admitted = [] if self._ending else self._admission.admit()
        self._dispatch.give([*(self._request(slot) for slot in admitted), *self._held_out()])

    def _held_out(self) -> list[Request]:
        """Requests of a validation, once the generators have its weights; beside training at most half as many as its own."""
        if self._validation is None or not self._validation.running or self._validation.step > self._delivered:
            return []
        alone = self._ending or self._settings.schedule == "sync"
        return self._validation.ask(self._settings.n_async if alone else max(1, self._settings.n_async // 2))

    def _open_group(self) -> int:
        group_id = self._ledger.open()
        self._course.draw(group_id)
        return group_id

    def _request(self, slot: Slot) -> Request:
        problem, stage = self._course.drawn(slot.group_id)
        prompt = self._render(problem)
        seed = int(np.random.SeedSequence([self._recipe.seed, slot.group_id, slot.index]).generate_state(1)[0]) & 0x7FFFFFFF
        room = self._recipe.max_model_len - len(prompt.token_ids)
        return Request(slot.group_id, slot.index, prompt, seed, min(self._stages[stage].generation.max_tokens, room))

    def _take(self, completions: Sequence[Completion]) -> None:
        """Verify the groups that completions complete; let new ones in."""
        complete, validated, admitted = [], [], 0
        for completion in completions:
            if self._validation is not None and completion.group_id < 0:
                if answered := self._validation.join(completion):
                    self._dispatch.complete(answered.id)
                    validated.append(answered)
                continue
            admitted += 1
            group = self._partial.setdefault(completion.group_id, [])
            group.append(completion)
            if len(group) == self._settings.group_size:
                complete.append(self._complete(completion.group_id))
            self._window.tokens += completion.length
            self._state.counters.generated_tokens += completion.length
        self._state.counters.completions += admitted
        self._admission.finished(admitted)
        if complete:
            self._spawn(self._verify(complete))
        if validated:
            self._spawn(self._grade(validated))
        self._pump()

    def _complete(self, group_id: int) -> Group:
        completions = sorted(self._partial.pop(group_id), key=lambda completion: completion.index)
        self._dispatch.complete(group_id)
        self._ledger.advance(group_id, GroupState.VERIFYING)
        problem, stage = self._course.drawn(group_id)
        return Group(group_id, problem, tuple(completions), stage=stage)

    async def _verify(self, groups: Sequence[Group]) -> None:
        scored = await self._runtime.score(groups)
        self._progress = self._clock()
        for group in scored:
            self._window.verified.append(group)
            self._course.observe(group)
            self._state.counters.graded += sum(score.graded for score in group.scores)
            self._state.counters.correct += sum(score.correct for score in group.scores)
            if reason := failure(group):
                self._ledger.fail(group.id, reason)
                self._window.count(self._window.failed, reason)
            elif reason := without_signal(group):
                self._ledger.filter(group.id, reason)
                self._window.count(self._window.filtered, reason)
            else:
                self._ledger.advance(group.id, GroupState.QUEUED)
                self._state.queue.append(group)
                self._admission.enqueued(group.id)
                continue
            self._admission.dropped(group.id)
            self._lost_in_a_row += 1
        self._queue_grew.set()
        self._pump()

    async def _grade(self, groups: Sequence[Group]) -> None:
        """Verify answers of a validation."""
        scored = await self._runtime.score(groups)
        self._progress = self._clock()
        if self._validation is not None and self._validation.take(scored):
            self._validation_over.set()

    async def _validate(self) -> None:
        """Begin a validation where one is due. A synchronous schedule waits for it."""
        if self._validation is None or not self._validation.due(self._state.step, self._state.validated):
            return
        sync, began = self._settings.schedule == "sync", self._clock()
        self._admission.training |= sync  # so that nothing else is admitted
        self._begin_validation(self._course.stage)
        self._pump()
        if sync:
            await self._validation_over.wait()
            self._admission.training = False
            now = self._clock()
            waited = now - began  # it is not the next step's time
            self._last_step += waited
            self._trainer_clock.skip(waited, now)
            self._dispatch.skip(waited, now)

    def _begin_validation(self, stage: int) -> None:
        assert self._validation is not None
        self._validation_over.clear()
        self._validation.begin(self._state.step, stage, self._stages[stage].generation.max_tokens)

    async def _end(self, stage: int) -> None:
        """Nothing more is admitted; what the run has come to in this stage is validated."""
        self._ending = True
        if self._validation is not None and self._state.step > self._state.validated:
            if not self._validation.running or self._validation.step < self._state.step:  # else it has these weights
                self._begin_validation(stage)
            self._pump()
            await self._validation_over.wait()
            self._tell_validation()

    def _tell_validation(self) -> None:
        """Tell of a validation that is over, if any. Before a checkpoint of this step, which then knows of it."""
        if self._validation is not None and self._validation.running and self._validation_over.is_set():
            self._state.validated = self._validation.step
            self._observer.on_validation(self._state.step, self._validation.figures())

    async def _train(self) -> None:
        state, last = self._state, self._finished
        if last:
            await self._end(self._course.stage)
        else:
            await self._validate()
            self._pump()
        while not last:
            settings, stage = self._settings, self._course.stage
            if not await self._batch_waits(settings.n_batch):
                last = self._finished or self._one_stage
                if last and self._delivery is not None:
                    await self._delivery
                await self._checkpoint()
                if last:
                    await self._end(stage)
                else:
                    self._pump()
                continue
            if settings.schedule == "sync":
                state.queue.sort(key=lambda group: group.id)
            self._admission.training = True
            # A run may end within a batch; what is left of it then stays in the queue.
            left = self._recipe.training.max_steps - state.step
            steps = min(settings.n_batch // settings.n_minibatch, left)
            for number in range(steps):
                count = settings.n_minibatch // settings.group_size
                self._admission.dequeued(settings.n_minibatch)
                self._pump()  # room in the queue: generators that it held back need not wait for the step
                await self._step(state.queue[:count])
                if number + 1 < steps:
                    self._tell_validation()
                self._pump()
            ended = self._end_batch()
            last = self._finished or (ended and self._one_stage)
            if not last:
                self._tell_validation()
            await self._hand_over(wait=last)
            self._admission.training = False
            if last or ended or state.step // self._recipe.checkpoints.every > self._checkpointed // self._recipe.checkpoints.every:
                await self._checkpoint()
            if last:
                await self._end(stage)
            else:
                await self._validate()
                self._pump()

    async def _batch_waits(self, n_batch: int) -> bool:
        """Wait for a batch; false where the stage ends for want of one: what its problems gave was all right, or all wrong."""
        while self._admission.queued < n_batch:
            self._queue_grew.clear()
            await self._queue_grew.wait()
            if self._lost_in_a_row >= self._settings.max_filtered_groups and self._admission.queued < n_batch:
                before = self._course.metrics()
                if self._end_batch():
                    self._lost_in_a_row = 0
                    return False
                if self._course.metrics() == before:  # and no problem was retired or deferred
                    if self._delivery is not None:
                        await self._delivery
                    if self._state.step > self._checkpointed:
                        await self._checkpoint()  # what was trained so far is whole
                    raise StallError(
                        f"{self._lost_in_a_row} groups in a row gave nothing to train on ({self._reasons()}); "
                        "use easier or harder problems, check rewards.*, or raise pipeline.max_filtered_groups"
                    )
                self._lost_in_a_row = 0
        return True

    @property
    def _finished(self) -> bool:
        return self._state.step >= self._recipe.training.max_steps or self._course.over

    def _end_batch(self) -> bool:
        """Let the curriculum learn from the batch; whether a stage ended. What is admitted from now on goes by the next one's settings."""
        ended = self._course.end_batch(self._state.step, self._ledger.open_ids)
        self._settings = self._stages[self._course.stage].pipeline
        self._admission.change(self._settings)
        self._dispatch.update_timeout_s = self._settings.update_timeout_s
        if ended and self._state.curriculum is not None:
            self._observer.on_stage(self._state.step, self._state.curriculum.table())
        return ended

    async def _step(self, groups: Sequence[Group]) -> None:
        recipe, state = self._recipe, self._state
        batch = build_batch(groups, state.step, recipe.loss, shuffle_seed=recipe.seed if recipe.rewards.shuffle else None)
        training = recipe.training
        rows = collate(
            batch, ranks=self._settings.trainers, budget=training.token_budget, seed=recipe.seed, share_prompts=training.shares_prompts
        )
        self._trainer_clock.busy(1, self._clock())
        report = await self._runtime.train(rows, state.step)
        now = self._progress = self._clock()
        self._trainer_clock.busy(0, now)
        del state.queue[: len(groups)]
        for group in groups:
            self._ledger.train(group.id)
        self._admission.trained(sum(len(group.completions) for group in groups))
        state.step += 1
        state.counters.trained_tokens += report.tokens
        state.counters.seconds += now - self._last_step
        self._lost_in_a_row = 0
        metrics = self._metrics(batch, report, unused_share(rows, training.token_budget), now)
        self._last_step, self._last_metrics, self._window = now, metrics, Window()
        self._observer.on_step(state.step, metrics, batch)

    def _metrics(self, batch: Batch, report: StepReport, unused: float, now: float) -> dict[str, float]:
        span = max(now - self._last_step, 1e-9)
        window, counters = self._window, self._state.counters
        # A curve has a point at every step; right after a resume only the batch is there to take it from.
        self._rollouts = rollout_metrics(window.verified) or self._rollouts or rollout_metrics(batch.groups)
        return {
            **self._rollouts,
            **resample_metrics(window.verified, self._again),
            **policy_metrics(batch, report),
            **{f"groups/filtered_{reason}": float(n) for reason, n in window.filtered.items()},
            **{f"groups/failed_{reason}": float(n) for reason, n in window.failed.items()},
            "groups/verified": float(len(window.verified)),
            "groups/filtered": float(sum(window.filtered.values())),
            "groups/in_flight": float(self._ledger.in_flight),
            "queue/completions": float(self._admission.queued),
            "queue/open": float(self._admission.open),
            "queue/generating": float(self._admission.generating),
            **self._dispatch.metrics(now, self._settings.n_async),
            "busy/trainers": self._trainer_clock.lap(now)[0],
            "packing/unused_share": unused,
            "speed/generated_tokens_per_s": window.tokens / span,
            "speed/trained_tokens_per_s": report.tokens / span,
            "speed/completions_per_s": sum(len(group.completions) for group in batch.groups) / span,
            "speed/step_seconds": span,
            "updates/total": float(counters.weight_updates),
            "updates/in_flight": float(counters.weight_updates_in_flight),
            **self._course.metrics(),
        }

    async def _hand_over(self, *, wait: bool) -> None:
        """Publish the weights and bring them to every generator; when asynchronous, training goes on meanwhile."""
        if self._delivery is not None:
            await self._delivery
        weights = await self._runtime.publish(self._state.step)
        self._delivery = self._spawn(self._deliver(weights))
        if wait or self._settings.schedule == "sync":
            await self._delivery

    async def _deliver(self, weights: WeightFile) -> None:
        in_flight = await self._dispatch.bring(weights)
        self._state.counters.weight_updates += 1
        self._state.counters.weight_updates_in_flight += in_flight
        self._delivered = weights.version
        if self._validation is not None:
            self._pump()
        await self._dispatch.discard_old()

    async def _checkpoint(self) -> None:
        step = self._state.step
        self._saving = folder = self._observer.staging(step)
        await self._runtime.save(folder)
        self._saving = None
        with explain_full_disk(folder):
            self._state.save(folder)
        self._checkpointed = step
        # In a thread: it waits when uploads fall behind, and generators must not.
        self._handing_over = True
        await asyncio.to_thread(self._observer.on_checkpoint, step, folder, self._last_metrics)
        self._handing_over = False
        self._progress = self._clock()

    async def _watch(self) -> None:
        """Stop a run in which nothing moves, or in which one generator never answers, and name who stood still."""
        stall = self._settings.stall_timeout_s
        while True:
            await asyncio.sleep(min(_WATCH_SECONDS, stall / 2))
            now = self._clock()
            moved = self._observer.moved() if self._handing_over else _size(self._saving) if self._saving else self._moved
            if moved != self._moved:  # slow is no stall
                self._moved, self._progress = moved, now
            # Generators that all are being started again load a model, which may take as long as it may at the start.
            starting = self._dispatch.ill() and self._settings.start_timeout_s > stall
            name = "start_timeout_s" if starting else "stall_timeout_s"
            limit = getattr(self._settings, name)
            silent = self._dispatch.silent(now, limit)
            if silent or now - max(self._progress, self._dispatch.progress) >= limit:
                raise StallError(
                    f"no progress for {limit:g} s: {silent or self._culprit()}; {self._admission.queued} completions queued of "
                    f"{self._settings.n_batch} needed, ledger {self._ledger.summary()}; run the same command again to resume, or raise "
                    f"pipeline.{name}"
                )

    def _culprit(self) -> str:
        if ill := self._dispatch.ill():
            return ill
        if self._saving:
            return f"the trainers do not end writing the checkpoint of step {self._state.step} to {self._saving}"
        if self._handing_over:
            return f"storage or tracking does not take the checkpoint of step {self._checkpointed}"
        verifying = [*self._ledger.ids(GroupState.VERIFYING), *(self._validation.grading if self._validation else ())]
        if self._trainer_clock.running or not verifying:
            return f"the trainers do not answer after step {self._state.step}"
        return f"verifiers hold groups {verifying[:8]}"

    def _reasons(self) -> str:
        counts = {**self._window.filtered, **{f"failed: {reason}": n for reason, n in self._window.failed.items()}}
        return ", ".join(f"{reason} {n}" for reason, n in sorted(counts.items(), key=lambda item: -item[1]))


def _size(folder: Path) -> int:
    """Bytes below a folder to which others write."""
    total = 0
    with suppress(OSError):  # renamed meanwhile
        for path in folder.rglob("*"):
            total += path.stat().st_size
    return total
