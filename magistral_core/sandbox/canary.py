"""Choose how to isolate, and prove it: a canary tries to break out, and where one attempt succeeds nothing untrusted is ever run."""

from __future__ import annotations

import json
import platform
import tempfile
import threading
from pathlib import Path
from typing import Literal

from magistral_core.sandbox.box import Box
from magistral_core.sandbox.launch import BackEnd, system_code
from magistral_core.sandbox.result import Limits, SandboxError

Choice = Literal["auto", "bubblewrap", "landlock"]

_PROGRAM = Path(__file__).with_name("canary_program.py")
#: Calls that no filter names, by machine; that they are not named is what is tried.
_CALLS = {
    "x86_64": {"ptrace": 101, "unshare": 272, "mount": 165, "io_uring_setup": 425, "add_key": 248, "bpf": 321},
    "aarch64": {"ptrace": 117, "unshare": 97, "mount": 40, "io_uring_setup": 425, "add_key": 217, "bpf": 280},
}
#: What the compiler's profile allows on purpose; a file's mode is its owner's business, which the canary's file has another.
_ALLOWED_TO_COMPILE = {"fork"}
_MEND = (
    "apt-get install bubblewrap and allow user namespaces (sysctl user.max_user_namespaces; containers: a seccomp profile that permits "
    "them), or use a kernel with Landlock"
)
_lock = threading.Lock()
_chosen: dict[Choice, BackEnd] = {}


def choose(choice: Choice = "auto") -> BackEnd:
    """The first way to isolate that holds on this machine, tried once a process. Raises SandboxError: none does, and why."""
    with _lock:
        if choice not in _chosen:
            reasons = []
            for back_end in BackEnd if choice == "auto" else [BackEnd(choice)]:
                try:
                    check(back_end)
                except SandboxError as error:
                    reasons.append(f"{back_end}: {error}")
                else:
                    _chosen[choice] = back_end
                    break
            else:
                raise SandboxError(f"no sandbox holds here, so no untrusted code is run ({'; '.join(reasons)}); {_MEND}")
        return _chosen[choice]


def check(back_end: BackEnd) -> None:
    """Let the canary try one way to isolate. Raises SandboxError: it does not start, or an attempt succeeded."""
    for profile in ("run", "compile"):
        breaches = attempts(back_end, profile) - (_ALLOWED_TO_COMPILE if profile == "compile" else set())
        if breaches:
            raise SandboxError(f"the canary could: {', '.join(sorted(breaches))}")


def attempts(back_end: BackEnd, profile: Literal["run", "compile"] = "run") -> set[str]:
    """Names of the attempts that succeeded. Raises SandboxError if the canary did not report."""
    with tempfile.TemporaryDirectory(prefix="magistral-canary-") as folder:
        secret, writable = Path(folder, "secret"), Path(folder, "writable")
        secret.write_text("a secret")
        writable.write_text("untouched")
        # Modes protect neither of them: what is tried is the sandbox.
        Path(folder).chmod(0o755)
        secret.chmod(0o644)
        writable.chmod(0o666)
        with Box(back_end) as box:
            box.put("solution.py", b"# its own source")
            box.put("canary.code", system_code(_PROGRAM.read_text(encoding="utf-8"), "canary"))
            arguments = [str(secret), str(writable), json.dumps(_CALLS[platform.machine()])]
            result = box.run(Limits(), program="canary.code", arguments=arguments, profile=profile)
        try:
            found = json.loads(result.stdout)
        except ValueError as error:
            raise SandboxError(f"the canary did not report ({result.status}: {result.stderr[-200:]!r})") from error
        if writable.read_text() != "untouched":
            found["write outside"] = None
    return {name for name, refusal in found.items() if refusal is None}
