"""Function-call problems: the tests of one solution, each a call with arguments, or a check that calls the function itself.

    arguments  solution's box: call_program.py calls the function; the result comes out and is compared here
    checks     a second box runs check_program.py with the problem's own `assert` lines, and reaches the function through two pipes

Neither way an expected result enters the box of the solution.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from magistral_core.records import Problem, TestCase
from magistral_core.rewards.call_program import assigned
from magistral_core.rewards.outputs import Comparison, expected_value, same_result
from magistral_core.rewards.plain import decode
from magistral_core.sandbox import Box, Limits, Program, RunResult, RunStatus, Sandbox, SandboxError
from magistral_core.sandbox.launch import system_code

_FOLDER = Path(__file__).parent
_IMPORT = "from magistral_core.rewards.plain import decode, encode\n"


@dataclass(frozen=True, slots=True)
class Called:
    """What came of one test: how the solution's run ended, and what is wrong with its result (empty: nothing)."""

    result: RunResult
    difference: str = ""


@lru_cache(maxsize=4)
def _code(name: str) -> bytes:
    """One of the two programs with `plain.py` in place of its import, compiled by the sandbox's interpreter."""
    text, shared = ((_FOLDER / f"{part}.py").read_text(encoding="utf-8") for part in (name, "plain"))
    return system_code(text.replace(_IMPORT, shared), name)


@dataclass(frozen=True, slots=True)
class Returned:
    """What a call gave: how the run ended, the value, and why there is none (empty: there is one)."""

    result: RunResult
    value: Any = None
    fault: str = ""


@lru_cache(maxsize=64)
def forms(inputs: tuple[str, ...]) -> dict[str, Any]:
    """What tells whether `[3, 1]` is two arguments or one list.

    Returns:
        `sizes` of the lists among a problem's inputs, whether a `single` value that is no list is among them, and whether all name the same
        arguments, `assigned` to as in `nums = [3, 3], target = 6`.
    """
    sizes: set[int] = set()
    single = False
    names = {tuple(assigned(text)) for text in inputs}
    for text in inputs:
        try:
            value = json.loads(text)
        except (ValueError, RecursionError):  # several values, or Python's
            continue
        if isinstance(value, list):
            sizes.add(len(value))
        else:
            single = single or not isinstance(value, dict)  # an object may name the arguments
    return {"sizes": sorted(sizes), "single": single, "assigned": len(names) == 1 and () not in names}


def returned(box: Box, program: Program, entry: str, arguments: str, inputs: tuple[str, ...], limits: Limits) -> Returned:
    """Call the function of a compiled solution. Raises SandboxError.

    Args:
        box, program: the solution.
        entry: the function's name.
        arguments: as in `TestCase.input`.
        inputs: those of all tests of the problem, which show what form they have.
        limits: of this test.
    """
    box.put("call.code", _code("call_program"))
    request = json.dumps({"entry": entry, "input": arguments, "forms": forms(inputs)}).encode()
    result = box.run(limits, program="call.code", source=program.main, stdin=request)
    if not result.ok:
        return Returned(result)
    try:
        return Returned(result, decode(json.loads(result.stdout), []))
    except (ValueError, TypeError, LookupError, ArithmeticError, RecursionError):
        return Returned(result, fault="the function returned no plain value")


def call(box: Box, program: Program, problem: Problem, test: TestCase, limits: Limits) -> Called:
    """Call the function of a compiled solution with a test's arguments. Raises SandboxError."""
    came = returned(box, program, problem.entry_point, test.input, tuple(each.input for each in problem.tests), limits)
    if not came.result.ok or came.fault:
        return Called(came.result, came.fault)
    return Called(came.result, result_difference(test.output, came.value, problem.checker.flags))


def result_difference(expected: str, value: Any, flags: Sequence[str] = ()) -> str:
    """What is wrong with a function's result; empty if nothing. `flags` are the problem's `validator_flags`."""
    wanted = expected_value(expected)
    if same_result(wanted, value, Comparison.from_flags(flags)):
        return ""
    return f"expected {_short(wanted)}, returned {_short(value)}"


def check(
    sandbox: Sandbox, program: Program, compiled: bytes, entry: str, tests: Sequence[TestCase], limits: Limits, stop: bool
) -> list[Called]:
    """Run checks against a compiled solution, in turn; with `stop`, up to the first that fails.

    They share one process of the solution, as their authors' graders do, and its limits are a test's times the number of tests.

    Raises:
        SandboxError: a sandbox broke, or a check is no Python.
    """
    shared = replace(limits, cpu_s=limits.cpu_s * len(tests))
    outcome: list[RunResult | Exception] = []
    with ExitStack() as stack:
        ask_read, ask_write, reply_read, reply_write = (*os.pipe(), *os.pipe())
        open_ends = [ask_read, ask_write, reply_read, reply_write]
        stack.callback(lambda: _close(open_ends))
        ready = threading.Barrier(2)

        def solve() -> None:
            try:
                with sandbox.open([ask_read, reply_write]) as box:
                    for name, content in program.files.items():
                        box.put(name, content)
                    box.put(program.artifact, compiled)
                    box.put("call.code", _code("call_program"))
                    ready.wait()
                    handles = [ask_read, reply_write]
                    outcome.append(box.run(shared, program="call.code", source=program.main, arguments=["judge"], handles=handles))
            except threading.BrokenBarrierError:
                pass
            except Exception as error:  # noqa: BLE001  (it belongs to the thread that waits)
                outcome.append(error)
                ready.abort()

        patient = replace(shared, cpu_s=2 * shared.cpu_s + 10)
        thread = threading.Thread(target=solve, name="solution")
        with sandbox.open([reply_read, ask_write]) as judge:
            judge.put("check.code", _code("check_program"))
            thread.start()
            try:
                ready.wait()
                _close(open_ends)  # so that each side sees the other's end
                request = {"entry": entry, "checks": [test.check for test in tests], "stop": stop}
                judged = judge.run(
                    patient, program="check.code", source="check.py", stdin=json.dumps(request).encode(), handles=[reply_read, ask_write]
                )
            except threading.BrokenBarrierError:
                judged = None
            finally:
                ready.abort()
        thread.join()
    [solved] = outcome
    if isinstance(solved, Exception):
        raise SandboxError(f"the solution's sandbox broke: {solved}") from solved
    return _checked(solved, judged, len(tests), patient.cpu_s)


def _close(ends: list[int]) -> None:
    while ends:
        os.close(ends.pop())


def _checked(solved: RunResult, judged: RunResult | None, count: int, cpu_s: float) -> list[Called]:
    if judged is None:
        raise SandboxError("the checks did not run")
    if judged.status is RunStatus.RUNTIME_ERROR:
        raise SandboxError(f"a check of the problem is broken: {judged.stderr.decode(errors='replace').strip()[-300:]}")
    if judged.status is RunStatus.TIMEOUT and judged.cpu_seconds < cpu_s:  # a solution that hangs is ended long before
        raise SandboxError("the machine is overloaded: the checks waited for a solution that had no core")
    faults: list[Any] = json.loads(judged.stdout) if judged.ok else [f"its results took the check beyond a limit: {judged.detail}"]
    calm = replace(solved, status=RunStatus.OK, detail="")
    called = [Called(calm, fault or "") for fault in faults]
    if faults[-1] is not None and not solved.ok:  # it ended under the last check
        called[-1] = Called(solved, faults[-1])
    return called[:count]


def _short(value: Any) -> str:
    try:
        text = repr(value)
    except ValueError:  # an integer of more digits than Python turns into text
        return "a number of thousands of digits"
    return text if len(text) <= 80 else text[:80] + "..."
