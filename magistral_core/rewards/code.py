"""Judging code (Magistral, section 2.2): a solution is compiled once, run on each test in a sandbox, and what it wrote is compared outside.

verdict   every test passed -> correct; else the first test that did not decides
no verdict   the sandbox, a validator or a check broke: raised, never counted as a failed test
"""

from __future__ import annotations

import os
import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from typing import TypeVar

from magistral_core.config.schema import CodeSettings
from magistral_core.errors import InputError
from magistral_core.records import Problem, ScoreStatus, TestCase
from magistral_core.rewards import calls
from magistral_core.rewards.format import first_code_block
from magistral_core.rewards.outputs import Comparison, expected_value, result_text
from magistral_core.rewards.validator import Validator
from magistral_core.sandbox import MIB, Box, Language, Limits, Program, RunResult, RunStatus, Sandbox, SandboxError

CORRECT, WRONG = "correct", "wrong"
_Result = TypeVar("_Result")


@dataclass(frozen=True, slots=True)
class TestVerdict:
    """One test: `status` is `correct`, `wrong` or how the run failed."""

    __test__ = False

    name: str
    status: str
    detail: str = ""
    cpu_seconds: float = 0.0
    wall_seconds: float = 0.0
    peak_memory_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Output:
    """What a program made of one test.

    Attributes:
        status: how the run ended, as in `RunStatus`.
        text: standard output, or a function's result as text; None unless the run ended well.
        detail: one line for people.
    """

    status: str
    text: str | None = None
    detail: str = ""


@dataclass(frozen=True, slots=True)
class CodeVerdict:
    """One solution.

    Attributes:
        status: `correct`, `wrong`, `compile_error`, or how the first failing test's run failed.
        tests: those that ran, in order; with `stop`, up to the first that failed.
        total: how many there are.
        detail: one line for people.
        seconds: wall time of everything.
    """

    status: str
    tests: tuple[TestVerdict, ...] = ()
    total: int = 0
    detail: str = ""
    seconds: float = 0.0

    @property
    def correct(self) -> bool:
        """Whether every test passed."""
        return self.status == CORRECT

    @property
    def passed(self) -> int:
        """Tests that passed."""
        return sum(test.status == CORRECT for test in self.tests)

    @property
    def score_status(self) -> ScoreStatus:
        """As a completion's status."""
        known = {
            CORRECT: ScoreStatus.CORRECT,
            RunStatus.TIMEOUT.value: ScoreStatus.TIMEOUT,
            RunStatus.COMPILE_ERROR.value: ScoreStatus.UNPARSABLE,
        }
        return known.get(self.status, ScoreStatus.WRONG)


def draw_tests(problem: Problem, count: int, seed: str) -> tuple[TestCase, ...]:
    """At most `count` tests, the same ones for the same seed; a group's id makes them the same for the group."""
    if len(problem.tests) <= count:
        return problem.tests
    chosen = random.Random(f"{seed}:{problem.id}").sample(range(len(problem.tests)), count)
    return tuple(problem.tests[number] for number in sorted(chosen))


def asks_for_function(problem: Problem) -> bool:
    """Whether a function is judged in place of a program."""
    return bool(problem.entry_point) or any(test.check for test in problem.tests)


def check_problem(problem: Problem) -> None:
    """Refuse a code problem that cannot be judged, before anything runs. Raises InputError."""
    place = problem.source or problem.id
    if not problem.tests:
        raise InputError(f"{place}: a code problem without tests")
    check_checker(problem)
    checks = sum(bool(test.check) for test in problem.tests)
    if checks not in {0, len(problem.tests)}:
        raise InputError(f"{place}: some tests are checks and some are not; use one kind")


def check_checker(problem: Problem) -> None:
    """Refuse flags that there are not, and a validator for a function's result. Raises InputError."""
    place = problem.source or problem.id
    if not problem.checker.validator:
        Comparison.from_flags(problem.checker.flags, f"{place}: validator_flags")
    elif problem.entry_point:
        raise InputError(f"{place}: output_validator: it judges what a program prints, and this problem asks for a function")


class CodeJudge:
    """Judges solutions; thread-safe. The sandbox is chosen, and proved by its canary, on first use."""

    def __init__(self, settings: CodeSettings, retries: int = 1) -> None:
        self._settings = settings
        self._retries = retries
        self._lock = threading.Lock()
        self._sandbox: Sandbox | None = None

    @property
    def limits(self) -> Limits:
        """Of one test in training."""
        return Limits(self._settings.time_limit_s, self._settings.memory_mb * MIB, self._settings.output_mb * MIB)

    @property
    def compile_limits(self) -> Limits:
        """Of compiling in training."""
        return Limits(self._settings.compile_s, self._settings.compile_memory_mb * MIB, 64 * MIB)

    def prepare(self) -> Sandbox:
        """Choose and prove the sandbox, and precompile the C++ header. Raises SandboxError: no untrusted code is run here."""
        with self._lock:
            if self._sandbox is None:
                self._sandbox = Sandbox(self._settings.sandbox)
            return self._sandbox

    def judge_answer(self, problem: Problem, answer: str, seed: str) -> CodeVerdict:
        """Judge the first fenced block of an answer with the limits of training, up to the first failing test. Raises SandboxError."""
        block = first_code_block(answer)
        if block is None:
            return CodeVerdict(RunStatus.COMPILE_ERROR, detail="no fenced block that names its language")
        language = Language.of(block[0])
        if language is None:
            return CodeVerdict(RunStatus.COMPILE_ERROR, detail=f"{block[0]} is neither Python nor C++")
        stop = not self._settings.proportional
        tests = draw_tests(problem, self._settings.tests, seed)
        return self.judge(problem, Program.single(language, block[1]), tests, self.limits, self.compile_limits, stop)

    def judge(
        self, problem: Problem, program: Program, tests: Sequence[TestCase], limits: Limits, compile_limits: Limits, stop: bool = False
    ) -> CodeVerdict:
        """Judge a program on tests; what breaks is tried again.

        Args:
            problem: for its entry point and checker.
            program: the solution.
            tests: the tests to run.
            limits, compile_limits: of one test, and of compiling.
            stop: end at the first test that fails.

        Raises:
            SandboxError: no verdict was reached.
        """
        sandbox = self.prepare()

        def judged() -> CodeVerdict:
            started = time.perf_counter()
            verdict = self._judge(sandbox, problem, program, tests, limits, compile_limits, stop)
            return CodeVerdict(verdict.status, verdict.tests, len(tests), verdict.detail, time.perf_counter() - started)

        return self._persist(judged)

    def outputs(
        self, problem: Problem, program: Program, inputs: Sequence[str], limits: Limits, compile_limits: Limits, max_late: int
    ) -> list[Output]:
        """What a program makes of inputs, in order, compared with nothing.

        Args:
            problem: for its entry point.
            program: the solution.
            inputs: standard inputs, or a function's arguments.
            limits, compile_limits: of one test, and of compiling.
            max_late: timeouts after which it is not run any more; the tests behind them count as timeouts.

        Raises:
            SandboxError: the sandbox broke.
        """
        sandbox = self.prepare()
        return self._persist(lambda: _outputs(sandbox, problem, program, inputs, limits, compile_limits, max_late))

    @contextmanager
    def comparing(self, problem: Problem) -> Iterator[Callable[[TestCase, str], str]]:
        """What tells how an output's text differs from a test's expected one (empty: they count as equal), as judging does.

        It is called in the thread that opened it, and raises SandboxError where a validator breaks.
        """
        if problem.entry_point:
            flags = () if problem.checker.validator else problem.checker.flags  # else they are the validator's arguments
            yield lambda test, text: calls.result_difference(test.output, expected_value(text), flags)
            return
        with ExitStack() as stack:
            difference = _difference(self.prepare(), problem, stack)
            yield lambda test, text: difference(test, text.encode("utf-8", "surrogateescape"))

    def _persist(self, work: Callable[[], _Result]) -> _Result:
        """Try again what the sandbox broke."""
        for _ in range(self._retries):
            with suppress(SandboxError):
                return work()
        return work()

    def _judge(
        self, sandbox: Sandbox, problem: Problem, program: Program, tests: Sequence[TestCase], limits: Limits, compiling: Limits, stop: bool
    ) -> CodeVerdict:
        with ExitStack() as stack:
            box, fault = stack.enter_context(_compiled(sandbox, problem, program, compiling))
            if fault:
                return CodeVerdict(RunStatus.COMPILE_ERROR, detail=fault)
            if any(test.check for test in tests):
                artifact = box.get(program.artifact)
                box.close()
                called = calls.check(sandbox, program, artifact, problem.entry_point, tests, limits, stop)
                return _verdict([_test_verdict(_name(tests, at), each.result, each.difference) for at, each in enumerate(called)])
            difference = None if problem.entry_point else _difference(sandbox, problem, stack)
            verdicts: list[TestVerdict] = []
            for at, test in enumerate(tests):
                if difference is None:
                    called_once = calls.call(box, program, problem, test, limits)
                    result, fault = called_once.result, called_once.difference
                else:
                    result = sandbox.run(box, program, limits, test.input.encode("utf-8", "surrogateescape"))
                    fault = difference(test, result.stdout) if result.ok else ""
                verdicts.append(_test_verdict(_name(tests, at), result, fault))
                if stop and verdicts[-1].status != CORRECT:
                    break
            return _verdict(verdicts)


@contextmanager
def _compiled(sandbox: Sandbox, problem: Problem, program: Program, compiling: Limits) -> Iterator[tuple[Box, str]]:
    """A box with the compiled program, and why there is none in it (empty: there is)."""
    with sandbox.open(preload=_preload(problem, program)) as box:
        if asks_for_function(problem) and program.language is not Language.PYTHON:
            yield box, "a problem that asks for a function takes Python only"
            return
        compiled = sandbox.compile(box, program, compiling)
        words = compiled.stderr.decode(errors="replace").strip().splitlines()
        yield box, "" if compiled.ok else compiled.detail or _error_line(words)


def _outputs(
    sandbox: Sandbox, problem: Problem, program: Program, inputs: Sequence[str], limits: Limits, compiling: Limits, max_late: int
) -> list[Output]:
    with _compiled(sandbox, problem, program, compiling) as (box, fault):
        if fault:
            return [Output(RunStatus.COMPILE_ERROR.value, detail=fault)] * len(inputs)
        found: list[Output] = []
        for text in inputs:
            if sum(output.status == RunStatus.TIMEOUT for output in found) >= max_late:
                found.append(Output(RunStatus.TIMEOUT.value, detail="not run: it was late too often"))
            elif problem.entry_point:
                found.append(_returned(calls.returned(box, program, problem.entry_point, text, tuple(inputs), limits)))
            else:
                result = sandbox.run(box, program, limits, text.encode("utf-8", "surrogateescape"))
                found.append(_output(result, result.stdout.decode("utf-8", "surrogateescape")))
        return found


def _returned(came: calls.Returned) -> Output:
    """A function's result as text."""
    if came.fault:
        return Output(RunStatus.RUNTIME_ERROR.value, detail=came.fault)
    try:
        return _output(came.result, result_text(came.value))
    except ValueError:
        return Output(RunStatus.RUNTIME_ERROR.value, detail="the function returned a number of thousands of digits")


def _output(result: RunResult, text: str) -> Output:
    return Output(result.status.value, text) if result.ok else Output(result.status.value, detail=_failure(result))


def _preload(problem: Problem, program: Program) -> list[str]:
    """Modules worth importing once instead of in each test: those that the source names, and what calls a function."""
    if program.language is not Language.PYTHON:
        return []
    source = b"".join(program.files.values())
    usual = [name for name in ("typing", "string", "decimal", "fractions", "queue") if name.encode() in source]
    return [*usual, "json", "inspect", "ast"] if problem.entry_point else usual


def _difference(sandbox: Sandbox, problem: Problem, stack: ExitStack) -> Callable[[TestCase, bytes], str]:
    """What compares an output with the expected one: the problem's validator, else tokens."""
    if problem.checker.validator:
        return stack.enter_context(Validator(sandbox, problem.checker)).difference
    comparison = Comparison.from_flags(problem.checker.flags)
    # As a package's answers are read: bytes that are no UTF-8 equal themselves.
    return lambda test, output: comparison.difference(test.output, output.decode("utf-8", "surrogateescape"))


def _test_verdict(name: str, result: RunResult, difference: str) -> TestVerdict:
    if result.ok:
        status, detail = (WRONG, difference) if difference else (CORRECT, "")
    else:
        status, detail = result.status.value, _failure(result)
    return TestVerdict(name, status, detail, result.cpu_seconds, result.wall_seconds, result.peak_memory_bytes)


def _failure(result: RunResult) -> str:
    """How a run failed, as one line."""
    words = result.stderr.decode(errors="replace").strip().splitlines()
    return result.detail or (words[-1][:200] if words else f"exit code {result.exit_code}")


def _verdict(tests: Sequence[TestVerdict]) -> CodeVerdict:
    failed = next((test for test in tests if test.status != CORRECT), None)
    if failed is None:
        return CodeVerdict(CORRECT, tuple(tests))
    return CodeVerdict(failed.status, tuple(tests), detail=f"test {failed.name}: {failed.detail or failed.status}")


def _name(tests: Sequence[TestCase], at: int) -> str:
    return tests[at].name or str(at + 1)


def _error_line(words: Sequence[str]) -> str:
    return next((line for line in words if "error" in line.lower()), words[-1] if words else "no reason given")[:200]


def usable_workers(wanted: int) -> int:
    """Sandboxes at the same time: never more than cores."""
    return min(wanted, os.cpu_count() or 1)
