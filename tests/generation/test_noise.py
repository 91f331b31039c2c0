"""Tokens are drawn from the right distribution, by noise that depends on the request and the position alone."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy import stats

from magistral_core.generation.noise import SeededSampler, noise_seeds

SHARES = np.array([0.5, 0.25, 0.15, 0.07, 0.03])
ROWS = 20_000


def draw(seeds: np.ndarray, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A token of each row, all rows with the same distribution, and its log-probability."""
    sampler = SeededSampler(SimpleNamespace(input_batch=SimpleNamespace(num_tokens_no_spec=positions)))
    generators = {row: torch.Generator().manual_seed(int(seed)) for row, seed in enumerate(seeds)}
    logits = torch.tensor(np.log(SHARES), dtype=torch.float32).repeat(len(seeds), 1)
    tokens, logprobs = sampler.forward_cpu(logits, generators, None, None)
    return tokens.numpy(), logprobs.gather(-1, tokens[:, None]).squeeze(-1).numpy()


NEIGHBOURS = {
    "neighbouring seeds": (np.arange(ROWS), np.full(ROWS, 40)),
    "neighbouring positions": (np.full(ROWS, 2**62 + 1), np.arange(ROWS)),
    "both, with equal sums": (np.arange(ROWS), np.arange(ROWS)[::-1].copy()),
}


@pytest.mark.parametrize("name", NEIGHBOURS)
def test_tokens_have_their_distribution_and_do_not_depend_on_each_other(name: str) -> None:
    tokens, logprobs = draw(*NEIGHBOURS[name])
    assert stats.chisquare(np.bincount(tokens, minlength=5), SHARES * ROWS).pvalue > 0.01
    pairs = np.bincount(tokens[:-1] * 5 + tokens[1:], minlength=25)
    assert stats.chisquare(pairs, np.outer(SHARES, SHARES).ravel() * pairs.sum()).pvalue > 0.01
    np.testing.assert_allclose(logprobs, np.log(SHARES)[tokens], atol=1e-6)


def test_a_row_draws_the_same_wherever_it_stands() -> None:
    seeds, positions = np.arange(500) % 50, np.arange(500) // 50
    tokens, _ = draw(seeds, positions)
    order = np.random.default_rng(0).permutation(500)[:300]
    assert draw(seeds[order], positions[order])[0].tolist() == tokens[order].tolist()


def test_no_two_pairs_of_seed_and_position_share_their_noise() -> None:
    seeds, positions = np.meshgrid(np.arange(500, dtype=np.uint64), np.arange(500))
    noise = noise_seeds(seeds.ravel(), positions.ravel())
    assert len(np.unique(noise)) == noise.size and noise.min() >= 0
