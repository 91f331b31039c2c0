"""Log-probabilities of given tokens without ever holding `[T, V]` logits.

The hidden states are cut into chunks; each chunk's logits live only while its log-sum-exp is taken, and are computed again in
the backward pass. Memory is O(chunk x V) instead of O(T x V), time about twice that of the output layer alone. Where all distributions
are small, with a small vocabulary, they are kept instead.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

#: Bytes of distributions that may be kept for the backward pass: those of a small vocabulary, beside which other activations are large.
_KEPT = 64 * 2**20


class _ChunkedLogprobs(torch.autograd.Function):
    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any, hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor, temperature: float, chunk: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        logprobs = torch.empty(hidden.shape[0], dtype=torch.float32, device=hidden.device)
        entropies = torch.empty_like(logprobs)
        kept = []
        keep = logprobs.element_size() * hidden.shape[0] * weight.shape[0] <= _KEPT
        for start in range(0, hidden.shape[0], chunk):
            part = slice(start, start + chunk)
            log_p = torch.log_softmax((hidden[part] @ weight.T).float() / temperature, dim=-1)
            logprobs[part] = log_p.gather(-1, targets[part, None]).squeeze(-1)
            p = log_p.exp()
            entropies[part] = -(p * log_p).sum(-1)
            if keep:
                kept.append(p)
        ctx.save_for_backward(hidden, weight, targets, *kept)
        ctx.temperature, ctx.chunk = temperature, chunk
        ctx.mark_non_differentiable(entropies)
        return logprobs, entropies

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor, _: torch.Tensor) -> tuple[torch.Tensor | None, ...]:  # type: ignore[override]
        hidden, weight, targets, *kept = ctx.saved_tensors
        grad_hidden = torch.empty_like(hidden)
        grad_weight = torch.zeros(weight.shape, dtype=torch.float32, device=weight.device)
        for start in range(0, hidden.shape[0], ctx.chunk):
            part = slice(start, start + ctx.chunk)
            # d logp[target] / d logits = onehot(target) - softmax
            p = kept[start // ctx.chunk] if kept else torch.softmax((hidden[part] @ weight.T).float() / ctx.temperature, dim=-1)
            slope = p.neg()
            slope.scatter_add_(-1, targets[part, None], torch.ones_like(slope[:, :1]))
            slope *= grad[part, None] / ctx.temperature
            slope = slope.to(hidden.dtype)
            grad_hidden[part] = slope @ weight
            grad_weight += (slope.T @ hidden[part]).float()
        return grad_hidden, grad_weight.to(weight.dtype), None, None, None


def chunked_logprobs(
    hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor, *, temperature: float = 1.0, chunk: int = 1024
) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probability of each target and entropy of its distribution.

    Args:
        hidden: [N, H], the states that predict the targets.
        weight: [V, H], the output layer's.
        targets: int64 [N].
        temperature: divides the logits, as in the generator's sampling.
        chunk: rows whose logits exist at the same time.

    Returns:
        float32 [N] log-probabilities (differentiable) and float32 [N] entropies (not differentiable), in nats.
    """
    return _ChunkedLogprobs.apply(hidden, weight, targets, temperature, chunk)  # type: ignore[no-any-return]


class ChunkedHead(nn.Linear):
    """The output layer, called with targets. A module of its own class, so that ZeRO-3 gathers its weight around the call."""

    def forward(  # type: ignore[override]
        self, hidden: torch.Tensor, targets: torch.Tensor | None = None, temperature: float = 1.0, chunk: int = 1024
    ) -> Any:
        """With targets: `chunked_logprobs`; without: plain logits."""
        if targets is None:
            return super().forward(hidden)
        return chunked_logprobs(hidden, self.weight, targets, temperature=temperature, chunk=chunk)
