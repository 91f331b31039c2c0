"""From verified groups to the batch of an optimiser step: filters, advantages, token weights. Pure."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from magistral_core.config.schema import LossSettings
from magistral_core.records import Batch, FinishReason, Group
from magistral_core.training.advantages import compute_advantages, token_weights

#: Rewards closer than this are equal: they carry no signal beyond rounding.
_EQUAL = 1e-9


def failure(group: Group) -> str | None:
    """Why a verified group failed: fewer than two completions have a verdict. None if it did not."""
    return "verifier" if sum(score.graded for score in group.scores) < 2 else None


def without_signal(group: Group) -> str | None:
    """Why a group is dropped: its rewards are all equal (Magistral, section 2.1, change 5). None if it is kept."""
    graded = [score for score in group.scores if score.graded]
    rewards = [score.reward for score in graded]
    if max(rewards) - min(rewards) > _EQUAL:
        return None
    if all(score.correct for score in graded):
        return "all_right"
    return "equal" if any(score.correct for score in graded) else "all_wrong"


def build_batch(groups: Sequence[Group], step: int, loss: LossSettings, *, shuffle_seed: int | None = None) -> Batch:
    """Advantages and token weights of the groups of one optimiser step.

    Args:
        groups: whole, verified groups.
        step: the optimiser step, from 0.
        loss: normalisation and denominator.
        shuffle_seed: control experiment: permute the rewards over all completions of the batch before anything is derived.
    """
    completions = [completion for group in groups for completion in group.completions]
    scores = [score for group in groups for score in group.scores]
    owners = np.repeat(np.arange(len(groups)), [len(group.completions) for group in groups])
    mask = np.array([score.graded for score in scores])
    rewards = np.array([score.reward if score.graded else 0.0 for score in scores])
    if shuffle_seed is not None:
        rewards[mask] = np.random.default_rng((shuffle_seed, step)).permutation(rewards[mask])
    lengths = np.array([completion.length for completion in completions])
    return Batch(
        step=step,
        groups=tuple(groups),
        advantages=compute_advantages(rewards, owners, mask, loss.normalisation),
        weights=token_weights(lengths, owners, mask, loss.denominator),
    )


def truncated_share(groups: Sequence[Group]) -> float:
    """Share of completions that were cut at the maximum length."""
    reasons = [completion.finish_reason for group in groups for completion in group.completions]
    return sum(reason is FinishReason.LENGTH for reason in reasons) / max(len(reasons), 1)
