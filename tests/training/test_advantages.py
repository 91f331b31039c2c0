"""Advantages and token weights: the paper's rules as invariants, and one example worked by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from magistral_core.training.advantages import compute_advantages, token_weights

#: Rewards as they occur: sums of parts in steps of a twentieth. Arbitrary floats would only probe rounding.
REWARD = st.integers(-2, 24).map(lambda n: n / 20)


@st.composite
def minibatches(draw: st.DrawFn) -> dict[str, np.ndarray]:
    """Up to five groups of two to six completions, in any order, some of them masked."""
    sizes = draw(st.lists(st.integers(2, 6), min_size=1, max_size=5))
    groups = np.repeat(draw(st.lists(st.integers(0, 10**9), min_size=len(sizes), max_size=len(sizes), unique=True)), sizes)
    n = len(groups)
    order = np.array(draw(st.permutations(range(n))))
    return {
        "groups": groups[order],
        "rewards": np.array(draw(st.lists(REWARD, min_size=n, max_size=n))),
        "mask": np.array(draw(st.lists(st.booleans(), min_size=n, max_size=n))),
        "lengths": np.array(draw(st.lists(st.integers(1, 300), min_size=n, max_size=n))),
    }


def advantages(batch: dict[str, np.ndarray], normalisation: Any, **changes: np.ndarray) -> np.ndarray:
    arrays = {**batch, **changes}
    return compute_advantages(arrays["rewards"], arrays["groups"], arrays["mask"], normalisation)


def has_signal(values: np.ndarray) -> bool:
    return len(values) > 0 and np.ptp(values) > 1e-9


def test_worked_example() -> None:
    rewards = np.array([1.0, 0.0, 0.0, 0.0, 1.0, 0.5, 99.0])
    groups = np.array([7, 7, 7, 7, 3, 3, 3])
    mask = np.array([True, True, True, True, True, True, False])
    centred = np.array([0.75, -0.25, -0.25, -0.25, 0.25, -0.25, 0.0])
    np.testing.assert_allclose(compute_advantages(rewards, groups, mask, "none"), centred)
    # Six count; their mean is 0, the squares add up to 9/16 + 5/16 = 7/8.
    np.testing.assert_allclose(compute_advantages(rewards, groups, mask, "minibatch"), centred / np.sqrt(7 / 48), rtol=1e-5)
    # Group 7 has variance 3/16, group 3 has 1/16.
    by_group = np.array([3, -1, -1, -1, 1, -1, 0]) / np.array([*[np.sqrt(3)] * 4, 1, 1, 1])
    np.testing.assert_allclose(compute_advantages(rewards, groups, mask, "group"), by_group, rtol=1e-5)


@given(minibatches(), st.sampled_from(["minibatch", "group", "none"]))
def test_zero_mean_in_every_group(batch: dict[str, np.ndarray], normalisation: str) -> None:
    values = advantages(batch, normalisation)
    assert values.dtype == np.float32
    for group in np.unique(batch["groups"]):
        counted = values[(batch["groups"] == group) & batch["mask"]]
        assert abs(counted.sum()) < 1e-4


@given(minibatches(), st.sampled_from(["minibatch", "group", "none"]), st.integers(-40, 40))
def test_a_shift_of_a_groups_rewards_changes_nothing(batch: dict[str, np.ndarray], normalisation: str, shift: int) -> None:
    shifted = batch["rewards"] + np.where(batch["groups"] == batch["groups"][0], shift / 8, 0)
    np.testing.assert_allclose(advantages(batch, normalisation, rewards=shifted), advantages(batch, normalisation), atol=1e-4)


@given(minibatches(), st.sampled_from(["minibatch", "group", "none"]))
def test_masked_completions_have_no_say(batch: dict[str, np.ndarray], normalisation: str) -> None:
    values = advantages(batch, normalisation)
    assert (values[~batch["mask"]] == 0).all()
    broken = np.where(batch["mask"], batch["rewards"], np.nan)
    np.testing.assert_array_equal(advantages(batch, normalisation, rewards=broken), values)
    kept = {name: array[batch["mask"]] for name, array in batch.items()}
    np.testing.assert_allclose(advantages(kept, normalisation), values[batch["mask"]], atol=1e-5)


@given(minibatches())
def test_unit_variance_over_the_minibatch(batch: dict[str, np.ndarray]) -> None:
    counted = advantages(batch, "minibatch")[batch["mask"]]
    if has_signal(advantages(batch, "none")[batch["mask"]]):
        assert counted.std() == pytest.approx(1, abs=1e-3)
    else:
        assert abs(counted).sum() < 1e-6


@given(minibatches())
def test_unit_variance_within_each_group(batch: dict[str, np.ndarray]) -> None:
    values = advantages(batch, "group")
    for group in np.unique(batch["groups"]):
        mine = (batch["groups"] == group) & batch["mask"]
        expected = 1.0 if has_signal(batch["rewards"][mine]) else 0.0
        if mine.any():
            assert values[mine].std() == pytest.approx(expected, abs=1e-3)


def test_without_any_counted_completion_all_is_zero() -> None:
    nobody = np.zeros(4, dtype=bool)
    for normalisation in ("minibatch", "group", "none"):
        assert (compute_advantages(np.arange(4.0), np.array([0, 0, 1, 1]), nobody, normalisation) == 0).all()
    for denominator in ("group", "step"):
        assert (token_weights(np.arange(1, 5), np.array([0, 0, 1, 1]), nobody, denominator) == 0).all()


def test_token_weights_worked_example() -> None:
    lengths, groups = np.array([10, 30, 5, 7]), np.array([0, 0, 1, 1])
    mask = np.array([True, True, True, False])
    np.testing.assert_allclose(token_weights(lengths, groups, mask, "group"), [1 / 80, 1 / 80, 1 / 10, 0])
    np.testing.assert_allclose(token_weights(lengths, groups, mask, "step"), [1 / 45, 1 / 45, 1 / 45, 0])


@given(minibatches(), st.sampled_from(["group", "step"]))
def test_weights_times_tokens_add_up_to_one(batch: dict[str, np.ndarray], denominator: Any) -> None:
    lengths, groups, mask = batch["lengths"], batch["groups"], batch["mask"]
    weights = token_weights(lengths, groups, mask, denominator)
    assert (weights[~mask] == 0).all()
    assert (weights * lengths).sum() == pytest.approx(1.0 if mask.any() else 0.0)
    longer = np.where(mask, lengths, lengths + 1000)
    np.testing.assert_array_equal(token_weights(longer, groups, mask, denominator), weights)
    shares = [(weights * lengths)[groups == group].sum() for group in np.unique(groups[mask])]
    if denominator == "group":
        np.testing.assert_allclose(shares, 1 / max(len(shares), 1))
    else:
        assert len(set(weights[mask])) <= 1
