"""A killed caller leaves nothing: the sandbox and the program in it end with it."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

from magistral_core.sandbox import Sandbox
from magistral_core.sandbox.watch import Watch

_SCRIPT = """
import sys
from magistral_core.sandbox import Language, Limits, Program, Sandbox
sandbox = Sandbox(sys.argv[1], cxx=False)
program = Program.single(Language.PYTHON, "import time; time.sleep(1000)")
with sandbox.open() as box:
    sandbox.compile(box, program)
    print("ready", flush=True)
    sandbox.run(box, program, Limits(cpu_s=400))
"""


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def test_a_killed_caller_leaves_nothing(sandbox: Sandbox) -> None:
    command = [sys.executable, "-c", _SCRIPT, sandbox.back_end.value]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2]) as caller:
        try:
            assert caller.stdout is not None
            assert caller.stdout.readline() == "ready\n"
            watch, deadline = Watch(caller.pid, 1), time.monotonic() + 60
            wanted = 3 if sandbox.back_end == "bubblewrap" else 2  # bubblewrap, supervisor, program
            while len(family := watch.programs()) < wanted and time.monotonic() < deadline:
                time.sleep(0.05)
            assert len(family) == wanted
        finally:
            caller.kill()
    while any(map(alive, family)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(map(alive, family)), [pid for pid in family if alive(pid)]
    assert os.getpid() not in family
