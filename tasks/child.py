"""A command of the core as a child process of a flow run.

Engines hold memory, ports and processes of their own, so they don't run inside Prefect's process. The child leads a
session of its own and writes to a file: output inherited from a flow that is killed would keep the dead run "Running". It
ends with the flow, however that ends: cancelled (Prefect raises in here, and the whole group is killed) or by SIGKILL
(the child itself asks the kernel for a signal on its parent's death, see `--parent` of the command).
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from magistral_core.errors import InfrastructureError, InputError, MagistralError

_POLL_S = 0.5
#: A cancelled run may still commit what it has; then it is killed.
_GRACE_S = 10.0
_PREFIX = "magistral: "


def work_folder(run_id: str) -> Path:
    """Where a flow run keeps its files: logs and events of its children."""
    home = Path(os.environ.get("MAGISTRAL_HOME") or Path.home() / ".magistral")
    folder = home / "flow-runs" / run_id
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def run_command(arguments: Sequence[str], log: Path, output: Path | None = None, on_poll: Callable[[], None] = lambda: None) -> None:
    """Run `magistral ARGUMENTS` to its end.

    Args:
        arguments: of the command line.
        log: receives stderr, and stdout too where `output` is None.
        output: receives stdout.
        on_poll: called about twice a second, and once after the end.

    Raises:
        InputError, InfrastructureError, MagistralError: as its exit code says, with its own message.
    """
    command = [sys.executable, "-m", "magistral_core.cli", "--parent", str(os.getpid()), *arguments]
    with log.open("ab") as errors, contextlib.ExitStack() as files:
        out = files.enter_context(output.open("wb")) if output else errors
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=errors, start_new_session=True)
    try:
        while process.poll() is None:
            on_poll()
            time.sleep(_POLL_S)
    finally:
        _end_group(process)
    on_poll()
    if process.returncode:
        raise _failure(process.returncode, log)


@contextlib.contextmanager
def showing(log: Any) -> Iterator[None]:
    """What is only shown may fail: a run of days must not end for a progress bar that Prefect could not draw."""
    try:
        yield
    except Exception as error:  # noqa: BLE001  (whatever Prefect's client raises)
        log.warning("not shown in Prefect: %s", " ".join(str(error).split())[:200])


def _end_group(process: subprocess.Popen[bytes]) -> None:
    """SIGTERM, a grace time, SIGKILL; to the whole group, whose leader may have ended already."""
    if process.poll() is None:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_GRACE_S)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _failure(code: int, log: Path) -> MagistralError:
    lines = log.read_text(errors="replace").splitlines()
    said = next((line.removeprefix(_PREFIX) for line in reversed(lines) if line.startswith(_PREFIX)), "")
    if code < 0:
        return InfrastructureError(f"the process was ended by {signal.Signals(-code).name}; see {log}")
    kind = {InputError.exit_code: InputError, InfrastructureError.exit_code: InfrastructureError}.get(code, MagistralError)
    return kind(said or f"the process ended with code {code}; see {log}")
