"""One problem: its solutions run on all tests, the tests decided by their votes, the solutions judged by what was decided.

solutions in Python or C++ -> outputs of each on each test -> answers and votes -> decisions -> solutions that pass all that is left
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import asdict, dataclass, replace
from typing import Any

from magistral_core.config.code_curation import CodeCurationRecipe, RunSettings
from magistral_core.curation.code.answers import answers_of
from magistral_core.curation.code.draft import CodeDraft, Solution, Test
from magistral_core.curation.code.votes import GIVEN, Answer, Fate, Outcome, decide
from magistral_core.curation.reasons import CodeReason
from magistral_core.rewards.calls import forms
from magistral_core.rewards.code import CORRECT, WRONG, CodeJudge, Output
from magistral_core.rewards.validator import ValidatorError
from magistral_core.sandbox import MIB, Limits, Program, RunStatus, SandboxError

#: Status of solutions without a verdict: in no language that is judged here; not trusted; nothing to judge them by.
OTHER_LANGUAGE, NOT_ACCEPTED, NOT_JUDGED = "other_language", "not_accepted", "not_judged"


@dataclass(frozen=True, slots=True)
class SettledTest:
    """A test after the votes; `output` only where it is not the file's, `input` only where the test was generated."""

    fate: Fate
    probability: float
    output: str | None = None
    input: str | None = None


@dataclass(frozen=True, slots=True)
class SettledSolution:
    """A solution after the votes.

    Attributes:
        status: `correct` if it passes every test that is left; else `wrong`, how its first failing run ended, or why it was not run.
        passed: tests that it passes, of those that are left.
        accuracy: as votes count it; 0 if it answered no test.
    """

    status: str
    passed: int = 0
    accuracy: float = 0.0


@dataclass(frozen=True, slots=True)
class Settled:
    """A problem after its curation.

    Attributes:
        index: its place in the whole input, from 0.
        reason, detail: why it is rejected; empty if it is kept.
        tests: the file's in order, then generated ones.
        solutions: in the file's order.
        accuracy: of the file's own outputs, as votes count it; 0 without any.
    """

    index: int
    reason: str = ""
    detail: str = ""
    tests: tuple[SettledTest, ...] = ()
    solutions: tuple[SettledSolution, ...] = ()
    accuracy: float = 0.0

    def to_line(self) -> str:
        """One line of ASCII JSON: outputs may hold bytes that are no text."""
        return json.dumps(asdict(self))

    @classmethod
    def from_line(cls, line: str) -> Settled:
        """The reverse of `to_line`."""
        content: dict[str, Any] = json.loads(line)
        content["tests"] = tuple(SettledTest(**{**test, "fate": Fate(test["fate"])}) for test in content["tests"])
        content["solutions"] = tuple(SettledSolution(**solution) for solution in content["solutions"])
        return cls(**content)


class Settler:
    """Settles problems, one after the other; their solutions run side by side."""

    def __init__(self, recipe: CodeCurationRecipe, judge: CodeJudge, executor: Executor) -> None:
        self._recipe = recipe
        self._judge = judge
        self._executor = executor

    def settle(self, index: int, draft: CodeDraft, invented: Sequence[str] = ()) -> Settled:
        """Settle a problem.

        Args:
            index: its place in the whole input.
            draft: the problem.
            invented: inputs of tests to make beside its own; a function's are left out where they have not the form of its own.

        Raises:
            SandboxError: solutions or a validator could not be run; a validator that breaks is the problem's own fault.
        """
        if (unusable := _unusable(draft, self._recipe.languages)) is not None:
            return Settled(index, unusable.value, draft.fault)
        tests = [*draft.tests, *(Test(text, generated=True) for text in invented if _same_form(draft, text))]
        statuses = [self._not_run(solution) for solution in draft.solutions]
        running = [number for number, status in enumerate(statuses) if not status]
        if not running:
            return Settled(index, CodeReason.NO_SOLUTIONS.value, f"{len(draft.solutions)} solutions in all", (), _unrun(statuses))
        if not tests:
            return Settled(index, CodeReason.TOO_FEW_TESTS.value, "there is none", (), _unrun(statuses))
        outputs = dict(zip(running, self._run(draft, [draft.solutions[number] for number in running], tests), strict=True))
        if not any(output.text is not None for each in outputs.values() for output in each):
            solutions = tuple(SettledSolution(status or outputs[number][0].status) for number, status in enumerate(statuses))
            return Settled(index, CodeReason.NONE_RUNS.value, f"{len(running)} were run", (), solutions)
        columns = [[outputs[number][at].text if number in outputs else None for number in range(len(statuses))] for at in range(len(tests))]
        try:
            ballots = self._ballots(draft, tests, columns)
        except ValidatorError as error:
            return Settled(index, CodeReason.BROKEN_VALIDATOR.value, str(error)[:300], (), _unrun(statuses))
        outcome = decide(ballots, self._recipe.agreement)
        solutions = tuple(
            _judged(number, outputs[number], outcome) if number in outputs else SettledSolution(statuses[number])
            for number in range(len(statuses))
        )
        settled = Settled(index, "", "", _settled_tests(tests, outcome), solutions, outcome.accuracy.get(GIVEN, 0.0))
        return self._verdict(draft, tests, settled)

    def _ballots(self, draft: CodeDraft, tests: Sequence[Test], columns: Sequence[Sequence[str | None]]) -> list[list[Answer]]:
        """The answers to each test with their voters; what the sandbox broke is tried once more."""
        again = False
        while True:
            try:
                with self._judge.comparing(draft.problem) as difference:
                    every = not draft.checker.validator
                    return [answers_of(test, column, difference, every) for test, column in zip(tests, columns, strict=True)]
            except ValidatorError:
                raise
            except SandboxError:
                if again:
                    raise
                again = True

    def _not_run(self, solution: Solution) -> str:
        """Why a solution is not run; empty if it is."""
        if solution.language is None:
            return OTHER_LANGUAGE
        return NOT_ACCEPTED if self._recipe.agreement.trust_accepted and not solution.accepted else ""

    def _run(self, draft: CodeDraft, solutions: Sequence[Solution], tests: Sequence[Test]) -> list[list[Output]]:
        limits, compiling = limits_of(draft, self._recipe.run), self._judge.compile_limits
        inputs, problem = [test.input for test in tests], draft.problem

        def outputs(solution: Solution) -> list[Output]:
            assert solution.language is not None
            program = Program.single(solution.language, solution.code)
            return self._judge.outputs(problem, program, inputs, limits, compiling, self._recipe.run.max_late)

        return list(self._executor.map(outputs, solutions))

    def _verdict(self, draft: CodeDraft, tests: Sequence[Test], settled: Settled) -> Settled:
        """Whether enough is left."""
        inputs = [test.input for test, own in zip(tests, settled.tests, strict=True) if own.fate is not Fate.REMOVED]
        left = len(inputs)
        if left < self._recipe.min_tests:
            return replace(settled, reason=CodeReason.TOO_FEW_TESTS.value, detail=f"{left} of {len(settled.tests)} tests are left")
        right = sum(solution.status == CORRECT for solution in settled.solutions)
        if right < self._recipe.min_solutions:
            best = max(solution.passed for solution in settled.solutions)
            return replace(settled, reason=CodeReason.UNSOLVED.value, detail=f"the best solution passes {best} of {left} tests")
        if draft.entry_point and forms(tuple(inputs)) != forms(tuple(test.input for test in tests)):
            return replace(settled, reason=CodeReason.AMBIGUOUS.value, detail=f"{left} of {len(tests)} tests are left")
        return settled


def limits_of(draft: CodeDraft, run: RunSettings) -> Limits:
    """Of one test: the problem's own, else those set."""
    return Limits(draft.time_limit_s or run.time_limit_s, (draft.memory_limit_mb or run.memory_mb) * MIB, run.output_mb * MIB)


def _same_form(draft: CodeDraft, text: str) -> bool:
    """Whether an input leaves the other tests of a function their meaning: which lists are arguments, all of them show together."""
    own = tuple(test.input for test in draft.tests)
    return not (draft.entry_point and own) or forms((*own, text)) == forms(own)


def _unusable(draft: CodeDraft, languages: Sequence[str]) -> CodeReason | None:
    if draft.fault:
        return CodeReason.MALFORMED
    if not draft.question:
        return CodeReason.EMPTY
    if draft.checks:
        return CodeReason.CHECKS_ONLY
    return CodeReason.NOT_ASKED if draft.entry_point and "python" not in languages else None


def _unrun(statuses: Sequence[str]) -> tuple[SettledSolution, ...]:
    return tuple(SettledSolution(status or NOT_JUDGED) for status in statuses)


def _settled_tests(tests: Sequence[Test], outcome: Outcome) -> tuple[SettledTest, ...]:
    return tuple(
        SettledTest(
            decision.fate,
            round(decision.probability, 4),
            decision.output if decision.fate in (Fate.REPLACED, Fate.SUPPLIED) else None,
            test.input if test.generated else None,
        )
        for test, decision in zip(tests, outcome.decisions, strict=True)
    )


def _judged(number: int, outputs: Sequence[Output], outcome: Outcome) -> SettledSolution:
    """A solution by the tests that are left: it passes those whose leader it stands behind."""
    statuses = [
        CORRECT if number in decision.voters else WRONG if output.status == RunStatus.OK else output.status
        for output, decision in zip(outputs, outcome.decisions, strict=True)
        if decision.fate is not Fate.REMOVED
    ]
    first = next((status for status in statuses if status != CORRECT), CORRECT if statuses else NOT_JUDGED)
    return SettledSolution(first, statuses.count(CORRECT), round(outcome.accuracy.get(number, 0.0), 4))
