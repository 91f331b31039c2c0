"""The pool's size: the rule in itself, and real workers that come with a backlog and go when idle."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from magistral_core.config.schema import RewardSettings
from magistral_core.rewards.poolsize import BACKLOG_PER_WORKER, PoolSize
from magistral_core.rewards.workers import Ending, Job, WorkerPool

BOUNDS = st.tuples(st.integers(1, 20), st.integers(0, 20)).map(lambda pair: PoolSize(pair[0], pair[0] + pair[1]))


def wait_until(condition: Callable[[], bool], seconds: float = 60.0) -> bool:
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.05)
    return condition()


@pytest.mark.parametrize(
    ("workers", "backlog", "wanted"),
    [
        (2, 0, 2),
        (2, 2 * BACKLOG_PER_WORKER, 2),
        (2, 2 * BACKLOG_PER_WORKER + 1, 3),
        (2, 100 * BACKLOG_PER_WORKER, 8),
        (6, 3 * BACKLOG_PER_WORKER, 6),  # nobody is dismissed while there is work
    ],
)
def test_growth_by_hand(workers: int, backlog: int, wanted: int) -> None:
    assert PoolSize(2, 8).grown(workers, backlog) == wanted


@given(size=BOUNDS, backlogs=st.lists(st.integers(0, 10_000), max_size=20))
def test_a_pool_stays_within_its_bounds(size: PoolSize, backlogs: list[int]) -> None:
    workers = size.smallest
    for backlog in backlogs:
        before, workers = workers, size.grown(workers, backlog)
        assert before <= workers <= size.largest
        assert workers == size.largest or backlog <= workers * BACKLOG_PER_WORKER
        if backlog == 0 and size.may_end(workers):
            workers -= 1
        assert workers >= size.smallest


def test_bounds_of_a_recipe() -> None:
    cores = os.cpu_count() or 1
    assert PoolSize.of(RewardSettings(workers=1)) == PoolSize(1, cores)
    assert PoolSize.of(RewardSettings(workers=cores + 3)) == PoolSize(cores + 3, cores + 3)
    assert PoolSize.of(RewardSettings(workers=2, max_workers=5)) == PoolSize(2, 5)


def test_workers_come_with_a_backlog_and_go_when_idle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Twice over, so that dispatchers that were parked work again. Each job says in which process it ran."""
    (tmp_path / "slow_rewards.py").write_text("import os, time\ndef pid(**parts):\n    time.sleep(0.01)\n    return float(os.getpid())\n")
    monkeypatch.chdir(tmp_path)
    pool = WorkerPool(PoolSize(1, 3), timeout_s=30.0, memory_mb=512, extra=["slow_rewards:pid"], idle_s=0.5)
    pool.start()
    try:
        first = pool.pids
        assert len(first) == 1
        for _ in range(2):
            few = [future.result(60) for future in pool.submit([Job("extra", (0, {}))] * 5)]
            assert len({outcome.value for outcome in few}) == 1, "a few jobs need nobody else"
            many = pool.submit([Job("extra", (0, {}))] * 3 * BACKLOG_PER_WORKER)
            outcomes = [future.result(60) for future in many]
            assert {outcome.ending for outcome in outcomes} == {Ending.VALUE}
            assert len({outcome.value for outcome in outcomes}) == 3
            assert wait_until(lambda: len(pool.pids) == 1)
        assert pool.restarts == 0, "an idle worker that ends did not break"
    finally:
        pool.close()
    assert pool.pids == ()
