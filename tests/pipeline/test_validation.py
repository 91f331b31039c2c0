"""Held-out problems, answered while a run trains: all of them, each time, and nothing else is touched."""

from __future__ import annotations

import asyncio
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import virtual_time
from hypothesis import given, settings
from hypothesis import strategies as st
from simulated_runtime import PROBLEMS, Simulation, World, completion, mixed, recipe, render
from test_coordinator import assert_conserved, simulate, skewed, some_of_all
from test_resume import run_with_kills

from magistral_core.config.schema import ProblemSettings, ValidationSettings
from magistral_core.pipeline.coordinator import StallError
from magistral_core.pipeline.state import LoopState
from magistral_core.pipeline.validation import Validation
from magistral_core.records import Completion, Group, Request, Score, ScoreStatus
from magistral_core.rewards.verifier import _draw

HELD_OUT = 10
VALIDATION = {"problems": {"path": "tiny", "limit": HELD_OUT}, "every": 4, "samples": 3}
WORLD = World(score=some_of_all, length=skewed)


def answers(validation: Validation) -> list[Completion]:
    requests = validation.ask(1000)
    return [completion((r.group_id, r.index), r.prompt.token_ids, np.zeros(4, np.int32)) for r in requests]


def graded(group: Group, *scores: Score) -> Group:
    return replace(group, scores=scores)


def made(samples: int = 2, every: int = 4) -> Validation:
    settings = ValidationSettings(problems=ProblemSettings(), samples=samples, every=every)
    return Validation(settings, [(problem, render(problem)) for problem in PROBLEMS[:HELD_OUT]], 5, 100)


@given(st.integers(1, 20), st.integers(0, 200), st.lists(st.integers(1, 9), max_size=60))
def test_one_begins_in_each_interval_that_a_batch_ends_in(every: int, first: int, batches: list[int]) -> None:
    """Whatever the steps of a batch, and wherever it began: never two within one interval, and none is missed."""
    validation, step, validated = made(every=every), first, -1
    begun = []
    for steps in batches:
        if validation.due(step, validated):
            begun.append(step)
            validated = step
        step += steps
    at = np.cumsum([first, *batches])[:-1]
    assert begun == [int(at[at // every == interval].min()) for interval in sorted(set(at // every))]


@given(st.randoms(use_true_random=False))
def test_every_problem_is_answered_in_any_order(random: Any) -> None:
    validation = made(samples=2)
    validation.begin(0, 1, 64)
    completions = answers(validation)
    random.shuffle(completions)
    groups = [group for one in completions if (group := validation.join(one))]
    assert {group.problem.id for group in groups} == {problem.id for problem in PROBLEMS[:HELD_OUT]}
    assert all(group.id < 0 and group.stage == 1 and [c.index for c in group.completions] == [0, 1] for group in groups)
    assert validation.grading == {group.id for group in groups}
    random.shuffle(groups)
    scored = [graded(group, mixed(-group.id, 0), mixed(-group.id, 1)) for group in groups]
    assert [validation.take([group]) for group in scored] == [False] * (HELD_OUT - 1) + [True]
    assert not validation.grading
    figures = validation.figures()
    assert figures["validation/pass_rate"] == 0.5 and figures["validation/pass_groups_solved"] == 1.0
    assert figures["validation/graded_share"] == 1.0 and figures["validation/reward_mean"] == pytest.approx(0.55)
    assert not validation.running


@given(st.integers(1, 30), st.data())
def test_no_more_are_asked_at_a_time_than_may_be(limit: int, data: st.DataObject) -> None:
    validation = made(samples=2)
    validation.begin(0, 0, 64)
    open_now: list[Request] = []
    asked = 0
    while new := validation.ask(limit):
        open_now += new
        asked += len(new)
        assert len(open_now) == limit or asked == 2 * HELD_OUT
        for _ in range(data.draw(st.integers(1, len(open_now)))):
            one = open_now.pop()
            validation.join(completion((one.group_id, one.index), one.prompt.token_ids, np.zeros(4, np.int32)))
    assert asked == 2 * HELD_OUT


def test_two_validations_differ_by_the_weights_alone() -> None:
    first, second = made(), made()
    first.begin(3, 0, 64)
    second.begin(4, 0, 64)
    one, other = first.ask(1000), second.ask(1000)
    assert [request.seed for request in one] == [request.seed for request in other]
    assert len({request.seed for request in one}) == len(one) == 2 * HELD_OUT
    assert not {request.group_id for request in one} & {request.group_id for request in other}
    assert {request.max_tokens for request in one} == {64}
    long = made()
    long.begin(0, 0, 2000)
    assert {request.max_tokens for request in long.ask(1000)} == {97}, "the context is 100, a prompt 3"


def test_a_code_problem_has_the_same_tests_in_every_validation() -> None:
    draws = {group: _draw(completion((group, 0), np.zeros(3, np.int32), np.zeros(4, np.int32))) for group in (-21, -11, 11, 21)}
    assert draws[-21] == draws[-11]
    assert len(set(draws.values())) == 3


def test_what_no_verifier_could_judge_is_in_no_mean() -> None:
    error = Score(0.0, ScoreStatus.ERROR, {}, "worker died")
    right, wrong = Score(1.0, ScoreStatus.CORRECT), Score(0.1, ScoreStatus.WRONG)
    validation = made(samples=2)
    validation.begin(0, 0, 64)
    groups = [group for one in answers(validation) if (group := validation.join(one))]
    scores = [(right, error), (error, error), *[(wrong, wrong)] * (HELD_OUT - 2)]
    assert validation.take([graded(group, *pair) for group, pair in zip(groups, scores, strict=True)])
    figures = validation.figures()
    assert figures["validation/graded_share"] == (2 * HELD_OUT - 3) / (2 * HELD_OUT)
    assert figures["validation/pass_rate"] == pytest.approx(1 / (2 * HELD_OUT - 3))
    assert figures["validation/pass_groups_solved"] == pytest.approx(1 / (HELD_OUT - 1))


@pytest.mark.parametrize("schedule", ["async", "sync"])
def test_a_run_is_validated_at_its_beginning_meanwhile_and_at_its_end(schedule: str, tmp_path: Path) -> None:
    settings = recipe(max_steps=15, schedule=schedule, validation={**VALIDATION, "samples": 2})
    run = simulate(settings, WORLD, tmp_path)
    assert [metrics["validation/step"] for _, metrics in run.watcher.validations] == [0, 4, 8, 12, 15]
    asked = [key for _, key in run.runtime.submitted if key[0] < 0]
    assert len(asked) == len(set(asked)) == 5 * HELD_OUT * 2
    assert set(asked) <= run.runtime.generated.keys()
    assert run.state.validated == 15
    assert run.state.step == 15 and run.watcher.checkpoints[-1][0] == 15
    assert_conserved(run)
    told = [step for step, _ in run.watcher.validations]
    assert told == sorted(set(told)) and told[-1] == 15
    assert all(step > begun for step, begun in zip(told[:-1], (0, 4, 8, 12), strict=True))
    if schedule == "sync":
        assert told == [1, 5, 9, 13, 15]
    # Each begins with the weights that it names: a generator has them before it is asked.
    begun = {}
    for time, (group_id, _) in run.runtime.submitted:
        if group_id < 0:
            begun.setdefault((-1 - group_id) // HELD_OUT, time)
    assert begun.keys() == {0, 4, 8, 12, 15} and begun[0] == run.runtime.submitted[0][0]
    for step, time in begun.items():
        assert step == 0 or max(end for _, end, _, version in run.runtime.updates if version == step) <= time


def test_a_synchronous_run_learns_the_same_with_and_without(tmp_path: Path) -> None:
    runs = [simulate(recipe(max_steps=9, schedule="sync", validation=v), WORLD, tmp_path / str(bool(v))) for v in (None, VALIDATION)]
    batches = [[(group.id, group.scores) for batch in run.watcher.batches for group in batch.groups] for run in runs]
    assert batches[0] == batches[1]
    for name in ("train/loss", "reward/mean", "groups/verified"):
        assert [metrics[name] for metrics in runs[0].watcher.metrics] == [metrics[name] for metrics in runs[1].watcher.metrics]
    seconds = [[metrics["speed/step_seconds"] for metrics in run.watcher.metrics] for run in runs]
    assert seconds[0] == pytest.approx(seconds[1]), "a step is as long as its work"
    assert runs[0].state.counters.completions == runs[1].state.counters.completions
    assert runs[0].watcher.validations == []


def test_after_the_last_step_only_the_validation_is_generated(tmp_path: Path) -> None:
    settings = recipe(max_steps=6, validation={**VALIDATION, "every": 100})
    run = simulate(settings, World(length=lambda group, index: 30 if group >= 0 else 400), tmp_path)
    last = run.runtime.training[-1][1]
    late = [key for time, key in run.runtime.submitted if time > last + 1.0]
    assert late and all(group < 0 for group, _ in late)
    assert_conserved(run)


def test_a_generator_that_dies_within_a_validation_costs_no_answer(tmp_path: Path) -> None:
    killed: list[float] = []

    def strike(call: str, runtime: Any) -> None:
        if call == "generate" and len(killed) < 2 and runtime.now > 4 + 20 * len(killed):
            killed.append(runtime.now)
            runtime.kill(0)

    settings = recipe(max_steps=9, validation={**VALIDATION, "every": 2}, max_restarts=5)
    run = simulate(settings, World(score=some_of_all, length=lambda group, index: 20 if group >= 0 else 60, within=strike), tmp_path)
    assert len(killed) == len(run.watcher.restarts) == 2
    again = [key for _, key in run.runtime.submitted if key[0] < 0]
    assert len(again) > len(set(again)), "no answer of a validation was under way"
    told = [int(metrics["validation/step"]) for _, metrics in run.watcher.validations]
    assert told[0] == 0 and told[-1] == 9
    answers = {(-1 - (step * HELD_OUT + number), index) for step in told for number in range(HELD_OUT) for index in range(3)}
    assert answers <= run.runtime.generated.keys()
    assert_conserved(run)


@settings(max_examples=30)
@given(st.lists(st.floats(0.5, 40.0), max_size=3), st.sampled_from(["sync", "async"]))
def test_killed_and_resumed_the_curve_has_each_point_once(kills: list[float], schedule: str) -> None:
    """Of what was told after a checkpoint, a resume takes back whatever is later than it, as MLflow's copy does."""
    settings = recipe(max_steps=12, every=2, schedule=schedule, validation=VALIDATION)
    with tempfile.TemporaryDirectory() as root:
        history = run_with_kills(settings, kills, Path(root))
    curve: list[tuple[int, float]] = []
    checkpoint = -1
    for attempt in history.attempts:
        curve = [point for point in curve if point[0] <= checkpoint]
        curve += [(step, metrics["validation/step"]) for step, metrics in attempt.watcher.validations]
        checkpoint = attempt.watcher.checkpoints[-1][0] if attempt.watcher.checkpoints else checkpoint
        if curve and curve[-1] == (12, 12):
            break  # it had ended before the kill, and a run that is marked finished is not resumed
    told = [step for step, _ in curve]
    assert told == sorted(set(told)), "a point was told twice"
    if schedule == "sync":
        assert curve == [(1, 0), (5, 4), (9, 8), (12, 12)]
    assert curve[-1] == (12, 12)
    assert [step for _, step in curve] == sorted({step for _, step in curve})


def test_a_checkpoint_knows_what_was_told(tmp_path: Path) -> None:
    state = LoopState(step=9, validated=8)
    state.save(tmp_path)
    assert LoopState.load(tmp_path, PROBLEMS.__getitem__).validated == 8


def test_verifiers_that_keep_a_validation_are_named(tmp_path: Path) -> None:
    settings = recipe(schedule="sync", validation=VALIDATION, stall_timeout_s=50.0)
    world = World(verify_seconds=lambda groups: float("inf") if min(groups) < 0 else 0.3)
    with pytest.raises(StallError, match=r"verifiers hold groups \[-"):
        virtual_time.run(Simulation(settings, world, tmp_path).run())


def test_the_last_step_is_stored_before_its_validation_and_a_resume_validates_it(tmp_path: Path) -> None:
    def length(group: int, index: int) -> int:
        return 30 if group > -1 - HELD_OUT else 600

    settings = recipe(max_steps=6, validation={**VALIDATION, "every": 100})
    saving = asyncio.Event()
    world = World(length=length, within=lambda call, runtime: saving.set() if call == "save" else None)
    killed = Simulation(settings, world, tmp_path / "killed")

    async def until_killed() -> None:
        task = asyncio.create_task(killed.run())
        await saving.wait()
        await asyncio.sleep(5.0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    virtual_time.run(until_killed())
    (step, folder), *others = killed.watcher.checkpoints
    assert step == 6 and not others
    assert [metrics["validation/step"] for _, metrics in killed.watcher.validations] == [0]
    again = Simulation(settings, WORLD, tmp_path / "again")
    again.state = LoopState.load(folder, again.stream.__getitem__)
    virtual_time.run(again.run())
    assert [(step, metrics["validation/step"]) for step, metrics in again.watcher.validations] == [(6, 6)]
    assert again.watcher.batches == []


def test_one_that_is_under_way_at_the_end_is_given_up(tmp_path: Path) -> None:
    def length(group: int, index: int) -> int | None:
        return None if -1 - 5 * HELD_OUT < group < -4 * HELD_OUT else 30

    run = simulate(recipe(max_steps=6, validation=VALIDATION), World(score=some_of_all, length=length), tmp_path)
    assert [(step, metrics["validation/step"]) for step, metrics in run.watcher.validations][1:] == [(6, 6)]
    assert run.watcher.validations[-1][1]["validation/graded_share"] > 0
    assert_conserved(run)


def test_one_that_ends_within_the_last_batch_is_told(tmp_path: Path) -> None:
    settings = {"n_batch": 64, "n_minibatch": 16, "queue": 64, "max_open": 96}
    validation = {**VALIDATION, "samples": 1}
    run = simulate(recipe(max_steps=8, validation=validation, **settings), World(score=some_of_all), tmp_path)
    begun = [metrics["validation/step"] for _, metrics in run.watcher.validations]
    assert begun == [0, 4, 8]
    assert [step for step, _ in run.watcher.validations][1] in (5, 6, 7)
    assert_conserved(run)


def test_validations_do_not_count_as_training_work(tmp_path: Path) -> None:
    settings = recipe(max_steps=9, validation={**VALIDATION, "every": 1, "samples": 8})
    run = simulate(settings, WORLD, tmp_path)
    assert len(run.watcher.validations) > 2
    assert max(metrics["busy/occupancy"] for metrics in run.watcher.metrics) <= 1
