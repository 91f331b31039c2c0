"""A cluster that need not exist: how busy its roles would be under each schedule, and how many generators its trainers need.

Describe your own with `--set`, in seconds and tokens: docs/simulator.md explains every figure and what the model leaves out. Admission,
ledger, filters and collation are those of real runs; see `magistral_core.pipeline.simulator`.
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass, replace
from typing import Any

from benchmarks.common import Headline, Options, Result
from magistral_core.pipeline.cluster import Cluster
from magistral_core.pipeline.simulator import BUSY, SCHEDULES, Figures, Schedule, Simulator, generators_needed

SUMMARY = "a simulated cluster: utilisation, age and speed by schedule, and how many generators its trainers need"


@dataclass(frozen=True)
class Settings(Cluster):
    """The cluster; the optimiser steps of each run; the generators of the same cluster enlarged (0: it is left out), and its steps.

    Each of these is hundreds of thousands of completions, and in a few of them the pipeline is still filling.
    """

    steps: int = 30
    largest: int = 1000
    largest_steps: int = 4


def run(options: Options) -> Result:
    """See the module."""
    settings = options.over(Settings(steps=60, largest=10_000, largest_steps=30) if options.full else Settings())
    rows, speeds = [], {}
    for schedule in SCHEDULES:
        rows.append(_run("as set", settings, schedule, settings.steps))
        speeds[schedule] = rows[-1]["completions/s"]
    needed, tried = generators_needed(settings, settings.steps)
    rows += [_row("trainers' need", replace(settings, generators=count), "async", figures) for count, figures in tried.items()]
    if settings.largest:
        rows += [_run("enlarged", _enlarged(settings), schedule, settings.largest_steps) for schedule in SCHEDULES]
    return Result(
        Headline("async over sync, completions/s", speeds["async"] / speeds["sync"], "times", higher_is_better=True),
        asdict(settings),
        rows,
        rows,
        _remarks(settings, needed, tried, rows),
    )


def _enlarged(settings: Settings) -> Settings:
    """As many trainers a generator as before, and 16 completions in flight for each generator."""
    times = settings.largest / settings.generators
    batch = 8 * settings.largest // settings.group_size * settings.group_size
    ranks = next(ranks for ranks in range(max(1, round(settings.trainers * times)), 0, -1) if batch % ranks == 0)
    return replace(settings, generators=settings.largest, trainers=ranks, n_batch=batch, n_minibatch=batch, n_async=2 * batch, max_open=0)


def _run(part: str, cluster: Cluster, schedule: Schedule, steps: int) -> dict[str, Any]:
    began = time.process_time()
    figures = Simulator(cluster, schedule).run(steps)
    return _row(part, cluster, schedule, figures, time.process_time() - began)


def _row(part: str, cluster: Cluster, schedule: Schedule, figures: Figures, seconds: float | None = None) -> dict[str, Any]:
    return {
        "part": part,
        "generators": cluster.generators,
        "schedule": schedule,
        "generators busy (%)": 100 * figures.generators_busy,
        "occupancy (%)": 100 * figures.occupancy,
        "trainers busy (%)": 100 * figures.trainers_busy,
        "generated tokens/s": figures.generated_tokens_per_s,
        "completions/s": figures.completions_per_s,
        "age, mean": figures.age_mean,
        "age, max": figures.age_max,
        "simulated in (CPU s)": seconds,
    }


def _remarks(settings: Settings, needed: int | None, tried: dict[int, Figures], rows: list[dict[str, Any]]) -> list[str]:
    if needed is None:
        best = max(tried, key=lambda count: tried[count].trainers_busy)
        need = f"No number of generators keeps these trainers busy {BUSY:.0%} of the time: {tried[best].trainers_busy:.1%} with {best}."
    else:
        need = (
            f"These trainers need {needed} generators: busy {tried[needed].trainers_busy:.1%} of the time, at least {BUSY:.0%} asked for."
        )
    remarks = [need]
    if settings.largest:
        slowest = max(rows[-len(SCHEDULES) :], key=lambda row: row["simulated in (CPU s)"])
        remarks.append(
            f"{settings.largest:,} generators, {settings.largest_steps} steps of {_enlarged(settings).n_batch:,} completions: "
            f"{slowest['simulated in (CPU s)']:.0f} s of CPU for the slowest schedule ({slowest['schedule']})."
        )
    return [*remarks, "A model of a cluster, not a measurement of one: see docs/simulator.md for what it leaves out."]
