"""One writer a run: a lease, renewed by a heartbeat.

    absent ----------------------------------> ours
    held by a dead process of this machine --> ours, at once
    held elsewhere, no heartbeat for a TTL --> ours, after waiting
    held elsewhere, heartbeats seen ---------> refused
    held by a living process here -----------> refused; ours at once if it is this one and could not give it back

An S3 server may not promise that one of several conditional puts wins, so the lease is written unconditionally, read
again after a pause, and checked before every commit: a holder that lost it stops before it can commit.
"""

from __future__ import annotations

import json
import logging
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Self

from magistral_core.errors import InfrastructureError, InputError, MagistralError
from magistral_core.storage.objects import MissingObjectError, ObjectStore

log = logging.getLogger(__name__)

#: Tokens of the leases that this process holds: another of its own it could not give back, for the store was away.
_HELD: set[str] = set()
#: A holder that shows no heartbeat for so long is taken for dead by other machines.
TTL_S = 60.0
#: Between writing a lease and reading it again: longer than a competitor takes from reading to writing.
_SETTLE_S = 0.5


@dataclass(frozen=True, slots=True)
class Holder:
    """Who holds a run.

    Attributes:
        host, boot, namespace: host name, boot id and process-id namespace; process ids can be compared only if all agree.
        pid, started: the process, and its start in clock ticks after boot, since ids are used again.
        token: unique to one `Lease` object.
        heartbeat: wall-clock time of the last heartbeat.
        ttl: seconds without a heartbeat after which others may take over.
    """

    host: str
    boot: str
    namespace: str
    pid: int
    started: int
    token: str
    heartbeat: float
    ttl: float

    @classmethod
    def this_process(cls, ttl: float = TTL_S) -> Holder:
        """This process, with a new token."""
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        started = _started(os.getpid())
        assert started is not None
        return cls(socket.gethostname(), boot, _namespace(), os.getpid(), started, secrets.token_hex(8), time.time(), ttl)

    def is_here(self, other: Holder) -> bool:
        """Whether the process ids of both mean the same."""
        return (self.host, self.boot, self.namespace) == (other.host, other.boot, other.namespace)

    def is_alive_here(self) -> bool:
        """Whether that very process still runs; for holders of this machine."""
        return _started(self.pid) == self.started


class Lease:
    """The right to write for a run.

    Args:
        store, run_id: which run.
        ttl: seconds without a heartbeat after which another machine may take over.
        on_wait: called with one line for people when another machine's lease has to run out first; by default the log.

    Attributes:
        lost: another process was seen to hold it. What is logged from then on would stand beside what that one logs.
    """

    def __init__(self, store: ObjectStore, run_id: str, ttl: float = TTL_S, on_wait: Callable[[str], None] | None = None) -> None:
        self._store = store
        self._run_id = run_id
        self._key = f"runs/{run_id}/lease.json"
        self._me = Holder.this_process(ttl)
        self._on_wait = on_wait or log.warning
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self.lost = False

    def acquire(self) -> None:
        """Take the lease, waiting for another machine's to run out if need be, and keep it alive in the background.

        Raises:
            InputError: a living process holds the run.
        """
        self._make_free()
        _HELD.add(self._me.token)
        try:
            self._write()
            self._stop.wait(_SETTLE_S)
            holder = self._read()
            if holder is None or holder.token != self._me.token:
                raise self._refused(holder)
        except BaseException:
            _HELD.discard(self._me.token)
            raise
        self._stop.clear()
        self._thread = threading.Thread(target=self._beat, name="lease", daemon=True)
        self._thread.start()

    def check(self) -> None:
        """Raise InfrastructureError unless this process holds the lease now."""
        holder = self._read()
        if holder is None or holder.token != self._me.token:
            by = f"process {holder.pid} on {holder.host}" if holder else "somebody who has ended"
            raise InfrastructureError(f"run {self._run_id} was taken over by {by}; this process stops without writing")

    def release(self) -> None:
        """Stop the heartbeat and give the lease up, if it is still ours."""
        if self._thread is None:
            return
        self._stop.set()
        self._thread.join()
        self._thread = None
        try:
            holder = self._read()
            if holder is not None and holder.token == self._me.token:
                self._store.delete([self._key])
        finally:
            _HELD.discard(self._me.token)

    def __enter__(self) -> Self:
        self.acquire()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            self.release()
        except InfrastructureError as second:  # it runs out by itself; an error on its way out is the one to show
            log.warning("lease of run %s not given back: %s", self._run_id, second)

    def _make_free(self) -> None:
        """Return once nobody living holds the run."""
        holder = self._read()
        if holder is None:
            return
        if holder.is_here(self._me):
            if holder.is_alive_here() and (holder.pid != os.getpid() or holder.token in _HELD):
                raise self._refused(holder)
            return
        silent = time.time() - holder.heartbeat
        if silent > 10 * holder.ttl:  # no clock is that wrong
            return
        self._on_wait(
            f"run {self._run_id} was last written by process {holder.pid} on {holder.host}, {max(silent, 0):.0f} s ago; "
            f"waiting up to {holder.ttl:.0f} s to see whether it still lives"
        )
        # Measured by our own clock from what we saw: the clocks of two machines need not agree.
        end = time.monotonic() + holder.ttl
        while time.monotonic() < end:
            time.sleep(min(1.0, holder.ttl / 10))
            seen = self._read()
            if seen is None:
                return
            if seen != holder:
                raise self._refused(seen)

    def _refused(self, holder: Holder | None) -> InputError:
        by = f"process {holder.pid} on {holder.host}" if holder else "another process"
        return InputError(
            f"run {self._run_id} is being written by {by}; end that one, wait for it, or start another run (other name or seed)"
        )

    def _beat(self) -> None:
        while not self._stop.wait(self._me.ttl / 4):
            try:
                holder = self._read()
                if holder is None or holder.token != self._me.token:
                    log.error("run %s was taken over; nothing more will be committed here", self._run_id)
                    self.lost = True
                    return
                self._write()
            except MagistralError as error:  # the store is away, or full: `check` decides before a commit
                log.warning("lease of run %s not renewed: %s", self._run_id, error)

    def _write(self) -> None:
        self._me = replace(self._me, heartbeat=time.time())
        self._store.put_bytes(json.dumps(asdict(self._me)).encode(), self._key)

    def _read(self) -> Holder | None:
        try:
            return Holder(**json.loads(self._store.get_bytes(self._key)))
        except MissingObjectError:
            return None
        except (ValueError, TypeError) as error:
            raise InputError(f"{self._store.uri}/{self._key}: not a lease of this version; delete it if no other run writes") from error


def _started(pid: int) -> int | None:
    """Start of a process in clock ticks after boot; None if it does not run (a zombie does not)."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if fields[0] in {"Z", "X"} else int(fields[19])


def _namespace() -> str:
    return str(Path("/proc/self/ns/pid").readlink())
