"""A problem's own output validator (Kattis/ICPC problem package format), compiled and run confined.

    validator input answer feedback_folder [flags] < output        exit code 42: accepted, 43: rejected, anything else: it broke

It has a sandbox of its own, in which the answers are; the solution's never sees them. Its input is what an untrusted program wrote.
"""

from __future__ import annotations

from types import TracebackType
from typing import Self

from magistral_core.records import Checker, TestCase
from magistral_core.sandbox import MIB, Box, Language, Limits, Program, RunStatus, Sandbox, SandboxError

ACCEPTED, REJECTED = 42, 43
LIMITS = Limits(cpu_s=60.0, memory_bytes=2048 * MIB, output_bytes=16 * MIB)
_COMPILE = Limits(cpu_s=60.0, memory_bytes=2048 * MIB, output_bytes=64 * MIB)
_FEEDBACK = "feedback"


class ValidatorError(SandboxError):
    """The problem's own fault: its validator does not compile, or breaks."""


class Validator:
    """A compiled validator in its box; not thread-safe. Use as a context manager."""

    def __init__(self, sandbox: Sandbox, checker: Checker) -> None:
        """Compile it. Raises ValidatorError if it does not compile, SandboxError if the sandbox broke."""
        self._sandbox = sandbox
        self._flags = checker.flags
        language = Language.PYTHON if checker.main else Language.CPP
        self._program = Program(language, checker.validator, checker.main or min(checker.validator))
        self._box: Box = sandbox.open()
        try:
            compiled = sandbox.compile(self._box, self._program, _COMPILE)
            if not compiled.ok:
                words = compiled.stderr.decode(errors="replace").strip()
                raise ValidatorError(f"the output validator does not compile: {compiled.detail or words[:300]}")
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """End its sandbox."""
        self._box.close()

    def difference(self, test: TestCase, output: bytes) -> str:
        """Why it rejects an output; empty if it accepts. Raises ValidatorError for any other end."""
        self._box.put("test.in", test.input.encode("utf-8", "surrogateescape"))
        self._box.put("test.ans", test.output.encode("utf-8", "surrogateescape"))
        folder = self._box.folder
        arguments = [f"{folder}/test.in", f"{folder}/test.ans", f"{self._box.work}/{_FEEDBACK}/", *self._flags]
        result = self._sandbox.run(self._box, self._program, LIMITS, output, arguments, folders=[_FEEDBACK], writable=True)
        # An exit code of its own counts whatever it wrote: only what reached a limit has not decided.
        stopped = result.status in {RunStatus.TIMEOUT, RunStatus.OUTPUT_LIMIT} or result.peak_memory_bytes > LIMITS.memory_bytes
        if not stopped and result.exit_code in {ACCEPTED, REJECTED}:
            return "" if result.exit_code == ACCEPTED else "the output validator rejects it"
        words = result.stderr.decode(errors="replace").strip()[-200:]
        raise ValidatorError(f"the output validator broke: {result.detail or f'exit code {result.exit_code}'} {words}".strip())
