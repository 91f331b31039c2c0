"""The objective: GRPO with Magistral's five changes (section 2.1).

No KL term and no reference model; the loss is a weighted sum over tokens (the weights carry the normalisation by generated
tokens, see `advantages.token_weights`); advantages come normalised; the ratio is clipped to `[1 - eps_low, 1 + eps_high]`;
groups without a signal were dropped before. The ratio's denominator is the log-probability that the generator returned.
Two options for data that is far off-policy are not the paper's: the ratio of a whole sequence, and truncated importance sampling.
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
    sequences: torch.Tensor | None = None,
    cap: float | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Clipped policy loss, to be minimised; with `cap`, truncated importance sampling in place of the clip.

    Args:
        logprobs: [N], the trainer's, differentiable.
        generator_logprobs, advantages, weights: [N], all one value a generated token.
        eps_low, eps_high: clip bounds.
        sequences: int64 [N], the sequence of each token; every sequence whole. Given, all tokens of a sequence have the ratio of the
            sequence, `exp(mean log ratio)` (GSPO, arXiv 2507.18071, equation 7). None: each token has its own.
        cap: truncated importance sampling (IMPALA, arXiv 1802.01561, section 4.1): the policy gradient of each token, times
            `min(ratio, cap)`, which is held constant. Nothing is clipped then.

    Returns:
        The loss (scalar), and bool [N]: tokens whose gradient the clip stopped, or whose ratio the cap cut.
    """
    ratio = _ratio(logprobs, generator_logprobs, sequences)
    if cap is not None:
        held = ratio.detach()
        # The last factor is 1; it carries the gradient of the log-probability.
        objective = held.clamp(max=cap) * advantages * torch.exp(logprobs - logprobs.detach())
        return -(weights * objective).sum(), held > cap
    clipped = torch.clamp(ratio, 1.0 - eps_low, 1.0 + eps_high)
    stopped = torch.where(advantages > 0, ratio > 1.0 + eps_high, (ratio < 1.0 - eps_low) & (advantages < 0))
    loss = -(weights * torch.minimum(ratio * advantages, clipped * advantages)).sum()
    return loss, stopped


def _ratio(logprobs: torch.Tensor, generator_logprobs: torch.Tensor, sequences: torch.Tensor | None) -> torch.Tensor:
    """Trainer over generator probability, float [N]."""
    difference = logprobs - generator_logprobs
    if sequences is None:
        return torch.exp(difference)
    # GSPO's token form (equation 13): the value is the sequence's, the gradient that of the token's own log-probability. Tokens of a
    # sequence share advantage and weight, so that their sum has the gradient of the sequence's ratio.
    with torch.no_grad():
        sums = difference.new_zeros(int(sequences.max()) + 1)
        tokens = sums.index_add(0, sequences, torch.ones_like(difference))
        means = sums.index_add(0, sequences, difference) / tokens.clamp(min=1.0)
    return torch.exp(means[sequences] + logprobs - logprobs.detach())


def cross_entropy(logprobs: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """The loss of supervised fine-tuning: weighted negative log-likelihood, scalar."""
    return -(weights * logprobs).sum()
