"""The bounds of admission, and that it never stops a run, in any order of events."""

from __future__ import annotations

from collections import Counter

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from magistral_core.config.schema import PipelineSettings
from magistral_core.pipeline.admission import Admission, Slot, largest_age
from magistral_core.pipeline.ledger import GroupState, Ledger


@st.composite
def pipelines(draw: st.DrawFn, schedule: str) -> PipelineSettings:
    """Any settings that a recipe may have."""
    group = draw(st.integers(2, 5))
    minibatch = group * draw(st.integers(1, 3))
    batch = minibatch * draw(st.integers(1, 2))
    n_async = draw(st.integers(1, 2 * batch))
    return PipelineSettings(
        schedule=schedule,
        group_size=group,
        n_async=n_async,
        n_batch=batch,
        n_minibatch=minibatch,
        queue=batch + draw(st.integers(0, 2 * batch)),
        max_open=n_async + batch + draw(st.integers(0, 2 * batch)),
    )


class Loop(RuleBasedStateMachine):
    """Everything around admission, moved by chance: completions finish, groups are verified, batches are trained."""

    schedule = "async"

    @initialize(data=st.data())
    def begin(self, data: st.DataObject) -> None:
        self.s = data.draw(pipelines(self.schedule))
        self.ledger = Ledger()
        for _ in range(data.draw(st.integers(0, 4))):
            self.ledger.open()
        self.resumed = self.ledger.ids(GroupState.GENERATING)
        most = min(self.s.queue, self.s.max_open) if self.schedule == "async" else self.s.n_batch
        waiting = data.draw(st.integers(0, most // self.s.group_size))
        self.queue = [self.ledger.open() for _ in range(waiting)]
        self.admission = Admission(self.s, self.ledger.open, resume=self.resumed, queued=waiting * self.s.group_size)
        self.order: list[Slot] = []
        self.generating: list[Slot] = []
        self.arrived: Counter[int] = Counter()
        self.verifying: list[int] = []
        self.training: list[int] = []
        self.steps = 0
        self.begun_at = dict.fromkeys(self.queue, 0)  # group -> completions trained when it was admitted
        self.first = len(self.ledger.open_ids)  # of the groups that are new
        self.trained = 0

    @rule()
    def admit(self) -> None:
        idle = not (self.generating or self.verifying or self.training)
        slots = self.admission.admit()
        for slot in slots:
            self.begun_at.setdefault(slot.group_id, self.trained)
        self.order += slots
        self.generating += slots
        if self.s.schedule == "sync":
            assert idle or not slots
            assert len(slots) % self.s.group_size == 0
            assert len(slots) + len(self.queue) * self.s.group_size <= self.s.n_batch
        else:
            assert len(self.generating) <= self.s.n_async

    @precondition(lambda self: self.generating)
    @rule(data=st.data())
    def finish(self, data: st.DataObject) -> None:
        count = data.draw(st.integers(1, len(self.generating)))
        done = [self.generating.pop(data.draw(st.integers(0, len(self.generating) - 1))) for _ in range(count)]
        self.admission.finished(count)
        for slot in done:
            self.arrived[slot.group_id] += 1
            if self.arrived[slot.group_id] == self.s.group_size:
                self.verifying.append(slot.group_id)

    @precondition(lambda self: self.verifying)
    @rule(data=st.data(), kept=st.booleans())
    def verify(self, data: st.DataObject, kept: bool) -> None:
        group = self.verifying.pop(data.draw(st.integers(0, len(self.verifying) - 1)))
        if kept:
            self.queue.append(group)
            self.admission.enqueued(group)
        else:
            self.admission.dropped(group)

    @property
    def ready(self) -> bool:
        return not self.training and len(self.queue) * self.s.group_size >= self.s.n_batch

    @precondition(lambda self: self.ready)
    @rule()
    def take_batch(self) -> None:
        count = self.s.n_batch // self.s.group_size
        self.training, self.queue = self.queue[:count], self.queue[count:]
        self.admission.training = True
        self.admission.dequeued(self.s.n_batch)

    @precondition(lambda self: self.training)
    @rule()
    def finish_step(self) -> None:
        count = self.s.n_minibatch // self.s.group_size
        for group in self.training[:count]:
            assert self.trained - self.begun_at[group] < 2 * self.s.max_open, "overtaken by too many"
            age = self.steps - self.begun_at[group] // self.s.n_minibatch
            assert age <= largest_age(self.s)
        del self.training[:count]
        self.steps += 1
        self.trained += self.s.n_minibatch
        self.admission.trained(self.s.n_minibatch)
        self.admission.training = bool(self.training)

    @invariant()
    def counts_agree(self) -> None:
        assert self.admission.generating == len(self.generating)
        assert self.admission.queued == len(self.queue) * self.s.group_size
        begun = {slot.group_id for slot in self.generating} | {g for g, n in self.arrived.items() if n < self.s.group_size}
        assert self.admission.open == self.s.group_size * len(begun | {*self.verifying, *self.queue, *self.training})
        if self.s.schedule == "async":
            assert self.admission.open <= self.s.max_open

    @invariant()
    def admitted_singly_in_group_order(self) -> None:
        size = self.s.group_size
        groups = list(dict.fromkeys(slot.group_id for slot in self.order))
        assert [slot.index for slot in self.order] == [i % size for i in range(len(self.order))]
        wanted = [*self.resumed, *range(self.first, self.first + len(groups))]
        assert groups == wanted[: len(groups)], "groups in flight at the checkpoint come first, and none is passed over"
        assert len(set(self.order)) == len(self.order)

    @invariant()
    def never_stuck(self) -> None:
        """With nothing generated, verified or trained, a batch is ready or something may be admitted."""
        if self.generating or self.verifying or self.training or self.ready:
            return
        self.admit()
        assert self.generating, "deadlock"


class SynchronousLoop(Loop):
    schedule = "sync"


TestLoop = Loop.TestCase
TestLoop.settings = settings(max_examples=70, stateful_step_count=50, deadline=None)
TestSynchronousLoop = SynchronousLoop.TestCase
TestSynchronousLoop.settings = settings(max_examples=30, stateful_step_count=40, deadline=None)


def make(**changes: object) -> Admission:
    pipeline = {"group_size": 4, "n_async": 6, "n_batch": 8, "n_minibatch": 8, "queue": 8, "max_open": 16, **changes}
    return Admission(PipelineSettings.model_validate(pipeline), Ledger().open)


def test_the_worked_example() -> None:
    admission = make()
    assert admission.admit() == [Slot(0, 0), Slot(0, 1), Slot(0, 2), Slot(0, 3), Slot(1, 0), Slot(1, 1)]
    assert admission.admit() == []
    admission.finished(3)
    assert admission.admit() == [Slot(1, 2), Slot(1, 3), Slot(2, 0)]


def test_a_full_queue_stops_admission() -> None:
    admission = make()
    admission.admit()
    admission.finished(6)
    admission.admit()
    admission.finished(6)
    admission.enqueued(0)
    admission.enqueued(1)
    assert admission.queued == 8
    assert admission.admit() == []
    admission.dequeued(8)
    assert len(admission.admit()) == 4


def roomy(queued: int = 0) -> Admission:
    pipeline = {"group_size": 4, "n_async": 64, "n_batch": 32, "n_minibatch": 32, "queue": 32, "max_open": 256}
    return Admission(PipelineSettings.model_validate(pipeline), Ledger().open, queued=queued)


def groups(slots: list[Slot]) -> int:
    return len({slot.group_id for slot in slots})


def test_while_enough_waits_no_more_comes_than_fills_the_queue_and_what_is_trained_meanwhile() -> None:
    """Four groups of 4 are made while 64 completions are trained, and half of them are kept."""
    admission = roomy(queued=16)
    admission.training = True
    assert groups(admission.admit()) == 4, "to fill the queue of 32"
    admission.finished(16)
    admission.open += 64  # of earlier batches, trained now
    admission.trained(64)
    for group in range(4):
        (admission.enqueued if group % 2 else admission.dropped)(group)
    begun = 0
    for _ in range(5):
        begun += groups(admission.admit())  # 16 at a time, of `n_async`
        admission.finished(admission.generating)
    # 24 wait. A group counts for 2 of its 4, and 32 + 64 may wait or come.
    assert begun == (32 + 64 - 24) / 2


def test_trainers_that_wait_or_soon_will_are_worth_more_than_a_short_queue() -> None:
    assert len(roomy().admit()) == len(roomy(queued=28).admit()) == 64
    working = roomy(queued=12)
    working.training = True
    assert len(working.admit()) == 64


def test_a_slow_group_is_not_overtaken_for_ever() -> None:
    """Group 0 never finishes: others are trained in its stead, fewer than 2 max_open of them, then admission waits for it."""
    admission = make()
    waiting = [slot for slot in admission.admit() if slot.group_id]
    arrived: Counter[int] = Counter()
    trained = 0
    for _ in range(100):
        waiting += admission.admit()
        if not waiting:
            break
        slot = waiting.pop(0)
        admission.finished(1)
        arrived[slot.group_id] += 1
        if arrived[slot.group_id] == 4:
            admission.enqueued(slot.group_id)
        if admission.queued >= 8:
            admission.dequeued(8)
            admission.trained(8)
            trained += 8
    assert not waiting
    assert 16 < trained < 32
    admission.finished(4)
    admission.enqueued(0)
    assert admission.queued == 8, "it completes the batch that waited for it"
    admission.dequeued(8)
    admission.trained(8)
    assert len(admission.admit()) == 6
