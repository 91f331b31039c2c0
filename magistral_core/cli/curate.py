"""`magistral curate KIND INPUT... --out DIR`: noisy problems in, verifiable ones and a report out."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from pydantic import BaseModel

from magistral_core.cli.common import add_json, add_set, note, print_json, quiet_engines, results_only, use_stack
from magistral_core.cli.progress import EventWriter
from magistral_core.config import (
    CodeCurationRecipe,
    CurationRecipe,
    GradingRecipe,
    load_code_curation,
    load_curation,
    load_grading,
    recipe_names,
)

_FILES = "JSON lines, Parquet, a folder, s3://... or hf:NAME"


def add(commands: Any) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser("curate", help="make a clean problem set of noisy files", description=__doc__)
    kinds = parser.add_subparsers(title="kinds of work", metavar="KIND", required=True)
    math = kinds.add_parser("math", help="mathematics problems with reference answers", description=__doc__)
    outputs = "kept.jsonl, rejected.jsonl, report.md, report.json, card.md"
    _add_options(math, CurationRecipe, "math", f"{_FILES}; of duplicates the first stays", outputs)
    math.set_defaults(command=_math)
    code = kinds.add_parser("code", help="code problems with solutions and tests", description=__doc__)
    inputs = "JSON lines, Parquet, a folder of these or of problem packages, s3://... or hf:NAME"
    _add_options(code, CodeCurationRecipe, "code", inputs, f"{outputs}, changes.jsonl")
    code.set_defaults(command=_code)
    text = "Any problem file in, the same problems out, a share of the English ones in other languages; needs translate.model."
    translate = kinds.add_parser("translate", help="a share of the English problems into other languages", description=text)
    outputs = "kept.jsonl, rejected.jsonl (empty), report.md, report.json"
    _add_options(translate, CurationRecipe, "math", f"{_FILES}; all fields stay", outputs)
    translate.set_defaults(command=_translate)
    text = "Mathematics problems in, those of middle difficulty out, by samples of one model or of two."
    grade = kinds.add_parser("grade", help="of mathematics problems, those of middle difficulty by samples of a model", description=text)
    outputs = "kept.jsonl, rejected.jsonl, grades, report.md, report.json, card.md"
    _add_options(grade, GradingRecipe, "difficulty", f"{_FILES}, such as the kept.jsonl of a curation", outputs)
    grade.add_argument("--model", metavar="M", required=True, help="of pass 1: `tiny`, a model folder, a hub name, or a checkpoint's URI")
    grade.add_argument("--grader", metavar="M", help="of pass 2, which then decides: a model trained on what pass 1 kept")
    grade.set_defaults(command=_grade)


def _add_options(parser: argparse.ArgumentParser, schema: type[BaseModel], recipe: str, inputs: str, outputs: str) -> None:
    parser.add_argument("inputs", metavar="INPUT", nargs="+", help=inputs)
    parser.add_argument("--out", metavar="DIR", type=Path, required=True, help=f"folder for {outputs}")
    names = ", ".join(recipe_names(schema))
    parser.add_argument("--recipe", metavar="RECIPE", default=recipe, help=f"settings: a name ({names}) or .yaml file; by default {recipe}")
    add_set(parser)
    parser.add_argument("--events", metavar="FILE", help="append progress to FILE, one JSON object a line")
    add_json(parser)


def _math(options: argparse.Namespace) -> int:
    from magistral_core import api

    recipe = load_curation(options.recipe, options.overrides)
    _find_s3((*options.inputs, *recipe.decontaminate.against))
    return _run(options, partial(api.curate_math, options.inputs, options.out, recipe))


def _code(options: argparse.Namespace) -> int:
    from magistral_core import api

    recipe = load_code_curation(options.recipe, options.overrides)
    _find_s3(options.inputs)
    return _run(options, partial(api.curate_code, options.inputs, options.out, recipe))


def _translate(options: argparse.Namespace) -> int:
    from magistral_core import api

    recipe = load_curation(options.recipe, options.overrides)
    _find_s3(options.inputs)
    return _run(options, partial(api.translate, options.inputs, options.out, recipe))


def _grade(options: argparse.Namespace) -> int:
    from magistral_core import api

    recipe = load_grading(options.recipe, options.overrides)
    work = partial(api.grade_difficulty, options.inputs, options.out, recipe, options.model, options.grader)
    use_stack()  # grades are kept in its store
    return _run(options, work)


def _find_s3(inputs: Iterable[str]) -> None:
    """Inputs in S3 are the local stack's where no other S3 is named. MLflow is only asked for by name: the stack may be down by now."""
    if any(path.startswith("s3://") for path in inputs):
        use_stack(tracking=False)


def _run(options: argparse.Namespace, work: Callable[..., dict[str, Any]]) -> int:
    """Do work of the front door; its events go to the file of `--events` and to a bar, its report to stdout."""
    quiet_engines()
    with EventWriter(options.events) as events, _Bar() as bar, results_only():

        def on_event(event: dict[str, Any]) -> None:
            events(event)
            bar(event)

        report = work(on_event=on_event)
        events({"event": "end", **report})
    if options.json:
        print_json(report)
    else:
        _show(report, options.out)
    return 0


def _show(report: Mapping[str, Any], out: Path) -> None:
    if "passes" in report:
        _show_passes(report)
    else:
        _show_steps(report)
    print(f"{report['kept']} of {report['read']} rows kept, version {report['version']}; more: {out / 'report.md'}")
    if report["mlflow_url"]:
        print(f"in MLflow: {report['mlflow_url']}")


def _show_steps(report: Mapping[str, Any]) -> None:
    for stage in report["stages"]:
        lost = ", ".join(f"{reason} {count}" for reason, count in stage["rejected"].items())
        print(f"{stage['stage']:<16} {stage['in']:>9} -> {stage['out']:>9}  {lost}".rstrip())
    for what in ("tests", "solutions"):
        if what in report:
            print(f"{what}: {', '.join(f'{name} {count}' for name, count in report[what].items())}")
    for step in ("llm", "translation"):
        if step in report:
            print(report[step]["note"])


def _show_passes(report: Mapping[str, Any]) -> None:
    for number, result in enumerate(report["passes"], start=1):
        lost = ", ".join(f"{reason} {count}" for stage in result["stages"] for reason, count in stage["rejected"].items())
        rate = "-" if result["pass_rate"] is None else f"{result['pass_rate']:.3f}"
        print(f"pass {number}  {result['model']}: pass rate {rate}, kept {result['kept']} of {report['read']}  {lost}".rstrip())
        if result["rechecked"]:
            print(f"        {result['rechecked']} contradicted references were looked at again")
    if "recovered" in report:
        print(f"{report['recovered']} problems that were too hard in pass 1 are kept")


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
