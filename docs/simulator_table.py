"""The simulator against what `magistral bench async` measured; the table of docs/simulator.md.

    .venv/bin/python -m docs.simulator_table

Of each model the simulated cluster has one generator and one trainer. Taken from the measurement are: the generators' busy time of both
runs, from which follow the two terms of a decoding step's time; the trainer's time for a step of the synchronous run; and what of that
run's steps neither role worked, as the time from a complete group to its scores. Lengths are those of the benchmark's plan, and no group is
dropped, as there. Everything else is the simulator's: when which role waits, how many sequences are decoded when, and so how fast the
asynchronous schedule is.
"""

from __future__ import annotations

import json
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.page import put_between
from benchmarks.synthetic import Lengths
from magistral_core.pipeline.cluster import Cluster, Draws
from magistral_core.pipeline.simulator import Figures, Schedule, Simulator

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "simulator.md"
RESULT = ROOT / "benchmarks" / "results" / "async.json"
SYNC = "sync, a core a role"
_STEPS = 60
_PROMPT = 10


class Planned(Draws):
    """The lengths of a plan, and verdicts that differ within every group."""

    def __init__(self, cluster: Cluster, plan: Lengths) -> None:
        super().__init__(cluster)
        self._plan = plan

    def lengths(self, group_id: int) -> list[int]:
        """Tokens of each completion."""
        return [self._plan.of(group_id, index) for index in range(self._plan.group_size)]

    def verdicts(self, group_id: int) -> list[bool]:
        """The first is right."""
        return [index == 0 for index in range(self._plan.group_size)]


def cluster_of(entry: dict[str, Any], settings: dict[str, Any]) -> Cluster:
    """What was measured of a model, as a cluster of two."""
    batch, sequences = settings["batch"], 2 * settings["batch"]
    busy = {way: entry["busy"][way] for way in ("async", SYNC)}
    rate = {way: median(entry["rates"][way]) for way in busy}
    step, made, longest = batch / rate[SYNC], batch * entry["mean"], round(entry["mean"] * settings["skew"])
    # Seconds of one decoding step are fixed + each * sequences. Synchronously, as many steps as the longest completion has tokens:
    generating = step * busy[SYNC]["busy/generators"]
    # Asynchronously the number of sequences hardly changes:
    running = sequences * busy["async"]["busy/occupancy"] / busy["async"]["busy/generators"]
    decoding = running * busy["async"]["busy/generators"] / (rate["async"] * entry["mean"])
    each = (generating - decoding * longest) / (made - running * longest)
    fixed = decoding - each * running
    tokens = made + batch // settings["group_size"] * _PROMPT
    return Cluster(
        generators=1,
        sequences=sequences,
        alone_tokens_per_s=1 / (fixed + each),
        full_tokens_per_s=sequences / (fixed + each * sequences),
        prompt_tokens=_PROMPT,
        prefill_tokens_per_s=1e9,  # part of the decoding steps that were measured
        verify_s=step * (1 - busy[SYNC]["busy/generators"] - busy[SYNC]["busy/trainers"]),
        trainers=1,
        trainer_tokens_per_s=tokens / (step * busy[SYNC]["busy/trainers"]),
        step_s=0.0,
        publish_s=0.0,
        broadcast_s=0.0,
        pause_s=0.0,
        group_size=settings["group_size"],
        n_batch=batch,
        n_minibatch=batch,
        n_async=sequences,
        max_open=12 * batch,
        mean=entry["mean"],
        longest=longest,
    )


def simulated(entry: dict[str, Any], settings: dict[str, Any], schedule: Schedule) -> Figures:
    """One schedule of a model."""
    cluster = cluster_of(entry, settings)
    plan = Lengths(entry["mean"], settings["skew"], settings["batch"], settings["group_size"])
    return Simulator(cluster, schedule, Planned(cluster, plan)).run(_STEPS)


def table(result: dict[str, Any]) -> str:
    """Markdown: measured and simulated, by model."""
    names = ("async over sync", "completions/s, async", "sync", "generators busy", "trainers busy", "age (steps)")
    lines = [f"| parameters | | {' | '.join(names)} |", f"|{'---|' * (len(names) + 2)}"]
    for entry in result["repetitions"]:
        found = {schedule: simulated(entry, result["settings"], schedule) for schedule in ("async", "sync")}
        rate = {way: median(entry["rates"][way]) for way in ("async", SYNC)}
        busy = entry["busy"]["async"]
        rows = {
            "measured": (rate["async"], rate[SYNC], busy["busy/generators"], busy["busy/trainers"], busy["age/mean"]),
            "simulated": (
                found["async"].completions_per_s,
                found["sync"].completions_per_s,
                found["async"].generators_busy,
                found["async"].trainers_busy,
                found["async"].age_mean,
            ),
        }
        for name, (fast, slow, generators, trainers, age) in rows.items():
            cells = f"{fast / slow:.2f}x | {fast:.1f} | {slow:.1f} | {generators:.2f} | {trainers:.2f} | {age:.1f}"
            lines.append(f"| {entry['size']} | {name} | {cells} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    measured = json.loads(RESULT.read_text(encoding="utf-8"))
    PAGE.write_text(put_between(PAGE.read_text(encoding="utf-8"), "simulator-table", table(measured)), encoding="utf-8")
