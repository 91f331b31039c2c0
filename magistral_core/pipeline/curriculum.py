"""The curriculum: which problems are drawn, in which stage, and when the next stage begins (Magistral, section 5). Pure.

Stages follow one another. The rules of the recipe's `curriculum` section end each; the last one's end is the run's, if
`training.max_steps` has not ended it before:

    stage 0 ──steps, reward or length plateau, exhausted──> stage 1 ──> ... ──> last stage ──steps, plateau──> over

Within a stage each of its problems is in one place:

    waiting ──another retired──> active ──all right, retire_after groups in a row──> retired
                                 ^    │
                     next stage  │    └──all wrong, defer_after groups in a row──> deferred
                                 └────────────────────────────────────────────────────┘

A stage begins with its easiest problems, by their `share`. It keeps at least one batch's groups active; when another would have to retire
then, the stage ends, exhausted, if one follows it. The retired stay away in later stages, unless too few are left to begin one.

Everything changes in `end_batch` alone, from what was observed until then in the order of the groups' ids. So decisions depend on what
groups came to, never on who was faster, and the state between two batches (`to_json`) is all that a resume needs. A group keeps the
problem and the stage that it was drawn in, whatever begins meanwhile.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, astuple, dataclass, field, replace
from typing import Any, NamedTuple, Protocol

import numpy as np

from magistral_core.config.schema import CurriculumSettings, Plateau, Recipe, StageSettings
from magistral_core.errors import InputError
from magistral_core.problems import ProblemStream
from magistral_core.records import Group, Problem

#: Ends the run, whatever the stage.
_MAX_STEPS = "max_steps"
#: Of a problem within its stage.
_PLACES = ("active", "retired", "deferred", "waiting")


class Drawn(NamedTuple):
    """What a group works on."""

    problem: Problem
    stage: int


class Course(Protocol):
    """What the loop asks about problems and stages."""

    @property
    def stage(self) -> int:
        """The stage in which groups are drawn now, from 0."""

    @property
    def over(self) -> bool:
        """Whether the last stage has ended, or the run within an earlier one."""

    def draw(self, group_id: int) -> None:
        """Choose the problem of a new group."""

    def drawn(self, group_id: int) -> Drawn:
        """Problem and stage of a group that is open."""

    def observe(self, group: Group) -> None:
        """A group was verified."""

    def end_batch(self, step: int, open_groups: Collection[int]) -> bool:
        """A batch is trained and `step` optimiser steps are done; whether the stage ended with it. Forgets groups that are not open."""

    def metrics(self) -> dict[str, float]:
        """Figures of now."""


class WholeStream:
    """The course of a recipe without stages: each problem in the stream's order."""

    stage, over = 0, False

    def __init__(self, stream: ProblemStream) -> None:
        self._stream = stream

    def draw(self, group_id: int) -> None:
        """See Course. The stream has decided."""

    def drawn(self, group_id: int) -> Drawn:
        """See Course."""
        return Drawn(self._stream[group_id], 0)

    def observe(self, group: Group) -> None:
        """See Course. Nothing depends on it."""

    def end_batch(self, step: int, open_groups: Collection[int]) -> bool:
        """See Course."""
        return False

    def metrics(self) -> dict[str, float]:
        """See Course."""
        return {}


@dataclass(frozen=True, slots=True)
class _Seen:
    """What a verified group came to: sums over its graded completions, tokens over all of them."""

    group_id: int
    problem: str
    stage: int
    graded: int
    correct: int
    reward: float
    tokens: int
    completions: int


@dataclass(frozen=True, slots=True)
class PassRate:
    """What the run saw of a problem so far. `streak`: its last groups in a row that were all right, negative: all wrong."""

    groups: int = 0
    graded: int = 0
    correct: int = 0
    streak: int = 0

    def after(self, seen: _Seen) -> PassRate:
        """With one more group."""
        sign = 1 if seen.correct == seen.graded else -1 if not seen.correct else 0
        streak = self.streak + sign if sign * self.streak > 0 else sign
        return PassRate(self.groups + 1, self.graded + seen.graded, self.correct + seen.correct, streak)


@dataclass(frozen=True, slots=True)
class _Span:
    """A stage that has begun: its optimiser steps, and once it has ended, by which rule and how many problems were in each place then."""

    begun: int
    ended: int | None = None
    by: str | None = None
    places: Mapping[str, int] = field(default_factory=dict)


class Curriculum:
    """The machine of the module's docstring, at the beginning of stage 0.

    Args:
        recipe: with a `curriculum` section.
        problems: of the run.

    Raises:
        InputError: a stage has no problem, or asks for pass rates and a problem has none; two problems have one id.
    """

    def __init__(self, recipe: Recipe, problems: Sequence[Problem]) -> None:
        assert recipe.curriculum is not None
        self._settings: CurriculumSettings = recipe.curriculum
        self._recipe, self._recipes = recipe, recipe.stages()
        self._problems: dict[str, Problem] = {}
        for problem in problems:
            other = self._problems.setdefault(problem.id, problem)
            if other is not problem:
                raise InputError(f"{problem.source}: id {problem.id!r} is also that of {other.source}; give each its own")
        self._eligible = [_eligible(self._settings, number, problems) for number in range(len(self._settings.stages))]
        self._rates: dict[str, PassRate] = {}
        self._over = False
        self._drawn: dict[int, tuple[str, int]] = {}
        self._seen: list[_Seen] = []
        self._retired: set[str] = set()
        self._deferred: set[str] = set()
        self._spans: list[_Span] = []
        self._curve: list[tuple[float, float]] = []  # mean reward and length of the stage's latest batches
        self._enter(0)

    @property
    def stage(self) -> int:
        """See Course."""
        return len(self._spans) - 1

    @property
    def over(self) -> bool:
        """See Course."""
        return self._over

    def rate(self, problem_id: str) -> PassRate:
        """The live pass rate of a problem."""
        return self._rates.get(problem_id, PassRate())

    def draw(self, group_id: int) -> None:
        """See Course."""
        while (problem := self._stream[self._cursor]).id not in self._active:
            self._cursor += 1
        self._cursor += 1
        self._drawn[group_id] = problem.id, self.stage

    def drawn(self, group_id: int) -> Drawn:
        """See Course."""
        problem_id, stage = self._drawn[group_id]
        return Drawn(self._problems[problem_id], stage)

    def observe(self, group: Group) -> None:
        """See Course. Groups that failed say nothing of their problem."""
        graded = [score for score in group.scores if score.graded]
        if len(graded) < 2:
            return
        correct, reward = sum(score.correct for score in graded), math.fsum(score.reward for score in graded)
        tokens = sum(completion.length for completion in group.completions)
        self._seen.append(_Seen(group.id, group.problem.id, group.stage, len(graded), correct, reward, tokens, len(group.completions)))

    def end_batch(self, step: int, open_groups: Collection[int]) -> bool:
        """See Course."""
        seen, self._seen = sorted(self._seen, key=lambda item: item.group_id), []
        for item in seen:
            self._rates[item.problem] = self.rate(item.problem).after(item)
        own = [item for item in seen if item.stage == self.stage]
        if own:
            reward = math.fsum(item.reward for item in own) / sum(item.graded for item in own)
            length = sum(item.tokens for item in own) / sum(item.completions for item in own)
            self._curve = [*self._curve, (reward, length)][-self._longest_window() :]
        held = [self._judge(problem_id) for problem_id in dict.fromkeys(item.problem for item in seen)]
        self._drawn = {group_id: found for group_id, found in self._drawn.items() if group_id in open_groups}
        exhausted = not self._last and (any(held) or (bool(seen) and self._all_solved()))
        reason = self._ended_by(step) or ("exhausted" if exhausted else "")
        if reason and not self._over:
            self._spans[-1] = replace(self._spans[-1], ended=step, by=reason, places=self._places())
            self._over = self._last or reason == _MAX_STEPS
            if not self._over:
                self._enter(step)
        return bool(reason)

    def metrics(self) -> dict[str, float]:
        """See Course. Problems by their place in the stage; `curriculum/stage` counts from 1, as people do."""
        return {"curriculum/stage": self.stage + 1.0, **{f"curriculum/{name}": float(n) for name, n in self._places().items()}}

    def table(self) -> list[dict[str, Any]]:
        """A row a stage, for people: what it is, and how far it has come."""
        rows = []
        for number, (rules, recipe) in enumerate(zip(self._settings.stages, self._recipes, strict=True)):
            span = self._spans[number] if number < len(self._spans) else _Span(0)
            state = "to come" if number > self.stage else "ended" if span.by else "now"
            length, pipeline = recipe.rewards.length, recipe.pipeline
            places = self._places() if state == "now" else span.places
            rows.append(
                {
                    "stage": number + 1,
                    "problems": len(self._eligible[number]),
                    "levels": _range(rules.levels),
                    "pass_rates": _range(rules.pass_rates),
                    "share": rules.share,
                    "l_max": length.l_max if length else None,
                    "l_cache": length.l_cache if length else None,
                    "n_async": pipeline.n_async,
                    "n_batch": pipeline.n_batch,
                    "n_minibatch": pipeline.n_minibatch,
                    "until": _until(rules),
                    "state": state,
                    "begun": None if state == "to come" else span.begun,
                    "ended": span.ended,
                    "ended_by": span.by,
                    **{name: places.get(name) for name in _PLACES},
                }
            )
        return rows

    def to_json(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return {
            "spans": [asdict(span) for span in self._spans],
            "over": self._over,
            "cursor": self._cursor,
            "entered": self._entered,
            "drawn": {str(group_id): list(found) for group_id, found in self._drawn.items()},
            "rates": {problem_id: list(astuple(rate)) for problem_id, rate in self._rates.items()},
            "retired": sorted(self._retired),
            "deferred": sorted(self._deferred),
            "curve": [list(point) for point in self._curve],
            "seen": [list(astuple(item)) for item in self._seen],
        }

    def restore(self, data: Mapping[str, Any]) -> None:
        """Become what `to_json` kept, of the same recipe and problems."""
        self._spans = [_Span(**span) for span in data["spans"]]
        self._retired, self._deferred = set(data["retired"]), set(data["deferred"])
        self._begin(data["entered"])
        self._over, self._cursor = data["over"], data["cursor"]
        self._drawn = {int(group_id): (found[0], found[1]) for group_id, found in data["drawn"].items()}
        self._rates = {problem_id: PassRate(*rate) for problem_id, rate in data["rates"].items()}
        self._curve = [(reward, length) for reward, length in data["curve"]]
        self._seen = [_Seen(*item) for item in data["seen"]]

    @property
    def _last(self) -> bool:
        return self.stage == len(self._recipes) - 1

    @property
    def _rules(self) -> StageSettings:
        return self._settings.stages[self.stage]

    def _floor(self) -> int:
        """The fewest problems that stay active: the groups of one batch."""
        pipeline = self._recipes[self.stage].pipeline
        return min(pipeline.n_batch // pipeline.group_size, len(self._ranked))

    def _enter(self, step: int) -> None:
        """Begin the next stage."""
        self._spans.append(_Span(step))
        self._forgive(self._deferred)
        self._deferred.clear()
        self._begin(0)
        if sum(problem_id not in self._retired for problem_id in self._ranked) < self._floor():
            back = self._retired & set(self._ranked)
            self._retired -= back
            self._forgive(back)
        left = sum(problem_id not in self._retired for problem_id in self._ranked)
        self._let_in(max(math.ceil(self._rules.share * left), self._floor()))

    def _forgive(self, problem_ids: Collection[str]) -> None:
        """Problems that come back are judged by what they give from now on."""
        self._rates.update({problem_id: replace(self.rate(problem_id), streak=0) for problem_id in problem_ids})

    def _begin(self, entered: int) -> None:
        """Set up the stage that is the last of the spans, with so many problems let in."""
        eligible = self._eligible[self.stage]
        seed = int(np.random.SeedSequence([self._recipe.seed, self.stage]).generate_state(1)[0])
        self._stream = ProblemStream(eligible, seed, self._recipe.problems.shuffle)
        self._ranked = [problem.id for problem in _easiest_first(eligible, self._settings, seed)]
        self._curve, self._cursor, self._entered = [], 0, entered
        self._active = set(self._ranked[:entered]) - self._retired - self._deferred

    def _let_in(self, count: int) -> None:
        """Let so many more of the waiting problems in, if there are any."""
        while count and self._entered < len(self._ranked):
            problem_id = self._ranked[self._entered]
            self._entered += 1
            if problem_id not in self._retired:
                self._active.add(problem_id)
                count -= 1

    def _judge(self, problem_id: str) -> bool:
        """Retire or defer an active problem, if its streak says so and enough others stay; whether one had to retire and could not."""
        streak, s = self.rate(problem_id).streak, self._settings
        retires = s.retire_after is not None and streak >= s.retire_after
        defers = s.defer_after is not None and -streak >= s.defer_after and not self._last
        if problem_id not in self._active or not (retires or defers):
            return False
        if retires:
            self._let_in(1)
        if len(self._active) <= self._floor():
            return retires and len(self._ranked) > self._floor()
        self._active.remove(problem_id)
        (self._retired if retires else self._deferred).add(problem_id)
        return False

    def _all_solved(self) -> bool:
        """Whether each active problem should retire: in a stage of no more problems than a batch has groups, none does before all do."""
        after = self._settings.retire_after
        return after is not None and all(self.rate(problem_id).streak >= after for problem_id in self._active)

    def _ended_by(self, step: int) -> str:
        """The rule that ends the stage now; empty if none does."""
        rules = self._rules
        if step >= self._recipe.training.max_steps:
            return _MAX_STEPS
        if rules.steps is not None and step - self._spans[-1].begun >= rules.steps:
            return "steps"
        if rules.reward_plateau is not None and _flat([reward for reward, _ in self._curve], rules.reward_plateau):
            return "reward plateau"
        if rules.length_plateau is not None and _flat([length for _, length in self._curve], rules.length_plateau):
            return "length plateau"
        return ""

    def _longest_window(self) -> int:
        return max((2 * plateau.window for plateau in (self._rules.reward_plateau, self._rules.length_plateau) if plateau), default=1)

    def _places(self) -> dict[str, int]:
        """How many of the stage's problems are in each place."""
        retired, deferred = len(self._retired.intersection(self._ranked)), len(self._deferred)
        waiting = len(self._ranked) - len(self._active) - retired - deferred
        return dict(zip(_PLACES, (len(self._active), retired, deferred, waiting), strict=True))


def chosen_by(problem: Problem, settings: CurriculumSettings) -> list[Any]:
    """What decides on a problem's stages: a resumed run may not find it changed."""
    return [problem.level, problem.extra.get(settings.pass_rate_field)]


def _eligible(settings: CurriculumSettings, number: int, problems: Sequence[Problem]) -> list[Problem]:
    """The problems of a stage, in file order."""
    rules, place = settings.stages[number], f"curriculum.stages.{number}"
    found = list(problems)
    if rules.levels is not None:
        found = [problem for problem in found if rules.levels[0] <= problem.level <= rules.levels[1]]
    if rules.pass_rates is not None:
        rates = {problem.id: _pass_rate(problem, settings.pass_rate_field) for problem in found}
        without = next((problem for problem in found if rates[problem.id] is None), None)
        if without is not None:
            raise InputError(
                f"{place}.pass_rates: {without.source or without.id} has no {settings.pass_rate_field} in [0, 1]; grade the problems, "
                "set curriculum.pass_rate_field, or choose by levels"
            )
        found = [problem for problem in found if rules.pass_rates[0] <= (rates[problem.id] or 0.0) <= rules.pass_rates[1]]
    if not found:
        known = sorted({problem.level for problem in problems})
        raise InputError(f"{place}: no problem is in its range; levels of the problems: {', '.join(map(str, known[:20]))}")
    return found


def _pass_rate(problem: Problem, field: str) -> float | None:
    """The graded pass rate that the problem's file gives; None without one."""
    value = problem.extra.get(field)
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0.0 <= value <= 1.0:
        return None
    return float(value)


def _easiest_first(problems: Sequence[Problem], settings: CurriculumSettings, seed: int) -> list[Problem]:
    """By graded pass rate if all have one, else by level; equal ones in an order drawn from the seed."""
    rates = [_pass_rate(problem, settings.pass_rate_field) for problem in problems]
    hardness = [float(problem.level) for problem in problems]
    if None not in rates:
        hardness = [-rate for rate in rates if rate is not None]
    order = np.random.RandomState(np.random.MT19937(np.random.SeedSequence([seed]))).permutation(len(problems))
    return [problems[i] for i in sorted(order, key=lambda i: hardness[i])]


def _flat(values: Sequence[float], plateau: Plateau) -> bool:
    """Whether the newest of the values rise no more."""
    if len(values) < 2 * plateau.window:
        return False
    earlier = math.fsum(values[-2 * plateau.window : -plateau.window]) / plateau.window
    later = math.fsum(values[-plateau.window :]) / plateau.window
    return later - earlier < plateau.rise * abs(earlier)


def _range(ends: tuple[float, float] | None) -> str:
    return "all" if ends is None else f"{ends[0]}-{ends[1]}"


def _until(rules: StageSettings) -> str:
    plateaus = {"reward": rules.reward_plateau, "length": rules.length_plateau}
    found = [f"{rules.steps} steps"] if rules.steps else []
    found += [f"{name} flat over {plateau.window} batches" for name, plateau in plateaus.items() if plateau]
    return " or ".join(found) or "the end"
