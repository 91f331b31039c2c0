"""The soft length penalty."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from magistral_core.config.schema import LengthReward
from magistral_core.rewards import length_penalty

settings = st.builds(
    lambda l_cache, more, penalty: LengthReward(l_max=l_cache + more, l_cache=l_cache, penalty=penalty),
    st.integers(1, 10_000),
    st.integers(1, 50_000),
    st.floats(0, 2),
)


def test_the_paper_s_shape() -> None:
    length = LengthReward(l_max=16_384, l_cache=2_048)
    assert [length_penalty(tokens, length) for tokens in (0, 14_336)] == [0.0, 0.0]
    assert length_penalty(15_360, length) == pytest.approx(-0.05)
    assert [length_penalty(tokens, length) for tokens in (16_384, 90_000)] == [-0.1, -0.1]


@given(length=settings, tokens=st.integers(0, 70_000))
def test_falls_without_jumps_between_its_bounds(length: LengthReward, tokens: int) -> None:
    here, there = length_penalty(tokens, length), length_penalty(tokens + 1, length)
    assert -length.penalty <= there <= here <= 0.0
    assert here - there <= length.penalty / length.l_cache + 1e-12
    if tokens <= length.l_max - length.l_cache:
        assert here == 0.0
    if tokens >= length.l_max:
        assert here == -length.penalty
