"""Prefect's command, with a mend of its server for SQLite: `python -m infra.stack.prefect_server server start ...`.

At each query of a worker, Prefect 3.7 begins two transactions at once that read first and write then. One of them fails ("database is
locked", whatever the timeout) and leaves four kilobytes of traceback in the log: 200 MB a day. Prefect 3.8 has mended it, and needs a
fastapi that vLLM refuses. Here both ask for the right to write as they begin, and so wait for each other.

And it looks four times a second for work of its own that is due, each time with a script in its stand-in for Redis: a quarter of what an
idle server takes of a core. No such work is due more often than every five seconds; here it looks every two seconds.
"""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from datetime import timedelta
from functools import partial
from typing import Any

from docket import Depends
from prefect.cli import app
from prefect.server.api import background_workers
from prefect.server.database import provide_database_interface
from prefect.server.models.deployments import mark_deployments_ready
from prefect.server.models.work_queues import mark_work_queues_ready


class _ToWrite:
    """Prefect's database, whose transactions begin with the right to write."""

    def __init__(self) -> None:
        self._database: Any = provide_database_interface()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._database, name)

    def session_context(self, begin_transaction: bool = False) -> AbstractAsyncContextManager[Any]:
        session: AbstractAsyncContextManager[Any] = self._database.session_context(begin_transaction, with_for_update=True)
        return session


for work in (mark_deployments_ready, mark_work_queues_ready):
    work.__kwdefaults__["db"] = Depends(_ToWrite)

background_workers.Worker = partial(background_workers.Worker, scheduling_resolution=timedelta(seconds=2))  # type: ignore[misc,assignment]

if __name__ == "__main__":
    app()
