"""The queue between the training loop and MLflow: order, batches, outages, refusals, bounds."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from magistral_core.errors import InfrastructureError
from magistral_core.tracking.outbox import BATCH, Outbox, Point, RefusedError


class Sink:
    """A server that can be away, and remembers what it was sent."""

    def __init__(self, failures: int = 0) -> None:
        self.batches: list[list[Point]] = []
        self.failures = failures

    def __call__(self, points: Sequence[Point]) -> None:
        if self.failures:
            self.failures -= 1
            raise ConnectionError("away")
        self.batches.append(list(points))

    @property
    def steps(self) -> list[int]:
        return [point.step for batch in self.batches for point in batch]


def points(first: int, count: int) -> list[Point]:
    return [Point("loss", 0.5, 0, step) for step in range(first, first + count)]


@given(st.lists(st.one_of(st.integers(0, 1500), st.none()), max_size=8), st.integers(0, 1))
@settings(deadline=None, max_examples=20)
def test_everything_arrives_once_and_in_order(actions: list[int | None], failures: int) -> None:
    sink = Sink(failures)
    outbox = Outbox(sink, flush_s=0.01)
    calls: list[int] = []
    total = 0
    for action in actions:
        if action is None:
            outbox.put([lambda: calls.append(len(sink.steps))])
        else:
            outbox.put(points(total, action))
            total += action
    outbox.close(20)
    assert sink.steps == list(range(total))
    assert all(len(batch) <= BATCH for batch in sink.batches)
    # A call is made after all points that were put before it.
    expected, so_far = [], 0
    for action in actions:
        if action is None:
            expected.append(so_far)
        else:
            so_far += action
    assert calls == expected


def test_points_are_gathered_and_sent_soon() -> None:
    sink = Sink()
    outbox = Outbox(sink, flush_s=0.3)
    for step in range(20):
        outbox.put(points(step, 1))
    deadline = time.monotonic() + 3
    while not sink.batches:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    outbox.close(5)
    assert len(sink.batches) <= 2
    assert sink.steps == list(range(20))


def test_put_never_waits_for_a_server_that_hangs() -> None:
    gate = threading.Event()

    def hang(points: Sequence[Point]) -> None:
        assert gate.wait(20)

    outbox = Outbox(hang, flush_s=0.01)
    start = time.monotonic()
    for step in range(2000):
        outbox.put(points(step, 1))
    assert time.monotonic() - start < 15
    assert not outbox.flush(0.1)
    gate.set()
    outbox.close(20)
    assert outbox.waiting == 0


def test_a_refusal_is_raised_by_every_later_call() -> None:
    def refuse(points: Sequence[Point]) -> None:
        raise RefusedError("no such run")

    outbox = Outbox(refuse, flush_s=0.01)
    outbox.put(points(0, 1))
    with pytest.raises(RefusedError, match="no such run"):
        outbox.flush(5)
    with pytest.raises(RefusedError):
        outbox.put(points(1, 1))
    with pytest.raises(RefusedError):
        outbox.close(5)


def test_a_mistake_in_the_program_is_not_tried_for_half_an_hour() -> None:
    outbox = Outbox(Sink(), flush_s=0.01)
    outbox.put([lambda: {}["absent"]])
    with pytest.raises(RefusedError, match="KeyError: 'absent'"):
        outbox.flush(5)


def test_an_outage_beyond_all_patience_is_raised() -> None:
    outbox = Outbox(Sink(failures=1000), flush_s=0.01, patience_s=0.1)
    outbox.put(points(0, 1))
    with pytest.raises(InfrastructureError, match="not reached for 0 s .away"):
        outbox.flush(10)


def test_memory_is_bounded() -> None:
    outbox = Outbox(Sink(failures=1000), capacity=10, flush_s=0.01)
    outbox.put(points(0, 10))
    with pytest.raises(InfrastructureError, match="10 metric values could not be sent"):
        outbox.put(points(10, 1))
    start = time.monotonic()
    with pytest.raises(InfrastructureError, match="not delivered within 0 s"):
        outbox.close(0.2)
    assert time.monotonic() - start < 5


def test_what_is_not_delivered_is_told() -> None:
    gate, entered = threading.Event(), threading.Event()

    def hang(batch: Sequence[Point]) -> None:
        entered.set()
        assert gate.wait(20)

    outbox = Outbox(hang, flush_s=0.01)
    under_way, later = points(0, 1), points(1, 2)
    outbox.put(under_way)
    assert entered.wait(20)
    outbox.put([lambda: None])
    outbox.put(later)
    assert outbox.unsent() == [*under_way, *later]
    gate.set()
    assert outbox.flush(20) and outbox.unsent() == []
    outbox.close(5)
