"""`magistral sandbox run FILE`: run one untrusted program confined, under the limits of training."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from magistral_core.cli.common import add_json, note, print_json
from magistral_core.cli.verify_code import read_program
from magistral_core.config.schema import CodeSettings
from magistral_core.errors import InfrastructureError, InputError
from magistral_core.rewards.code import CodeJudge
from magistral_core.sandbox import Program, RunResult, RunStatus, SandboxError


def add(commands: Any) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser("sandbox", help="run an untrusted program", description="Run untrusted programs, confined.")
    actions = parser.add_subparsers(title="actions", metavar="ACTION", required=True)
    run = actions.add_parser("run", help="run one program", description=__doc__)
    run.add_argument("file", metavar="FILE", help="a .py, .cpp or .cc file")
    run.add_argument("--stdin", metavar="FILE", help="what it reads; by default nothing")
    add_json(run)
    run.set_defaults(command=_run)


def _run(options: argparse.Namespace) -> int:
    program = read_program(Path(options.file))
    try:
        stdin = b"" if options.stdin is None else Path(options.stdin).read_bytes()
    except OSError as error:
        raise InputError(f"--stdin {options.stdin}: cannot be read ({error.strerror})") from error
    try:
        result = _result(program, stdin)
    except SandboxError as error:
        result = RunResult(RunStatus.SANDBOX_ERROR, detail=" ".join(str(error).split()))
    stdout, stderr = (text.decode("utf-8", "replace") for text in (result.stdout, result.stderr))
    if options.json:
        print_json(
            {
                "status": result.status.value,
                "exit_code": result.exit_code,
                "stdout": stdout,
                "stderr": stderr,
                "cpu_seconds": round(result.cpu_seconds, 6),
                "wall_seconds": round(result.wall_seconds, 6),
                "peak_memory_bytes": result.peak_memory_bytes,
                "detail": result.detail,
            }
        )
    else:
        print(stdout, end="")
    if stderr and not options.json:
        note(stderr.rstrip("\n"))
    if result.status is RunStatus.SANDBOX_ERROR:
        note(f"magistral: {result.detail}")
        return InfrastructureError.exit_code
    if not options.json:
        note(f"{result.status}" + (f": {result.detail}" if result.detail else "") + f" ({result.cpu_seconds:.2f} s)")
    return 0


def _result(program: Program, stdin: bytes) -> RunResult:
    judge = CodeJudge(CodeSettings())
    sandbox = judge.prepare()
    with sandbox.open() as box:
        compiled = sandbox.compile(box, program, judge.compile_limits)
        return sandbox.run(box, program, judge.limits, stdin) if compiled.ok else compiled
