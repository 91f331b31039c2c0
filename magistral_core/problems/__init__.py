"""Readers of problem files: every line is validated before the first problem is used."""

from magistral_core.problems.fields import parse_problem
from magistral_core.problems.load import load_problems, register_source, source_rows
from magistral_core.problems.packages import find_packages, is_package, read_package
from magistral_core.problems.readers import Row, read_rows
from magistral_core.problems.stream import ProblemStream

__all__ = [
    "ProblemStream",
    "Row",
    "find_packages",
    "is_package",
    "load_problems",
    "parse_problem",
    "read_package",
    "read_rows",
    "register_source",
    "source_rows",
]
