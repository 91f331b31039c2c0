r"""Checkpoints are uploaded beside training, by one background thread.

submit --> waiting (at most one) --> uploading --> committed --> on_committed, prune, staging folder removed
                                      ^   |   \--> failed: raised by every later submit, wait, check and close; staging folder kept
                                      \---/ the store is away: again from the start, until `patience_s` have passed
"""

from __future__ import annotations

import logging
import queue
import shutil
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from magistral_core.errors import InfrastructureError, MagistralError
from magistral_core.storage.checkpoints import CheckpointStore, Manifest
from magistral_core.storage.objects import StoreUnreachableError

log = logging.getLogger(__name__)
T = TypeVar("T")

#: A store that is away for longer stops the run. Its client has patience of its own, about a minute for one request.
PATIENCE_S = 300.0
_PAUSE_S = 2.0
#: Outages within one call: a store that fails each time after some bytes does not get better.
_OUTAGES = 10


@dataclass(frozen=True, slots=True)
class _Job:
    step: int
    folder: Path
    metadata: Mapping[str, Any]
    on_committed: Callable[[Manifest], None] | None


class CheckpointWriter:
    """Saves checkpoints of one run in the order of their submission.

    Args:
        checkpoints: where they go.
        keep: how many stay after each commit; None keeps all.
        patience_s: how long a store may be away.
    """

    def __init__(self, checkpoints: CheckpointStore, keep: int | None = None, patience_s: float = PATIENCE_S) -> None:
        self._checkpoints = checkpoints
        self._keep = keep
        self._patience_s = patience_s
        self._hurry = threading.Event()
        self._jobs: queue.Queue[_Job | None] = queue.Queue(maxsize=1)
        self._error: MagistralError | None = None
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="checkpoint-writer", daemon=True)
        self._thread.start()

    def submit(
        self,
        step: int,
        folder: Path,
        metadata: Mapping[str, Any] | None = None,
        on_committed: Callable[[Manifest], None] | None = None,
    ) -> None:
        """Hand over a complete local folder, which then belongs to the writer and is deleted after the commit.

        Returns at once unless one upload runs and another waits: then it waits for the first, so that staging folders never
        pile up. `on_committed` is called in the writer's thread.

        Raises:
            MagistralError: an earlier upload failed; this folder was not taken.
        """
        self.check()
        if self._closed:
            raise InfrastructureError(f"checkpoint of step {step}: the writer is closed")
        self._jobs.put(_Job(step, folder, dict(metadata or {}), on_committed))

    def wait(self) -> None:
        """Until everything submitted is committed. Raises what an upload raised."""
        self._jobs.join()
        self.check()

    def close(self) -> None:
        """Commit what was submitted and end the thread. Raises what an upload raised."""
        if not self._closed:
            self._closed = True
            self._jobs.put(None)
            self._thread.join()
        self.check()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if error is None:
            self.close()
            return
        self._hurry.set()
        try:  # the error on its way out is the one to show
            self.close()
        except MagistralError as second:
            if second is not error:
                log.error("%s", second)

    def _run(self) -> None:
        while (job := self._jobs.get()) is not None:
            try:
                if self._error is None:  # after a failure nothing more is committed: the order would break
                    self._save(job)
            except MagistralError as error:
                self._error = error
            except BaseException as error:  # noqa: BLE001 - raised in the trainer's thread by its next call
                self._error = InfrastructureError(f"checkpoint of step {job.step}: not saved ({type(error).__name__}: {error})")
                self._error.__cause__ = error
            finally:
                self._jobs.task_done()
        self._jobs.task_done()

    def _save(self, job: _Job) -> None:
        manifest = self._patiently(lambda: self._checkpoints.save(job.step, job.folder, job.metadata))
        if job.on_committed:
            job.on_committed(manifest)
        if self._keep is not None:
            keep = self._keep
            self._patiently(lambda: self._checkpoints.prune(keep), moves=False)  # it reads back the same each time
        shutil.rmtree(job.folder, ignore_errors=True)  # the checkpoint is safe; what is left goes with the run's staging folder

    def _patiently(self, call: Callable[[], T], *, moves: bool = True) -> T:
        """Make a call until the store is there to take it. What an interrupted save has uploaded is no checkpoint, and pruned later.

        Patience begins with an outage, not with the call, which may upload for an hour: whatever it `moves` in between was no outage.
        """
        outages, since, moved = 0, 0.0, -1
        while True:
            try:
                return call()
            except StoreUnreachableError as error:
                now = time.monotonic()
                if not outages or (moves and self.moved > moved):
                    outages, since, moved = outages + 1, now, self.moved
                if outages > _OUTAGES or now - since > self._patience_s or self._hurry.wait(_PAUSE_S):
                    raise
                log.warning("checkpoints wait for the store: %s", error)

    @property
    def moved(self) -> int:
        """Bytes uploaded or read back so far: it grows as long as storage does its work."""
        return self._checkpoints.moved

    def check(self) -> None:
        """Raise what an upload raised, if one failed: nothing more will be committed."""
        if self._error is not None:
            raise self._error
