"""The process that forks verifier workers, and what a worker does. Run as `python -m magistral_core.rewards.zygote FD PARENT`.

The training process has threads, so forking it is unsafe, and importing SymPy and math-verify takes over a second. This process has one
thread and has imported both: it forks a fresh worker in milliseconds, which makes killing one cheap.

    training process --Popen--> zygote --fork--> worker, worker, ...
         |  "fork" + a socket, "end PID"  |          |
         +------------- control ----------+          |
         +-------- jobs and results over that socket-+

Every process asks the kernel to be killed when its parent dies, so a kill -9 of the training process leaves none behind.
"""

from __future__ import annotations

import gc
import os
import resource
import signal
import socket
import sys
import time
from multiprocessing.connection import Connection
from typing import Any, NoReturn

from magistral_core.errors import InputError
from magistral_core.processes import die_with_parent
from magistral_core.rewards.extra import Reward, check_value, load_functions
from magistral_core.rewards.math import judge


def main() -> None:
    """Answer `fork` with a worker's pid and `end PID` with its wait status, until the control socket closes."""
    control, parent = socket.socket(fileno=int(sys.argv[1])), int(sys.argv[2])
    die_with_parent(parent=parent)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the training process's business
    os.dup2(2, 1)  # nothing that is printed here may end up in a command's JSON
    judge.warm_up()
    gc.freeze()
    control.send(b"ready")
    workers: set[int] = set()
    while True:
        message, handles, _, _ = socket.recv_fds(control, 64, 1)
        command, _, pid = message.decode().partition(" ")
        if command == "fork":
            workers.add(answer := _fork(control, handles[0]))
        elif command == "end":
            workers.remove(int(pid))
            answer = _end(int(pid))
        else:
            break
        control.send(str(answer).encode())
    for worker in workers:
        _end(worker)


def _fork(control: socket.socket, handle: int) -> int:
    zygote = os.getpid()
    pid = os.fork()
    if pid == 0:
        try:
            die_with_parent(parent=zygote)
            os.setpgid(0, 0)
            control.close()
            _work(Connection(handle))
        finally:
            os._exit(70)  # never fall back into the zygote's loop
    os.close(handle)
    return pid


def _end(pid: int) -> int:
    """Kill a worker with all that it started, and reap it. Until then its pid cannot be used again, so no other process is hit."""
    for kill in (os.killpg, os.kill):
        try:
            kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue  # it died before it made its process group, or had died already
    return os.waitpid(pid, 0)[1]


def _work(connection: Connection) -> NoReturn:
    """A worker: set up, then answer each job of each batch with (kind, value, seconds), in order."""
    setup = connection.recv()
    if setup["folder"] not in sys.path:
        sys.path.insert(0, setup["folder"])
    try:
        functions = load_functions(setup["extra"])
    except InputError as error:
        connection.send(str(error))
        os._exit(0)
    _limit_memory(setup["memory_bytes"])
    connection.send("")
    while True:
        try:
            batch = connection.recv()
        except EOFError:
            os._exit(0)
        for job in batch:
            connection.send(_run(job.task, job.payload, functions))


def _run(task: str, payload: tuple[Any, ...], functions: list[Reward]) -> tuple[str, Any, float]:
    started = time.perf_counter()
    try:
        value: Any
        if task == "extra":
            number, arguments = payload
            value = check_value(functions[number](**arguments))
        else:
            value = judge.judge(*payload) if task == "math" else judge.check_gold(*payload)
        return "value", value, time.perf_counter() - started
    except BaseException as error:  # noqa: BLE001  (also SystemExit: a user's function must not end the worker by it)
        detail = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        return "error", detail, time.perf_counter() - started


def _limit_memory(memory_bytes: int) -> None:
    with open("/proc/self/statm", encoding="ascii") as file:
        used = int(file.read().split()[0]) * resource.getpagesize()
    limit = used + memory_bytes
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    limit = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


if __name__ == "__main__":
    main()
