"""`magistral bench NAME`: measure the project itself; docs/performance.md explains each benchmark and shows its published result."""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path
from types import ModuleType
from typing import Any

from magistral_core.cli.common import add_json, note, print_json, print_table, quiet_engines, results_only
from magistral_core.errors import InputError


def add(commands: Any) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser("bench", help="measure the project itself", description=__doc__)
    parser.add_argument("name", metavar="NAME", nargs="?", help="which benchmark; --list tells what there is")
    parser.add_argument("--list", action="store_true", help="names and what they measure")
    parser.add_argument("--full", action="store_true", help="make the published result, however long it takes; else within 8 minutes")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the result here; with --full else to benchmarks/results/NAME.json")
    parser.add_argument(
        "--set", dest="settings", action="append", default=[], metavar="KEY=VALUE", help="change a setting of the benchmark; repeatable"
    )
    add_json(parser)
    parser.set_defaults(command=_bench)


def _bench(options: argparse.Namespace) -> int:
    if options.list:
        _list(options.json)
        return 0
    if options.name is None:
        raise InputError("bench: which? `magistral bench --list` names them")
    quiet_engines()
    benchmarks = _checkout()
    from benchmarks.common import Options

    run = benchmarks.load(options.name)
    out = options.out or (benchmarks.RESULTS / f"{options.name}.json" if options.full else None)
    if out is not None and not out.parent.is_dir():
        raise InputError(f"--out {out}: {out.parent} is not a folder; make it first")
    if out is not None and out.is_dir():
        raise InputError(f"--out {out}: this is a folder; give the name of a file in it")
    if out is not None and not os.access(out if out.exists() else out.parent, os.W_OK):
        raise InputError(f"--out {out}: cannot be written; choose another file")
    began = time.monotonic()
    with results_only():
        result = run(Options(full=options.full, settings=_settings(options.settings)))
    content = result.to_json(options.name, full=options.full, seconds=time.monotonic() - began)
    fault: OSError | None = None  # what took hours is kept where nobody reads it, and shown where it cannot be kept
    if out is not None:
        try:
            out.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
            note(f"written to {out}")
        except OSError as error:
            fault = error
    if options.json:
        print_json(content)
    else:
        _show(content)
    if fault is not None:
        raise InputError(f"--out {out}: cannot be written ({fault.strerror}); the result stands above") from fault
    return 0


def _list(as_json: bool) -> None:
    summaries = _checkout().summaries()
    if as_json:
        print_json(summaries)
    else:
        print_table(list(summaries.items()))


def _checkout() -> ModuleType:
    """The benchmarks, which are not part of the wheel. Raises InputError where they are absent."""
    try:
        import benchmarks
        import benchmarks.common
    except ModuleNotFoundError as error:
        raise InputError(f"benchmarks need the project's checkout ({error}); run from one after make setup") from error
    return benchmarks


def _settings(texts: list[str]) -> dict[str, str]:
    pairs = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not (key and equals):
            raise InputError(f"--set {text}: not of the form KEY=VALUE")
        pairs[key] = value
    return pairs


def _show(content: dict[str, Any]) -> None:
    from benchmarks.common import short

    table = content["table"]
    if table:
        print_table([list(table[0]), *([short(value) for value in row.values()] for row in table)])
        print()
    for remark in content["remarks"]:
        print(remark)
    headline = content["headline"]
    better = "higher" if headline["higher_is_better"] else "lower"
    print(f"{headline['name']}: {short(headline['value'])} {headline['unit']} ({better} is better; {content['seconds']:.0f} s)")
