"""The lower bound that collation is measured against: no packing goes below it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.collation import DISTRIBUTIONS, arrival_order, lower_bound
from magistral_core.training.collation import pack


def fewest(lengths: list[int], budget: int, rooms: tuple[int, ...] = ()) -> int:
    """By trying everything."""
    if not lengths:
        return len(rooms)
    head, rest = lengths[0], lengths[1:]
    found = fewest(rest, budget, tuple(sorted((*rooms, budget - head))))
    for room in {room for room in rooms if room >= head}:
        left = list(rooms)
        left.remove(room)
        found = min(found, fewest(rest, budget, tuple(sorted((*left, room - head)))))
    return found


@settings(max_examples=150)
@given(st.lists(st.integers(1, 20), min_size=1, max_size=7))
def test_no_packing_goes_below_the_bound(lengths: list[int]) -> None:
    best = fewest(sorted(lengths, reverse=True), 20)
    assert lower_bound(np.array(lengths), 20) <= best <= len(pack(lengths, 20)) <= arrival_order(lengths, 20)


@pytest.mark.parametrize(
    ("lengths", "bound"),
    [
        ([6, 6, 6], 3),  # two of more than half never share; all tokens together need 2
        ([9, 9, 4, 4, 4, 4], 4),  # beside a 9 nothing fits
        ([3] * 8, 3),  # at most three of more than a quarter fit
    ],
)
def test_bounds_beyond_the_number_of_tokens(lengths: list[int], bound: int) -> None:
    assert lower_bound(np.array(lengths), 10) == bound


def test_arrival_order_never_looks_back() -> None:
    assert arrival_order([6, 6, 4, 5], 10) == 3


@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_lengths_are_skewed_as_stated(name: str) -> None:
    lengths = DISTRIBUTIONS[name](np.random.default_rng(0), 4000, 10_000)
    assert len(lengths) == 4000 and lengths.max() <= 10_000
    against = lengths.mean() if "mean" in name else lengths.min()
    assert 4 < lengths.max() / against < 6.5
