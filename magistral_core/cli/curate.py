"""`magistral curate KIND INPUT... --out DIR`: noisy problem files in, verifiable problems and a report out."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from magistral_core.cli.common import add_json, add_set, note, print_json, quiet_engines, results_only, use_stack
from magistral_core.cli.progress import EventWriter
from magistral_core.config import CurationRecipe, load_curation, recipe_names


def add(commands: Any) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser("curate", help="make a clean problem set of noisy files", description=__doc__)
    kinds = parser.add_subparsers(title="kinds of work", metavar="KIND", required=True)
    math = kinds.add_parser("math", help="mathematics problems with reference answers", description=__doc__)
    _arguments(math, "of duplicates the first stays", "kept.jsonl, rejected.jsonl, report.md, report.json, card.md")
    math.set_defaults(command=_math)
    text = "Any problem file in, the same problems out, a share of the English ones in other languages; needs translate.model."
    translate = kinds.add_parser("translate", help="a share of the English problems into other languages", description=text)
    _arguments(translate, "all fields stay", "kept.jsonl, rejected.jsonl (empty), report.md, report.json")
    translate.set_defaults(command=_translate)


def _arguments(parser: argparse.ArgumentParser, what: str, outputs: str) -> None:
    parser.add_argument("inputs", metavar="INPUT", nargs="+", help=f"JSON lines, Parquet, a folder, s3://... or hf:NAME; {what}")
    parser.add_argument("--out", metavar="DIR", type=Path, required=True, help=f"folder for {outputs}")
    names = ", ".join(recipe_names(CurationRecipe))
    parser.add_argument("--recipe", metavar="RECIPE", default="math", help=f"settings: a name ({names}) or .yaml file; by default math")
    add_set(parser)
    parser.add_argument("--events", metavar="FILE", help="append progress to FILE, one JSON object a line")
    add_json(parser)


def _math(options: argparse.Namespace) -> int:
    from magistral_core import api

    return _run(options, api.curate_math)


def _translate(options: argparse.Namespace) -> int:
    from magistral_core import api

    return _run(options, api.translate)


def _run(options: argparse.Namespace, work: Callable[..., dict[str, Any]]) -> int:
    recipe = load_curation(options.recipe, options.overrides)
    if any(path.startswith("s3://") for path in (*options.inputs, *recipe.decontaminate.against)):
        use_stack()
    quiet_engines()
    with EventWriter(options.events) as events, _Bar() as bar, results_only():

        def on_event(event: dict[str, Any]) -> None:
            events(event)
            bar(event)

        report = work(options.inputs, options.out, recipe, on_event)
        events({"event": "end", **report})
    if options.json:
        print_json(report)
    else:
        _show(report, options.out)
    return 0


def _show(report: Mapping[str, Any], out: Path) -> None:
    for stage in report.get("stages", ()):
        lost = ", ".join(f"{reason} {count}" for reason, count in stage["rejected"].items())
        print(f"{stage['stage']:<16} {stage['in']:>9} -> {stage['out']:>9}  {lost}".rstrip())
    if "llm" in report:
        print(report["llm"]["note"])
    print(report["translation"]["note"])
    print(f"{report['kept']} of {report['read']} rows kept, version {report['version']}; more: {out / 'report.md'}")
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
