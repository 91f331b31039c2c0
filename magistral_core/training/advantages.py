"""Advantages and token weights of one minibatch (Magistral, section 2.1). Pure numpy."""

from __future__ import annotations

from typing import Literal

import numpy as np

#: Keeps a minibatch whose advantages are all (nearly) equal from being blown up to unit variance.
_EPSILON = 1e-6


def compute_advantages(
    rewards: np.ndarray,
    groups: np.ndarray,
    mask: np.ndarray,
    normalisation: Literal["minibatch", "group", "none"],
) -> np.ndarray:
    """Advantage of each completion: `r_i - mean(r in its group)`, then normalised.

    Args:
        rewards: float [n].
        groups: int [n], the group of each completion, any integers.
        mask: bool [n], completions that count; the others enter no mean and get 0.
        normalisation: `minibatch` (the paper's choice) takes `(A - mean) / std` over all counted completions, `group`
            divides by the standard deviation within the group, `none` leaves the centred reward (section 6.4 compares them).

    Returns:
        float32 [n].
    """
    rewards = np.where(mask, rewards, 0.0).astype(np.float64)
    _, index = np.unique(groups, return_inverse=True)
    counts = np.maximum(np.bincount(index, weights=mask), 1.0)
    centred = np.where(mask, rewards - (np.bincount(index, weights=rewards) / counts)[index], 0.0)
    if normalisation == "group":
        std = np.sqrt(np.bincount(index, weights=centred**2) / counts)
        centred = centred / (std[index] + _EPSILON)
    elif normalisation == "minibatch" and mask.any():
        counted = centred[mask]
        centred = np.where(mask, (centred - counted.mean()) / (counted.std() + _EPSILON), 0.0)
    return centred.astype(np.float32)


def token_weights(lengths: np.ndarray, groups: np.ndarray, mask: np.ndarray, denominator: Literal["group", "step"]) -> np.ndarray:
    """Weight of each token of each completion in the loss; all weights of a minibatch, times their tokens, add up to 1.

    Args:
        lengths: int [n], generated tokens of each completion.
        groups: int [n].
        mask: bool [n]; masked completions count in no denominator and get 0.
        denominator: `group` is the paper's: the sum over a group is divided by the group's tokens, then groups are
            averaged; `step` divides by the tokens of the whole step.

    Returns:
        float64 [n].
    """
    counted = np.where(mask, lengths, 0).astype(np.float64)
    if denominator == "step":
        weights = np.full(len(lengths), 1.0 / max(counted.sum(), 1.0))
    else:
        _, index = np.unique(groups, return_inverse=True)
        tokens = np.bincount(index, weights=counted)
        weights = 1.0 / (max((tokens > 0).sum(), 1) * np.maximum(tokens, 1.0))[index]
    return np.where(mask, weights, 0.0)
