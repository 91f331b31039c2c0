"""The loop through the stages of a curriculum, on a simulated runtime: nothing is lost or aborted at a switch, and a resume is exact."""

from __future__ import annotations

import tempfile
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
import virtual_time
from hypothesis import given, settings
from simulated_runtime import Simulation, World, mixed, recipe
from test_coordinator import assert_conserved, skewed, some_of_all
from test_resume import KILLS, WORLD, fingerprint, run_with_kills

from magistral_core.config.schema import Recipe
from magistral_core.pipeline.admission import largest_age
from magistral_core.pipeline.state import LoopState
from magistral_core.records import Score, ScoreStatus

STAGES = [
    {"levels": [1, 2], "steps": 4, "max_tokens": 40, "n_async": 16, "n_batch": 16, "n_minibatch": 16},
    {"levels": [2, 3], "steps": 4, "n_async": 8, "n_batch": 8, "n_minibatch": 8},
    {"levels": [4, 4], "n_async": 8, "n_batch": 8, "n_minibatch": 4},
]


def staged(**pipeline: Any) -> Recipe:
    data = recipe(max_steps=14, every=3, **pipeline).model_dump(mode="json")
    return Recipe.model_validate({**data, "curriculum": {"stages": STAGES, "defer_after": 1}})


@pytest.mark.parametrize("schedule", ["async", "sync"])
def test_stages_follow_one_another_and_nothing_is_lost(schedule: str, tmp_path: Path) -> None:
    run = virtual_time.run(Simulation(staged(schedule=schedule), WORLD, tmp_path).run())
    assert run.state.step == 14
    assert_conserved(run)
    groups = [group for batch in run.watcher.batches for group in batch.groups]
    levels = {0: {1, 2}, 1: {2, 3}, 2: {4}}
    assert {group.stage for group in groups} == {0, 1, 2}
    assert all(group.problem.level in levels[group.stage] for group in groups)
    assert [len(batch.groups) for batch in run.watcher.batches] == [4] * 4 + [2] * 4 + [1] * 6
    stage_of = {group.id: group.stage for group in groups}
    asked = [(stage_of[group], request.max_tokens) for (group, _), request in run.runtime.requests.items() if group in stage_of]
    assert {stage for stage, _ in asked} == {0, 1, 2}
    assert all((tokens == 40) == (stage == 0) for stage, tokens in asked)
    assert [row["ended"] for row in run.state.curriculum.table()] == [4, 8, 14]
    assert [step for step, _ in run.watcher.stages] == [4, 8, 14]
    assert {4, 8} <= {step for step, _ in run.watcher.checkpoints}, "a stage ends with a checkpoint"
    ages = [metrics["age/max"] for metrics in run.watcher.metrics]
    assert max(ages) <= largest_age(*(stage.pipeline for stage in run.recipe.stages()))
    shown = [metrics["curriculum/stage"] for metrics in run.watcher.metrics]
    assert shown == [1.0] * 4 + [2.0] * 4 + [3.0] * 6
    assert run.watcher.metrics[-1]["curriculum/active"] + run.watcher.metrics[-1]["curriculum/retired"] == 24


@pytest.mark.parametrize("schedule", ["async", "sync"])
def test_a_stage_that_gives_no_batch_at_all_ends_by_its_retired_problems(schedule: str, tmp_path: Path) -> None:
    """Every group of the first stage is all right: nothing to train on, so no batch that could end it."""
    first = {"levels": [1, 2], "steps": 4, "n_async": 8, "n_batch": 8, "n_minibatch": 8}
    data = recipe(max_steps=4, every=3, schedule=schedule, max_filtered_groups=20).model_dump(mode="json")
    data["curriculum"] = {"stages": [first, {**first, "levels": [3, 4]}], "retire_after": 1}
    run = Simulation(Recipe.model_validate(data), World(length=skewed), tmp_path)

    def score(group: int, index: int) -> Score:
        easy = run.state.curriculum.drawn(group).stage == 0
        return Score(1.0, ScoreStatus.CORRECT) if easy else mixed(group, index)

    run.world.score = score
    virtual_time.run(run.run())
    assert_conserved(run)
    easy, hard = run.state.curriculum.table()
    assert (easy["ended_by"], easy["begun"], easy["ended"]) == ("exhausted", 0, 0) and easy["retired"] > 20
    assert hard["ended"] == run.state.step == 4
    assert {group.stage for batch in run.watcher.batches for group in batch.groups} == {1}
    assert run.watcher.checkpoints[0][0] == 0, "a stage ends with a checkpoint"


def test_a_lower_n_async_admits_nothing_and_aborts_nothing(tmp_path: Path) -> None:
    """More than 4 sequences run at the switch; all of them end by themselves, and none starts before fewer than 4 are left."""
    stages = [{"steps": 2}, {"n_async": 4}]
    data = recipe(max_steps=6, max_open=64).model_dump(mode="json")
    world = World(length=lambda group, index: 40 + group)
    run = Simulation(Recipe.model_validate({**data, "curriculum": {"stages": stages}}), world, tmp_path)
    virtual_time.run(run.run())
    assert_conserved(run)
    generating = [metrics["queue/generating"] for metrics in run.watcher.metrics]
    assert max(generating[:2]) > 4 >= max(generating[4:])
    second = min(group.id for batch in run.watcher.batches for group in batch.groups if group.stage == 1)
    first = {key for key in run.runtime.requests if key[0] < second}
    assert first <= run.runtime.generated.keys()


def test_a_straggler_of_an_earlier_stage_keeps_its_stage(tmp_path: Path) -> None:
    world = World(length=lambda group, index: 300 if (group, index) == (1, 0) else 10)
    run = virtual_time.run(Simulation(staged(), world, tmp_path).run())
    late = next((batch.step, group) for batch in run.watcher.batches for group in batch.groups if group.id == 1)
    assert late[0] >= 4
    assert late[1].stage == 0
    assert late[1].problem.level in (1, 2)


@lru_cache
def undisturbed(minibatch: int) -> tuple[Recipe, dict[int, tuple[object, ...]], list[dict[str, Any]]]:
    settings_ = staged(schedule="sync", n_minibatch=minibatch)
    with tempfile.TemporaryDirectory() as root:
        history = run_with_kills(settings_, [], Path(root))
    assert history.last.state.curriculum is not None
    return settings_, {step: fingerprint(batch) for step, batch in history.steps.items()}, history.last.state.curriculum.table()


@settings(max_examples=8, deadline=None)
@given(kills=KILLS)
def test_killed_anywhere_a_synchronous_run_takes_the_same_batches(kills: list[float]) -> None:
    settings_, expected, table = undisturbed(16)
    with tempfile.TemporaryDirectory() as root:
        history = run_with_kills(settings_, kills, Path(root))
    assert {step: fingerprint(batch) for step, batch in history.steps.items()} == expected
    assert history.last.state.curriculum is not None
    assert history.last.state.curriculum.table() == table


def test_stage_by_stage_is_the_whole_run_in_one_go(tmp_path: Path) -> None:
    settings_, expected, table = undisturbed(16)
    history = run_with_kills(settings_, [None, None], tmp_path, one_stage=True)
    assert [attempt.state.step for attempt in history.attempts] == [4, 8, 14]
    assert {step: fingerprint(batch) for step, batch in history.steps.items()} == expected
    assert history.last.state.curriculum is not None
    assert history.last.state.curriculum.table() == table


@settings(max_examples=8, deadline=None)
@given(kills=KILLS)
def test_killed_anywhere_an_asynchronous_run_loses_and_repeats_no_group(kills: list[float]) -> None:
    with tempfile.TemporaryDirectory() as root:
        history = run_with_kills(staged(), kills, Path(root))
    assert sorted(history.steps) == list(range(14))
    assert len(set(history.groups)) == len(history.groups)
    state = history.last.state
    state.ledger.check()
    assert state.ledger.summary()["trained"] == len(history.groups)
    assert state.curriculum is not None
    drawn = {group_id: state.curriculum.drawn(group_id) for group_id in state.ledger.open_ids}
    assert all(found.problem.level in {0: (1, 2), 1: (2, 3), 2: (4,)}[found.stage] for found in drawn.values())


def test_a_checkpoint_holds_the_curriculum(tmp_path: Path) -> None:
    run = virtual_time.run(Simulation(staged(), WORLD, tmp_path).run())
    folder = run.watcher.checkpoints[2][1]
    fresh = Simulation(run.recipe, WORLD, tmp_path / "again")
    state = LoopState.load(folder, fresh.stream.__getitem__, fresh.state.curriculum)
    assert state.curriculum is fresh.state.curriculum
    assert state.curriculum is not None
    state.save(tmp_path)
    again = LoopState.load(tmp_path, fresh.stream.__getitem__, Simulation(run.recipe, WORLD, tmp_path / "third").state.curriculum)
    assert again.curriculum is not None
    assert again.curriculum.to_json() == state.curriculum.to_json()
    assert state.curriculum.table()[0]["ended"] == 4


def test_the_end_of_the_last_stage_is_the_run_s(tmp_path: Path) -> None:
    data = recipe(max_steps=100).model_dump(mode="json")
    settings_ = Recipe.model_validate({**data, "curriculum": {"stages": [{"steps": 2}, {"steps": 3}]}})
    run = virtual_time.run(Simulation(settings_, World(score=some_of_all, length=skewed), tmp_path).run())
    assert run.state.step == 5
    assert run.state.curriculum is not None
    assert run.state.curriculum.over
    again = Simulation(settings_, World(), tmp_path / "again", run.state)
    virtual_time.run(again.run())
    assert not again.runtime.trained


@pytest.mark.parametrize("schedule", ["async", "sync"])
@pytest.mark.parametrize("one_stage", [False, True])
def test_a_validation_is_told_once_a_step_also_where_a_stage_ends(schedule: str, one_stage: bool, tmp_path: Path) -> None:
    validation = {"problems": {"path": "tiny", "limit": 4}, "every": 1, "samples": 2}
    data = recipe(max_steps=100, schedule=schedule, validation=validation, n_minibatch=8).model_dump(mode="json")
    settings_ = Recipe.model_validate({**data, "curriculum": {"stages": [{"steps": 4}, {"steps": 6}]}})
    run = virtual_time.run(Simulation(settings_, World(score=some_of_all), tmp_path, one_stage=one_stage).run())
    steps = [step for step, _ in run.watcher.validations]
    assert len(steps) == len(set(steps)) >= 3
    assert steps[-1] == run.state.step == run.state.validated == (4 if one_stage else 10)
    begun = [metrics["validation/step"] for _, metrics in run.watcher.validations]
    assert begun == sorted(set(begun)), "none is asked twice"


def test_a_stage_that_ends_without_a_batch_asks_for_no_validation_that_is_under_way(tmp_path: Path) -> None:
    """Its last batch began the validation; then everything is right, and the stage ends for want of groups to train on."""

    def nearly_all(group: int, index: int) -> Score:
        right = group >= 8 or index % 2 == 0
        return Score(float(right), ScoreStatus.CORRECT if right else ScoreStatus.WRONG, {"correct": float(right)})

    validation = {"problems": {"path": "tiny", "limit": 4}, "every": 2, "samples": 2}
    data = recipe(max_steps=100, validation=validation, max_filtered_groups=4).model_dump(mode="json")
    stages = {"stages": [{"levels": [1, 2], "steps": 50}, {"levels": [3, 4]}], "retire_after": 1}
    world = World(score=nearly_all, length=lambda group, index: 400 if group < -8 else 5)  # the first is quick
    run = Simulation(Recipe.model_validate({**data, "curriculum": stages}), world, tmp_path, one_stage=True)
    virtual_time.run(run.run())
    begun = [metrics["validation/step"] for _, metrics in run.watcher.validations]
    assert begun[-1] == run.state.step > 0
    assert begun == sorted(set(begun))
    asked = [key for _, key in run.runtime.submitted if key[0] < 0]
    assert len(asked) == len(set(asked)), "nothing of it is asked twice"
