"""An asyncio loop whose clock jumps to the next timer instead of waiting for it: hours of a run in a second, the same each time."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Callable, Coroutine
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

T = TypeVar("T")


class Clock:
    """Virtual seconds."""

    def __init__(self) -> None:
        self.now = 0.0

    def quiet(self) -> bool:
        """Whether nothing but the loop can make anything happen now."""
        return True

    def jump(self, to: float | None) -> bool:
        """Let time pass until then; False if something else is due before."""
        if to is None:
            raise RuntimeError("the simulation is deadlocked: nothing is scheduled and nothing can happen")
        self.now = to
        return True


class _JumpingSelector:
    """Real file events, imaginary waiting."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self._selector = selectors.DefaultSelector()

    def select(self, timeout: float | None = None) -> list[Any]:
        until = None if timeout is None else self.clock.now + timeout
        while True:
            quiet = self.clock.quiet()  # asked first: what a thread did before it fell silent is an event by now
            events = self._selector.select(0)
            if events or (quiet and self.clock.jump(until)):
                return events

    def __getattr__(self, name: str) -> Any:
        return getattr(self._selector, name)


class _Loop(asyncio.SelectorEventLoop):
    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        super().__init__(_JumpingSelector(clock))  # type: ignore[arg-type]

    def time(self) -> float:
        return self._clock.now


class _Inline(ThreadPoolExecutor):
    """`asyncio.to_thread` at once, in the loop's own thread: imaginary time must not depend on the machine's."""

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
        future: Future[T] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except BaseException as error:  # noqa: BLE001  (as an executor does)
            future.set_exception(error)
        return future


def run(main: Coroutine[Any, Any, T], clock: Clock | None = None) -> T:
    """`asyncio.run` in virtual time. Raises what it raises; AssertionError if a task is left over."""
    loop = _Loop(clock or Clock())
    loop.set_default_executor(_Inline())
    try:
        result = loop.run_until_complete(main)
        left = [task for task in asyncio.all_tasks(loop) if not task.done()]
        assert not left, f"tasks left running: {left}"
        return result
    finally:
        for task in asyncio.all_tasks(loop):
            task.cancel()
        loop.run_until_complete(asyncio.sleep(0))
        loop.close()
