"""Generators that join and leave during a run: in which order, and that a run loses nothing by it."""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
from pathlib import Path

import pytest
import simulated_runtime
import virtual_time
from hypothesis import given, settings
from hypothesis import strategies as st
from simulated_runtime import Simulation, World, recipe
from test_coordinator import assert_conserved, some_of_all
from test_supervision import DEATH

from magistral_core.pipeline.coordinator import Coordinator
from magistral_core.pipeline.supervision import Fleet, GeneratorError, GeneratorState


def test_the_last_leave_first_and_numbers_have_no_gaps() -> None:
    fleet = Fleet(4, max_restarts=1)
    assert fleet.scale(2) == []
    assert fleet.healthy == [0, 1]
    assert fleet.serving == fleet.present == [0, 1, 2, 3]
    assert fleet.scale(5) == [], "nobody joins while others leave"
    fleet.advance(3, GeneratorState.GONE)
    fleet.advance(2, GeneratorState.GONE)
    assert fleet.present == [0, 1]
    assert fleet.scale(5) == [2, 3, 4]
    assert fleet.scale(5) == [], "they join once"
    assert fleet.healthy == [0, 1]
    for state in (GeneratorState.STALE, GeneratorState.REFRESHED, GeneratorState.HEALTHY):
        fleet.advance(2, state)
    assert fleet.healthy == [0, 1, 2]
    assert fleet.restarts == 0


def test_a_generator_that_is_being_started_cannot_leave() -> None:
    fleet = Fleet(3, max_restarts=1)
    fleet.died(2, 0, DEATH)
    fleet.scale(1)
    assert fleet.healthy == [0, 1], "the last would leave a gap if it left later"
    assert fleet.present == [0, 1, 2]


def test_one_that_joins_can_be_taken_back() -> None:
    fleet = Fleet(1, max_restarts=1)
    assert fleet.scale(3) == [1, 2]
    for present in ([0, 1, 2], [0, 1]):
        assert fleet.present == present
        assert fleet.scale(1) == []
        assert fleet.state(present[-1]) is GeneratorState.LEAVING
        fleet.advance(present[-1], GeneratorState.GONE)
    assert fleet.scale(1) == []
    assert fleet.present == fleet.healthy == [0]


def test_answers_of_one_that_has_gone_are_no_news_to_its_successor() -> None:
    fleet = Fleet(2, max_restarts=1)
    before = fleet.incarnation(1)
    fleet.scale(1)
    assert fleet.died(1, before, DEATH), "what it held begins anew elsewhere"
    assert fleet.state(1) is GeneratorState.LEAVING, "and it is not started again"
    fleet.advance(1, GeneratorState.GONE)
    assert not fleet.died(1, fleet.incarnation(1), DEATH)
    assert fleet.scale(2) == [1]
    assert not fleet.died(1, before, DEATH)
    assert fleet.incarnation(1) > before


class Scaled(Simulation):
    """A run of which another number of generators is asked for at virtual times."""

    wishes: list[tuple[float, int]]
    deaths: list[tuple[float, int]]

    async def run(self) -> Simulation:
        began = asyncio.get_running_loop().time()
        run = self

        class Asked(Coordinator):
            async def run(self) -> None:
                async def wish() -> None:
                    while True:
                        now = asyncio.get_running_loop().time() - began
                        asked = [count for time, count in run.wishes if time <= now]
                        if asked:
                            self.scale(asked[-1])
                        for time, generator in [death for death in run.deaths if death[0] <= now]:
                            run.deaths.remove((time, generator))
                            if generator < run.runtime.generators:
                                run.runtime.kill(generator)
                        await asyncio.sleep(0.5)

                task = asyncio.create_task(wish())
                try:
                    await super().run()
                finally:
                    task.cancel()
                    with contextlib.suppress(asyncio.CancelledError):
                        await task

        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(simulated_runtime, "Coordinator", Asked)
            return await super().run()


def scaled(
    wishes: list[tuple[float, int]], folder: Path, world: World, deaths: list[tuple[float, int]] | None = None, **asked: object
) -> Scaled:
    run = Scaled(recipe(**{"max_steps": 30, **asked}), world, folder)
    run.wishes, run.deaths = sorted(wishes), deaths or []
    virtual_time.run(run.run())
    return run


def test_one_that_joins_takes_the_newest_weights_and_then_works(tmp_path: Path) -> None:
    run = scaled([(5.0, 3)], tmp_path, World(generators=1, restart_seconds=3.0), n_async=32)
    assert_conserved(run)
    joined = {generator: end for _, end, generator in run.runtime.restarts}
    assert joined.keys() == {1, 2}
    for generator, time in joined.items():
        taken = next(update for update in run.runtime.updates if update[2] == generator)
        assert taken[0] >= time
        assert taken[3] == sum(1 for done, _, _ in run.runtime.trained if done <= taken[0]) > 0
        assert any(generator in hosts for hosts in run.runtime.hosts.values())
    healthy = [metrics["generators/healthy"] for metrics in run.watcher.metrics]
    assert healthy[0] == 1
    assert healthy[-1] == 3
    assert run.watcher.restarts == []
    assert run.watcher.metrics[-1]["generators/restarts"] == 0


def test_one_that_leaves_finishes_what_it_holds(tmp_path: Path) -> None:
    run = scaled([(5.0, 1)], tmp_path, World(generators=3))
    assert_conserved(run)
    assert [generator for _, generator in run.runtime.removed] == [2, 1]
    keys = [key for _, key in run.runtime.submitted]
    assert len(keys) == len(set(keys)), "nothing was begun anew"
    assert run.watcher.restarts == []
    assert run.watcher.metrics[-1]["generators/healthy"] == run.runtime.generators == 1


def test_one_that_dies_while_it_leaves_is_not_started_again(tmp_path: Path) -> None:
    slow = World(generators=2, length=lambda group, index: 100)
    run = scaled([(5.0, 1)], tmp_path, slow, [(6.0, 1)], max_steps=8, max_restarts=0)
    assert_conserved(run)
    assert [generator for _, generator in run.runtime.removed] == [1]
    assert run.runtime.restarts == []
    assert run.watcher.restarts == []
    keys = [key for _, key in run.runtime.submitted]
    assert len(keys) > len(set(keys)), "what it held began anew"


def test_one_that_finds_no_room_is_given_up_when_fewer_are_asked_for(tmp_path: Path) -> None:
    run = scaled([(5.0, 3), (9.0, 1)], tmp_path, World(generators=1, restart_seconds=1e6), n_async=32)
    assert_conserved(run)
    assert [generator for _, generator in run.runtime.removed] == [2, 1]
    assert run.runtime.restarts == []
    assert run.watcher.restarts == []
    assert run.runtime.generators == 1


@pytest.mark.parametrize("wanted", [2, 4])
def test_one_that_joins_and_can_never_start_ends_no_run(wanted: int, tmp_path: Path) -> None:
    broken = World(generators=1, restart_seconds=1.0, raises={"restart": GeneratorError("no room for its cache")})
    run = scaled([(5.0, wanted)], tmp_path, broken, max_restarts=2)
    assert_conserved(run)
    assert run.runtime.generators == 1
    told = [cause for role, cause in run.watcher.restarts if role == "generator 1"]
    assert told == ["no room for its cache"] * 2 + ["no room for its cache; it never came to work, so the run goes on without it"]
    assert len(run.watcher.restarts) <= 3 * (wanted - 1), "and it is not tried again, though asked for until the end"


def test_one_that_is_started_again_without_room_can_leave(tmp_path: Path) -> None:
    run = scaled([(9.0, 1)], tmp_path, World(generators=2, restart_seconds=1e6), [(3.0, 1)])
    assert_conserved(run)
    assert [generator for _, generator in run.runtime.removed] == [1]
    assert run.runtime.generators == 1


@pytest.mark.parametrize("restart", [0.5, 30.0])
def test_one_that_dies_while_another_is_slow_to_take_its_work_gets_none_of_a_successors(restart: float, tmp_path: Path) -> None:
    slow = World(generators=2, restart_seconds=restart, submit_seconds=lambda generator: 4.0 if generator == 0 else 0.0)
    run = scaled([], tmp_path, slow, [(1.0, 1)], max_steps=8)
    assert_conserved(run)
    assert len(run.watcher.restarts) == 1, "one death, though a call was under way elsewhere"


@settings(max_examples=25, deadline=None)
@given(
    wishes=st.lists(st.tuples(st.floats(0.0, 40.0), st.integers(1, 5)), max_size=6),
    deaths=st.lists(st.tuples(st.floats(0.0, 40.0), st.integers(0, 4)), max_size=4),
    schedule=st.sampled_from(["async", "sync"]),
    restart=st.sampled_from([0.05, 2.0, 9.0]),
    submit=st.sampled_from([0.0, 1.5]),
)
def test_nothing_is_lost_whoever_comes_and_goes(
    wishes: list[tuple[float, int]], deaths: list[tuple[float, int]], schedule: str, restart: float, submit: float
) -> None:
    world = World(generators=2, score=some_of_all, restart_seconds=restart, submit_seconds=lambda generator: submit)
    with tempfile.TemporaryDirectory() as root:
        run = scaled(wishes, Path(root), world, deaths, schedule=schedule, max_steps=12, max_restarts=1000)
    assert_conserved(run)
    assert run.state.step == 12
