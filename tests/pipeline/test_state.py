"""What a checkpoint keeps of the loop comes back as it was."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from magistral_core.pipeline.ledger import GroupState, LedgerError
from magistral_core.pipeline.state import Counters, LoopState
from magistral_core.records import Completion, FinishReason, Group, Problem, Score, ScoreStatus

REAL = st.floats(allow_nan=False, allow_infinity=False)
PROBLEMS = [Problem(f"p{i}", f"question {i}", str(i)) for i in range(50)]


def arrays(length: int, dtype: type) -> st.SearchStrategy[np.ndarray]:
    elements = st.floats(-100, 0, width=32) if dtype is np.float32 else st.integers(0, 2**31 - 1)
    return npst.arrays(dtype, length, elements=elements)


@st.composite
def completions(draw: st.DrawFn, group_id: int, index: int) -> Completion:
    length, prompt = draw(st.integers(1, 6)), draw(st.integers(1, 4))
    return Completion(
        group_id,
        index,
        draw(arrays(prompt, np.int32)),
        draw(arrays(length, np.int32)),
        draw(arrays(length, np.float32)),
        draw(arrays(length, np.int32)),
        draw(st.text(max_size=12)),
        draw(st.sampled_from(FinishReason)),
    )


SCORES = st.builds(
    Score,
    reward=REAL,
    status=st.sampled_from(ScoreStatus),
    parts=st.dictionaries(st.sampled_from(["format", "correct", "length", "mine"]), REAL, max_size=4),
    detail=st.text(max_size=8) | st.just("\ud800"),  # a program's message may hold half a character
    seconds=st.floats(0, 100),
)


@st.composite
def states(draw: st.DrawFn) -> LoopState:
    """A loop at any boundary: some groups settled, some in flight, some queued."""
    state = LoopState(
        step=draw(st.integers(0, 1000)), counters=Counters(*draw(st.tuples(*[st.integers(0, 2**40)] * 5)), draw(st.floats(0, 1e6)))
    )
    for _ in range(draw(st.integers(0, 8))):
        group_id = state.ledger.open()
        end = draw(st.sampled_from(["generating", "verifying", "queued", "trained", "filtered", "failed"]))
        if end == "generating":
            continue
        state.ledger.advance(group_id, GroupState.VERIFYING)
        if end in ("filtered", "failed"):
            (state.ledger.filter if end == "filtered" else state.ledger.fail)(group_id, draw(st.sampled_from(["a", "b"])))
        elif end != "verifying":
            state.ledger.advance(group_id, GroupState.QUEUED)
            if end == "trained":
                state.ledger.train(group_id)
                continue
            items = tuple(draw(completions(group_id, i)) for i in range(2))
            scores = tuple(draw(SCORES) for _ in range(2))
            state.queue.append(Group(group_id, PROBLEMS[group_id], items, scores, draw(st.integers(0, 3))))
    return state


def assert_same_group(found: Group, expected: Group) -> None:
    assert (found.id, found.problem, found.scores, found.stage) == (expected.id, expected.problem, expected.scores, expected.stage)
    for mine, theirs in zip(found.completions, expected.completions, strict=True):
        for name in Completion.__slots__:
            a, b = getattr(mine, name), getattr(theirs, name)
            if isinstance(b, np.ndarray):
                assert a.dtype == b.dtype
                assert a.tobytes() == b.tobytes(), name
            else:
                assert a == b


@settings(max_examples=60)
@given(state=states())
def test_round_trip(state: LoopState) -> None:
    with tempfile.TemporaryDirectory() as folder:
        state.save(Path(folder))
        found = LoopState.load(Path(folder), PROBLEMS.__getitem__)
    assert (found.step, found.counters) == (state.step, state.counters)
    assert len(found.queue) == len(state.queue)
    for mine, theirs in zip(found.queue, state.queue, strict=True):
        assert_same_group(mine, theirs)
    before, after = state.ledger, found.ledger
    assert after.ids(GroupState.QUEUED) == [group.id for group in found.queue] == before.ids(GroupState.QUEUED)
    again = sorted(before.ids(GroupState.GENERATING) + before.ids(GroupState.VERIFYING))
    assert after.ids(GroupState.GENERATING) == again
    assert after.resampled == before.resampled + len(again)
    assert {**after.summary(), "resampled": 0} == {**before.summary(), "resampled": 0}


def test_an_empty_queue(tmp_path: Path) -> None:
    LoopState().save(tmp_path)
    found = LoopState.load(tmp_path, PROBLEMS.__getitem__)
    assert found == LoopState(ledger=found.ledger)
    assert found.ledger.summary() == LoopState().ledger.summary()


def test_a_ledger_that_does_not_balance_is_never_saved(tmp_path: Path) -> None:
    state = LoopState()
    state.ledger.open()
    state.ledger.trained += 1
    with pytest.raises(LedgerError):
        state.save(tmp_path)
    assert not list(tmp_path.iterdir())
