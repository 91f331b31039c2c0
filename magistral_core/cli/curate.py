"""`magistral curate math INPUT... --out DIR`: noisy problem files in, verifiable problems and a report out.

`magistral curate grade INPUT... --out DIR --model M --grader M`: of verifiable problems, those of middle difficulty.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from magistral_core.cli.common import add_json, add_set, note, print_json, quiet_engines, results_only, use_stack
from magistral_core.cli.progress import EventWriter
from magistral_core.config import CurationRecipe, GradingRecipe, load_curation, load_grading, recipe_names


def add(commands: Any) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser("curate", help="make a clean problem set of noisy files", description=__doc__)
    kinds = parser.add_subparsers(title="kinds of curation", metavar="KIND", required=True)
    math = kinds.add_parser("math", help="mathematics problems with reference answers", description=__doc__)
    math.add_argument(
        "inputs", metavar="INPUT", nargs="+", help="JSON lines, Parquet, a folder, s3://... or hf:NAME; of duplicates the first stays"
    )
    math.add_argument(
        "--out", metavar="DIR", type=Path, required=True, help="folder for kept.jsonl, rejected.jsonl, report.md, report.json, card.md"
    )
    names = ", ".join(recipe_names(CurationRecipe))
    math.add_argument("--recipe", metavar="RECIPE", default="math", help=f"settings: a name ({names}) or .yaml file; by default math")
    add_set(math)
    math.add_argument("--events", metavar="FILE", help="append progress to FILE, one JSON object a line")
    add_json(math)
    math.set_defaults(command=_math)

    grade = kinds.add_parser("grade", help="keep mathematics problems of middle difficulty, by samples of a model", description=__doc__)
    grade.add_argument("inputs", metavar="INPUT", nargs="+", help="problem files, such as the kept.jsonl of a curation")
    grade.add_argument(
        "--out",
        metavar="DIR",
        type=Path,
        required=True,
        help="folder for kept.jsonl, rejected.jsonl, grades, report.md, report.json, card.md",
    )
    grade.add_argument("--model", metavar="M", required=True, help="of pass 1: `tiny`, a model folder, a hub name, or a checkpoint's URI")
    grade.add_argument("--grader", metavar="M", help="of pass 2, which then decides: a model trained on what pass 1 kept")
    names = ", ".join(recipe_names(GradingRecipe))
    grade.add_argument("--recipe", metavar="RECIPE", default="difficulty", help=f"settings: a name ({names}) or .yaml file")
    add_set(grade)
    grade.add_argument("--events", metavar="FILE", help="append progress to FILE, one JSON object a line")
    add_json(grade)
    grade.set_defaults(command=_grade)


def _math(options: argparse.Namespace) -> int:
    recipe = load_curation(options.recipe, options.overrides)
    if any(path.startswith("s3://") for path in (*options.inputs, *recipe.decontaminate.against)):
        use_stack()
    quiet_engines()
    from magistral_core import api

    report = _followed(options, lambda on_event: api.curate_math(options.inputs, options.out, recipe, on_event))
    if options.json:
        print_json(report)
    else:
        _show(report, options.out)
    return 0


def _grade(options: argparse.Namespace) -> int:
    recipe = load_grading(options.recipe, options.overrides)
    use_stack()
    quiet_engines()
    from magistral_core import api

    report = _followed(
        options, lambda on_event: api.grade_difficulty(options.inputs, options.out, recipe, options.model, options.grader, on_event)
    )
    if options.json:
        print_json(report)
    else:
        _show_grading(report, options.out)
    return 0


def _followed(options: argparse.Namespace, work: Callable[[Callable[[dict[str, Any]], None]], dict[str, Any]]) -> dict[str, Any]:
    """Do work whose events go to the file of `--events` and to a bar; returns its report."""
    with EventWriter(options.events) as events, _Bar() as bar, results_only():

        def on_event(event: dict[str, Any]) -> None:
            events(event)
            bar(event)

        report = work(on_event)
        events({"event": "end", **report})
    return report


def _show(report: Mapping[str, Any], out: Path) -> None:
    for stage in report["stages"]:
        lost = ", ".join(f"{reason} {count}" for reason, count in stage["rejected"].items())
        print(f"{stage['stage']:<16} {stage['in']:>9} -> {stage['out']:>9}  {lost}".rstrip())
    print(report["llm"]["note"])
    print(f"{report['kept']} of {report['read']} rows kept, version {report['version']}; why not the others: {out / 'report.md'}")
    if report["mlflow_url"]:
        print(f"in MLflow: {report['mlflow_url']}")


def _show_grading(report: Mapping[str, Any], out: Path) -> None:
    for number, result in enumerate(report["passes"], start=1):
        lost = ", ".join(f"{reason} {count}" for stage in result["stages"] for reason, count in stage["rejected"].items())
        rate = "-" if result["pass_rate"] is None else f"{result['pass_rate']:.3f}"
        print(f"pass {number}  {result['model']}: pass rate {rate}, kept {result['kept']} of {report['read']}  {lost}".rstrip())
    if "recovered" in report:
        print(f"{report['recovered']} problems that were too hard in pass 1 are kept")
    print(f"{report['kept']} of {report['read']} problems kept, version {report['version']}; why not the others: {out / 'report.md'}")
    if report["mlflow_url"]:
        print(f"in MLflow: {report['mlflow_url']}")


class _Bar:
    """Progress on stderr: a bar in a terminal, elsewhere a line when a step begins."""

    def __init__(self) -> None:
        self._bar: Any = None
        self._task: Any = None
        self._stage = ""

    def __call__(self, event: Mapping[str, Any]) -> None:
        """Show one progress event."""
        stage, done, total = event["stage"], event["done"], event["total"] or None
        if not sys.stderr.isatty():
            if stage != self._stage:
                note(stage if total is None else f"{stage}: {total} rows")
        else:
            if self._bar is None:
                self._bar = _progress_bar()
            if stage != self._stage:
                self._task = self._bar.add_task(stage, total=total)
            self._bar.update(self._task, completed=done)
        self._stage = stage

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._bar:
            self._bar.stop()


def _progress_bar() -> Any:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    bar = Progress(*columns, console=Console(stderr=True))
    bar.start()
    return bar
