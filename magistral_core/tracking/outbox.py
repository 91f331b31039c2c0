r"""What waits to be sent to MLflow: the training loop puts, one thread sends.

    put --> waiting --> sending --> delivered
              ^            | \--> refused: raised by the next call; nothing is sent any more
              \-- outage --/      (retried with growing pauses, until `patience_s` have passed: then as refused)

Order is kept. Nothing here knows MLflow, so that it can be tested without.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from magistral_core.errors import InfrastructureError, MagistralError

log = logging.getLogger(__name__)

#: Points gathered for at most so long, so that a watched curve is never older. Sent twice as often, they cost MLflow nearly twice as much.
FLUSH_S = 5.0
#: Points that may wait: about 100 MB, or thousands of steps. More means that MLflow was away for very long.
CAPACITY = 500_000
#: MLflow's limit for one request.
BATCH = 1000
#: An outage that lasts longer stops the run: its metrics could not be watched any more.
PATIENCE_S = 1800.0
#: Mistakes in a program, which no patience cures.
_BUGS = (AssertionError, AttributeError, ImportError, LookupError, NameError, TypeError)
_PAUSES_S = (0.5, 1, 2, 4, 8, 15)


@dataclass(frozen=True, slots=True)
class Point:
    """One value of one metric; `time_ms` is fixed when it is put, so that sending it twice stores it once."""

    key: str
    value: float
    time_ms: int
    step: int


class RefusedError(MagistralError):
    """The server will never accept this: trying again is useless."""


Call = Callable[[], None]


class Outbox:
    """A queue with one sending thread.

    Args:
        send: sends up to `BATCH` points; raises RefusedError for good, anything else to be tried again.
        capacity, flush_s, patience_s: see the constants.
    """

    def __init__(
        self,
        send: Callable[[Sequence[Point]], None],
        capacity: int = CAPACITY,
        flush_s: float = FLUSH_S,
        patience_s: float = PATIENCE_S,
    ) -> None:
        self._send = send
        self._capacity = capacity
        self._flush_s = flush_s
        self._patience_s = patience_s
        self._waiting: deque[Point | Call] = deque()
        self._changed = threading.Condition()
        self._put = 0
        self._done = 0
        self._sending: list[Point | Call] = []
        self._hurry = False
        self._stop = False
        self._error: MagistralError | None = None
        self._thread = threading.Thread(target=self._run, name="tracking", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """How many points and calls are not delivered yet."""
        return self._put - self._done

    def unsent(self) -> list[Point]:
        """The points that are not delivered yet, or not known to be."""
        with self._changed:
            return [item for item in (*self._sending, *self._waiting) if isinstance(item, Point)]

    def put(self, items: Sequence[Point | Call]) -> None:
        """Queue points, or calls (uploads) which are made in the sending thread. Returns at once.

        A call that fails is made again from its start, so it must be repeatable.

        Raises:
            MagistralError: what was put earlier was refused, or the queue is full after a long outage.
        """
        with self._changed:
            self._raise_error()
            if self.waiting + len(items) > self._capacity:
                raise InfrastructureError(f"MLflow: {self.waiting:,} metric values could not be sent; is the server down?")
            self._waiting.extend(items)
            self._put += len(items)
            if callable(items[-1] if items else None) or self.waiting >= BATCH:
                self._hurry = True
            self._changed.notify_all()

    def flush(self, timeout_s: float) -> bool:
        """Wait until everything put so far is delivered; False if the time was not enough. Raises like `put`."""
        with self._changed:
            goal = self._put
            self._hurry = True
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._done >= goal or self._error, timeout_s)
            self._raise_error()
            return self._done >= goal

    def close(self, timeout_s: float) -> None:
        """Deliver everything and end the thread. Raises like `put`, or InfrastructureError if the time was not enough."""
        try:
            if not self.flush(timeout_s):
                raise InfrastructureError(f"MLflow: {self.waiting:,} metric values were not delivered within {timeout_s:.0f} s")
        finally:
            with self._changed:
                self._stop = True
                self._changed.notify_all()
            self._thread.join(self._flush_s + 1)

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._stop)
                if not self._stop and not self._hurry:
                    self._changed.wait_for(lambda: self._hurry or self._stop, self._flush_s)
                if self._stop:
                    return
                batch = self._sending = self._take()
            try:
                self._deliver(batch)
            except MagistralError as error:
                with self._changed:
                    self._error = error
                    self._changed.notify_all()
                return
            with self._changed:
                self._done += len(batch)
                self._sending = []
                self._hurry = self._hurry and bool(self._waiting)
                self._changed.notify_all()

    def _take(self) -> list[Point | Call]:
        """The next call alone, or the next points up to a full batch."""
        batch = [self._waiting.popleft()]
        while isinstance(batch[0], Point) and self._waiting and isinstance(self._waiting[0], Point) and len(batch) < BATCH:
            batch.append(self._waiting.popleft())
        return batch

    def _deliver(self, batch: Sequence[Point | Call]) -> None:
        since = time.monotonic()
        for attempt in range(1_000_000):
            try:
                if isinstance(batch[0], Point):
                    self._send([item for item in batch if isinstance(item, Point)])
                else:
                    batch[0]()
            except RefusedError:
                raise
            except _BUGS as error:
                raise RefusedError(f"MLflow: could not be told ({type(error).__name__}: {error})") from error
            except Exception as error:
                reason = " ".join(str(error).split())[:200] or type(error).__name__
                if time.monotonic() - since > self._patience_s:
                    raise InfrastructureError(f"MLflow: not reached for {self._patience_s:.0f} s ({reason})") from error
                if attempt == 0:
                    log.warning("MLflow does not take metrics now, they wait (%s)", reason)
            else:
                if attempt:
                    log.warning("MLflow takes metrics again after %.0f s", time.monotonic() - since)
                return
            with self._changed:
                if self._changed.wait_for(lambda: self._stop, _PAUSES_S[min(attempt, len(_PAUSES_S) - 1)]):
                    raise InfrastructureError(f"MLflow: closed while it could not be reached ({reason})")

    def _raise_error(self) -> None:
        if self._error is not None:
            raise self._error
