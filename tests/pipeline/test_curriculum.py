"""The curriculum's machine by itself: what leaves, what enters, what ends a stage, and that a resume changes no decision."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_groups import make_completion
from simulated_runtime import recipe as small_recipe

from magistral_core.config.schema import Recipe
from magistral_core.errors import InputError
from magistral_core.pipeline.curriculum import Curriculum
from magistral_core.records import Group, Problem, Score, ScoreStatus

G = 4
RIGHT, WRONG = Score(1.0, ScoreStatus.CORRECT), Score(0.1, ScoreStatus.WRONG)
BROKEN = Score(0.0, ScoreStatus.ERROR)


def problems(count: int = 40, levels: int = 4) -> list[Problem]:
    return [Problem(f"p{i}", f"question {i}", str(i), level=1 + i % levels) for i in range(count)]


def recipe(*stages: dict[str, Any], **curriculum: Any) -> Recipe:
    """Batches of 4 groups of 4."""
    data = small_recipe(max_steps=1000).model_dump(mode="json")
    data["curriculum"] = {"stages": list(stages), **curriculum}
    return Recipe.model_validate(data)


class Run:
    """A loop that does nothing but the curriculum's part: groups of one batch after another, judged by `right(problem)` in [0, 4]."""

    def __init__(self, settings_: Recipe, items: Sequence[Problem], right: Callable[[Problem], int] = lambda problem: 2) -> None:
        self.recipe, self.items, self.right = settings_, items, right
        self.machine = Curriculum(settings_, items)
        self.groups = self.step = 0
        self.drawn: list[tuple[str, int]] = []

    def batch(self, *, order: random.Random | None = None, length: int = 3) -> bool:
        """Draw, judge (in any order) and train the groups of one batch; whether the stage ended with it."""
        stage = self.recipe.stages()[self.machine.stage].pipeline
        batch = []
        for _ in range(stage.n_batch // G):
            self.machine.draw(self.groups)
            problem, number = self.machine.drawn(self.groups)
            self.drawn.append((problem.id, number))
            batch.append(judged(self.groups, problem, number, self.right(problem), length))
            self.groups += 1
        if order:
            order.shuffle(batch)
        for group in batch:
            self.machine.observe(group)
        self.step += stage.n_batch // stage.n_minibatch
        return self.machine.end_batch(self.step, ())

    def resumed(self) -> None:
        """Through a checkpoint."""
        kept = json.loads(json.dumps(self.machine.to_json()))
        self.machine = Curriculum(self.recipe, self.items)
        self.machine.restore(kept)

    @property
    def row(self) -> dict[str, Any]:
        return self.machine.table()[self.machine.stage]


def judged(group_id: int, problem: Problem, stage: int, right: int, length: int = 3) -> Group:
    scores = tuple(RIGHT if i < right else WRONG for i in range(G))
    return Group(group_id, problem, tuple(make_completion(group_id, i, length) for i in range(G)), scores, stage)


def levels_of(drawn: Sequence[tuple[str, int]], stage: int) -> set[int]:
    return {1 + int(problem[1:]) % 4 for problem, number in drawn if number == stage}


def test_stages_by_steps_draw_from_their_own_levels_and_end_the_run() -> None:
    run = Run(recipe({"levels": [1, 2], "steps": 3}, {"levels": [3, 4], "steps": 4, "n_batch": 8, "n_minibatch": 8}), problems())
    ends = [run.batch() for _ in range(7)]
    assert ends == [False, False, True, False, False, False, True]
    assert run.machine.over
    assert levels_of(run.drawn, 0) == {1, 2}
    assert levels_of(run.drawn, 1) == {3, 4}
    assert [number for _, number in run.drawn] == [0] * 12 + [1] * 8
    assert [(row["begun"], row["ended"], row["ended_by"]) for row in run.machine.table()] == [(0, 3, "steps"), (3, 7, "steps")]


def test_an_epoch_visits_every_active_problem_once() -> None:
    run = Run(recipe({"levels": [1, 2]}), problems())
    for _ in range(5):
        run.batch()
    assert sorted(problem for problem, _ in run.drawn) == sorted(p.id for p in problems() if p.level <= 2)


def test_always_solved_problems_leave_and_the_next_easiest_enter() -> None:
    run = Run(recipe({"share": 0.5}, retire_after=1), problems(), right=lambda problem: G if problem.level == 1 else 2)
    assert run.row["active"] == run.row["waiting"] == 20
    for _ in range(20):
        run.batch()
    assert levels_of(run.drawn[:4], 0) <= {1, 2}, "the easiest half comes first"
    assert run.row | {"active": 20, "retired": 10, "waiting": 10} == run.row
    assert 3 in levels_of(run.drawn, 0)
    assert 4 not in levels_of(run.drawn, 0)
    assert not [p for p, _ in run.drawn[40:] if int(p[1:]) % 4 == 0], "what is always solved does not come back"
    assert all(run.machine.rate(p.id).streak >= 1 for p in problems() if p.level == 1)


@pytest.mark.parametrize("after", [1, 2])
def test_a_problem_leaves_after_so_many_groups_in_a_row(after: int) -> None:
    answers = {"p0": [4, 4, 1, 4, 4, 4, 4]}
    run = Run(recipe({}, retire_after=after), problems(), right=lambda p: answers[p.id].pop(0) if answers.get(p.id) else 2)
    while "p0" in run.machine._active:
        run.batch()
    assert sum(problem == "p0" for problem, _ in run.drawn) == after


def test_never_solved_problems_wait_for_the_next_stage() -> None:
    hard = lambda problem: 0 if problem.level == 4 else 2  # noqa: E731
    run = Run(recipe({"steps": 30}, {}, defer_after=2), problems(), right=hard)
    for _ in range(29):
        run.batch()
    assert run.row | {"active": 30, "deferred": 10} == run.row
    late = [problem for problem, _ in run.drawn[90:]]
    assert not [problem for problem in late if int(problem[1:]) % 4 == 3]
    assert run.batch()
    assert run.row | {"stage": 2, "active": 40, "deferred": 0} == run.row
    for _ in range(30):
        run.batch()
    assert run.row["deferred"] == 0, "there is no later stage to wait for"


def test_a_stage_whose_problems_are_all_solved_ends() -> None:
    run = Run(recipe({"levels": [1, 1], "steps": 999}, {"levels": [1, 2]}), problems(), right=lambda problem: G)
    while not run.batch():
        assert len(run.machine._active) >= 4
    first, second = run.machine.table()
    assert (first["ended_by"], first["active"], first["retired"]) == ("exhausted", 4, 6)
    assert second["active"] == 14, "the retired stay away"
    for _ in range(30):
        assert not run.batch(), "the last stage goes on with what it has"
    assert run.row["active"] == 4


def test_a_stage_of_no_more_problems_than_a_batch_ends_when_all_are_solved() -> None:
    unsolved = {"p3"}
    few = [Problem(f"p{i}", f"question {i}", str(i), level=1 if i < 4 else 2) for i in range(20)]
    stages = {"levels": [1, 1], "steps": 999}, {"levels": [2, 2]}
    run = Run(recipe(*stages, retire_after=2), few, right=lambda problem: 2 if problem.id in unsolved else G)
    assert not any(run.batch() for _ in range(10)), "one is still to be learnt"
    unsolved.clear()
    assert [run.batch() for _ in range(2)] == [False, True]
    assert run.machine.table()[0]["ended_by"] == "exhausted" and run.machine.stage == 1


def test_the_retired_come_back_where_too_few_are_left() -> None:
    run = Run(recipe({"steps": 8}, {"levels": [1, 1]}), problems(), right=lambda problem: G if problem.level == 1 else 2)
    for _ in range(10):
        if run.batch():
            break
    assert run.machine.stage == 1
    assert run.row | {"problems": 10, "active": 10, "retired": 0} == run.row


def test_the_retired_that_come_back_are_judged_anew() -> None:
    """What is trained first in their stage are groups of the one before, which say nothing of them."""
    run = Run(recipe({"steps": 12}, {"levels": [1, 1], "steps": 20}, {}), problems(), right=lambda problem: G if problem.level == 1 else 2)
    for group_id in range(1000, 1004):
        run.machine.draw(group_id)
    straggler, stage = next(drawn for drawn in map(run.machine.drawn, range(1000, 1004)) if drawn[0].level != 1)
    while not run.batch():
        pass
    assert run.machine.stage == 1
    assert all(run.machine.rate(problem.id).correct for problem in run.items if problem.level == 1), "each was solved"
    run.machine.observe(judged(1000, straggler, stage, 2))
    assert not run.machine.end_batch(run.step + 1, ())
    assert run.row["active"] == 10


def test_what_was_deferred_is_not_deferred_again_by_one_group() -> None:
    run = Run(recipe({"steps": 1}, {"steps": 9}, {}, retire_after=None, defer_after=2), problems(), right=lambda problem: 0)
    run.machine.draw(1000)
    hard, stage = run.machine.drawn(1000)
    for group_id in (1000, 1001):
        run.machine.observe(judged(group_id, hard, stage, 0))
    assert run.batch()
    assert run.machine.stage == 1
    run.machine.observe(judged(2000, hard, 1, 0))
    run.machine.end_batch(run.step + 1, ())
    assert run.row["deferred"] == 0


@pytest.mark.parametrize(("measure", "reason"), [("reward", "reward plateau"), ("length", "length plateau")])
def test_a_stage_ends_when_its_measure_rises_no_more(measure: str, reason: str) -> None:
    run = Run(recipe({f"{measure}_plateau": {"window": 3, "rise": 0.1}}, {}, retire_after=None), problems())
    values = [1, 2, 3, 4, 4, 4, 4, 4, 4, 4]
    for value in values:
        run.right = lambda problem, value=value: value if measure == "reward" else 2  # type: ignore[misc]
        if run.batch(length=5 * value if measure == "length" else 5):
            break
    # Means of three: 2 3 4 | 4 4 4 still rises; 3 4 4 | 4 4 4 by less than a tenth.
    assert (run.step, run.machine.table()[0]["ended_by"]) == (8, reason)


def test_only_the_stage_s_own_groups_make_its_curve() -> None:
    run = Run(recipe({"steps": 1}, {"reward_plateau": {"window": 1, "rise": 0.5}}, {}), problems())
    run.machine.draw(1000)
    straggler, stage = run.machine.drawn(1000)
    run.batch()
    assert run.machine.stage == 1
    run.groups = 2000
    before = run.machine.rate(straggler.id)
    run.machine.observe(judged(1000, straggler, stage, 0))
    assert not run.batch()
    assert run.machine._curve == [(pytest.approx(0.55), 3.0)]
    again = sum(1 for problem, _ in run.drawn[G:] if problem == straggler.id)  # in the batch since, half right
    after = run.machine.rate(straggler.id)
    assert (after.graded, after.correct) == (before.graded + G * (1 + again), before.correct + 2 * again)


def test_a_group_keeps_problem_and_stage_until_it_settles() -> None:
    machine = Curriculum(recipe({"levels": [1, 1], "steps": 1}, {"levels": [4, 4]}), problems())
    for group_id in (0, 1):
        machine.draw(group_id)
    before = [machine.drawn(group_id) for group_id in (0, 1)]
    assert machine.end_batch(1, {0, 1})
    machine.draw(2)
    assert [machine.drawn(group_id) for group_id in (0, 1)] == before
    assert (machine.drawn(2).problem.level, machine.drawn(2).stage) == (4, 1)
    machine.end_batch(2, {1, 2})
    with pytest.raises(KeyError):
        machine.drawn(0)


def test_broken_verdicts_say_nothing_of_a_problem() -> None:
    machine = Curriculum(recipe({}), problems())
    group = judged(0, problems()[0], 0, 4)
    machine.observe(Group(0, group.problem, group.completions, (RIGHT, BROKEN, BROKEN, BROKEN)))
    machine.observe(Group(1, group.problem, group.completions, (RIGHT, WRONG, BROKEN, BROKEN)))
    machine.end_batch(1, ())
    assert (machine.rate("p0").groups, machine.rate("p0").graded, machine.rate("p0").correct) == (1, 2, 1)


def test_graded_pass_rates_choose_and_order() -> None:
    items = [Problem(f"p{i}", "", str(i), extra={"pass_rate": i / 10}) for i in range(11)]
    machine = Curriculum(recipe({"pass_rates": [0.2, 0.8], "share": 0.6, "n_batch": 4, "n_minibatch": 4, "n_async": 8}), items)
    assert machine.table()[0]["problems"] == 7
    assert machine._active == {"p8", "p7", "p6", "p5", "p4"}, "the easiest are those that were solved most often"


def test_what_a_stage_needs_of_its_problems() -> None:
    with pytest.raises(InputError, match=r"curriculum\.stages\.1: no problem is in its range; levels of the problems: 1, 2, 3, 4"):
        Curriculum(recipe({"steps": 1}, {"levels": [5, 9]}), problems())
    items = [*problems(3), Problem("odd", "", "1", source="f.jsonl:4", extra={"pass_rate": 1.5})]
    with pytest.raises(InputError, match=r"curriculum\.stages\.0\.pass_rates: p0 has no pass_rate in \[0, 1\]; grade the problems"):
        Curriculum(recipe({"pass_rates": [0, 1]}), items)
    with pytest.raises(InputError, match=r"f\.jsonl:4 has no pass_rate"):
        Curriculum(recipe({"pass_rates": [0, 1]}), items[3:])
    with pytest.raises(InputError, match=r"g\.jsonl:1: id 'odd' is also that of f\.jsonl:4"):
        Curriculum(recipe({}), [*items, Problem("odd", "", "2", source="g.jsonl:1")])


PLATEAUS = st.none() | st.fixed_dictionaries({"window": st.integers(1, 3), "rise": st.sampled_from([0.0, 0.1, 1.0])})
STAGES = st.fixed_dictionaries(
    {
        "levels": st.sampled_from([None, [1, 1], [1, 2], [2, 4], [4, 4]]),
        "share": st.sampled_from([0.1, 0.5, 1.0]),
        "n_batch": st.sampled_from([8, 16]),
        "n_minibatch": st.sampled_from([4, 8]),
        "steps": st.integers(1, 9),
        "reward_plateau": PLATEAUS,
        "length_plateau": PLATEAUS,
    }
)


@settings(max_examples=60, deadline=None)
@given(
    stages=st.lists(STAGES, min_size=1, max_size=4),
    after=st.tuples(st.sampled_from([None, 1, 2]), st.sampled_from([None, 1, 2])),
    shuffle=st.booleans(),
    stops=st.sets(st.integers(0, 25)),
    seed=st.integers(0, 99),
)
def test_resumed_anywhere_and_heard_in_any_order_it_decides_the_same(
    stages: list[dict[str, Any]], after: tuple[int | None, int | None], shuffle: bool, stops: set[int], seed: int
) -> None:
    settings_ = recipe(*stages, retire_after=after[0], defer_after=after[1])
    settings_ = settings_.model_copy(update={"seed": seed, "problems": settings_.problems.model_copy(update={"shuffle": shuffle})})

    def right(problem: Problem) -> int:
        return (int(problem.id[1:]) * 7 + seed) % (G + 1)

    plain, other = Run(settings_, problems(30), right), Run(settings_, problems(30), right)
    order = random.Random(seed)
    for number in range(26):
        if plain.machine.over:
            break
        if number in stops:
            other.resumed()
        assert plain.batch(length=1 + number % 5) == other.batch(order=order, length=1 + number % 5)
        assert plain.machine.to_json() == other.machine.to_json()
        row, floor = plain.row, settings_.stages()[plain.machine.stage].pipeline.n_batch // G
        assert row["problems"] == row["active"] + row["retired"] + row["deferred"] + row["waiting"], "each is in one place"
        assert row["active"] >= min(floor, row["problems"])
    assert plain.drawn == other.drawn
