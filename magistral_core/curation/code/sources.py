"""Inputs of a code curation as rows of one form: problem files as they are, and problem packages turned into such rows."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from magistral_core.curation.code.draft import PACKAGE_FAULT
from magistral_core.errors import InputError
from magistral_core.problems import Row, find_packages, read_package, read_rows, source_rows
from magistral_core.problems.load import files_beside
from magistral_core.problems.packages import unanswered
from magistral_core.records import Checker


def code_rows(path: str, split: str) -> Iterator[Row]:
    """Rows of a file, a folder, `s3://...`, `hf:NAME`, or of every problem package below a folder and the files beside them.

    Raises InputError.
    """
    local = Path(path).expanduser()
    packages = find_packages(local) if local.is_dir() else []
    if packages:
        rows = (row for file in files_beside(local, packages) for row in read_rows(file))
        return itertools.chain((Row(str(folder), 1, package_row(folder)) for folder in packages), rows)
    return source_rows(path, split)


def package_row(folder: Path) -> dict[str, Any]:
    """A package as a row: its submissions with their folders' names as labels, its generators, its validator as text.

    One that cannot be judged, an interactive one say, is a row that says so.
    """
    try:
        problem = read_package(folder, lenient=True)
    except InputError as error:
        return {"id": folder.name, PACKAGE_FAULT: str(error)}
    tests = [{"input": test.input, "output": test.output, "name": test.name} for test in problem.tests]
    return {
        "id": problem.id,
        "statement": problem.question,
        "tests": tests + [{"input": test.input, "output": None, "name": test.name} for test in unanswered(folder)],
        "solutions": [
            program | {"label": label.name} for label in sorted((folder / "submissions").glob("*/")) for program in _programs(label)
        ],
        "generators": _programs(folder / "generators") + _programs(folder / "data", "gen"),
        "time_limit_s": problem.time_limit_s,
        "memory_limit_mb": problem.memory_limit_mb,
        **checker_fields(problem.checker),
    }


def checker_fields(checker: Checker) -> dict[str, Any]:
    """How outputs are compared, as fields of a row."""
    found: dict[str, Any] = {"validator_flags": " ".join(checker.flags)}
    if checker.validator:
        files = {name: content.decode("utf-8", "surrogateescape") for name, content in checker.validator.items()}
        found["output_validator"] = {"files": files} | ({"main": checker.main} if checker.main else {})
    return found


def _programs(folder: Path, prefix: str = "") -> list[dict[str, str]]:
    """Programs of one file each; their language is the file's ending, whatever it is."""
    files = sorted(path for path in folder.glob(f"{prefix}*.*") if path.is_file()) if folder.is_dir() else []
    return [{"name": path.name, "language": path.suffix, "code": path.read_bytes().decode("utf-8", "surrogateescape")} for path in files]
