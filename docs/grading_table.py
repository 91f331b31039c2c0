"""Two passes of grading on the tiny world, with wrong references planted; the tables of docs/grading.md.

    .venv/bin/python -m docs.grading_table --work DIR [--seed N] [--problems N] [--steps N]
    .venv/bin/python -m docs.grading_table --page          puts the results into the page

One seed: problems of all four levels in equal numbers; in 5% of each level one digit of the reference is replaced. Pass 1 by the tiny base
model, reinforcement learning by the recipe `tiny` on what it kept, pass 2 of the whole set by the trained model. Thresholds are those of
the recipe, and nothing here reads which references are wrong before pass 2 has ended. A run that is stopped goes on in the same DIR.
"""

from __future__ import annotations

import argparse
import json
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from magistral_core import api
from magistral_core.config import load_grading
from magistral_core.curation.grading import GradingReason, judge
from magistral_core.curation.grading_store import read_grades
from magistral_core.tiny import generate

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "grading.md"
RESULTS = ROOT / "docs" / "grading.json"
LEVELS = (1, 2, 3, 4)
#: Share of the references that are made wrong.
PLANTED = 0.05
#: Seeds of problems start here: the recipe's own training problems have the seed of the run.
_PROBLEM_SEED = 1000


def make_problems(count: int, seed: int) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """Rows of a problem file, and the true answers of those whose reference is wrong, by id."""
    rng = random.Random(f"planted/{seed}")
    found = generate("quick", "train", count, LEVELS, _PROBLEM_SEED + seed)
    true: dict[str, str] = {}
    for level in LEVELS:
        mine = [problem for problem in found if problem.level == level]
        true |= {problem.id: problem.answer for problem in rng.sample(mine, round(PLANTED * len(mine)))}
    rows = []
    for problem in found:
        answer = other_digit(problem.answer, rng) if problem.id in true else problem.answer
        rows.append({"id": problem.id, "question": problem.question, "answer": answer, "level": problem.level})
    return rows, true


def other_digit(answer: str, rng: random.Random) -> str:
    """The number with one digit replaced, and no leading zero."""
    places = [i for i, character in enumerate(answer) if character.isdigit()]
    at = rng.choice(places)
    digits = "123456789" if at == places[0] and len(places) > 1 else "0123456789"
    changed = answer[:at] + rng.choice([digit for digit in digits if digit != answer[at]]) + answer[at + 1 :]
    return changed if int(changed) != int(answer) else other_digit(answer, rng)


def run_seed(work: Path, seed: int, count: int, steps: int) -> dict[str, Any]:
    """Both passes and the training between them; returns what came out."""
    work.mkdir(parents=True, exist_ok=True)
    source, kept = work / "problems.jsonl", work / "pass-1" / "kept.jsonl"
    rows, true = make_problems(count, seed)
    source.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    recipe = load_grading("tiny", [f"storage.uri=file:{work / 'store'}", f"sampling.seed={seed}"])
    grader = work / "grader.txt"
    if not grader.exists():
        api.grade_difficulty([str(source)], work / "pass-1", recipe, "tiny")
        places = [f"storage.uri=file:{work / 'store'}", f"tracking.uri=sqlite:{work / 'mlflow.db'}"]
        training = api.load_recipe("tiny", [f"problems.path={kept}", f"training.max_steps={steps}", f"seed={seed}", *places])
        grader.write_text(api.run(training)["checkpoints"][-1], encoding="utf-8")
    report = api.grade_difficulty([str(source)], work / "pass-2", recipe, "tiny", grader.read_text(encoding="utf-8"))
    passes = [
        dict(read_grades((work / "pass-2" / f"grades-{number}.parquet").read_bytes(), f"grades of pass {number}")) for number in (1, 2)
    ]
    verdicts = [
        {key: judge(grade, settings) for key, grade in grades.items()}
        for grades, settings in zip(passes, (recipe.pass_1, recipe.pass_2), strict=True)
    ]
    majority_right = {key: bool(passes[1][key].answers) and passes[1][key].answers[0].answer == answer for key, answer in true.items()}
    return {
        "seed": seed,
        "problems": count,
        "steps": steps,
        "passes": [{name: item[name] for name in ("pass_rate", "kept", "by_pass_rate", "stages", "votes")} for item in report["passes"]],
        "by_level": {level: _by_level(rows, true, verdicts, level) for level in LEVELS},
        "recovered": _recovered(verdicts, true),
        "wrong": _wrong(verdicts[1], majority_right),
        "right": _right(verdicts[1], {row["id"] for row in rows} - true.keys()),
    }


def _by_level(
    rows: Sequence[Mapping[str, Any]], true: Mapping[str, str], verdicts: Sequence[Mapping[str, Any]], level: int
) -> dict[str, Any]:
    mine = [row["id"] for row in rows if row["level"] == level and row["id"] not in true]
    return {f"pass_{number}": dict(Counter(_named(found[key]) for key in mine)) for number, found in enumerate(verdicts, start=1)}


def _recovered(verdicts: Sequence[Mapping[str, Any]], true: Mapping[str, str]) -> dict[str, int]:
    """Problems with right references that pass 1 called too hard, by what pass 2 says."""
    hard = [key for key, reason in verdicts[0].items() if reason is GradingReason.TOO_HARD and key not in true]
    return {"too_hard_in_pass_1": len(hard), **Counter(_named(verdicts[1][key]) for key in hard)}


def _wrong(verdicts: Mapping[str, Any], majority_right: Mapping[str, bool]) -> dict[str, Any]:
    """What became of the planted references."""
    fates = {right: Counter(_named(verdicts[key]) for key, found in majority_right.items() if found is right) for right in (True, False)}
    outvoted = fates[True][GradingReason.GOLD_OUTVOTED.value]
    return {
        "planted": len(majority_right),
        "majority_right": dict(fates[True]),
        "majority_wrong": dict(fates[False]),
        "found": outvoted / fates[True].total(),
    }


def _right(verdicts: Mapping[str, Any], keys: set[str]) -> dict[str, Any]:
    """What became of the right references."""
    fates = Counter(_named(verdicts[key]) for key in keys)
    return {**fates, "lost_to_the_vote": fates[GradingReason.GOLD_OUTVOTED.value] / len(keys)}


def _named(reason: GradingReason | None) -> str:
    return "kept" if reason is None else reason.value


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--problems", type=int, default=1200)
    parser.add_argument("--steps", type=int, default=110)
    parser.add_argument("--page", action="store_true")
    options = parser.parse_args()
    if options.work:
        found = run_seed(options.work, options.seed, options.problems, options.steps)
        print(json.dumps(found, indent=1))  # noqa: T201
