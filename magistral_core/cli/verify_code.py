"""`magistral verify code PROBLEM SOLUTION`: run a solution on every test of a problem, confined, and say which pass."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from magistral_core.cli.common import add_json, note, print_json, print_table
from magistral_core.config.schema import CodeSettings
from magistral_core.errors import InfrastructureError, InputError
from magistral_core.problems import Row, is_package, parse_problem, read_package
from magistral_core.records import Problem, ProblemKind
from magistral_core.rewards.code import CodeJudge, check_problem
from magistral_core.sandbox import MIB, Language, Limits, Program, SandboxError

#: A package's programs may take longer to compile than a training sample's.
_PACKAGE_COMPILE_S = 60.0
#: Limits beyond these the kernel does not take, or nobody waits for.
_MOST_S, _MOST_MIB = 1_000_000, 2**30


def add(kinds: Any) -> None:
    """Add the kind to `magistral verify`."""
    parser = kinds.add_parser("code", help="run a solution on a problem's tests", description=__doc__)
    parser.add_argument(
        "problem", metavar="PROBLEM", help="a Kattis/ICPC package folder, or JSON {id, statement, tests, entry_point?, ...}"
    )
    parser.add_argument("solution", metavar="SOLUTION", help="a .py, .cpp or .cc file")
    parser.add_argument("--time-limit", type=float, metavar="S", help="CPU seconds of one test; by default the problem's own")
    parser.add_argument("--memory-limit", type=int, metavar="MB", help="memory of one test in MiB; by default the problem's own")
    add_json(parser)
    parser.set_defaults(command=_verify)


def _verify(options: argparse.Namespace) -> int:
    problem, settings = read_problem(Path(options.problem)), CodeSettings()
    program = read_program(Path(options.solution))
    for name, value, most in (("--time-limit", options.time_limit, _MOST_S), ("--memory-limit", options.memory_limit, _MOST_MIB)):
        if value is not None and not 0 < value <= most:
            raise InputError(f"{name} {value}: a limit is a number above 0 and at most {most:,}")
    judge = CodeJudge(settings)
    limits = Limits(
        options.time_limit or problem.time_limit_s or settings.time_limit_s,
        (options.memory_limit or problem.memory_limit_mb or settings.memory_mb) * MIB,
        settings.output_mb * MIB,
    )
    compiling = judge.compile_limits
    if is_package(Path(options.problem)):
        compiling = replace(compiling, cpu_s=_PACKAGE_COMPILE_S)
    try:
        verdict = judge.judge(problem, program, problem.tests, limits, compiling)
    except SandboxError as error:
        if options.json:
            print_json({"correct": False, "status": "error", "detail": str(error), "tests": []})
        note(f"magistral: {' '.join(str(error).split())}")
        return InfrastructureError.exit_code
    if options.json:
        print_json(
            {"correct": verdict.correct, "status": verdict.status, "detail": verdict.detail, "tests": [asdict(t) for t in verdict.tests]}
        )
        return 0
    if verdict.tests:
        print_table(
            [
                ["test", "status", "seconds", "MiB"],
                *([t.name, t.status, f"{t.cpu_seconds:.2f}", t.peak_memory_bytes // MIB] for t in verdict.tests),
            ]
        )
    print(f"{verdict.status}: {verdict.passed} of {verdict.total} tests passed" + (f"; {verdict.detail}" if verdict.detail else ""))
    return 0


def read_problem(path: Path) -> Problem:
    """A package folder or a JSON file of one problem. Raises InputError."""
    if path.is_dir():
        problem = read_package(path)
    else:
        data = _json(path)
        if not isinstance(data, dict):
            raise InputError(f"{path}: a problem is one JSON object, this is a {type(data).__name__}")
        problem = parse_problem(Row(str(path), 1, data))
        if problem.kind is not ProblemKind.CODE:
            raise InputError(f"{path}: no code problem: it has no `tests`")
    check_problem(problem)
    return problem


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file or package folder") from error
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read ({error})") from error
    except json.JSONDecodeError as error:
        raise InputError(f"{path}:{error.lineno}: not JSON ({error.msg}); the file must hold one object") from error
    except (ValueError, RecursionError) as error:  # a number of thousands of digits, brackets within brackets
        raise InputError(f"{path}: cannot be read ({error})") from error


def read_program(path: Path) -> Program:
    """A source file as a program; its ending says the language. Raises InputError."""
    language = Language.of(path.suffix) if path.suffix else None
    if language is None:
        raise InputError(f"{path}: unknown language; a solution is a .py, .cpp or .cc file")
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error
    return Program.single(language, content.decode("utf-8", "surrogateescape"))
