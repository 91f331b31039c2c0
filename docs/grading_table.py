"""Two passes of grading on the tiny world, with wrong references planted; the tables of docs/grading.md.

    .venv/bin/python -m docs.grading_table --work DIR [--seed N] [--problems N] [--steps N] [--set KEY=VALUE]

One seed: problems of all four levels in equal numbers; in 5% of each level one digit of the reference is replaced. Pass 1 by the tiny base
model, reinforcement learning by the recipe `tiny` on what it kept, pass 2 of the whole set by the trained model. Thresholds are those of
the recipe, and nothing reads which references are wrong before pass 2 has ended. A run that is stopped goes on in the same DIR.
Results of each seed go to docs/grading.json, and the tables of all into the page.
"""

from __future__ import annotations

import argparse
import json
import random
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from benchmarks.page import put_between
from magistral_core import api
from magistral_core.config import load_grading
from magistral_core.config.grading import GradingRecipe
from magistral_core.curation.grading import Grade, judge
from magistral_core.curation.grading_store import read_grades
from magistral_core.curation.reasons import GradingReason
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


def run_seed(work: Path, seed: int, count: int, steps: int, changes: Sequence[str] = ()) -> dict[str, Any]:
    """Both passes and the training between them; returns what came out. `changes` are those of the recipe `tiny`, `KEY=VALUE`."""
    work.mkdir(parents=True, exist_ok=True)
    source, kept = work / "problems.jsonl", work / "pass-1" / "kept.jsonl"
    rows, true = make_problems(count, seed)
    source.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    recipe = load_grading("tiny", [f"storage.uri=file:{work / 'store'}", f"sampling.seed={seed}", *changes])
    grader = work / "grader.txt"
    if not grader.exists():
        api.grade_difficulty([str(source)], work / "pass-1", recipe, "tiny")
        places = [f"storage.uri=file:{work / 'store'}", f"tracking.uri=sqlite:{work / 'mlflow.db'}"]
        training = api.load_recipe("tiny", [f"problems.path={kept}", f"training.max_steps={steps}", f"seed={seed}", *places])
        grader.write_text(api.run(training)["checkpoints"][-1], encoding="utf-8")
    report = api.grade_difficulty([str(source)], work / "pass-2", recipe, "tiny", grader.read_text(encoding="utf-8"))
    passes = [dict(read_grades((work / "pass-2" / f"grades-{number}.parquet").read_bytes(), f"pass {number}")) for number in (1, 2)]
    verdicts = [{key: judge(grade, recipe.pass_1) for key, grade in passes[0].items()}, _verdicts(work / "pass-2")]
    right = [row for row in rows if row["id"] not in true]
    return {
        "seed": seed,
        "problems": count,
        "steps": steps,
        "vote": _vote(recipe),
        "rechecked": report["passes"][1]["rechecked"],
        "passes": [{name: item[name] for name in ("pass_rate", "kept", "by_pass_rate", "stages", "votes")} for item in report["passes"]],
        "levels": [by_level(level, [row["id"] for row in right if row["level"] == level], passes, verdicts) for level in LEVELS],
        "wrong": wrong_references(true, passes[1], verdicts[1]),
        "right": right_references([row["id"] for row in right], passes[1], verdicts[1]),
    }


def _vote(recipe: GradingRecipe) -> str:
    """Whose samples vote in pass 2, and how many have to agree, or to be ahead."""
    sampling, recheck = recipe.sampling, recipe.recheck
    if recheck.samples:
        return f"lead {recheck.lead:g} of {recheck.samples} at {recheck.temperature:g}"
    return f"{recipe.pass_2.majority:g} of {sampling.samples} at {sampling.temperature:g}"


def _verdicts(folder: Path) -> dict[str, GradingReason | None]:
    """What a grading decided, by problem."""
    kept, rejected = ((folder / name).read_text(encoding="utf-8").splitlines() for name in ("kept.jsonl", "rejected.jsonl"))
    rows = map(json.loads, rejected)
    return {json.loads(line)["id"]: None for line in kept} | {row["id"]: GradingReason(row["reason"]) for row in rows}


def by_level(
    level: int, mine: Sequence[str], passes: Sequence[Mapping[str, Grade]], verdicts: Sequence[Mapping[str, GradingReason | None]]
) -> dict[str, Any]:
    """Both passes over the problems of one level whose references are right."""
    hard = [key for key in mine if verdicts[0][key] is GradingReason.TOO_HARD]
    return {
        "level": level,
        "problems": len(mine),
        "pass_rates": [fmean(grades[key].pass_rate or 0.0 for key in mine) for grades in passes],
        "verdicts": [_counted(found[key] for key in mine) for found in verdicts],
        "too_hard_in_pass_1": _counted(verdicts[1][key] for key in hard),
    }


def wrong_references(true: Mapping[str, str], grades: Mapping[str, Grade], verdicts: Mapping[str, GradingReason | None]) -> dict[str, Any]:
    """What became of the planted references, apart by whether the most frequent answer is the true one."""
    found: dict[bool, list[GradingReason | None]] = {True: [], False: []}
    for key, answer in true.items():
        answers = grades[key].answers
        found[bool(answers) and answers[0].answer == answer].append(verdicts[key])
    return {
        "planted": len(true),
        "majority_right": _counted(found[True]),
        "majority_wrong": _counted(found[False]),
        "found": found[True].count(GradingReason.GOLD_OUTVOTED) / len(found[True]),
    }


def right_references(keys: Sequence[str], grades: Mapping[str, Grade], verdicts: Mapping[str, GradingReason | None]) -> dict[str, Any]:
    """What became of the right references; of those that were outvoted, how many were solved in some sample."""
    outvoted = [key for key in keys if verdicts[key] is GradingReason.GOLD_OUTVOTED]
    return {
        "verdicts": _counted(verdicts[key] for key in keys),
        "lost": len(outvoted) / len(keys),
        "lost_and_solved_sometimes": sum(bool(grades[key].correct) for key in outvoted),
    }


def _counted(verdicts: Iterable[GradingReason | None]) -> dict[str, int]:
    return dict(Counter("kept" if reason is None else reason.value for reason in verdicts))


def tables(results: Sequence[Mapping[str, Any]]) -> str:
    """Markdown: both passes by level, then what became of wrong and right references."""
    lines = [
        "| seed | steps | level | pass rate, pass 1 -> 2 | kept by pass 1 | kept by pass 2 "
        "| too hard in pass 1 | of these kept by pass 2 |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for result in {(result["steps"], result["seed"]): result for result in results}.values():  # the vote has no part in these
        for row in result["levels"]:
            before, after = row["verdicts"]
            rates = " -> ".join(f"{rate:.2f}" for rate in row["pass_rates"])
            hard = row["too_hard_in_pass_1"]
            lines.append(
                f"| {result['seed']} | {result['steps']} | {row['level']} | {rates} | "
                f"{before.get('kept', 0)} of {row['problems']} | {after.get('kept', 0)} | {sum(hard.values())} | {hard.get('kept', 0)} |"
            )
    lines += ["", "| seed | steps | vote | references | problems | outvoted | kept | too hard | too easy |", f"|{'---|' * 9}"]
    for result in results:
        wrong, right = result["wrong"], result["right"]
        kinds = {
            f"wrong, majority right: **{wrong['found']:.3f}** found": wrong["majority_right"],
            "wrong, majority wrong too": wrong["majority_wrong"],
            f"right: **{right['lost']:.4f}** lost": right["verdicts"],
        }
        for kind, counts in kinds.items():
            cells = [counts.get(name, 0) for name in ("gold_outvoted", "kept", "too_hard", "too_easy")]
            row = [result["seed"], result["steps"], result["vote"], kind, sum(counts.values()), *cells]
            lines.append(f"| {' | '.join(map(str, row))} |")
    return "\n".join(lines) + "\n"


def publish(results: Sequence[Mapping[str, Any]]) -> None:
    """Put results, by steps, vote and seed, into their file, and the tables of all into the page."""
    before = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else []
    known = {(result["steps"], result["vote"], result["seed"]): result for result in [*before, *results]}
    ordered = [known[key] for key in sorted(known)]
    RESULTS.write_text(json.dumps(ordered, indent=1) + "\n", encoding="utf-8")
    PAGE.write_text(put_between(PAGE.read_text(encoding="utf-8"), "grading-table", tables(ordered)), encoding="utf-8")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--problems", type=int, default=1200)
    parser.add_argument("--steps", type=int, default=220)
    parser.add_argument("--set", dest="changes", action="append", default=[], metavar="KEY=VALUE", help="of the grading recipe")
    options = parser.parse_args()
    publish([run_seed(options.work, options.seed, options.problems, options.steps, options.changes)])
