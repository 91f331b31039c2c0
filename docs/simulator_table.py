"""The simulator against what `magistral bench async` measured; the table of docs/simulator.md.

    .venv/bin/python -m docs.simulator_table

For each cost ratio the simulated cluster has one generator and one trainer. Taken from the measurement are: the generators' busy time of
both runs, from which follow the two terms of a decoding step's time; the trainer's time for a step of the synchronous run; and what of
that run's steps neither role worked, as the time from a complete group to its scores. Lengths are those of the benchmark's plan, and no
group is dropped, as there. Everything else is the simulator's: when which role waits, how many sequences are decoded when, and so how
fast the asynchronous schedule is.
"""

from __future__ import annotations

import heapq
import json
from pathlib import Path
from statistics import fmean, median
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


def planned(settings: dict[str, Any]) -> Lengths:
    """The benchmark's plan."""
    return Lengths(settings["mean"], settings["skew"], settings["batch"], settings["group_size"])


def decoding_steps(plan: Lengths, sequences: int) -> float:
    """That an engine needs for a batch, so many sequences at once and the next as soon as one ends; mean of some batches."""
    spans = []
    for number in range(20):
        ends = [0] * sequences
        for tokens in plan.of_batch(number):
            heapq.heappush(ends, heapq.heappop(ends) + int(tokens))
        spans.append(max(ends))
    return fmean(spans)


def step_terms(entry: dict[str, Any], settings: dict[str, Any]) -> tuple[float, float]:
    """Seconds of an engine's decoding step: what it always takes, and for each sequence. From a measurement in which it hardly waits."""
    batch, sequences, mean = settings["batch"], entry["sequences"], settings["mean"]
    rate = {way: median(entry["rates"][way]) for way in ("async", SYNC)}
    busy = {way: entry["busy"][way]["busy/generators"] for way in rate}
    generating, steps = batch / rate[SYNC] * busy[SYNC], decoding_steps(planned(settings), sequences)
    # Asynchronously the number of sequences hardly changes:
    running = sequences * entry["busy"]["async"]["busy/occupancy"] / busy["async"]
    decoding = running * busy["async"] / (rate["async"] * mean)
    each = (generating - decoding * steps) / (batch * mean - running * steps)
    return decoding - each * running, each


def cluster_of(entry: dict[str, Any], settings: dict[str, Any], terms: tuple[float, float]) -> Cluster:
    """What was measured at a cost ratio, as a cluster of two; `terms` are those of its engine's steps."""
    fixed, each = terms
    batch, sequences, mean = settings["batch"], entry["sequences"], settings["mean"]
    busy, step = entry["busy"][SYNC], batch / median(entry["rates"][SYNC])
    made, longest = batch * mean, round(mean * settings["skew"])
    tokens = made + batch // settings["group_size"] * _PROMPT
    return Cluster(
        generators=1,
        sequences=sequences,
        alone_tokens_per_s=1 / (fixed + each),
        full_tokens_per_s=sequences / (fixed + each * sequences),
        prompt_tokens=_PROMPT,
        prefill_tokens_per_s=1e9,  # part of the decoding steps that were measured
        verify_s=step * (1 - busy["busy/generators"] - busy["busy/trainers"]),
        trainers=1,
        trainer_tokens_per_s=tokens / (step * busy["busy/trainers"]),
        step_s=0.0,
        publish_s=0.0,
        broadcast_s=0.0,
        pause_s=0.0,
        group_size=settings["group_size"],
        n_batch=batch,
        n_minibatch=batch,
        n_async=sequences,
        max_open=12 * batch,
        mean=mean,
        longest=longest,
    )


def simulated(entry: dict[str, Any], settings: dict[str, Any], terms: tuple[float, float], schedule: Schedule) -> Figures:
    """One schedule at a cost ratio."""
    cluster = cluster_of(entry, settings, terms)
    return Simulator(cluster, schedule, Planned(cluster, planned(settings))).run(_STEPS)


def table(result: dict[str, Any]) -> str:
    """Markdown: measured and simulated, by the trainer's cost over the generator's."""
    names = ("async over sync", "completions/s, async", "sync", "generators busy", "trainers busy", "age (steps)")
    lines = [f"| cost ratio | | {' | '.join(names)} |", f"|{'---|' * (len(names) + 2)}"]
    settings, terms = result["settings"], {}
    for entry in result["repetitions"]:
        # An engine that waits for its trainers tells nothing of its speed: the same one's is taken, where it did not.
        engine = entry["size"], entry["sequences"]
        if entry["passes"] == 1:
            terms[engine] = step_terms(entry, settings)
        found = {schedule: simulated(entry, settings, terms[engine], schedule) for schedule in ("async", "sync")}
        rate = {way: median(entry["rates"][way]) for way in ("async", SYNC)}
        busy = entry["busy"]["async"]
        ratio = busy["trainer ms"] / (busy["engine ms"] + busy["generator ms"])
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
            lines.append(f"| {ratio:.2f} | {name} | {cells} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    measured = json.loads(RESULT.read_text(encoding="utf-8"))
    PAGE.write_text(put_between(PAGE.read_text(encoding="utf-8"), "simulator-table", table(measured)), encoding="utf-8")
