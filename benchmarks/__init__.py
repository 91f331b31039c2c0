"""Every number in the documents has its benchmark here: `magistral bench NAME` runs one, docs/performance.md shows the results.

A benchmark is a module of this folder with a line `SUMMARY = "..."` and a function `run(options: Options) -> Result` (see `common`).
Modules import engines inside functions only, and processes that they start import no more than they need.
"""

from __future__ import annotations

import ast
import importlib
from collections.abc import Callable, Mapping
from pathlib import Path

from benchmarks.common import Options, Result
from magistral_core.errors import InputError

#: Published results, one a benchmark; `bench NAME --full` writes here.
RESULTS = Path(__file__).parent / "results"


def summaries() -> Mapping[str, str]:
    """Every benchmark's name and what it measures, read without importing it."""
    found = {}
    for path in sorted(Path(__file__).parent.glob("*.py")):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.Assign) and [target.id for target in node.targets if isinstance(target, ast.Name)] == ["SUMMARY"]:
                found[path.stem] = str(ast.literal_eval(node.value))
    return found


def load(name: str) -> Callable[[Options], Result]:
    """The function that runs a benchmark. Raises InputError for an unknown name."""
    if name not in summaries():
        raise InputError(f"unknown benchmark {name!r}; there are: {', '.join(summaries())}")
    return importlib.import_module(f"benchmarks.{name}").run
