"""The online loop under a virtual clock: how busy a cluster would be, and how old its tokens, before anybody rents it. Pure.

The rules are the loop's own: `Admission` decides what starts, `Ledger` counts groups, `batches` filters and weighs them, `collation` packs
them. Simulated are the roles, by the figures of a `Cluster`, with one heap of events:

    engine finishes a sequence ─> group complete ─> verified ─> queue ─> optimiser step ─> publish ─> broadcast ─> swap
             ^                                                                │                                     │
             └────────────────────────────── admission <──────────────────────┴─────────────────────────────────────┘

Three schedules: `sync` generates, verifies, trains and updates in turn; `one-step-off` generates the next batch while the one before is
trained, and updates between two batches, when no sequence is in flight; `async` is the method's own.

An engine's sequences all advance together, one token a decoding step, so its clock is the number of tokens that it has made for each of
them: a sequence that starts at `work` and has n tokens ends at `work + n`, whatever comes and goes beside it. That makes an event cost a
logarithm, and ten thousand engines a matter of seconds.
"""

from __future__ import annotations

import contextlib
import gc
import heapq
import math
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from magistral_core.config.schema import LossSettings
from magistral_core.errors import InputError
from magistral_core.pipeline.admission import Admission, Slot
from magistral_core.pipeline.batches import build_batch, failure, without_signal
from magistral_core.pipeline.cluster import Cluster, Draws
from magistral_core.pipeline.ledger import GroupState, Ledger
from magistral_core.records import Batch, Completion, FinishReason, Group, Problem, Score, ScoreStatus
from magistral_core.training.collation import Loads, arrange

Schedule = Literal["sync", "one-step-off", "async"]
SCHEDULES: tuple[Schedule, ...] = ("sync", "one-step-off", "async")
#: A trainer that works for so much of the time is not kept waiting by its generators.
BUSY = 0.95
#: Steps before figures are taken, as a share: the first batches are made of what happens to be short.
_WARM = 0.3
#: Tokens: a token that is made at the very moment of a swap is the new weights', whatever was rounded.
_ROUNDING = 1e-6
_PROBLEM = Problem("simulated", "simulated", "simulated")
_RIGHT, _WRONG = Score(1.0, ScoreStatus.CORRECT, {"format": 0.1, "correct": 0.9}), Score(0.1, ScoreStatus.WRONG, {"format": 0.1})


@dataclass(frozen=True)
class Figures:
    """What a simulated run came to, over the steps after the warm-up.

    Attributes:
        steps, seconds: that the figures are taken over.
        generators_busy: share of the time in which an engine decodes, mean over engines.
        occupancy: mean sequences being decoded, as a share of those that may be.
        trainers_busy: share of the time in which trainers take a step or publish: they wait for nobody.
        age_mean, age_max: optimiser steps between the weights that made a token and the step that trains it.
        generated_tokens_per_s, trained_tokens_per_s, completions_per_s: completion tokens and completions; the last two of what is trained.
        unused_share: of the token budgets of all microbatches.
        filtered_share: groups dropped for equal verdicts, of all that were verified.
    """

    steps: int
    seconds: float
    generators_busy: float
    occupancy: float
    trainers_busy: float
    age_mean: float
    age_max: int
    generated_tokens_per_s: float
    trained_tokens_per_s: float
    completions_per_s: float
    unused_share: float
    filtered_share: float


class _Engine:
    """One generator.

    Attributes:
        work: tokens made for each sequence so far, at time `clock`.
        running: heap of (end in `work`, begin in `work`, group, index, tokens).
        free_at: until then it stands still, for a swap or a prefill.
        versions: (first token in `work`, weights) of each swap that a sequence in flight may have seen.
        due: number of its event that counts; earlier ones are void.
        key: how many completions it holds, as the order of placement last heard.
    """

    __slots__ = (
        "busy",
        "clock",
        "due",
        "free_at",
        "held",
        "key",
        "running",
        "sequence_seconds",
        "step",
        "tokens",
        "versions",
        "waiting",
        "work",
    )

    def __init__(self, cluster: Cluster) -> None:
        a, b = cluster.step_seconds
        self.step = [a + b * n for n in range(cluster.sequences + 1)]
        self.clock = self.work = self.free_at = 0.0
        self.busy = self.tokens = self.sequence_seconds = 0.0
        self.running: list[tuple[float, float, int, int, int]] = []
        self.waiting: deque[tuple[int, int, int]] = deque()
        self.versions: list[tuple[float, int]] = [(0.0, 0)]
        self.due = self.held = self.key = 0

    def advance(self, now: float) -> None:
        """Decode up to `now`."""
        span = now - (self.free_at if self.free_at > self.clock else self.clock)
        n = len(self.running)
        if span > 0 and n:
            made = span / self.step[n]
            self.work += made
            self.tokens += n * made
            self.busy += span
            self.sequence_seconds += n * span
        self.clock = now

    def stand_still(self, seconds: float) -> None:
        """Decode nothing for a while; call `advance` first."""
        self.free_at = max(self.free_at, self.clock) + seconds

    def next_end(self) -> float:
        """When its shortest sequence ends."""
        return max(self.free_at, self.clock) + (self.running[0][0] - self.work) * self.step[len(self.running)]


class Simulator:
    """One run of one schedule. `run(steps)` once.

    Args:
        cluster: how fast its roles are.
        schedule: which.
        draws: lengths and verdicts of each group; None: the cluster's.

    Attributes:
        ledger: of the whole run.
        step_times: when each optimiser step ended, in virtual seconds.
        trained: ids of the groups of each step.
        ages: (mean, largest) of the tokens of each step.
    """

    def __init__(self, cluster: Cluster, schedule: Schedule, draws: Draws | None = None) -> None:
        self._cluster, self._schedule = cluster, schedule
        self._settings = cluster.settings("async" if schedule == "async" else "sync")  # one-step-off takes whole batches, as sync does
        self._draws, self._loss = draws or Draws(cluster), LossSettings()
        self.ledger = Ledger()
        self._admission = Admission(self._settings, self.ledger.open)
        self._engines = [_Engine(cluster) for _ in range(cluster.generators)]
        self._order = [(0, index) for index in range(cluster.generators)]  # heap of (completions held, engine), some of them void
        self._events: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self._numbers = 0
        self._touched: set[int] = set()
        self._partial: dict[int, list[Completion]] = {}
        self._home = 0
        self._births: dict[int, list[tuple[int, int, int]]] = {}  # by group: tokens, their ages' base, oldest version
        self._queue: list[Group] = []
        self._now, self._step, self._version = 0.0, 0, 0
        self._training, self._delivering, self._pending = False, False, False
        self._then: Callable[[], None] | None = None
        self._lost_in_a_row = 0
        self._zeros = np.lib.stride_tricks.as_strided(np.zeros(1, np.int32), (max(cluster.longest, cluster.prompt_tokens),), (0,))
        self._prompt = self._zeros[: cluster.prompt_tokens]
        self.step_times: list[float] = []
        self.trained: list[list[int]] = []
        self.ages: list[tuple[float, int]] = []
        self._tokens: list[int] = []
        self._trainer_seconds = 0.0
        self._unused: list[float] = []

    def run(self, steps: int) -> Figures:
        """Simulate so many optimiser steps.

        Raises:
            InputError: nothing that could be trained comes through, or fewer than 4 steps.
            LedgerError: a defect of the loop's rules.
        """
        if steps < 4:
            raise InputError(f"steps ({steps}) must be at least 4: the first ones are a warm-up")
        warm = max(1, int(_WARM * steps))
        self._pump()
        before: tuple[float, ...] = ()
        with _no_collection():
            while self._step < steps:
                self._now, _, call, arguments = heapq.heappop(self._events)
                call(*arguments)
                for index in self._touched:
                    self._schedule_end(index)
                self._touched.clear()
                if self._step == warm and not before:
                    before = self._totals()
        self.ledger.check()
        return self._figures(warm, before)

    def _at(self, seconds: float, call: Callable[..., None], *arguments: Any) -> None:
        self._numbers += 1
        heapq.heappush(self._events, (self._now + seconds, self._numbers, call, arguments))

    def _schedule_end(self, index: int) -> None:
        engine = self._engines[index]
        engine.due = self._numbers + 1
        if engine.running:
            self._at(engine.next_end() - self._now, self._ended, index, engine.due)

    def _pump(self) -> None:
        """Start what admission permits, each group on one engine for its shared prompt."""
        for slot in self._admission.admit():
            if slot.index == 0:
                self._home = self._least_loaded()
                self._start(self._home, slot, self._cluster.prompt_tokens / self._cluster.prefill_tokens_per_s)
            else:
                self._start(self._home, slot, 0.0)
        if not self._events:  # before the first event
            for index in self._touched:
                self._schedule_end(index)
            self._touched.clear()

    def _least_loaded(self) -> int:
        """The engine that holds the fewest completions, the first of them. An entry is void if its engine has a newer one."""
        while True:
            held, index = self._order[0]
            engine = self._engines[index]
            if held != engine.key:
                heapq.heappop(self._order)
            elif held != engine.held:
                engine.key = engine.held
                heapq.heapreplace(self._order, (engine.held, index))
            else:
                return index

    def _start(self, index: int, slot: Slot, prefill: float) -> None:
        engine, tokens = self._engines[index], self._draws.lengths(slot.group_id)[slot.index]
        engine.advance(self._now)
        engine.held += 1
        if prefill:
            engine.stand_still(prefill)
        if len(engine.running) < self._cluster.sequences:
            heapq.heappush(engine.running, (engine.work + tokens, engine.work, slot.group_id, slot.index, tokens))
        else:
            engine.waiting.append((slot.group_id, slot.index, tokens))
        self._touched.add(index)

    def _ended(self, index: int, due: int) -> None:
        engine = self._engines[index]
        if due != engine.due:
            return
        engine.advance(self._now)
        end = engine.work = engine.running[0][0]  # exactly, whatever was rounded
        count = 0
        while engine.running and engine.running[0][0] <= end:
            _, begin, group_id, place, tokens = heapq.heappop(engine.running)
            self._completed(engine, begin, group_id, place, tokens)
            count += 1
        while engine.waiting and len(engine.running) < self._cluster.sequences:
            group_id, place, tokens = engine.waiting.popleft()
            heapq.heappush(engine.running, (engine.work + tokens, engine.work, group_id, place, tokens))
        engine.held -= count
        if engine.held < engine.key:
            engine.key = engine.held
            heapq.heappush(self._order, (engine.held, index))
        self._touched.add(index)
        self._admission.finished(count)
        self._pump()

    def _completed(self, engine: _Engine, begin: float, group_id: int, place: int, tokens: int) -> None:
        zeros = self._zeros[:tokens]
        group = self._partial.setdefault(group_id, [])
        group.append(Completion(group_id, place, self._prompt, zeros, zeros, zeros, "", FinishReason.STOP))
        self._births.setdefault(group_id, []).append((tokens, *_versions(engine.versions, begin, tokens)))
        if len(group) == self._settings.group_size:
            self.ledger.advance(group_id, GroupState.VERIFYING)
            self._at(self._cluster.verify_s, self._verified, group_id)

    def _verified(self, group_id: int) -> None:
        completions = sorted(self._partial.pop(group_id), key=lambda completion: completion.index)
        scores = tuple(_RIGHT if right else _WRONG for right in self._draws.verdicts(group_id))
        group = Group(group_id, _PROBLEM, tuple(completions), scores)
        assert failure(group) is None, "simulated verifiers do not break"
        if reason := without_signal(group):
            self.ledger.filter(group_id, reason)
            self._admission.dropped(group_id)
            del self._births[group_id]
            self._lost_in_a_row += 1
            if self._lost_in_a_row >= self._settings.max_filtered_groups:
                raise InputError(
                    f"{self._lost_in_a_row} groups in a row had equal verdicts; take a pass_rate nearer to 0.5, or larger groups"
                )
        else:
            self.ledger.advance(group_id, GroupState.QUEUED)
            self._queue.append(group)
            self._admission.enqueued(group_id)
        self._pump()
        self._next_batch()

    def _next_batch(self) -> None:
        """Train the next batch if it is complete and the trainers are free."""
        if self._training or self._admission.queued < self._settings.n_batch:
            return
        self._training = True
        if self._schedule == "one-step-off" and self._pending:
            self._pending = False
            self._hand_over(self._begin_batch)
        else:
            self._begin_batch()

    def _begin_batch(self) -> None:
        if self._schedule != "async":
            self._queue.sort(key=lambda group: group.id)
        if self._schedule == "one-step-off":
            # To admission's synchronous rule this batch is over: the next one may be generated.
            self._admission.dequeued(self._settings.n_batch)
            self._admission.trained(self._settings.n_batch)
        else:
            self._admission.training = True
        self._begin_step(self._settings.n_batch // self._settings.n_minibatch)

    def _begin_step(self, left: int) -> None:
        settings, cluster = self._settings, self._cluster
        groups = self._queue[: settings.n_minibatch // settings.group_size]
        if self._schedule != "one-step-off":
            self._admission.dequeued(settings.n_minibatch)
        batch = build_batch(groups, self._step, self._loss)
        loads = Loads.of(batch, share_prompts=True)
        layout = arrange(batch, loads, ranks=settings.trainers, budget=cluster.token_budget, seed=cluster.seed)
        ranks = [sum(loads.tokens(indices) for indices in rank) for rank in layout]
        self._unused.append(1 - sum(ranks) / (cluster.token_budget * max(1, sum(map(len, layout)))))
        seconds = cluster.step_s + max(ranks) / cluster.trainer_tokens_per_s
        self._at(seconds, self._trained, batch, left - 1, seconds)
        self._pump()

    def _trained(self, batch: Batch, left: int, seconds: float) -> None:
        self._account(batch)
        self._trainer_seconds += seconds
        del self._queue[: len(batch.groups)]
        for group in batch.groups:
            self.ledger.train(group.id)
        if self._schedule != "one-step-off":
            self._admission.trained(self._settings.n_minibatch)
        self._step += 1
        self._lost_in_a_row = 0
        self._pump()
        if left:
            self._begin_step(left)
        elif self._schedule != "one-step-off":
            self._hand_over(self._batch_over)
        else:  # the weights wait until the generators have made the next batch
            self._pending, self._training = True, False
            self._next_batch()

    def _batch_over(self) -> None:
        self._admission.training = self._training = False
        self._pump()
        self._next_batch()

    def _hand_over(self, then: Callable[[], None]) -> None:
        """Publish the weights; go on with `then`: at once when asynchronous, else when every engine has them."""
        if self._delivering:
            self._then = lambda: self._hand_over(then)
        else:
            self._delivering = True
            self._at(self._cluster.publish_s, self._published, self._step, then)

    def _published(self, version: int, then: Callable[[], None]) -> None:
        self._trainer_seconds += self._cluster.publish_s
        self._at(self._cluster.broadcast_s, self._swap, version)
        if self._schedule == "async":
            then()
        else:
            self._then = then

    def _swap(self, version: int) -> None:
        for index, engine in enumerate(self._engines):
            engine.advance(self._now)
            engine.stand_still(self._cluster.pause_s)
            oldest = min((begin for _, begin, *_ in engine.running), default=engine.work)
            keep = next((i for i in range(len(engine.versions) - 1) if engine.versions[i + 1][0] > oldest), len(engine.versions) - 1)
            engine.versions = [*engine.versions[keep:], (engine.work, version)]
            self._touched.add(index)
        self._at(self._cluster.pause_s, self._delivered)

    def _delivered(self) -> None:
        self._delivering = False
        then, self._then = self._then, None
        if then is not None:
            then()

    def _account(self, batch: Batch) -> None:
        """The ages of a batch's tokens at its step."""
        tokens = weighted = 0
        oldest = batch.step
        for group in batch.groups:
            for count, sum_of_versions, first in self._births.pop(group.id):
                tokens += count
                weighted += sum_of_versions
                oldest = min(oldest, first)
        self.ages.append((batch.step - weighted / tokens, batch.step - oldest))
        self.trained.append([group.id for group in batch.groups])
        self.step_times.append(self._now)
        self._tokens.append(tokens)

    def _totals(self) -> tuple[float, ...]:
        for engine in self._engines:
            engine.advance(self._now)
        settled = self.ledger.trained, sum(self.ledger.filtered.values())
        sums = (sum(getattr(engine, name) for engine in self._engines) for name in ("busy", "tokens", "sequence_seconds"))
        return (self._now, self._trainer_seconds, *sums, *settled)

    def _figures(self, warm: int, before: tuple[float, ...]) -> Figures:
        seconds, trainers, busy, tokens, sequences, trained, filtered = np.subtract(self._totals(), before)
        steps, engines = self._step - warm, len(self._engines)
        ages = self.ages[warm:]
        return Figures(
            steps=steps,
            seconds=float(seconds),
            generators_busy=float(busy / seconds / engines),
            occupancy=float(sequences / seconds / min(self._cluster.in_flight, engines * self._cluster.sequences)),
            trainers_busy=float(trainers / seconds),
            age_mean=float(np.average([mean for mean, _ in ages], weights=self._tokens[warm:])),
            age_max=max(largest for _, largest in ages),
            generated_tokens_per_s=float(tokens / seconds),
            trained_tokens_per_s=float(sum(self._tokens[warm:]) / seconds),
            completions_per_s=steps * self._settings.n_minibatch / float(seconds),
            unused_share=float(np.mean(self._unused[warm : self._step])),
            filtered_share=float(filtered / max(1, trained + filtered)),
        )


@contextlib.contextmanager
def _no_collection() -> Iterator[None]:
    """No search for cycles meanwhile: there are none, and among millions of small objects it takes a quarter of the time."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def _versions(swaps: Sequence[tuple[float, int]], begin: float, tokens: int) -> tuple[int, int]:
    """Sum of the weight versions over a sequence's tokens, and the first token's. Token k is made at `begin + k`."""
    work, version = swaps[-1]
    if work <= begin:
        return version * tokens, version
    total, rest, first = 0, tokens, version
    for work, version in reversed(swaps):
        before = max(0, math.ceil(work - begin - _ROUNDING) - 1)  # tokens made before this swap
        if before < rest:
            total += version * (rest - before)
            rest, first = before, version
        if not rest:
            break
    return total, first


def simulate(cluster: Cluster, schedule: Schedule, steps: int) -> Figures:
    """Figures of one schedule on a cluster. Raises like `Simulator.run`."""
    return Simulator(cluster, schedule).run(steps)


def generators_needed(cluster: Cluster, steps: int) -> tuple[int | None, dict[int, Figures]]:
    """The smallest number of generators with which the trainers are busy for `BUSY` of the time, asynchronously.

    Doubles the number until that is so, then halves the interval. With `n_async` derived, more generators also mean fewer sequences for
    each, once 2 `n_batch` is reached; more generators than sequences are not tried.

    Returns:
        The number, or None where none is enough (then `max_open`, or one long sequence, holds the trainers up); and the figures of every
        number tried, ascending.
    """
    tried: dict[int, Figures] = {}

    def enough(count: int) -> bool:
        tried[count] = simulate(replace(cluster, generators=count), "async", steps)
        return tried[count].trainers_busy >= BUSY

    low, high, most = 0, 1, cluster.n_async or 2 * cluster.n_batch
    while high != low and not enough(high):
        low, high = high, min(2 * high, most)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return (high if high != low else None), dict(sorted(tried.items()))
