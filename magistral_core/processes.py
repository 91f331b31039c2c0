"""Small things that every process of a run needs: dying with the parent, a free port, a lean environment."""

from __future__ import annotations

import ctypes
import os
import signal
import socket
from pathlib import Path

_PR_SET_PDEATHSIG = 1

#: Two engines on two cores with two threads each were seven times slower than with one (OpenMP spins while it waits).
THREAD_ENVIRONMENT = {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive"}


def die_with_parent(signum: int = signal.SIGKILL, parent: int | None = None) -> None:
    """Ask the kernel to send `signum` to this process when its parent ends, however it ends (Linux; elsewhere nothing).

    Give the process id of the `parent` where it is known: then a parent that ended before this call is noticed as well. The
    parent is the *thread* that started this process: call it in processes started from a thread that lives as long as the
    program.
    """
    parent = parent or os.getppid()
    try:
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signum, 0, 0, 0)
    except (AttributeError, OSError):
        return
    if os.getppid() != parent:  # it ended before the request was made
        os.kill(os.getpid(), signum)


def has_gpu_driver() -> bool:
    """Whether a driver for NVIDIA GPUs is loaded, on Linux or in WSL, without the seconds that PyTorch takes to say so."""
    return any(Path(path).exists() for path in ("/dev/nvidiactl", "/dev/dxg"))


def free_port(host: str = "127.0.0.1") -> int:
    """A TCP port that nothing listens on right now."""
    with socket.socket() as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])
