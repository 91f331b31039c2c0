"""Which groups are kept, and what a batch makes of their rewards."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_groups import make_group

from magistral_core.config.schema import LossSettings
from magistral_core.pipeline.batches import build_batch, failure, without_signal

RAW = LossSettings(normalisation="none")
REWARDS = st.sampled_from([None, 0.0, 0.1, 1.0, 1.1])
GROUPS = st.lists(st.lists(REWARDS, min_size=4, max_size=4), min_size=1, max_size=6)


@pytest.mark.parametrize(
    ("rewards", "failed", "dropped"),
    [
        ([1.0, 1.0, 1.0], None, "all_right"),
        ([0.1, 0.1, 0.1], None, "all_wrong"),
        ([0.1, 0.1 + 1e-12, 0.1], None, "all_wrong"),
        ([1.0, 0.1, 1.0], None, None),
        ([1.0, 1.0, 1.1], None, None),
        ([1.0, None, 0.1], None, None),
        ([1.0, None, 1.0], None, "all_right"),
        ([1.0, None, None], "verifier", None),
        ([None, None, None], "verifier", None),
    ],
)
def test_filters(rewards: list[float | None], failed: str | None, dropped: str | None) -> None:
    group = make_group(0, rewards)
    assert failure(group) == failed
    if failed is None:
        assert without_signal(group) == dropped


def test_right_and_wrong_answers_of_equal_reward_are_told_apart() -> None:
    """With rewards.correct: 0 a right and a wrong answer get the same: no signal, but neither all right nor all wrong."""
    right, wrong = make_group(0, [1.0]).scores[0], make_group(0, [0.1]).scores[0]
    group = make_group(0, [0.1, 0.1])
    object.__setattr__(group, "scores", (wrong, type(right)(0.1, right.status)))
    assert without_signal(group) == "equal"


@given(rewards=GROUPS, denominator=st.sampled_from(["group", "step"]), normalisation=st.sampled_from(["minibatch", "group", "none"]))
def test_masked_completions_count_nowhere(rewards: list[list[float | None]], denominator: str, normalisation: str) -> None:
    """A batch with masked completions has the advantages and weights of the batch without them."""
    loss = LossSettings(denominator=denominator, normalisation=normalisation)
    lengths = [[3 + 2 * i + g for i in range(4)] for g in range(len(rewards))]
    batch = build_batch([make_group(g, row, lengths[g]) for g, row in enumerate(rewards)], 0, loss)
    mask = np.array([reward is not None for row in rewards for reward in row])
    assert not batch.advantages[~mask].any()
    assert not batch.weights[~mask].any()
    kept = [
        ([r for r in row if r is not None], [n for n, r in zip(lengths[g], row, strict=True) if r is not None])
        for g, row in enumerate(rewards)
    ]
    kept = [(row, sizes) for row, sizes in kept if row]
    if not kept:
        return
    without = build_batch([make_group(g, row, sizes) for g, (row, sizes) in enumerate(kept)], 0, loss)
    np.testing.assert_allclose(batch.advantages[mask], without.advantages, atol=1e-6)
    np.testing.assert_allclose(batch.weights[mask], without.weights, rtol=1e-12)
    tokens = np.array([length for row in lengths for length in row])
    assert batch.weights @ tokens == pytest.approx(1.0)


def test_advantages_are_centred_in_the_group() -> None:
    batch = build_batch([make_group(0, [1.0, 0.0, 0.0, 1.0]), make_group(1, [1.0, 0.0, 0.0, 0.0])], 0, RAW)
    np.testing.assert_allclose(batch.advantages, [0.5, -0.5, -0.5, 0.5, 0.75, -0.25, -0.25, -0.25])


@given(rewards=GROUPS, seed=st.integers(0, 5), step=st.integers(0, 5))
def test_shuffling_moves_rewards_across_groups_and_keeps_them(rewards: list[list[float | None]], seed: int, step: int) -> None:
    """Each reward is its own power of two, so that the sum of a group's advantages tells nothing, but each reward can be read back."""
    distinct = [[None if r is None else float(2 ** (4 * g + i)) for i, r in enumerate(row)] for g, row in enumerate(rewards)]
    groups = [make_group(g, row) for g, row in enumerate(distinct)]
    batch = build_batch(groups, step, RAW, shuffle_seed=seed)
    again = build_batch(groups, step, RAW, shuffle_seed=seed)
    assert np.array_equal(batch.advantages, again.advantages)
    assert batch.groups == tuple(groups), "the groups keep the rewards that they earned: metrics must not be shuffled"
    mask = np.array([reward is not None for row in distinct for reward in row])
    flat = np.array([reward or 0.0 for row in distinct for reward in row])
    expected = flat.copy()
    expected[mask] = np.random.default_rng((seed, step)).permutation(flat[mask])
    for g in range(len(groups)):
        rows, counted = expected[4 * g : 4 * g + 4], mask[4 * g : 4 * g + 4]
        if counted.any():
            centred = np.where(counted, rows - rows[counted].mean(), 0.0)
            np.testing.assert_allclose(batch.advantages[4 * g : 4 * g + 4], centred, rtol=1e-6)


def test_shuffling_crosses_groups_and_differs_between_steps() -> None:
    groups = [make_group(g, [float(g)] * 4) for g in range(8)]
    plain = build_batch(groups, 0, RAW)
    assert not plain.advantages.any(), "within groups there is nothing to permute"
    first, second = (build_batch(groups, step, RAW, shuffle_seed=0).advantages for step in (0, 1))
    assert first.any()
    assert not np.array_equal(first, second)
