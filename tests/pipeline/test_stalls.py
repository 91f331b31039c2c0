"""No silent stall, and the first error ends a run at once: whatever breaks is named, soon, and nothing is left running."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import pytest
import virtual_time
from simulated_runtime import SimulatedRuntime, Simulation, World, recipe

from magistral_core.config.schema import Recipe
from magistral_core.errors import InfrastructureError
from magistral_core.pipeline.coordinator import StallError
from magistral_core.pipeline.supervision import GeneratorError
from magistral_core.records import Score, ScoreStatus

NEVER = float("inf")


async def fails(run: Simulation, error: type[Exception], match: str) -> float:
    """Run until the expected error; the virtual time it took. No task may be left."""
    with pytest.raises(error, match=match):
        await run.run()
    left = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
    assert not left, left
    assert run.runtime.closed
    run.state.ledger.check()
    return asyncio.get_running_loop().time()


def seconds_until(error: type[Exception], match: str, settings: Recipe, world: World, folder: Path) -> float:
    return virtual_time.run(fails(Simulation(settings, world, folder), error, match))


@pytest.mark.parametrize("schedule", ["async", "sync"])
def test_groups_without_signal_end_the_run_with_reasons(schedule: str, tmp_path: Path) -> None:
    def score(group_id: int, index: int) -> Score:
        kind = group_id % 5
        if kind == 4:
            return Score(0.0, ScoreStatus.ERROR)
        return Score(1.0, ScoreStatus.CORRECT) if kind == 0 else Score(0.1, ScoreStatus.WRONG)

    settings = recipe(schedule=schedule, max_filtered_groups=40, stall_timeout_s=10_000.0)
    taken = seconds_until(
        StallError, r"4\d groups .*all_wrong 2\d, all_right \d+, failed: verifier \d", settings, World(score=score), tmp_path
    )
    assert taken < 120, "the run went on after its verifiers had found the reason"


def test_what_was_trained_before_is_kept(tmp_path: Path) -> None:
    """After 30 groups nothing has a signal any more; the next checkpoint was far off."""
    world = World(score=lambda g, i: Score(1.0, ScoreStatus.CORRECT) if g >= 30 or i % 2 else Score(0.1, ScoreStatus.WRONG))
    run = Simulation(recipe(max_steps=100, max_filtered_groups=40, stall_timeout_s=10_000.0), world, tmp_path)
    virtual_time.run(fails(run, StallError, "all_right"))
    assert [step for step, _ in run.watcher.checkpoints] == [run.state.step] and run.state.step >= 5


def test_the_last_verification_is_heard_although_nothing_else_happens(tmp_path: Path) -> None:
    """The error of a verification that began after everything else fell silent."""
    world = World(score=lambda g, i: Score(0.1, ScoreStatus.WRONG), verify_seconds=lambda groups: 50.0)
    settings = recipe(max_filtered_groups=4, n_async=8, n_batch=16, max_open=32, stall_timeout_s=10_000.0)
    assert seconds_until(StallError, "all_wrong", settings, world, tmp_path) < 120


def test_generators_that_never_answer_are_named(tmp_path: Path) -> None:
    taken = seconds_until(
        StallError,
        r"no progress for 20 s: generator 0 holds 8 completions, generator 1 holds 8 completions.*resume",
        recipe(stall_timeout_s=20.0),
        World(length=lambda group, index: None),
        tmp_path,
    )
    assert 20 <= taken <= 22


def test_sequences_that_take_longer_than_the_limit_are_no_stall_while_they_are_decoded(tmp_path: Path) -> None:
    settings = recipe(max_steps=2, stall_timeout_s=20.0)
    slow = World(length=lambda group, index: 1000)  # 100 s
    run = Simulation(settings, slow, tmp_path)
    seconds_until(StallError, "generator 0 holds", settings, slow, tmp_path / "silent")
    slow.life_seconds = 15.0
    virtual_time.run(run.run())
    assert run.state.step == 2


def test_one_silent_generator_is_named_while_the_other_works(tmp_path: Path) -> None:
    settings = recipe(max_steps=100_000, stall_timeout_s=20.0)
    run = Simulation(settings, World(), tmp_path)
    run.world.length = lambda group, index: None if 1 in run.runtime.hosts.get(group, {1}) else 10
    taken = virtual_time.run(fails(run, StallError, r"generator 1 holds \d+ completions"))
    assert taken <= 22


def test_a_submission_that_hangs_is_a_stall(tmp_path: Path) -> None:
    world = World(submit_seconds=lambda generator: NEVER if generator == 0 else 0.0)
    assert seconds_until(StallError, "generator 0 holds", recipe(stall_timeout_s=20.0), world, tmp_path) <= 22


def test_the_only_generator_may_load_for_as_long_as_at_the_start(tmp_path: Path) -> None:
    settings = recipe(generators=1, max_steps=6, stall_timeout_s=20.0, start_timeout_s=500.0)

    def one_that_dies_at_step_2(restart_seconds: float, folder: Path) -> Simulation:
        run = Simulation(settings, World(generators=1, restart_seconds=restart_seconds), folder)
        run.watcher.after_step = lambda step: run.runtime.kill(0) if step == 2 else None
        return run

    loads = virtual_time.run(one_that_dies_at_step_2(400.0, tmp_path / "loads").run())
    assert loads.state.step == 6 and len(loads.runtime.restarts) == 1
    hangs = one_that_dies_at_step_2(NEVER, tmp_path / "hangs")
    what = r"no progress for 500 s: generator 0 is restarting.*raise pipeline\.start_timeout_s"
    assert 500 <= virtual_time.run(fails(hangs, StallError, what)) < 540


def test_silent_verifiers_are_named(tmp_path: Path) -> None:
    world = World(verify_seconds=lambda groups: NEVER)
    assert seconds_until(StallError, r"verifiers hold groups \[0, 1", recipe(stall_timeout_s=20.0), world, tmp_path) < 60


def test_silent_trainers_are_named(tmp_path: Path) -> None:
    world = World(train_seconds=NEVER)
    taken = seconds_until(StallError, "the trainers do not answer after step 0", recipe(stall_timeout_s=20.0), world, tmp_path)
    assert taken < 60


def test_storage_that_does_not_take_a_checkpoint_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def never(*_: object) -> None:
        await asyncio.get_running_loop().create_future()

    monkeypatch.setattr(asyncio, "to_thread", never)
    settings = recipe(stall_timeout_s=20.0, every=2)
    taken = seconds_until(StallError, "storage or tracking does not take the checkpoint of step 2", settings, World(), tmp_path)
    assert taken < 60


def test_trainers_that_do_not_end_writing_a_checkpoint_are_named(tmp_path: Path) -> None:
    run = Simulation(recipe(stall_timeout_s=20.0, every=2), World(), tmp_path)
    assert virtual_time.run(fails(run_saving(run, NEVER), StallError, "do not end writing the checkpoint of step 2 to .*step-2")) < 60


def run_saving(run: Simulation, seconds: float) -> Simulation:
    """The same run, whose trainers write a piece of each checkpoint every ten seconds, for so long."""
    started = SimulatedRuntime.save

    class Slowly(SimulatedRuntime):
        async def save(self, folder: Path) -> None:
            if seconds == NEVER:
                await asyncio.sleep(NEVER)
            for piece in range(round(seconds / 10)):
                (folder / f"piece-{piece}").write_bytes(b"1")
                await asyncio.sleep(10.0)
            await started(self, folder)

    run.make_runtime = Slowly
    return run


@pytest.mark.parametrize("schedule", ["async", "sync"])
def test_a_checkpoint_that_is_written_slowly_is_no_stall(schedule: str, tmp_path: Path) -> None:
    run = run_saving(Simulation(recipe(schedule=schedule, stall_timeout_s=20.0, every=2, max_steps=4), World(), tmp_path), 100.0)
    virtual_time.run(run.run())
    assert run.state.step == 4
    assert [step for step, _ in run.watcher.checkpoints] == [2, 4]


def test_a_checkpoint_that_waits_for_a_slow_upload_is_no_stall_while_files_move(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def slowly(call: Any, *arguments: Any) -> None:
        await asyncio.sleep(100.0)
        call(*arguments)

    monkeypatch.setattr(asyncio, "to_thread", slowly)
    run = Simulation(recipe(schedule="sync", stall_timeout_s=20.0, every=2, max_steps=4), World(), tmp_path)
    monkeypatch.setattr(run.watcher, "moved", lambda: int(run.runtime.now // 10))
    virtual_time.run(run.run())
    assert [step for step, _ in run.watcher.checkpoints] == [2, 4]


@pytest.mark.parametrize("schedule", ["async", "sync"])
def test_an_update_without_acknowledgement_ends_the_run_at_its_deadline(schedule: str, tmp_path: Path) -> None:
    """Also when nothing else is awaited that would notice it."""
    world = World(update_seconds=lambda generator, version: NEVER if (generator, version) == (1, 2) else 0.1)
    settings = recipe(schedule=schedule, update_timeout_s=5.0, stall_timeout_s=10_000.0, max_steps=100, max_restarts=0)
    taken = seconds_until(
        GeneratorError, r"generator 1 did not take the weights of version 2 within 5 s.*resume", settings, world, tmp_path
    )
    assert taken < 30


def test_an_update_is_missed_at_its_deadline_even_if_its_generator_holds_everything_up(tmp_path: Path) -> None:
    """The generators fall silent with the update: the update is the reason, and is told long before the stall's time is up."""
    run = Simulation(recipe(update_timeout_s=5.0, stall_timeout_s=10_000.0, max_restarts=0), World(), tmp_path)
    run.world.update_seconds = lambda generator, version: NEVER
    run.world.length = lambda group, index: None if run.runtime.trained else 10
    assert virtual_time.run(fails(run, GeneratorError, "did not take the weights of version 1")) < 60


@pytest.mark.parametrize("schedule", ["async", "sync"])
@pytest.mark.parametrize("call", ["submit", "collect", "score", "train", "publish", "update", "save"])
def test_the_first_error_of_any_role_ends_the_run(call: str, schedule: str, tmp_path: Path) -> None:
    world = World(raises={call: InfrastructureError(f"{call} broke")})
    started = time.perf_counter()
    taken = seconds_until(
        InfrastructureError, f"^{call} broke$", recipe(schedule=schedule, every=1, stall_timeout_s=10_000.0), world, tmp_path
    )
    assert taken < 60
    assert time.perf_counter() - started < 10


def test_a_defect_of_a_role_is_not_hidden(tmp_path: Path) -> None:
    seconds_until(ZeroDivisionError, "by zero", recipe(), World(raises={"score": ZeroDivisionError("by zero")}), tmp_path)


def test_a_cancelled_role_does_not_end_a_run_as_if_it_were_done(tmp_path: Path) -> None:
    async def main() -> None:
        run = Simulation(recipe(), World(raises={"train": asyncio.CancelledError()}), tmp_path)
        with pytest.raises(asyncio.CancelledError):
            await run.run()

    virtual_time.run(main())
