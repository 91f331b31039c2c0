"""A pool of killable worker processes for whatever may hang, crash or eat memory: the math parser and a user's functions.

Life of a job:

    submitted -> waiting -> running --reply----------> value or error
                              |--over the limit------> timeout     (worker killed, another forked)
                              '--worker died---------> waiting again, up to `retries` times; then broken

Back-pressure: `submit` waits while MAX_WAITING jobs are unsettled, so a caller that reads completions faster than they are judged is slowed
down, and the queue stays small. Jobs are handed out in the order of submission, a few at a time; the futures keep their order in any case.

The pool has more workers while many jobs wait (see `poolsize`). One dispatcher thread owns one worker:

    taking batches <──woken by a backlog── parked, without a worker
          '──nothing to do for IDLE_S, and more than the smallest number──^

A dispatcher never ends before the pool does, for the zygote dies with the thread that started it. It sends a batch and takes one
reply a job, in order; a job's limit starts when the reply before it has come. Killing a worker therefore harms the running job
only: the rest of its batch goes to the next worker.
"""

from __future__ import annotations

import os
import queue
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from enum import StrEnum
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from magistral_core.errors import InfrastructureError, InputError, MagistralError
from magistral_core.rewards.poolsize import IDLE_S, PoolSize

#: Jobs after which a worker is replaced: parser caches grow and a user's function may leak.
RECYCLE_AFTER = 2000
#: Jobs that may wait or run; beyond them `submit` blocks. Only a single larger call goes over it.
MAX_WAITING = 4096
#: Jobs that a worker is handed at once: a round trip is shared, and one slow job delays few others.
MAX_BATCH = 32
#: Limit for starting the zygote or a worker, a user's imports included.
START_TIMEOUT_S = 120.0
_GOODBYE_S = 5.0
#: Most jobs are done within this, and need no clock but the wall's: a worker's CPU time costs as much to read as a job.
_QUICK_S = 0.02
#: A formula that used this share of its limit in CPU time, when the limit's wall time is over, is over it.
_BUSY = 0.95
#: A formula that did not get so much in this many times its limit was starved: its worker is replaced and the formula tried again.
_PATIENCE = 20
_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Job:
    """One piece of work: `math` (gold, pred), `gold` (gold,) or `extra` (number of the function, its arguments)."""

    task: str
    payload: tuple[Any, ...]


class Ending(StrEnum):
    """How a job ended."""

    VALUE = "value"
    ERROR = "error"  # the work raised an exception
    TIMEOUT = "timeout"
    BROKEN = "broken"  # its worker died under it, again and again


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a job: `value` for VALUE, else one line of `detail`; wall `seconds`."""

    ending: Ending
    value: Any = None
    detail: str = ""
    seconds: float = 0.0


_Batch = list[tuple[Job, "Future[Outcome]"]]
#: Told to a dispatcher in place of a batch: end your worker and wait until you are needed.
_PARK: _Batch = []


class WorkerPool:
    """Processes, as many as `size` permits and the backlog asks for; thread-safe. `start` it, `submit` jobs, `close` it."""

    def __init__(
        self,
        size: PoolSize,
        timeout_s: float,
        memory_mb: int,
        retries: int = 1,
        extra: Sequence[str] = (),
        folder: str = "",
        idle_s: float = IDLE_S,
    ) -> None:
        self._size = size
        self._idle_s = idle_s
        self._taking = size.smallest  # dispatchers that are not parked
        self._wake = threading.Semaphore(0)
        self._timeout_s = timeout_s
        self._retries = retries
        self._setup = {"extra": tuple(extra), "memory_bytes": memory_mb * 2**20, "folder": str(Path(folder).expanduser().absolute())}
        self._queue: queue.SimpleQueue[_Batch | None] = queue.SimpleQueue()
        self._zygote = _Zygote()
        self._threads: list[threading.Thread] = []
        self._closing = threading.Event()
        self._lock = threading.Lock()
        self._room = threading.Condition()
        self._waiting = 0
        self._pids: dict[int, int] = {}
        self.restarts = 0

    def start(self) -> None:
        """Start every worker. Raises InputError if a user's function cannot be loaded, InfrastructureError if no worker starts."""
        if self._threads:
            return
        ready = [self._start_dispatcher() for _ in range(self._size.smallest)]
        try:
            for future in ready:
                future.result()
        except MagistralError:
            self.close()
            raise

    def submit(self, jobs: Sequence[Job]) -> list[Future[Outcome]]:
        """Queue jobs, spread over the workers; the futures are in the jobs' order. Waits while too many jobs are unsettled."""
        batch: _Batch = [(job, Future()) for job in jobs]
        with self._room:
            self._room.wait_for(lambda: self._closing.is_set() or self._waiting == 0 or self._waiting + len(batch) <= MAX_WAITING)
            if not self._threads or self._closing.is_set():
                raise InfrastructureError("the verifier pool is not running")
            self._waiting += len(batch)
        for _, future in batch:
            future.add_done_callback(self._settled)
        size = min(-(-len(batch) // self._grow()), MAX_BATCH)
        for start in range(0, len(batch), max(size, 1)):
            self._queue.put(batch[start : start + size])
        return [future for _, future in batch]

    @property
    def waiting(self) -> int:
        """Jobs that are not settled yet."""
        return self._waiting

    @property
    def pids(self) -> tuple[int, ...]:
        """Process ids of the live workers."""
        with self._lock:
            return tuple(self._pids.values())

    def _start_dispatcher(self) -> Future[None]:
        """One more dispatcher; the future says when it has its first worker."""
        number, ready = len(self._threads), Future[None]()
        thread = threading.Thread(target=self._dispatch, args=(number, ready), name=f"verifier-{number}", daemon=True)
        self._threads.append(thread)
        thread.start()
        return ready

    def _grow(self) -> int:
        """Add the workers that the unsettled jobs ask for; how many there are then."""
        with self._lock:
            wanted = self._size.grown(self._taking, self._waiting)
            parked = len(self._threads) - self._taking
            for more in range(wanted - self._taking):
                if more < parked:
                    self._wake.release()
                else:
                    self._start_dispatcher()
            self._taking = wanted
            return wanted

    def close(self) -> None:
        """End every process; unfinished jobs fail with InfrastructureError."""
        with self._room:
            self._closing.set()
            self._room.notify_all()
        for _ in self._threads:
            self._wake.release()
            self._queue.put(None)
        self._zygote.close()  # its workers die with it, which ends whatever a dispatcher waits for
        for thread in self._threads:
            thread.join()

    def _settled(self, _future: Future[Outcome]) -> None:
        with self._room:
            self._waiting -= 1
            self._room.notify_all()

    def _dispatch(self, number: int, ready: Future[None]) -> None:
        worker: _Worker | None = None
        try:
            worker = self._hire(number)
            ready.set_result(None)
        except MagistralError as error:
            ready.set_exception(error)
            if number < self._size.smallest:
                return
            if self._stop_taking():  # the others go on without
                self._wake.acquire()
        while (batch := self._take()) is not None:
            if batch is _PARK:
                if worker is not None:
                    self._dismiss(number, worker, restarted=False)
                    worker = None
                self._wake.acquire()
                continue
            attempts = 0
            while batch:
                try:
                    if self._closing.is_set():
                        raise InfrastructureError("the verifier pool was closed")
                    worker = worker or self._hire(number)
                    done, fault = self._run(worker, batch)
                except Exception as error:  # noqa: BLE001  (whatever it is belongs to the waiting caller; this thread must live on)
                    for _, future in batch:
                        if not future.done():
                            future.set_exception(error)
                    break
                batch = batch[done:]
                attempts = (attempts if done == 0 else 0) + bool(fault)
                if fault or worker.spent or worker.jobs >= RECYCLE_AFTER:
                    ending = self._dismiss(number, worker)
                    worker = None
                    if fault and attempts > self._retries and not self._closing.is_set():
                        batch.pop(0)[1].set_result(Outcome(Ending.BROKEN, detail=fault.format(ending=ending)))
                        attempts = 0
        if worker is not None:
            self._dismiss(number, worker)

    def _take(self) -> _Batch | None:
        """The next batch, `_PARK`, or None at the end."""
        while True:
            try:
                return self._queue.get(timeout=self._idle_s)
            except queue.Empty:
                if self._stop_taking():
                    return _PARK

    def _stop_taking(self) -> bool:
        """Count one dispatcher fewer, if the pool may have one fewer."""
        with self._lock:
            ends = self._size.may_end(self._taking)
            self._taking -= ends
            return ends

    def _run(self, worker: _Worker, batch: _Batch) -> tuple[int, str]:
        """Run a batch; returns how many jobs were settled, and what broke the worker under the next one (empty: nothing)."""
        try:
            worker.connection.send([job for job, _ in batch])
            for number, (job, future) in enumerate(batch):
                fault = self._await_reply(worker, job)
                if fault is None:
                    ending, value, seconds = worker.connection.recv()
                    worker.jobs += 1
                    failed = ending == "error"
                    future.set_result(Outcome(Ending(ending), None if failed else value, value if failed else "", seconds))
                    continue
                worker.spent = True
                if fault:
                    return number, fault
                future.set_result(Outcome(Ending.TIMEOUT, detail=f"longer than {self._timeout_s:g} s", seconds=self._timeout_s))
                return number + 1, ""
        except (EOFError, OSError):
            return sum(future.done() for _, future in batch), "the verifier's worker died ({ending})"
        return len(batch), ""

    def _await_reply(self, worker: _Worker, job: Job) -> str | None:
        """Wait for a job's reply: None when it is there, empty when the job is over its limit, else what broke.

        A user's function has its limit in wall time. A formula has it in CPU time, for on a busy machine the wall says nothing about it;
        the wall stops it at a multiple, which is then the machine's fault.
        """
        started = time.monotonic()
        if worker.connection.poll(_QUICK_S):
            return None
        cpu, wait = worker.cpu_seconds(), self._timeout_s
        while not worker.connection.poll(wait):
            wait = self._timeout_s / 4
            if self._closing.is_set():
                raise EOFError
            if job.task == "extra" or worker.cpu_seconds() - cpu >= _BUSY * self._timeout_s:
                return ""
            if time.monotonic() - started >= _PATIENCE * self._timeout_s:
                return f"the machine is overloaded: less than {_BUSY:.0%} of {self._timeout_s:g} s of a core in {_PATIENCE} times that"
        return None

    def _hire(self, number: int) -> _Worker:
        """A worker that is set up; one that dies meanwhile is tried again. Raises InputError (a user's function) or InfrastructureError."""
        for attempt in range(self._retries + 1):
            worker = self._zygote.fork()
            with self._lock:
                self._pids[number] = worker.pid
            try:
                worker.connection.send(self._setup)
                if not worker.connection.poll(START_TIMEOUT_S):
                    raise TimeoutError
                fault = worker.connection.recv()
            except (EOFError, OSError):
                ending = self._dismiss(number, worker)
                if attempt < self._retries:
                    continue
                raise InfrastructureError(
                    f"a verifier worker died while it started, or was not ready within {START_TIMEOUT_S:g} s ({ending}); "
                    f"rewards.extra: {self._setup['extra']}"
                ) from None
            if fault:
                self._dismiss(number, worker)
                raise InputError(fault)
            return worker
        raise AssertionError("unreachable")

    def _dismiss(self, number: int, worker: _Worker, *, restarted: bool = True) -> str:
        with self._lock:
            self._pids.pop(number, None)
            self.restarts += restarted and not self._closing.is_set()
        worker.connection.close()
        return self._zygote.end(worker)


@dataclass(slots=True)
class _Worker:
    pid: int
    zygote: int  # pid of the process that forked it
    connection: Connection
    jobs: int = 0
    spent: bool = False  # over the limit: to be killed

    def cpu_seconds(self) -> float:
        """CPU time it has used. Raises OSError if it is gone."""
        with open(f"/proc/{self.pid}/stat", encoding="utf-8") as file:
            user, system = file.read().rpartition(")")[2].split()[11:13]
        return (int(user) + int(system)) / _TICKS


class _Zygote:
    """The training process's side of `zygote.py`.

    It must be started by a thread that lives as long as it is needed, for the kernel kills it when the *thread* that started it ends.
    Dispatcher threads do.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None
        self._closed = False

    def fork(self) -> _Worker:
        """A new worker, connected. Raises InfrastructureError."""
        ours, theirs = socket.socketpair()
        try:
            with self._lock:
                pid = int(self._ask(b"fork", theirs.fileno()))
                assert self._process is not None
                zygote = self._process.pid
        except (OSError, ValueError) as error:
            ours.close()
            raise InfrastructureError(f"cannot start a verifier worker ({error})") from error
        finally:
            theirs.close()
        return _Worker(pid, zygote, Connection(ours.detach()))

    def end(self, worker: _Worker) -> str:
        """Kill a worker, and say how it had ended."""
        with self._lock:
            if self._closed or self._process is None or self._process.pid != worker.zygote or self._process.poll() is not None:
                return "its parent process ended"
            try:
                status = int(self._ask(b"end %d" % worker.pid))
            except (OSError, ValueError):
                return "its parent process ended"
        if os.WIFSIGNALED(status):
            return f"signal {os.WTERMSIG(status)}"
        return f"exit code {os.waitstatus_to_exitcode(status)}"

    def close(self) -> None:
        """End it; it ends its workers."""
        with self._lock:
            self._closed = True
            self._stop()

    def _ask(self, message: bytes, handle: int | None = None) -> bytes:
        if self._closed:
            raise OSError("the verifier pool was closed")
        if self._process is None or self._process.poll() is not None:
            self._stop()
            self._start()
        assert self._control is not None
        try:
            socket.send_fds(self._control, [message], [] if handle is None else [handle])
            answer = self._control.recv(64)
        except OSError:
            self._stop()
            raise
        if not answer:
            self._stop()
            raise OSError("the process that starts verifier workers died")
        return answer

    def _start(self) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.settimeout(START_TIMEOUT_S)
        environment = os.environ | {
            "PYTHONPATH": os.pathsep.join(folder for folder in sys.path if folder),
            "SYMPY_GROUND_TYPES": "python",  # gmpy2 computes in C, where nothing but a kill can interrupt it
            "OMP_NUM_THREADS": "1",
            "OPENBLAS_NUM_THREADS": "1",
        }
        command = [sys.executable, "-P", "-m", "magistral_core.rewards.zygote", str(theirs.fileno()), str(os.getpid())]
        with theirs:
            self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, pass_fds=[theirs.fileno()], env=environment)
        self._control = ours
        try:
            ready = ours.recv(64) == b"ready"
        except OSError:
            ready = False
        if not ready:
            self._stop()
            raise OSError(f"the process that starts verifier workers did not start, or not within {START_TIMEOUT_S:g} s")

    def _stop(self) -> None:
        if self._control is not None:
            self._control.close()
            self._control = None
        if self._process is not None:
            try:
                self._process.wait(_GOODBYE_S)  # it ends its workers when the control socket closes
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._process = None
