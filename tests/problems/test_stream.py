"""The order of problems: whole epochs, random access, the same after a resume."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from magistral_core.errors import InputError
from magistral_core.problems import ProblemStream
from magistral_core.records import Problem


def problems(count: int) -> list[Problem]:
    return [Problem(id=str(i), question="q", answer="1") for i in range(count)]


@given(count=st.integers(1, 60), seed=st.integers(0, 2**32), epoch=st.integers(0, 1000), shuffle=st.booleans())
def test_each_epoch_visits_each_problem_once(count: int, seed: int, epoch: int, shuffle: bool) -> None:
    stream = ProblemStream(problems(count), seed, shuffle)
    visited = [stream[i].id for i in range(epoch * count, (epoch + 1) * count)]
    assert sorted(visited, key=int) == [str(i) for i in range(count)]


@given(seed=st.integers(0, 2**32), indices=st.lists(st.integers(0, 500), min_size=1))
def test_access_in_any_order_gives_the_same(seed: int, indices: list[int]) -> None:
    stream = ProblemStream(problems(37), seed)
    assert [stream[i].id for i in indices] == [ProblemStream(problems(37), seed)[i].id for i in indices]


def test_order_changes_with_epoch_and_seed() -> None:
    stream, other = ProblemStream(problems(100), 0), ProblemStream(problems(100), 1)
    first, second = ([stream[e * 100 + i].id for i in range(100)] for e in range(2))
    assert first != second
    assert first != [other[i].id for i in range(100)]


def test_order_is_frozen() -> None:
    """Recorded once: a checkpoint made by an earlier version must go on with the same problems."""
    assert [ProblemStream(problems(10), 0)[i].id for i in range(12)] == FROZEN


FROZEN = ["6", "1", "0", "5", "3", "8", "7", "9", "2", "4", "7", "3"]


def test_file_order_without_shuffle() -> None:
    assert [ProblemStream(problems(3), 5, shuffle=False)[i].id for i in range(7)] == ["0", "1", "2", "0", "1", "2", "0"]


def test_refusals() -> None:
    with pytest.raises(InputError, match="no problems"):
        ProblemStream([], 0)
    with pytest.raises(IndexError):
        ProblemStream(problems(2), 0)[-1]
