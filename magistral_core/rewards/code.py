"""Judging code (Magistral, section 2.2): a solution is compiled once, run on each test in a sandbox, and what it wrote is compared outside.

verdict   every test passed -> correct; else the first test that did not decides
no verdict   the sandbox, a validator or a check broke: raised, never counted as a failed test
"""

from __future__ import annotations

import os
import random
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

from magistral_core.config.schema import CodeSettings
from magistral_core.errors import InputError
from magistral_core.records import Problem, ScoreStatus, TestCase
from magistral_core.rewards import calls
from magistral_core.rewards.format import first_code_block
from magistral_core.rewards.outputs import Comparison
from magistral_core.rewards.validator import Validator
from magistral_core.sandbox import MIB, Language, Limits, Program, RunResult, RunStatus, Sandbox, SandboxError

CORRECT, WRONG = "correct", "wrong"


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
    if not problem.checker.validator:
        Comparison.from_flags(problem.checker.flags, f"{place}: validator_flags")
    checks = sum(bool(test.check) for test in problem.tests)
    if checks not in {0, len(problem.tests)}:
        raise InputError(f"{place}: some tests are checks and some are not; use one kind")


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
        for attempt in range(self._retries + 1):
            started = time.perf_counter()
            try:
                verdict = self._judge(sandbox, problem, program, tests, limits, compile_limits, stop)
            except SandboxError:
                if attempt == self._retries:
                    raise
            else:
                return CodeVerdict(verdict.status, verdict.tests, len(tests), verdict.detail, time.perf_counter() - started)
        raise AssertionError("unreachable")

    def _judge(
        self, sandbox: Sandbox, problem: Problem, program: Program, tests: Sequence[TestCase], limits: Limits, compiling: Limits, stop: bool
    ) -> CodeVerdict:
        if asks_for_function(problem) and program.language is not Language.PYTHON:
            return CodeVerdict(RunStatus.COMPILE_ERROR, detail="a problem that asks for a function takes Python only")
        with ExitStack() as stack:
            box = stack.enter_context(sandbox.open(preload=_preload(problem, program)))
            compiled = sandbox.compile(box, program, compiling)
            if not compiled.ok:
                words = compiled.stderr.decode(errors="replace").strip().splitlines()
                return CodeVerdict(RunStatus.COMPILE_ERROR, detail=compiled.detail or _error_line(words))
            if any(test.check for test in tests):
                artifact = box.get(program.artifact)
                box.close()
                called = calls.check(sandbox, program, artifact, problem.entry_point, tests, limits, stop)
                return _verdict([_test_verdict(_name(tests, at), each.result, each.difference) for at, each in enumerate(called)])
            difference = None if problem.entry_point else _difference(sandbox, problem, stack)
            verdicts: list[TestVerdict] = []
            for at, test in enumerate(tests):
                if difference is None:
                    called_once = calls.call(box, program, problem.entry_point, test, limits)
                    result, fault = called_once.result, called_once.difference
                else:
                    result = sandbox.run(box, program, limits, test.input.encode("utf-8", "surrogateescape"))
                    fault = difference(test, result.stdout) if result.ok else ""
                verdicts.append(_test_verdict(_name(tests, at), result, fault))
                if stop and verdicts[-1].status != CORRECT:
                    break
            return _verdict(verdicts)


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
    return lambda test, output: comparison.difference(test.output, output.decode("utf-8", "replace"))


def _test_verdict(name: str, result: RunResult, difference: str) -> TestVerdict:
    if result.ok:
        status, detail = (WRONG, difference) if difference else (CORRECT, "")
    else:
        words = result.stderr.decode(errors="replace").strip().splitlines()
        status, detail = result.status.value, result.detail or (words[-1][:200] if words else f"exit code {result.exit_code}")
    return TestVerdict(name, status, detail, result.cpu_seconds, result.wall_seconds, result.peak_memory_bytes)


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
