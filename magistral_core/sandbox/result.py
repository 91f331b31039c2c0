"""What a run in the sandbox may use, and how it ended."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from magistral_core.errors import InfrastructureError

MIB = 2**20


class SandboxError(InfrastructureError):
    """The sandbox could not do its work. It says nothing about the program: try again, then leave it without a verdict."""


class RunStatus(StrEnum):
    """How a run ended."""

    OK = "ok"  # exit code 0 within the limits
    COMPILE_ERROR = "compile_error"
    RUNTIME_ERROR = "runtime_error"  # another exit code, or a signal
    TIMEOUT = "timeout"
    MEMORY = "memory"
    OUTPUT_LIMIT = "output_limit"
    SANDBOX_ERROR = "sandbox_error"  # not a verdict; only what reports to people uses it, code raises SandboxError


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of one run.

    Attributes:
        cpu_s: CPU seconds, which is what a run is judged by.
        memory_bytes: resident memory.
        output_bytes: longest standard output, and largest file.
    """

    cpu_s: float = 4.0
    memory_bytes: int = 300 * MIB
    output_bytes: int = 16 * MIB

    @property
    def wall_s(self) -> float:
        """Seconds after which a run that waits instead of working is stopped; time spent waiting for a core does not count."""
        return 2 * self.cpu_s + 2


@dataclass(frozen=True, slots=True)
class RunResult:
    """One run.

    Attributes:
        status: how it ended.
        exit_code: as a shell's user knows it, negative for a signal; None if there was no run.
        stdout: at most the limit's bytes.
        stderr: its last 64 KiB.
        cpu_seconds: user and system time.
        wall_seconds: from the start of the process to its end.
        peak_memory_bytes: largest resident memory. About 15 MB is the process before the program begins.
        detail: which limit stopped it; empty if none did.
    """

    status: RunStatus
    exit_code: int | None = None
    stdout: bytes = b""
    stderr: bytes = b""
    cpu_seconds: float = 0.0
    wall_seconds: float = 0.0
    peak_memory_bytes: int = 0
    detail: str = ""

    @property
    def ok(self) -> bool:
        """Whether it ended by itself, well and within its limits."""
        return self.status is RunStatus.OK
