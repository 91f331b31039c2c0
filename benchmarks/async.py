# ruff: noqa: N999  (the benchmark's name)
"""The asynchronous schedule against the synchronous one of the same loop, at three ratios of the trainer's cost to the generator's.

    async                  one generator and one trainer rank, a core each, both always at work
    sync, a core a role    the same roles on the same cores, in turn: one core idles while the other works
    sync, both cores       two generators, then two trainer ranks, each phase on both cores

The ratio comes from how many sequences the engine may decode at once, fewer being dearer, and from how many times a step trains each
completion, which costs as a larger model would and changes nothing else. What the ratio really is, is measured: processor time of the
trainer over that of the engine and its mailbox, a completion, in the asynchronous run. Lengths are planned (`synthetic`), with the longest
of a batch five times its mean.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

from benchmarks.common import Headline, Options, Pairs, Result, cores, pinned
from benchmarks.journal import Journal, without_journal
from benchmarks.sides import RAY_ENVIRONMENT, Side, Steps
from benchmarks.synthetic import Lengths, recipe

SUMMARY = "the asynchronous schedule against the synchronous one, at three cost ratios of trainer to generator and 5x skewed lengths"

_SKEW = 5.0
_GROUP_SIZE = 8
_BATCH = 64
_WARM_UP = 3
_MEAN = 64


@dataclass(frozen=True)
class Cost:
    """What makes one role dear: a model (`synthetic`), sequences that an engine decodes at once, times that a completion is trained."""

    size: str
    sequences: int
    passes: int = 1


#: What comes close to each cost ratio.
RATIOS = {"1/4": Cost("0.1M", 24), "1": Cost("1M", 2 * _BATCH), "4": Cost("1M", 2 * _BATCH, passes=10)}
#: How the three ways differ: settings of `pipeline`.
WAYS: dict[str, dict[str, Any]] = {
    "async": {"schedule": "async"},
    "sync, a core a role": {"schedule": "sync"},
    "sync, both cores": {"schedule": "sync", "generators": 2, "trainers": 2},
}


@dataclass(frozen=True)
class Settings:
    """Cost ratios; repetitions; optimiser steps of a turn; a file that keeps finished ratios (see `journal`)."""

    ratios: tuple[str, ...] = ("1",)
    repetitions: int = 2
    steps: int = 6
    journal: str = ""


PUBLISHED = Settings(ratios=tuple(RATIOS), repetitions=5)


def run(options: Options) -> Result:
    """See the module."""
    settings = options.over(PUBLISHED if options.full else Settings())
    journal = Journal(settings.journal, {"steps": settings.steps})
    with pinned(cores()[:2]):
        found = [journal.once(ratio, settings.repetitions, partial(_measure, ratio, settings)) for ratio in settings.ratios]
    rows = [_row(entry) for entry in found]
    middle = min(rows, key=lambda row: abs(row["cost ratio"] - 1))
    return Result(
        Headline(
            "async over sync with a core a role, at the cost ratio nearest to 1",
            middle["over sync, a core a role"],
            "x",
            higher_is_better=True,
        ),
        {
            **without_journal(settings),
            "mean": _MEAN,
            "skew": _SKEW,
            "group_size": _GROUP_SIZE,
            "batch": _BATCH,
            "costs": {ratio: asdict(cost) for ratio, cost in RATIOS.items()},
            "ways": WAYS,
        },
        rows,
        found,
        ["Generators are busy while they hold a sequence; occupancy is the mean number of sequences over the most that they may hold."],
        journal.earlier_seconds,
    )


def _measure(ratio: str, settings: Settings) -> dict[str, Any]:
    cost = RATIOS[ratio]
    lengths = Lengths(_MEAN, _SKEW, _BATCH, _GROUP_SIZE, settle=_WARM_UP)
    rates: dict[str, list[float]] = {name: [] for name in WAYS}
    turns: dict[str, list[Steps]] = {name: [] for name in WAYS}
    with ExitStack() as stack:
        sides = {name: stack.enter_context(_side(cost, lengths, way)) for name, way in WAYS.items()}
        for side in sides.values():
            side.advance(_WARM_UP)
        order = list(sides)
        for number in range(settings.repetitions + 1):
            for name in order:
                turn = sides[name].advance(settings.steps)
                if number > 0:  # the first turn brings the lengths of the plan into the loop
                    rates[name].append(_BATCH * settings.steps / turn.seconds)
                    turns[name].append(turn)
            order = order[1:] + order[:1]
    return {"ratio": ratio, **asdict(cost), "rates": rates, "busy": {name: _busy(done) for name, done in turns.items()}}


def _side(cost: Cost, lengths: Lengths, way: Mapping[str, Any]) -> Side:
    data = recipe(cost.size, lengths, pipeline={"n_async": cost.sequences, **way}, generation={"max_num_seqs": cost.sequences})
    return Side(
        "benchmarks.ours:train", {"recipe": data, "lengths": asdict(lengths), "roles_pinned": True, "passes": cost.passes}, RAY_ENVIRONMENT
    )


def _busy(turns: list[Steps]) -> dict[str, float]:
    """Means of what the loop measures, and processor time by role, in milliseconds a completion.

    The clocks of the loop go on while a side is stopped, so the shares of time leave out the first of a turn's steps.
    """
    lines = [line["metrics"] for turn in turns for line in turn.lines[1:] or turn.lines]
    completions = _BATCH * sum(len(turn.lines) for turn in turns)
    roles = {role for turn in turns for role in turn.cpu_seconds}
    spent = {f"{role} ms": 1000 * sum(turn.cpu_seconds.get(role, 0.0) for turn in turns) / completions for role in sorted(roles)}
    means = {
        key: statistics.fmean(line[key] for line in lines) for key in ("busy/generators", "busy/trainers", "busy/occupancy", "age/mean")
    }
    return {**means, **spent}


def _row(found: Mapping[str, Any]) -> dict[str, Any]:
    rates, busy = found["rates"], found["busy"]["async"]
    over = {name: Pairs(tuple(rates["async"]), tuple(rates[name])).ratio for name in WAYS if name != "async"}
    return {
        "wanted": found["ratio"],
        "cost ratio": busy["trainer ms"] / (busy["engine ms"] + busy["generator ms"]),
        "parameters": found["size"],
        "decoded at once": found["sequences"],
        "times trained": found["passes"],
        **{f"{name} (completions/s)": statistics.median(rates[name]) for name in WAYS},
        **{f"over {name}": ratio for name, ratio in over.items()},
        "generators busy": busy["busy/generators"],
        "occupancy": busy["busy/occupancy"],
        "trainers busy": busy["busy/trainers"],
        "age (steps)": busy["age/mean"],
    }
