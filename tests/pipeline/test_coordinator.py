"""The whole loop on a simulated runtime, in virtual time."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import virtual_time
from simulated_runtime import Simulation, World, mixed, recipe, uniform

from magistral_core.config.schema import Recipe
from magistral_core.pipeline.admission import largest_age
from magistral_core.pipeline.ledger import GroupState
from magistral_core.records import Score, ScoreStatus


def simulate(settings: Recipe, world: World, folder: Path) -> Simulation:
    return virtual_time.run(Simulation(settings, world, folder).run())


def some_of_all(group_id: int, index: int) -> Score:
    """A quarter of the groups each: kept, all right, all wrong, broken verifier."""
    kind = int(4 * uniform(group_id, 77))
    if kind == 0:
        return mixed(group_id, index)
    if kind == 3:
        return Score(0.0, ScoreStatus.ERROR, {}, "worker died")
    return Score(1.0, ScoreStatus.CORRECT) if kind == 1 else Score(0.1, ScoreStatus.WRONG)


def skewed(group_id: int, index: int) -> int:
    """Lengths of which the longest are over five times the mean."""
    return int(np.clip(np.random.default_rng((11, group_id % 2**40, index)).lognormal(2.0, 1.0), 1, 70))


def assert_conserved(run: Simulation) -> None:
    """Every completion that was generated is trained, filtered, failed or in flight, exactly once."""
    size = run.recipe.pipeline.group_size
    ledger, generated = run.state.ledger, {key: length for key, length in run.runtime.generated.items() if key[0] >= 0}
    summary = ledger.summary()
    assert summary["submitted"] == summary["trained"] + summary["filtered"] + summary["failed"] + summary["in_flight"]
    open_groups = {group for state in GroupState for group in ledger.ids(state)}
    trained = Counter(group.id for batch in run.watcher.batches for group in batch.groups)
    assert set(trained.values()) <= {1}, "a group was trained twice"
    assert not open_groups & trained.keys()
    assert summary["trained"] == len(trained)
    assert ledger.ids(GroupState.QUEUED) == sorted(group.id for group in run.state.queue)
    dropped = set(range(summary["submitted"])) - open_groups - trained.keys()
    assert len(dropped) == summary["filtered"] + summary["failed"]
    expected = [(group, i) for group in (*trained, *dropped) for i in range(size)]
    assert set(expected) <= generated.keys()
    assert {group for group, _ in generated.keys() - set(expected)} <= open_groups
    # The trainers saw every graded completion of every trained group, and none besides.
    seen = Counter(run.runtime.trained_keys)
    graded = {
        (g.id, c.index) for b in run.watcher.batches for g in b.groups for c, s in zip(g.completions, g.scores, strict=True) if s.graded
    }
    assert seen == Counter(graded)
    assert run.state.counters.completions <= len(generated) <= run.state.counters.completions + run.recipe.pipeline.n_async
    assert run.runtime.weights <= {run.state.step}, "older weights are taken away; the newest stay for a generator that is started again"


@pytest.mark.parametrize("trainers", [1, 2])
@pytest.mark.parametrize("minibatches", [1, 2])
@pytest.mark.parametrize("schedule", ["async", "sync"])
def test_a_run_comes_to_its_end_and_loses_nothing(schedule: str, minibatches: int, trainers: int, tmp_path: Path) -> None:
    settings = recipe(max_steps=12, schedule=schedule, n_minibatch=16 // minibatches, trainers=trainers)
    run = simulate(settings, World(score=some_of_all, length=skewed), tmp_path)
    assert run.state.step == len(run.watcher.metrics) == 12
    assert all("reward/mean" in metrics for metrics in run.watcher.metrics), "a curve has a point at every step"
    assert run.state.counters.weight_updates == 12 // minibatches
    assert run.runtime.versions == [12, 12], "the last weights reach the generators"
    assert_conserved(run)
    summary = run.state.ledger.summary()
    assert summary["filtered_by_reason"].keys() == {"all_right", "all_wrong"}
    assert summary["failed_by_reason"].keys() == {"verifier"}
    ages = [metrics["age/max"] for metrics in run.watcher.metrics]
    assert max(ages) <= largest_age(settings.pipeline)
    if schedule == "sync":
        assert max(ages) == minibatches - 1
        assert run.state.counters.weight_updates_in_flight == 0
    else:
        assert max(ages) > minibatches - 1, "an asynchronous run trains on older tokens"


def test_groups_stay_on_one_generator_and_both_work(tmp_path: Path) -> None:
    run = simulate(recipe(), World(length=skewed), tmp_path)
    assert {len(hosts) for hosts in run.runtime.hosts.values()} == {1}, "a prompt is computed once a group"
    assert {host for hosts in run.runtime.hosts.values() for host in hosts} == {0, 1}
    seeds = [request.seed for request in run.runtime.requests.values()]
    assert len(set(seeds)) == len(seeds)


def test_generators_go_on_during_training_and_updates(tmp_path: Path) -> None:
    """Completions are submitted in the middle of most optimiser steps and weight updates; nobody waits for either."""
    run = simulate(recipe(max_steps=20), World(train_seconds=1.5, update_seconds=lambda g, v: 1.0), tmp_path)
    times = np.array([time for time, _ in run.runtime.submitted])

    def share(spans: list[tuple[float, float]]) -> float:
        return float(np.mean([((times > begin) & (times < end)).any() for begin, end in spans]))

    assert share(run.runtime.training) > 0.8
    assert share([(begin, end) for begin, end, _, _ in run.runtime.updates]) > 0.8
    assert run.state.counters.weight_updates_in_flight >= 18
    assert any(train[0] < update[1] and update[0] < train[1] for train in run.runtime.training for update in run.runtime.updates)
    mixed_versions = [c for b in run.watcher.batches for g in b.groups for c in g.completions if len(set(c.versions.tolist())) > 1]
    assert mixed_versions, "sequences in flight go on with the new weights"


def test_synchronous_rounds_do_not_overlap(tmp_path: Path) -> None:
    run = simulate(recipe(max_steps=4, schedule="sync"), World(score=some_of_all), tmp_path)
    busy = run.runtime.training + run.runtime.scoring + [update[:2] for update in run.runtime.updates]
    for begin, end in busy:
        assert not any(begin < time < end for time, _ in run.runtime.submitted)
    order = [group.id for batch in run.watcher.batches for group in batch.groups]
    assert order == sorted(order)


@pytest.mark.parametrize("minibatch", [16, 8])
def test_no_length_bias(minibatch: int, tmp_path: Path) -> None:
    """What is trained is as long as what is sampled, though the longest take many times the mean."""
    settings = recipe(max_steps=2400 // minibatch, n_minibatch=minibatch)
    run = simulate(settings, World(length=skewed, token_seconds=0.02, train_seconds=0.2 * minibatch / 16), tmp_path)
    # Drained: below the oldest group in flight nothing is missing.
    oldest = min(group for state in GroupState for group in run.state.ledger.ids(state))
    trained = {(g.id, c.index): c.length for b in run.watcher.batches for g in b.groups for c in g.completions if g.id < oldest}
    assert len(trained) == 4 * oldest >= 2000
    independent = [skewed(10_000 + group, index) for group in range(1000) for index in range(4)]
    lengths = [run.runtime.generated[key] for key in trained]
    assert max(lengths) >= 5 * np.mean(lengths)
    assert kolmogorov_smirnov(lengths, independent) > 0.01
    # Not drained either, once the first batches are over: what runs late in one batch comes in the next.
    later = [run.runtime.generated[key] for _, _, keys in run.runtime.trained[100 // minibatch :] for key in keys]
    assert kolmogorov_smirnov(later, independent) > 0.01
    assert max(metrics["age/max"] for metrics in run.watcher.metrics) <= largest_age(settings.pipeline)


def kolmogorov_smirnov(left: list[int], right: list[int]) -> float:
    """The p-value of two samples being of one distribution."""
    from scipy.stats import ks_2samp

    return float(ks_2samp(left, right).pvalue)


def test_a_straggler_is_waited_for_and_its_age_is_bounded(tmp_path: Path) -> None:
    """One completion takes a hundred times the mean; it is trained, no older than the plan says."""
    settings = recipe(max_steps=40)
    run = simulate(settings, World(length=lambda g, i: 1500 if (g, i) == (8, 1) else 15, train_seconds=0.1), tmp_path)
    ages = {g.id: b.step - int(c.versions.min()) for b in run.watcher.batches for g in b.groups for c in g.completions if c.index == 1}
    assert 3 <= ages[8] <= largest_age(settings.pipeline)
    assert max(metrics["age/max"] for metrics in run.watcher.metrics) == ages[8]


def test_a_slow_verifier_holds_up_nothing_else(tmp_path: Path) -> None:
    """Every tenth group takes as long to verify as several steps: updates go on meanwhile, and it is trained in the end."""
    slow = {5, 15, 25}
    world = World(verify_seconds=lambda groups: 30.0 if slow & set(groups) else 0.1)
    run = simulate(recipe(max_steps=60), world, tmp_path)
    waits = [(begin, end) for begin, end in run.runtime.scoring if end - begin > 20]
    assert waits
    for begin, end in waits:
        during = [update for update in run.runtime.updates if begin < update[0] and update[1] < end]
        assert len(during) >= 2 * 3, "less than three updates of both generators"
    assert slow <= {group.id for batch in run.watcher.batches for group in batch.groups}


def test_groups_that_a_verifier_broke_are_replaced(tmp_path: Path) -> None:
    """Three broken completions of four fail a group; two only mask them."""

    def breaking(group_id: int, index: int) -> Score:
        broken = {0: 3, 1: 2}.get(group_id % 5, 0)
        return Score(0.0, ScoreStatus.ERROR, {}, "worker died") if index >= 4 - broken else mixed(group_id, index)

    run = simulate(recipe(max_steps=8), World(score=breaking), tmp_path)
    assert run.state.step == 8
    trained = {group.id for batch in run.watcher.batches for group in batch.groups}
    assert not any(group % 5 == 0 for group in trained)
    halves = [key for key in run.runtime.trained_keys if key[0] % 5 == 1]
    assert halves
    assert {index for _, index in halves} == {0, 1}
    assert sum(metrics["batch/masked"] for metrics in run.watcher.metrics) == len(halves)
    assert sum(metrics.get("groups/failed_verifier", 0) for metrics in run.watcher.metrics) > 0
    assert_conserved(run)


def test_checkpoints_are_written_in_step(tmp_path: Path) -> None:
    run = simulate(recipe(max_steps=10, every=4), World(), tmp_path)
    assert [step for step, _ in run.watcher.checkpoints] == [4, 8, 10]


def test_checkpoints_fall_on_batch_boundaries(tmp_path: Path) -> None:
    run = simulate(recipe(max_steps=9, every=3, n_minibatch=8), World(), tmp_path)
    assert [step for step, _ in run.watcher.checkpoints] == [4, 6, 9]
    assert run.runtime.versions == [9, 9]


def test_a_finished_run_does_nothing_more(tmp_path: Path) -> None:
    run = simulate(recipe(max_steps=3), World(), tmp_path)
    again = Simulation(run.recipe, World(), tmp_path / "again", run.state)
    virtual_time.run(again.run())
    assert not again.runtime.trained
    assert run.state.step == 3


def test_metrics_tell_what_happened(tmp_path: Path) -> None:
    run = simulate(recipe(max_steps=10), World(score=some_of_all), tmp_path)
    metrics = run.watcher.metrics
    tokens = sum(int(row["train/tokens"]) for row in metrics)
    assert tokens == run.state.counters.trained_tokens == sum(run.runtime.generated[key] for key in run.runtime.trained_keys)
    assert 0 < sum(row["groups/filtered"] for row in metrics) <= run.state.ledger.summary()["filtered"]
    ended = sum(run.state.ledger.summary()[how] for how in ("trained", "filtered", "failed")) + len(run.state.queue)
    assert ended - 10 < sum(row["groups/verified"] for row in metrics) <= ended, "all but what ended after the last step"
    for row in metrics:
        for name in ("busy/generators", "busy/occupancy", "busy/trainers", "packing/unused_share", "pass/rate"):
            assert 0.0 <= row[name] <= 1.0, name
        assert row["queue/generating"] <= 16
        assert row["queue/open"] <= 48
    seconds = sum(row["speed/step_seconds"] for row in metrics)
    assert seconds == pytest.approx(run.state.counters.seconds)
    spent = sum(row["busy/trainers"] * row["speed/step_seconds"] for row in metrics)
    assert spent == pytest.approx(10 * 0.5)


def test_the_trainers_see_the_batch(tmp_path: Path) -> None:
    run = simulate(recipe(max_steps=1), World(), tmp_path)
    (batch,) = run.watcher.batches
    assert sorted(run.runtime.trained_keys) == sorted((c.group_id, c.index) for g in batch.groups for c in g.completions)


async def _cancelled(run: Simulation) -> list[str]:
    task = asyncio.create_task(run.run())
    await asyncio.sleep(5)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    return [repr(task) for task in asyncio.all_tasks() if task is not asyncio.current_task()]


def test_cancelling_leaves_no_task(tmp_path: Path) -> None:
    run = Simulation(recipe(max_steps=100), World(), tmp_path)
    assert virtual_time.run(_cancelled(run)) == []
    assert run.runtime.closed
    run.state.ledger.check()
