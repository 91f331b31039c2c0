# ruff: noqa: N999  (the benchmark's name)
"""The asynchronous schedule against the synchronous one of the same loop, at three ratios of the trainer's cost to the generator's.

    async                  one generator and one trainer rank, a core each, both always at work
    sync, a core a role    the same roles on the same cores, in turn: one core idles while the other works
    sync, both cores       two generators, then two trainer ranks, each phase on both cores

The ratio comes from the size of the model: to decode a token takes the engine about as long for the smallest model as for one ten times
larger, while the trainer's work grows with the parameters. What the ratio really is, is measured: processor time of the trainer over that
of the engine and its mailbox, a completion, in the asynchronous run. Lengths are planned (`synthetic`), with the longest of a batch five
times its mean.
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
#: Cost ratio to a model's size and the mean tokens of a completion that come close to it.
RATIOS = {"1/4": ("0.1M", 64), "1": ("1M", 64), "4": ("10M", 64)}
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


PUBLISHED = Settings(ratios=tuple(RATIOS), repetitions=5, steps=8)


def run(options: Options) -> Result:
    """See the module."""
    settings = options.over(PUBLISHED if options.full else Settings())
    journal = Journal(settings.journal)
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
        {**without_journal(settings), "skew": _SKEW, "group_size": _GROUP_SIZE, "batch": _BATCH, "models": RATIOS, "ways": WAYS},
        rows,
        found,
        ["Generators are busy while they hold a sequence; occupancy is the mean number of sequences over the most that they may hold."],
        journal.earlier_seconds,
    )


def _measure(ratio: str, settings: Settings) -> dict[str, Any]:
    size, mean = RATIOS[ratio]
    lengths = Lengths(mean, _SKEW, _BATCH, _GROUP_SIZE, settle=_WARM_UP)
    rates: dict[str, list[float]] = {name: [] for name in WAYS}
    turns: dict[str, list[Steps]] = {name: [] for name in WAYS}
    with ExitStack() as stack:
        sides = {name: stack.enter_context(_side(size, lengths, way)) for name, way in WAYS.items()}
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
    return {"ratio": ratio, "size": size, "mean": mean, "rates": rates, "busy": {name: _busy(done) for name, done in turns.items()}}


def _side(size: str, lengths: Lengths, way: Mapping[str, Any]) -> Side:
    arguments = {"recipe": recipe(size, lengths, pipeline=way), "lengths": asdict(lengths), "roles_pinned": True}
    return Side("benchmarks.ours:train", arguments, RAY_ENVIRONMENT)


def _busy(turns: list[Steps]) -> dict[str, float]:
    """Means of what the loop measures, and processor time by role, in milliseconds a completion."""
    lines = [line["metrics"] for turn in turns for line in turn.lines]
    roles = {role for turn in turns for role in turn.cpu_seconds}
    spent = {f"{role} ms": 1000 * sum(turn.cpu_seconds.get(role, 0.0) for turn in turns) / (_BATCH * len(lines)) for role in sorted(roles)}
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
        **{f"{name} (completions/s)": statistics.median(rates[name]) for name in WAYS},
        **{f"over {name}": ratio for name, ratio in over.items()},
        "generators busy": busy["busy/generators"],
        "occupancy": busy["busy/occupancy"],
        "trainers busy": busy["busy/trainers"],
        "age (steps)": busy["age/mean"],
    }
