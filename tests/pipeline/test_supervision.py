"""Generators that die: the states they go through, and that a run loses nothing by it."""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path

import pytest
import virtual_time
from hypothesis import given, settings
from hypothesis import strategies as st
from simulated_runtime import Simulation, World, recipe
from test_coordinator import assert_conserved, some_of_all

from magistral_core.pipeline.admission import largest_age
from magistral_core.pipeline.supervision import Fleet, GeneratorError, GeneratorState

DEATH = GeneratorError("gone")


def test_the_way_back_has_no_shortcut() -> None:
    fleet = Fleet(2, max_restarts=1)
    assert fleet.died(1, 0, DEATH)
    assert fleet.healthy == [0]
    for state in (GeneratorState.HEALTHY, GeneratorState.STALE, GeneratorState.REFRESHED):
        with pytest.raises(ValueError, match="cannot go from dead"):
            fleet.advance(1, state)
    for state in (GeneratorState.RESTARTING, GeneratorState.STALE, GeneratorState.REFRESHED):
        fleet.advance(1, state)
        assert fleet.healthy == [0]
    fleet.advance(1, GeneratorState.HEALTHY)
    assert fleet.healthy == [0, 1]
    assert fleet.restarts == 1


def test_a_death_is_noted_once_and_too_many_in_a_row_are_final() -> None:
    fleet = Fleet(1, max_restarts=2)
    assert fleet.died(0, 0, DEATH)
    assert not fleet.died(0, 0, DEATH), "told again by another call of the same incarnation"
    assert fleet.died(0, 1, DEATH), "died while it was restarting"
    with pytest.raises(GeneratorError, match="gone"):
        fleet.died(0, 2, DEATH)
    fleet.worked(0)
    assert fleet.died(0, 2, DEATH)


async def killing(run: Simulation, deaths: list[tuple[float, int]]) -> Simulation:
    """Run, and kill generators at virtual times."""

    async def kill(after: float, generator: int) -> None:
        await asyncio.sleep(after)
        run.runtime.kill(generator)

    work = asyncio.create_task(run.run())
    await asyncio.sleep(0)
    killers = [asyncio.create_task(kill(*death)) for death in deaths]
    try:
        return await work
    finally:
        for killer in killers:
            killer.cancel()
        await asyncio.gather(*killers, return_exceptions=True)


@settings(max_examples=60, deadline=None)
@given(
    deaths=st.lists(st.tuples(st.floats(0.0, 40.0), st.integers(0, 2)), max_size=6),
    schedule=st.sampled_from(["async", "sync"]),
    restart=st.sampled_from([0.05, 1.0, 9.0]),
)
def test_nothing_is_lost_whenever_generators_die(deaths: list[tuple[float, int]], schedule: str, restart: float) -> None:
    world = World(generators=3, score=some_of_all, restart_seconds=restart)
    asked = recipe(schedule=schedule, max_steps=12, max_restarts=1000)
    with tempfile.TemporaryDirectory() as root:
        run = virtual_time.run(killing(Simulation(asked, world, Path(root)), deaths))
    assert_conserved(run)
    assert run.state.step == 12
    ages = [12 - 1 - int(c.versions.min()) for batch in run.watcher.batches[-1:] for group in batch.groups for c in group.completions]
    assert max(ages) <= largest_age(asked.pipeline)


def test_a_generator_that_is_started_again_takes_the_newest_weights_and_then_works(tmp_path: Path) -> None:
    run = virtual_time.run(killing(Simulation(recipe(max_steps=30), World(), tmp_path), [(12.0, 1)]))
    [(_, end, generator)] = run.runtime.restarts
    taken = next(update for update in run.runtime.updates if update[2] == generator and update[0] >= end)
    published_by_then = sum(1 for time, _, _ in run.runtime.trained if time <= taken[0])
    assert taken[3] == published_by_then, "the newest, not those that it missed in between"
    assert len([update for update in run.runtime.updates if update[2] == 1]) > 5
    assert [role for role, _ in run.watcher.restarts] == ["generator 1"]
    assert min(metrics["generators/healthy"] for metrics in run.watcher.metrics) == 1
    assert run.watcher.metrics[-1]["generators/restarts"] == 1


def test_one_generator_alone_is_waited_for(tmp_path: Path) -> None:
    run = virtual_time.run(killing(Simulation(recipe(), World(generators=1), tmp_path), [(3.0, 0), (9.5, 0)]))
    assert_conserved(run)
    assert len(run.runtime.restarts) == 2


def test_a_generator_that_always_dies_ends_the_run_with_its_own_words(tmp_path: Path) -> None:
    run = Simulation(recipe(max_restarts=2), World(generators=1, raises={"restart": DEATH}), tmp_path)
    with pytest.raises(GeneratorError, match="gone"):
        virtual_time.run(killing(run, [(3.0, 0)]))
    assert run.runtime.closed


def test_a_slow_generator_is_fenced_off_and_started_again(tmp_path: Path) -> None:
    """It never takes version 2; the others go on, and it comes back with a later one."""
    slow = World(update_seconds=lambda generator, version: float("inf") if (generator, version) == (1, 2) else 0.1)
    run = virtual_time.run(Simulation(recipe(update_timeout_s=5.0, max_steps=20), slow, tmp_path).run())
    assert_conserved(run)
    assert [role for role, _ in run.watcher.restarts] == ["generator 1"]
    assert "version 2 within 5 s" in run.watcher.restarts[0][1]
