"""Killed at any moment and resumed from the last checkpoint, a run goes on as if nothing had happened."""

from __future__ import annotations

import asyncio
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import virtual_time
from hypothesis import given, settings
from hypothesis import strategies as st
from simulated_runtime import Key, Simulation, World, recipe
from test_coordinator import skewed, some_of_all

from magistral_core.config.schema import Recipe
from magistral_core.pipeline.ledger import GroupState
from magistral_core.pipeline.state import LoopState
from magistral_core.records import Batch

WORLD = World(score=some_of_all, length=skewed)
KILLS = st.lists(st.floats(0.5, 60.0), max_size=4)


@dataclass
class History:
    """A run over all its attempts: of a step that was done twice, the later one counts."""

    steps: dict[int, Batch] = field(default_factory=dict)
    seeds: dict[Key, int] = field(default_factory=dict)
    attempts: list[Simulation] = field(default_factory=list)

    @property
    def last(self) -> Simulation:
        return self.attempts[-1]

    @property
    def groups(self) -> list[int]:
        return [group.id for step in sorted(self.steps) for group in self.steps[step].groups]


def run_with_kills(settings: Recipe, kills: Sequence[float | None], root: Path, *, one_stage: bool = False) -> History:
    """Kill after so many virtual seconds of each attempt (nothing is saved then); the last one, and those with None, run to their end."""
    history, folder = History(), None
    for number, seconds in enumerate([*kills, None]):
        attempt = Simulation(settings, WORLD, root / str(number), one_stage=one_stage)
        if folder is not None:
            attempt.state = LoopState.load(folder, attempt.stream.__getitem__, attempt.state.curriculum)
        virtual_time.run(_attempt(attempt, seconds))
        history.attempts.append(attempt)
        history.steps |= {batch.step: batch for batch in attempt.watcher.batches}
        for key, request in attempt.runtime.requests.items():
            assert history.seeds.setdefault(key, request.seed) == request.seed, "sampled again with another seed"
        if attempt.watcher.checkpoints:
            folder = attempt.watcher.checkpoints[-1][1]
    return history


async def _attempt(attempt: Simulation, seconds: float | None) -> None:
    task = asyncio.create_task(attempt.run())
    await asyncio.wait([task], timeout=seconds)
    if task.done():
        task.result()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


def fingerprint(batch: Batch) -> tuple[object, ...]:
    """Everything that the trainers get to see of a batch."""
    completions = [completion for group in batch.groups for completion in group.completions]
    return (
        tuple(group.id for group in batch.groups),
        tuple(score.reward for group in batch.groups for score in group.scores),
        batch.advantages.tobytes(),
        batch.weights.tobytes(),
        tuple(completion.token_ids.tobytes() + completion.versions.tobytes() for completion in completions),
    )


@lru_cache
def synchronous(minibatch: int) -> tuple[Recipe, dict[int, tuple[object, ...]]]:
    settings = recipe(max_steps=12, every=2, schedule="sync", n_minibatch=minibatch)
    with tempfile.TemporaryDirectory() as root:
        return settings, {step: fingerprint(batch) for step, batch in run_with_kills(settings, [], Path(root)).steps.items()}


@settings(max_examples=20)
@given(kills=KILLS, minibatch=st.sampled_from([16, 8]))
def test_synchronous_batches_are_those_of_an_undisturbed_run(kills: list[float], minibatch: int) -> None:
    recipe_, undisturbed = synchronous(minibatch)
    with tempfile.TemporaryDirectory() as root:
        history = run_with_kills(recipe_, kills, Path(root))
    assert {step: fingerprint(batch) for step, batch in history.steps.items()} == undisturbed
    assert history.last.state.ledger.resampled == 0, "a synchronous checkpoint has nothing in flight"


@settings(max_examples=20)
@given(kills=KILLS, every=st.integers(1, 4), minibatch=st.sampled_from([16, 8]))
def test_asynchronous_runs_train_no_group_twice_and_skip_none(kills: list[float], every: int, minibatch: int) -> None:
    with tempfile.TemporaryDirectory() as root:
        history = run_with_kills(recipe(max_steps=12, every=every, n_minibatch=minibatch), kills, Path(root))
    state = history.last.state
    assert sorted(history.steps) == list(range(12))
    assert set(Counter(history.groups).values()) == {1}
    open_groups = {group for found in GroupState for group in state.ledger.ids(found)}
    summary = state.ledger.summary()
    assert not open_groups & set(history.groups)
    assert summary["trained"] == len(history.groups)
    dropped = set(range(summary["submitted"])) - open_groups - set(history.groups)
    assert all(some_of_all(group, 0).reward == some_of_all(group, 1).reward for group in dropped), "a group with a signal was skipped"
    assert len(dropped) == summary["filtered"] + summary["failed"]
    assert state.counters.weight_updates <= 12


def test_groups_in_flight_are_sampled_again_and_counted(tmp_path: Path) -> None:
    history = run_with_kills(recipe(max_steps=12, every=1), [20.0], tmp_path)
    first, second = history.attempts
    step, folder = first.watcher.checkpoints[-1]
    saved = LoopState.load(folder, first.stream.__getitem__)
    again = saved.ledger.ids(GroupState.GENERATING)
    assert again
    assert saved.ledger.resampled == second.state.ledger.resampled == len(again)
    submitted = [key for _, key in second.runtime.submitted]
    first_slots = {group for group, _ in submitted[: 4 * len(again)]}
    assert first_slots == set(again), "they come first"
    queued = {group.id for group in saved.queue}
    assert not queued & {group for group, _ in submitted}, "finished groups are not sampled again"
    assert queued <= set(history.groups)
    assert sum(row.get("resume/groups", 0) for row in second.watcher.metrics) <= len(again)
    assert any("resume/groups" in row for row in second.watcher.metrics)
    assert second.watcher.batches[0].step == step
