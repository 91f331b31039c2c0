"""Running untrusted programs: isolation, compiling, limits. See docs/security.md for what it promises."""

from magistral_core.sandbox.box import Box
from magistral_core.sandbox.canary import Choice, choose
from magistral_core.sandbox.launch import BackEnd
from magistral_core.sandbox.programs import COMPILE_LIMITS, Language, Program, Sandbox
from magistral_core.sandbox.result import MIB, Limits, RunResult, RunStatus, SandboxError

__all__ = [
    "COMPILE_LIMITS",
    "MIB",
    "BackEnd",
    "Box",
    "Choice",
    "Language",
    "Limits",
    "Program",
    "RunResult",
    "RunStatus",
    "Sandbox",
    "SandboxError",
    "choose",
]
