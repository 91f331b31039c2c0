"""The simulator: it goes step by step as the coordinator itself does, and by what can be reckoned on paper."""

from __future__ import annotations

import json
import statistics
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import virtual_time
from hypothesis import given, settings
from hypothesis import strategies as st
from simulated_runtime import Simulation, World, recipe

from magistral_core.errors import InputError
from magistral_core.pipeline.admission import largest_age
from magistral_core.pipeline.cluster import Cluster, Draws, recorded_lengths
from magistral_core.pipeline.simulator import BUSY, SCHEDULES, Schedule, Simulator, generators_needed, simulate
from magistral_core.records import Score, ScoreStatus

#: The figures of the tests' simulated runtime, and of their recipe: decoding never slows down, nothing stands still.
SMALL = Cluster(
    generators=2,
    sequences=64,
    alone_tokens_per_s=1000.0,
    full_tokens_per_s=64_000.0,
    prompt_tokens=3,
    prefill_tokens_per_s=float("inf"),
    verify_s=0.3,
    trainers=1,
    trainer_tokens_per_s=float("inf"),
    step_s=0.5,
    publish_s=0.0,
    broadcast_s=0.2,
    pause_s=0.0,
    group_size=4,
    n_batch=16,
    n_minibatch=16,
    n_async=16,
    max_open=48,
    mean=1000.0,
    longest=8192,
    token_budget=16_384,
)


@pytest.mark.parametrize(
    ("schedule", "step_s", "minibatch", "generators"),
    [("sync", 0.5, 16, 2), ("sync", 4.0, 8, 5), ("async", 0.5, 16, 1), ("async", 0.5, 8, 5), ("async", 4.0, 16, 2), ("async", 4.0, 8, 2)],
)
def test_it_does_what_the_coordinator_does(schedule: Schedule, step_s: float, minibatch: int, generators: int, tmp_path: Path) -> None:
    """Every step at the same time, of the same groups, with tokens of the same ages."""
    cluster = changed(generators=generators, n_minibatch=minibatch, step_s=step_s)
    simulator, draws, steps = Simulator(cluster, schedule), Draws(cluster), 16
    simulator.run(steps)

    def score(group_id: int, index: int) -> Score:
        right = draws.verdicts(group_id)[index]
        return Score(1.0 if right else 0.1, ScoreStatus.CORRECT if right else ScoreStatus.WRONG)

    asked = recipe(max_steps=steps, schedule=schedule, n_minibatch=minibatch, generators=generators)
    asked = asked.model_copy(
        update={
            "generation": asked.generation.model_copy(update={"max_tokens": 8192}),
            "training": asked.training.model_copy(update={"token_budget": 16_384}),
        }
    )
    world = World(
        length=lambda group, index: draws.lengths(group)[index],
        score=score,
        generators=generators,
        token_seconds=0.001,
        train_seconds=step_s,
    )
    run = virtual_time.run(Simulation(asked, world, tmp_path).run())
    assert simulator.trained == [[group.id for group in batch.groups] for batch in run.watcher.batches]
    assert simulator.step_times == pytest.approx([time for time, _, _ in run.runtime.trained])
    assert [mean for mean, _ in simulator.ages] == pytest.approx([row["age/mean"] for row in run.watcher.metrics], abs=2e-3)
    assert [largest for _, largest in simulator.ages] == [row["age/max"] for row in run.watcher.metrics]
    assert simulator.ledger.summary()["filtered"] > 0


def changed(**changes: object) -> Cluster:
    return replace(SMALL, **changes)  # type: ignore[arg-type]


def test_a_synchronous_step_by_hand() -> None:
    """1 s to generate and 0.3 s to verify, as often as filtered groups must be replaced; 0.5 s to train, 0.2 s for the weights."""
    simulator = Simulator(changed(lengths="constant", group_size=16), "sync")
    simulator.run(12)
    rounds = (np.diff(simulator.step_times) - 0.7) / 1.3
    assert np.allclose(rounds, np.round(rounds))
    assert rounds.min() == pytest.approx(1)
    assert rounds.max() > 1.5


def test_decoding_slows_down_with_company() -> None:
    """An engine that makes 100 tokens/s of one sequence and 800 of 64: a step takes a + b n, and 16 sequences of 50 tokens fifty steps."""
    cluster = changed(generators=1, alone_tokens_per_s=100.0, full_tokens_per_s=800.0, lengths="constant", mean=50.0, group_size=16)
    a, b = cluster.step_seconds
    assert a + b == pytest.approx(1 / 100)
    assert a + 64 * b == pytest.approx(64 / 800)
    simulator = Simulator(cluster, "sync")
    simulator.run(12)
    assert np.diff(simulator.step_times).min() == pytest.approx(50 * (a + 16 * b) + 0.3 + 0.5 + 0.2)


def test_sequences_beyond_an_engines_number_wait() -> None:
    few = Simulator(changed(generators=1, sequences=4, full_tokens_per_s=4000.0, lengths="constant"), "sync")
    many = Simulator(changed(generators=1, lengths="constant"), "sync")
    few.run(4)
    many.run(4)
    assert few.step_times[0] - many.step_times[0] >= 3.0 - 1e-9, "sixteen in four rounds of a second"


def test_generators_stand_still_for_swaps_and_prefills() -> None:
    base = simulate(changed(lengths="constant"), "sync", 8)
    paused = simulate(changed(lengths="constant", pause_s=2.0), "sync", 8)
    assert paused.seconds / paused.steps == pytest.approx(base.seconds / base.steps + 2.0)
    filled = simulate(changed(lengths="constant", prefill_tokens_per_s=3.0), "sync", 8)
    assert filled.seconds > base.seconds + 2.0 * base.steps - 1e-9, "two groups an engine, a second each"


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_ages_by_schedule(schedule: Schedule) -> None:
    simulator = Simulator(changed(step_s=2.0), schedule)
    figures = simulator.run(30)
    if schedule == "sync":
        assert figures.age_max == 0
    elif schedule == "one-step-off":
        assert [age for age in simulator.ages[1:] if age != (1.0, 1)] == []
    else:
        assert 1 < figures.age_max <= largest_age(SMALL.settings("async"))
    trained = [group for step in simulator.trained for group in step]
    assert len(set(trained)) == len(trained) == 30 * 4


@settings(max_examples=30, deadline=None)
@given(
    schedule=st.sampled_from(SCHEDULES),
    generators=st.integers(1, 6),
    sequences=st.integers(2, 9),
    minibatches=st.integers(1, 2),
    skew=st.floats(1.0, 6.0),
    pauses=st.floats(0.0, 3.0),
    prefill=st.sampled_from([1.0, 50.0]),
)
def test_whatever_the_cluster_groups_balance_and_shares_are_shares(
    schedule: Schedule, generators: int, sequences: int, minibatches: int, skew: float, pauses: float, prefill: float
) -> None:
    cluster = changed(
        generators=generators,
        sequences=sequences,
        full_tokens_per_s=1000.0 * (1 + sequences) / 2,
        n_minibatch=16 // minibatches,
        skew=skew,
        pause_s=pauses,
        broadcast_s=pauses,
        publish_s=pauses / 2,
        prefill_tokens_per_s=prefill,
        trainer_tokens_per_s=10_000.0,
        n_async=0,
    )
    simulator = Simulator(cluster, schedule)
    figures = simulator.run(10)
    summary = simulator.ledger.summary()
    assert summary["submitted"] == summary["trained"] + summary["filtered"] + summary["in_flight"]
    assert summary["trained"] == 10 * cluster.n_minibatch // 4
    for share in (figures.generators_busy, figures.occupancy, figures.trainers_busy, figures.unused_share, figures.filtered_share):
        assert -1e-9 <= share <= 1 + 1e-9
    assert figures.generated_tokens_per_s <= generators * cluster.full_tokens_per_s * (1 + 1e-9)


def test_asynchronous_is_faster_where_lengths_are_skewed() -> None:
    speeds = {schedule: simulate(changed(step_s=2.0), schedule, 30).completions_per_s for schedule in SCHEDULES}
    assert speeds["sync"] < speeds["one-step-off"] < speeds["async"]


class QueueWatch(Simulator):
    """Notes what waits when a batch begins."""

    def _begin_batch(self) -> None:
        self.waiting = [*getattr(self, "waiting", []), self._admission.queued]
        super()._begin_batch()


@pytest.mark.parametrize("changes", [{}, {"pass_rate": 0.9, "trainer_tokens_per_s": 1000.0}, {"skew": 1.5, "trainer_tokens_per_s": 1500.0}])
def test_trainers_that_are_the_bottleneck_never_wait_and_their_queue_keeps_near_its_bound(changes: dict[str, Any]) -> None:
    """Neither swells the queue with all that was under way when it was full, nor runs it dry while new groups are made."""
    cluster = Cluster(**{"trainer_tokens_per_s": 2500.0, **changes})
    simulator = QueueWatch(cluster, "async")
    figures = simulator.run(60)
    waiting = simulator.waiting[20:]
    queue = cluster.settings("async").queue
    assert figures.trainers_busy > 0.99
    assert min(waiting) > cluster.n_batch
    assert 0.8 * queue < statistics.fmean(waiting) < 1.5 * queue
    assert max(waiting) <= 2 * queue


def test_the_number_of_generators_that_trainers_need() -> None:
    """Trainers that take ten completions of 1,000 tokens a second, and engines that make four at most."""
    cluster = changed(lengths="constant", step_s=1.6, full_tokens_per_s=4000.0, n_async=32, max_open=160)
    needed, tried = generators_needed(cluster, 40)
    assert needed is not None
    assert tried[needed].trainers_busy >= BUSY > tried[needed - 1].trainers_busy
    assert list(tried) == sorted(tried)


def test_no_number_of_generators_helps_where_admission_is_the_limit() -> None:
    needed, tried = generators_needed(changed(verify_s=30.0, max_open=32), 12)
    assert needed is None
    assert max(tried) == SMALL.n_async, "more generators than sequences are of no use"


@pytest.mark.parametrize("skew", [1.0, 2.0, 5.0])
def test_lognormal_lengths_have_their_mean_and_skew(skew: float) -> None:
    lengths = np.concatenate([changed(skew=skew, longest=16_000).draw(block)[0] for block in range(40)])
    assert lengths.mean() == pytest.approx(1000, rel=0.03)
    assert np.percentile(lengths, 99) / lengths.mean() == pytest.approx(skew, rel=0.05)


def test_recorded_lengths_are_drawn_from(tmp_path: Path) -> None:
    lines, table = tmp_path / "lengths.txt", tmp_path / "step-00000010.json"
    lines.write_text("10\n\n20\n30\n")
    table.write_text(json.dumps({"columns": ["problem", "tokens"], "data": [["q", 10], ["r", 20], ["s", 30]]}))
    for path in (lines, table):
        assert recorded_lengths(path).tolist() == [10, 20, 30]
        assert set(np.unique(changed(lengths=str(path)).draw(0)[0])) == {10, 20, 30}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"generators": 0}, "generators (0) must be above 0"),
        ({"pause_s": -1.0}, "pause_s (-1.0) must not be negative"),
        ({"full_tokens_per_s": 10.0}, "full_tokens_per_s (10) must lie between"),
        ({"longest": 20_000}, "token_budget (16384) must hold"),
        ({"pass_rate": 1.0}, "pass_rate (1.0) must lie between 0 and 1"),
        ({"skew": 20.0}, "skew (20.0) must be at least 1 and below 15.0"),
        ({"lengths": "nowhere.txt"}, "lengths nowhere.txt: cannot be read"),
    ],
)
def test_a_cluster_that_cannot_be_is_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(InputError) as error:
        changed(**changes)
    assert str(error.value).startswith(message)


@pytest.mark.parametrize(
    ("text", "message"),
    [("10\nten\n", "line 2: 'ten'"), ("", "empty"), ("0\n", "a length below 1"), ('{"columns": ["x"], "data": []}', "it has: x")],
)
def test_files_without_lengths_are_refused(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "lengths"
    path.write_text(text)
    with pytest.raises(InputError, match=message):
        recorded_lengths(path)


@pytest.mark.parametrize("text", ['{"tokens": 5}\n{"tokens": 6}', '{"columns": ["tokens"]}', '{"columns": ["tokens"], "data": [[null]]}'])
def test_a_table_of_lengths_that_is_none_is_named(tmp_path: Path, text: str) -> None:
    path = tmp_path / "lengths.json"
    path.write_text(text)
    with pytest.raises(InputError, match=r"lengths .*lengths\.json: no table with `columns` and `data`"):
        recorded_lengths(path)


def test_settings_that_a_recipe_refuses_are_refused_here() -> None:
    with pytest.raises(InputError, match=r"group_size \(4\) must divide n_batch \(18\)$"):
        simulate(changed(n_batch=18, n_minibatch=18), "async", 4)
