"""Staged against single-stage training on the tiny world at equal compute; the table of docs/curriculum.md.

    .venv/bin/python -m docs.curriculum_table run --work DIR    trains and evaluates what the results lack, then writes the table
    .venv/bin/python -m docs.curriculum_table                   writes the table from curriculum_results.json

Equal compute: every run takes the same number of optimiser steps of the same number of completions; the tokens that this came to are in
the table. All begin with the same base model and draw from the same problems. Runs are synchronous in one process, so the same seed on
the same machine gives the same run. A run that was stopped goes on from its last checkpoint.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.page import put_between

FOLDER = Path(__file__).resolve().parent
PAGE, RESULTS = FOLDER / "curriculum.md", FOLDER / "curriculum_results.json"
LEVELS = (1, 2, 3, 4)
SEEDS = (1, 2, 3)
STEPS = 60
SETTINGS = {
    "pipeline.schedule": "sync",
    "pipeline.runtime": "local",
    "pipeline.n_async": 128,
    "pipeline.n_batch": 128,
    "pipeline.n_minibatch": 128,
    "problems.count": 400,
    "training.max_steps": STEPS,
}
#: Chosen on another seed than those reported. Level 4 is half of the last 30 steps, as a quarter of the 60 of a single stage.
STAGES = [
    {"levels": [1, 2], "l_max": 64, "l_cache": 32, "steps": 15},
    {"levels": [2, 3], "l_max": 96, "l_cache": 32, "steps": 15},
    {"levels": [3, 4], "l_max": 128, "l_cache": 32},
]
ARMS: dict[str, dict[str, Any]] = {
    "single stage": {},
    "staged": {"curriculum.stages": STAGES},
    "hardest level only": {"curriculum.stages": [{"levels": [4, 4]}]},
}
#: Held-out problems of the evaluation, as many of each level, and completions of each.
PROBLEMS, SAMPLES = 800, 2


def run(work: Path, seeds: Iterable[int], arms: Iterable[str], results: Path) -> None:
    """Train and evaluate what the results lack, one after the other."""
    work.mkdir(parents=True, exist_ok=True)
    heldout = _heldout(work)
    found = _load(results)
    pairs = [("base model", 0), *((arm, seed) for seed in seeds for arm in arms)]
    for arm, seed in pairs:
        if any((row["arm"], row["seed"]) == (arm, seed) for row in found):
            continue
        summary = {} if arm == "base model" else _train(arm, seed, work)
        model = summary["checkpoints"][-1] if summary else "tiny"
        report = _magistral(
            *("evaluate", "tiny", "--model", model, "--data", str(heldout), "--json", "--set", f"evaluation.samples={SAMPLES}"),
            *(["--recipe", "tiny"] if not summary else []),
        )
        found.append(
            {
                "arm": arm,
                "seed": seed,
                "pass_at_1": {level: report["by_level"][str(level)]["pass_at_1"] for level in LEVELS},
                "steps": summary.get("steps", 0),
                **{name: summary.get(name, 0) for name in ("generated_tokens", "trained_tokens", "completions")},
                "filtered": summary["ledger"]["filtered_by_reason"] if summary else {},
            }
        )
        results.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


def table(rows: list[dict[str, Any]]) -> str:
    """Every run, then the mean of each arm."""
    rows = json.loads(json.dumps(rows))  # as they are read: levels are texts
    columns = ["training", "seed", *(f"level {level}" for level in LEVELS), "all", "tokens generated / trained"]
    lines = [columns, ["---"] * len(columns)]
    for row in rows:
        lines.append([row["arm"], str(row["seed"]) if row["steps"] else "-", *_figures([row]), _tokens([row])])
    for arm in ARMS:
        if own := [row for row in rows if row["arm"] == arm]:
            lines.append([f"**{arm}, mean**", str(len(own)), *_figures(own), _tokens(own)])
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _figures(rows: list[dict[str, Any]]) -> list[str]:
    means = [statistics.fmean(row["pass_at_1"][str(level)] for row in rows) for level in LEVELS]
    return [f"{mean:.3f}" for mean in (*means, statistics.fmean(means))]


def _tokens(rows: list[dict[str, Any]]) -> str:
    made, trained = (statistics.fmean(row[f"{name}_tokens"] for row in rows) / 1000 for name in ("generated", "trained"))
    return f"{made:.0f}k / {trained:.0f}k" if made else "-"


def _load(results: Path) -> list[dict[str, Any]]:
    return json.loads(results.read_text(encoding="utf-8")) if results.exists() else []


def _heldout(work: Path) -> Path:
    """The evaluation's problems: generated with another seed than the suite's, from arithmetic that no training sees."""
    from magistral_core import tiny

    path = work / "heldout.jsonl"
    problems = tiny.generate("quick", "heldout", PROBLEMS, LEVELS, seed=5)
    rows = ({name: asdict(problem)[name] for name in ("id", "question", "answer", "level")} for problem in problems)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def _train(arm: str, seed: int, work: Path) -> dict[str, Any]:
    changes = {**SETTINGS, **ARMS[arm], "seed": seed, "storage.uri": f"file:{work}", "tracking.uri": f"sqlite:{work}/mlflow.db"}
    sets = [part for name, value in changes.items() for part in ("--set", f"{name}={json.dumps(value)}")]
    return _magistral("run", "tiny", "--direct", "--json", *sets)


def _magistral(*arguments: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "magistral_core.cli", *arguments]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="?", choices=("run", "table"), default="table")
    parser.add_argument("--work", type=Path, help="folder for checkpoints and curves")
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS)
    parser.add_argument("--arms", nargs="+", choices=tuple(ARMS), default=tuple(ARMS))
    parser.add_argument("--results", type=Path, default=RESULTS, help="another file leaves the page as it is")
    options = parser.parse_args()
    if options.what == "run":
        if options.work is None:
            parser.error("run needs --work DIR")
        run(options.work.absolute(), options.seeds, options.arms, options.results)
    shown = table(_load(options.results))
    if options.results == RESULTS:
        page = PAGE.read_text(encoding="utf-8")
        PAGE.write_text(put_between(page, "curriculum-table", shown), encoding="utf-8")
    sys.stdout.write(shown)


if __name__ == "__main__":
    main()
