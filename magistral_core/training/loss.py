"""The objective: GRPO with Magistral's five changes (section 2.1).

No KL term and no reference model; the loss is a weighted sum over tokens (the weights carry the normalisation by generated
tokens, see `advantages.token_weights`); advantages come normalised; the ratio is clipped to `[1 - eps_low, 1 + eps_high]`;
groups without a signal were dropped before. The ratio's denominator is the log-probability that the generator returned.
"""

from __future__ import annotations

import torch


def policy_loss(
    logprobs: torch.Tensor,
    generator_logprobs: torch.Tensor,
    advantages: torch.Tensor,
    weights: torch.Tensor,
    *,
    eps_low: float,
    eps_high: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Clipped policy loss, to be minimised.

    Args:
        logprobs: [N], the trainer's, differentiable.
        generator_logprobs, advantages, weights: [N], all one value a generated token.
        eps_low, eps_high: clip bounds.

    Returns:
        The loss (scalar), and bool [N]: tokens whose gradient the clip stopped.
    """
    ratio = torch.exp(logprobs - generator_logprobs)
    clipped = torch.clamp(ratio, 1.0 - eps_low, 1.0 + eps_high)
    stopped = torch.where(advantages > 0, ratio > 1.0 + eps_high, (ratio < 1.0 - eps_low) & (advantages < 0))
    loss = -(weights * torch.minimum(ratio * advantages, clipped * advantages)).sum()
    return loss, stopped


def cross_entropy(logprobs: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """The loss of supervised fine-tuning: weighted negative log-likelihood, scalar."""
    return -(weights * logprobs).sum()
