"""The records that travel: frozen, picklable, and with few derived values."""

from __future__ import annotations

import pickle
from dataclasses import FrozenInstanceError, fields, is_dataclass

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from magistral_core import records
from magistral_core.records import (
    GRADED,
    Batch,
    Completion,
    FinishReason,
    Group,
    Microbatch,
    Problem,
    ProblemKind,
    Prompt,
    Request,
    Score,
    ScoreStatus,
    TestCase,
)

TOKENS = np.array([5, 6, 7], dtype=np.int32)
PROBLEM = Problem("p1", "1 + 1?", "2", tests=(TestCase("1 1", "2"),), extra={"level": "easy"})
PROMPT = Prompt(np.array([1, 2], dtype=np.int32), prefill="<think>")
COMPLETION = Completion(3, 1, PROMPT.token_ids, TOKENS, -TOKENS.astype(np.float32), TOKENS - 5, "so 2", FinishReason.STOP)
SCORE = Score(1.0, ScoreStatus.CORRECT, {"format": 0.1, "correct": 0.9})
GROUP = Group(3, PROBLEM, (COMPLETION, COMPLETION), (SCORE, SCORE))
BATCH = Batch(0, (GROUP,), np.zeros(2, np.float32), np.full(2, 1 / 6))
EVERY = [PROBLEM, PROBLEM.tests[0], PROBLEM.checker, PROMPT, Request(3, 1, PROMPT, seed=9, max_tokens=8), COMPLETION, SCORE, GROUP, BATCH]
MICROBATCH = Microbatch(*[TOKENS] * len(fields(Microbatch)))


@pytest.mark.parametrize("record", [*EVERY, MICROBATCH], ids=lambda record: type(record).__name__)
def test_records_are_frozen_and_take_no_other_fields(record: object) -> None:
    assert is_dataclass(record)
    with pytest.raises(FrozenInstanceError):
        setattr(record, fields(record)[0].name, None)
    assert not hasattr(record, "__dict__")


@pytest.mark.parametrize("record", [*EVERY, MICROBATCH], ids=lambda record: type(record).__name__)
def test_records_cross_process_borders(record: object) -> None:
    again = pickle.loads(pickle.dumps(record))
    assert type(again) is type(record)
    assert str(again) == str(record)


@given(st.lists(st.integers(0, 2**31 - 1), max_size=6), st.lists(st.floats(width=32), max_size=6), st.sampled_from(FinishReason))
def test_a_completion_keeps_its_arrays_across_process_borders(ids: list[int], logprobs: list[float], reason: FinishReason) -> None:
    tokens, versions = np.array(ids, np.int32), np.arange(len(logprobs), dtype=np.int32)
    before = Completion(3, 1, tokens, tokens[::-1], np.array(logprobs, np.float32), versions, "so \u00e9", reason)
    after = pickle.loads(pickle.dumps(before))
    for item in fields(Completion):
        was, now = getattr(before, item.name), getattr(after, item.name)
        np.testing.assert_array_equal(now, was)
        assert type(now) is type(was)
        assert getattr(now, "dtype", None) == getattr(was, "dtype", None)


def test_every_public_record_is_tested_here() -> None:
    kinds = {name for name in records.__all__ if is_dataclass(getattr(records, name))}
    assert kinds == {type(record).__name__ for record in (*EVERY, MICROBATCH)}


def test_length_counts_generated_tokens_only() -> None:
    assert COMPLETION.length == 3
    assert isinstance(COMPLETION.length, int)


@pytest.mark.parametrize("status", list(ScoreStatus))
def test_an_error_is_no_verdict(status: ScoreStatus) -> None:
    score = Score(0.0, status)
    assert score.graded == (status is not ScoreStatus.ERROR) == (status in GRADED)
    assert score.correct == (status is ScoreStatus.CORRECT)


def test_names_are_plain_strings_in_files() -> None:
    assert (str(ProblemKind.MATH), str(FinishReason.LENGTH), str(ScoreStatus.BAD_FORMAT)) == ("math", "length", "bad_format")
    assert ScoreStatus("timeout") is ScoreStatus.TIMEOUT
