"""Prefect's command, with a mend of its server for SQLite: `python -m infra.stack.prefect_server server start ...`.

At each query of a worker, Prefect 3.7 begins two transactions at once that read first and write then. One of them fails ("database is
locked", whatever the timeout) and leaves four kilobytes of traceback in the log: 200 MB a day. Prefect 3.8 has mended it, and needs a
fastapi that vLLM refuses. Here both ask for the right to write as they begin, and so wait for each other.

And it looks four times a second for work of its own that is due, each time with a script in its stand-in for Redis: a quarter of what an
idle server takes of a core. No such work is due more often than every five seconds; here it looks every two seconds. In that stand-in
a listener waits for messages in a thread that it starts ten times a second; here it looks four times a second by itself.
"""

from __future__ import annotations

import asyncio
import queue
from contextlib import AbstractAsyncContextManager, suppress
from datetime import timedelta
from functools import partial
from typing import Any

from burner_redis.pubsub import PubSub  # type: ignore[import-untyped]
from docket import Depends
from prefect.cli import app
from prefect.server.api import background_workers
from prefect.server.database import provide_database_interface
from prefect.server.models.deployments import mark_deployments_ready
from prefect.server.models.work_queues import mark_work_queues_ready

#: Between two looks of a listener, which hears of little else than that background work is cancelled.
_LOOK_S = 0.25


class _ToWrite:
    """Prefect's database, whose transactions begin with the right to write."""

    def __init__(self) -> None:
        self._database: Any = provide_database_interface()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._database, name)

    def session_context(self, begin_transaction: bool = False) -> AbstractAsyncContextManager[Any]:
        session: AbstractAsyncContextManager[Any] = self._database.session_context(begin_transaction, with_for_update=True)
        return session


async def _next_message(listener: PubSub, timeout: float | None) -> Any:
    """What was sent, or None where nothing came for so many seconds; None: wait for it."""
    waited = 0.0
    while True:
        with suppress(queue.Empty):
            return listener._queue.get_nowait()
        if timeout is not None and waited >= timeout:
            return None
        await asyncio.sleep(_LOOK_S)
        waited += _LOOK_S


for work in (mark_deployments_ready, mark_work_queues_ready):
    work.__kwdefaults__["db"] = Depends(_ToWrite)

background_workers.Worker = partial(  # type: ignore[misc,assignment]
    background_workers.Worker, scheduling_resolution=timedelta(seconds=2), minimum_check_interval=timedelta(seconds=1)
)
PubSub._queue_get = _next_message

if __name__ == "__main__":
    app()
