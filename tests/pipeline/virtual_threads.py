"""Threads that live in virtual time beside an event loop: `threading`, `queue` and `time` as a module under test would import them.

The clock jumps only when the loop and every thread wait, and then to whatever is due first. So an upload of a minute takes a minute of the
run that goes on beside it, the same each time, and no real time at all.
"""

from __future__ import annotations

import queue
import threading
import time
from types import SimpleNamespace
from typing import Any

import virtual_time

_SLICE_S = 0.0005
_FOREVER = float("inf")


class Clock(virtual_time.Clock):
    """See the module. Made in the thread that runs the loop."""

    def __init__(self) -> None:
        super().__init__()
        self._lock = threading.Lock()
        self._owner = threading.current_thread()
        self._threads: set[threading.Thread] = set()
        self._waiting: dict[threading.Thread, tuple[float, Any]] = {}  # until when, and for which condition
        clock = self

        class Condition(threading.Condition):
            def wait(self, timeout: float | None = None) -> bool:
                until = _FOREVER if timeout is None else clock.now + timeout
                me = threading.current_thread()
                clock._enter(me, until, self)
                try:
                    while not super().wait(_SLICE_S):
                        # A notification may fall between two slices and be lost on them; it is remembered here.
                        if me not in clock._waiting:
                            return True
                        if clock.now >= until:
                            return False
                        if me is clock._owner:
                            clock._jump_if_all_wait()
                    return True
                finally:
                    clock._leave(me)

            def wait_for(self, predicate: Any, timeout: float | None = None) -> Any:
                until = _FOREVER if timeout is None else clock.now + timeout
                while not (result := predicate()) and clock.now < until:
                    self.wait(None if timeout is None else until - clock.now)
                return result

            def notify(self, n: int = 1) -> None:
                clock._wake(self)
                super().notify(n)

        class Event(threading.Event):
            def __init__(self) -> None:
                super().__init__()
                self._cond = Condition(threading.Lock())

        class Queue(queue.Queue):  # type: ignore[type-arg]
            def __init__(self, maxsize: int = 0) -> None:
                super().__init__(maxsize)
                self.not_empty, self.not_full, self.all_tasks_done = (Condition(self.mutex) for _ in range(3))

        class Thread(threading.Thread):
            def __init__(self, *args: Any, **kwargs: Any) -> None:
                super().__init__(*args, **kwargs)
                self._over = Event()

            def start(self) -> None:
                with clock._lock:
                    clock._threads.add(self)
                super().start()

            def run(self) -> None:
                try:
                    super().run()
                finally:
                    self._over.set()
                    with clock._lock:
                        clock._threads.discard(self)

            def join(self, timeout: float | None = None) -> None:
                self._over.wait(timeout)
                super().join(timeout)

        self.threading = SimpleNamespace(Thread=Thread, Condition=Condition, Event=Event, Lock=threading.Lock)
        self.queue = SimpleNamespace(Queue=Queue)
        self.time = SimpleNamespace(monotonic=lambda: self.now, time=lambda: self.now, time_ns=time.time_ns, sleep=self.sleep)

    def sleep(self, seconds: float) -> None:
        """Sleep in the calling thread."""
        self.threading.Event().wait(seconds)

    def quiet(self) -> bool:
        with self._lock:
            running = self._someone_runs()
        if running:
            time.sleep(_SLICE_S / 5)
        return not running

    def jump(self, to: float | None) -> bool:
        with self._lock:
            nearest = min((until for until, _ in self._waiting.values()), default=_FOREVER)
            if to is None and nearest == _FOREVER:
                raise RuntimeError("the simulation is deadlocked: nothing is scheduled and no thread waits for a time")
            reached = to is not None and to <= nearest
            self.now = max(self.now, to if reached and to is not None else nearest)
            return reached

    def _jump_if_all_wait(self) -> None:
        with self._lock:
            if self._owner in self._waiting and not self._someone_runs():
                self.now = max(self.now, min(until for until, _ in self._waiting.values()))
                assert self.now < _FOREVER, "the simulation is deadlocked: every thread waits for another"

    def _someone_runs(self) -> bool:
        return any(self._waiting.get(thread, (0.0, None))[0] <= self.now for thread in self._threads)

    def _enter(self, thread: threading.Thread, until: float, condition: object) -> None:
        with self._lock:
            self._waiting[thread] = until, condition

    def _leave(self, thread: threading.Thread) -> None:
        with self._lock:
            self._waiting.pop(thread, None)

    def _wake(self, condition: object) -> None:
        with self._lock:
            self._waiting = {thread: wait for thread, wait in self._waiting.items() if wait[1] is not condition}
