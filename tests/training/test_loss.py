"""The objective against a plain reference, written loop by loop from the formula of section 2.1."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from magistral_core.training.advantages import compute_advantages, token_weights
from magistral_core.training.loss import cross_entropy, policy_loss

EPS_LOW, EPS_HIGH = 0.2, 0.28


def reference(
    logprobs: list[list[list[float]]],
    generator: list[list[list[float]]],
    rewards: list[list[float]],
    denominator: str,
    normalisation: str,
) -> tuple[float, int]:
    """The negated objective, and how many tokens the clip stops. Indexed by group, completion, token."""
    centred = [[r - sum(group) / len(group) for r in group] for group in rewards]
    everyone = [a for group in centred for a in group]
    minibatch_std = math.sqrt(sum((a - sum(everyone) / len(everyone)) ** 2 for a in everyone) / len(everyone))
    total_tokens = sum(len(tokens) for group in logprobs for tokens in group)
    objective, stopped = 0.0, 0
    for g, group in enumerate(logprobs):
        group_std = math.sqrt(sum(a**2 for a in centred[g]) / len(group))
        std = {"minibatch": minibatch_std, "group": group_std, "none": 1.0}[normalisation]
        group_sum = 0.0
        for i, tokens in enumerate(group):
            advantage = centred[g][i] / std
            for t, current in enumerate(tokens):
                ratio = math.exp(current - generator[g][i][t])
                clipped = min(max(ratio, 1 - EPS_LOW), 1 + EPS_HIGH)
                group_sum += min(ratio * advantage, clipped * advantage)
                stopped += clipped * advantage < ratio * advantage
        if denominator == "group":
            objective += group_sum / sum(len(tokens) for tokens in group) / len(logprobs)
        else:
            objective += group_sum / total_tokens
    return -objective, stopped


@given(
    seed=st.integers(0, 2**32),
    groups=st.integers(1, 4),
    size=st.integers(2, 5),
    denominator=st.sampled_from(["group", "step"]),
    normalisation=st.sampled_from(["minibatch", "group", "none"]),
)
def test_equals_the_formula(seed: int, groups: int, size: int, denominator: Any, normalisation: Any) -> None:
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, 12, (groups, size))
    generator = [[rng.uniform(-4, -0.1, n) for n in group] for group in lengths]
    logprobs = [[tokens + rng.normal(0, 0.4, len(tokens)) for tokens in group] for group in generator]
    # Drawn from a continuum: where a reward equals its group's mean, rounding alone decides the sign of an advantage of zero.
    rewards = rng.uniform(0, 1.1, (groups, size))
    rewards[:, 0], rewards[:, 1] = 0.0, 1.0  # no group without a signal: such groups never reach the loss
    expected, stopped_expected = reference(
        [[tokens.tolist() for tokens in group] for group in logprobs],
        [[tokens.tolist() for tokens in group] for group in generator],
        rewards.tolist(),
        denominator,
        normalisation,
    )

    ids, mask = np.repeat(np.arange(groups), size), np.ones(groups * size, dtype=bool)
    advantages = compute_advantages(rewards.ravel(), ids, mask, normalisation)
    weights = token_weights(lengths.ravel(), ids, mask, denominator)

    def flat(values: list[list[np.ndarray]]) -> torch.Tensor:
        return torch.from_numpy(np.concatenate([tokens for group in values for tokens in group]))

    per_token = [torch.from_numpy(np.repeat(values, lengths.ravel()).astype(np.float64)) for values in (advantages, weights)]
    loss, stopped = policy_loss(flat(logprobs), flat(generator), *per_token, eps_low=EPS_LOW, eps_high=EPS_HIGH)
    assert float(loss.detach()) == pytest.approx(expected, rel=1e-5, abs=1e-6)
    assert int(stopped.sum()) == stopped_expected


@pytest.mark.parametrize(
    ("ratio", "advantage", "value", "slope", "stopped"),
    [
        (1.5, 2.0, 1.28 * 2.0, 0.0, True),  # good and already likelier: no more push
        (1.5, -2.0, 1.5 * -2.0, 1.5 * -2.0, False),  # bad and likelier: pushed back in full
        (0.5, -2.0, 0.8 * -2.0, 0.0, True),  # bad and already rarer: left alone
        (0.5, 2.0, 0.5 * 2.0, 0.5 * 2.0, False),  # good and rarer: pulled back
        (1.1, 2.0, 1.1 * 2.0, 1.1 * 2.0, False),
        (0.9, -2.0, 0.9 * -2.0, 0.9 * -2.0, False),
        (3.0, 0.0, 0.0, 0.0, False),
    ],
)
def test_clip_on_both_sides(ratio: float, advantage: float, value: float, slope: float, stopped: bool) -> None:
    """Value, gradient by the log-probability, and what is counted as clipped."""
    logprobs = torch.tensor([-1.0 + math.log(ratio)], dtype=torch.float64, requires_grad=True)
    one = torch.ones(1, dtype=torch.float64)
    loss, clipped = policy_loss(logprobs, -one, advantage * one, one, eps_low=EPS_LOW, eps_high=EPS_HIGH)
    loss.backward()
    assert float(loss.detach()) == pytest.approx(-value)
    assert float(logprobs.grad) == pytest.approx(-slope)
    assert clipped.tolist() == [stopped]


def split(rng: np.random.Generator, lengths: list[int]) -> list[np.ndarray]:
    return [rng.uniform(-4, -0.1, n) for n in lengths]


@given(
    seed=st.integers(0, 2**32),
    lengths=st.lists(st.integers(1, 9), min_size=1, max_size=6),
    by_sequence=st.booleans(),
    cap=st.none() | st.floats(0.5, 2),
)
def test_off_policy_options_equal_their_formulas(seed: int, lengths: list[int], by_sequence: bool, cap: float | None) -> None:
    """Value, slope by each log-probability, and what is counted as cut, sequence by sequence; in one piece and in two."""
    rng = np.random.default_rng(seed)
    generator = split(rng, lengths)
    current = [tokens + rng.normal(0, 0.4, len(tokens)) for tokens in generator]
    advantages, weights = rng.normal(0, 1, len(lengths)), rng.uniform(0.1, 1, len(lengths))
    value, slopes, cut = 0.0, [], 0
    for theirs, mine, advantage, weight in zip(generator, current, advantages, weights, strict=True):
        mean = math.exp(sum(mine - theirs) / len(mine))
        for t in range(len(mine)):
            ratio = mean if by_sequence else math.exp(mine[t] - theirs[t])
            clipped = min(max(ratio, 1 - EPS_LOW), 1 + EPS_HIGH)
            if cap is not None:
                value -= weight * min(ratio, cap) * advantage
                slopes.append(-weight * min(ratio, cap) * advantage)
                cut += ratio > cap
            else:
                value -= weight * min(ratio * advantage, clipped * advantage)
                stopped = clipped * advantage < ratio * advantage
                # By the sequence's ratio: 1 / n of its slope a token, times its n equal terms.
                slopes.append(0.0 if stopped else -weight * ratio * advantage)
                cut += stopped

    def run(part: slice) -> tuple[float, list[float], int]:
        sizes = lengths[part]
        logprobs = torch.from_numpy(np.concatenate(current[part])).requires_grad_()
        owners = torch.from_numpy(np.repeat(np.arange(len(sizes)), sizes))
        loss, stopped = policy_loss(
            logprobs,
            torch.from_numpy(np.concatenate(generator[part])),
            torch.from_numpy(np.repeat(advantages[part], sizes)),
            torch.from_numpy(np.repeat(weights[part], sizes)),
            eps_low=EPS_LOW,
            eps_high=EPS_HIGH,
            sequences=owners if by_sequence else None,
            cap=cap,
        )
        loss.backward()
        return float(loss.detach()), logprobs.grad.tolist(), int(stopped.sum())

    half = len(lengths) // 2
    pieces = [run(part) for part in (slice(0, half), slice(half, None)) if lengths[part]]
    for parts in ([run(slice(None))], pieces):
        assert sum(part[0] for part in parts) == pytest.approx(value, rel=1e-9, abs=1e-9)
        assert [slope for part in parts for slope in part[1]] == pytest.approx(slopes, rel=1e-9, abs=1e-12)
        assert sum(part[2] for part in parts) == cut


def test_the_sequence_ratio_has_the_gradient_of_gspo() -> None:
    """Equation 5 differentiated as it stands: the stop-gradient form changes nothing where a sequence's tokens share an advantage."""
    ours, plain = (torch.tensor([-0.5, -1.5, -1.0], dtype=torch.float64, requires_grad=True) for _ in range(2))
    generator, n = torch.tensor([-0.6, -1.3, -1.2], dtype=torch.float64), 3
    advantages, weights = torch.full((n,), 1.5, dtype=torch.float64), torch.full((n,), 1 / n, dtype=torch.float64)
    loss, _ = policy_loss(ours, generator, advantages, weights, eps_low=0.2, eps_high=0.28, sequences=torch.zeros(n, dtype=torch.int64))
    loss.backward()
    (-1.5 * (plain - generator).mean().exp()).backward()
    torch.testing.assert_close(ours.grad, plain.grad)


def test_on_policy_gradient_is_the_policy_gradient() -> None:
    logprobs = torch.tensor([-0.3, -2.0, -1.0], dtype=torch.float64, requires_grad=True)
    advantages, weights = torch.tensor([1.5, -0.5, 0.7]).double(), torch.tensor([0.2, 0.3, 0.5]).double()
    loss, stopped = policy_loss(logprobs, logprobs.detach(), advantages, weights, eps_low=EPS_LOW, eps_high=EPS_HIGH)
    loss.backward()
    assert not stopped.any()
    torch.testing.assert_close(logprobs.grad, -advantages * weights)


def test_cross_entropy_is_the_weighted_mean() -> None:
    logprobs, weights = torch.tensor([-1.0, -2.0, -7.0]), torch.tensor([0.5, 0.5, 0.0])
    assert float(cross_entropy(logprobs, weights)) == pytest.approx(1.5)
