"""A side of a comparison that counts, with a helper process; see test_sides.py."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable


def count(*, emit: Callable[..., None], seconds: float) -> None:
    helper = subprocess.Popen([sys.executable, "-c", "import os\np = os.getppid()\nwhile os.getppid() == p: pass"])
    emit(helper=helper.pid)
    step = 0
    while True:
        time.sleep(seconds)
        step += 1
        print("chatter, which must not be taken for a step")
        emit(step=step)


def slow_to_stop(*, emit: Callable[..., None]) -> None:
    """Has no processor for a while between its first line and its stop."""
    stop = os.kill
    os.kill = lambda *arguments: (time.sleep(0.5), stop(*arguments))  # type: ignore[assignment]
    emit(ready=True)
    emit(step=1)


def environment(*, emit: Callable[..., None], name: str) -> None:
    emit(value=os.environ.get(name))
    emit(step=1)


def fail(*, emit: Callable[..., None]) -> None:
    emit(ready=True)
    raise RuntimeError("no such model")
