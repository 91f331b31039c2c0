"""Chunked log-probabilities against the whole log-softmax."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import magistral_core.training.logprobs as logprobs_module
from magistral_core.training.logprobs import ChunkedHead, chunked_logprobs


def case(n: int, dtype: torch.dtype, seed: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(n, 8, generator=generator, dtype=dtype).requires_grad_()
    weight = torch.randn(19, 8, generator=generator, dtype=dtype).requires_grad_()
    targets = torch.randint(19, (n,), generator=generator)
    upstream = torch.randn(n, generator=generator)
    return hidden, weight, targets, upstream


def whole(
    hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor, upstream: torch.Tensor, temperature: float
) -> tuple[torch.Tensor, ...]:
    """Log-probabilities, entropies and both gradients in double precision, by autograd."""
    hidden, weight = (tensor.detach().double().requires_grad_() for tensor in (hidden, weight))
    distribution = torch.distributions.Categorical(logits=hidden @ weight.T / temperature)
    logprobs = distribution.log_prob(targets)
    (logprobs * upstream.double()).sum().backward()
    return logprobs.detach(), distribution.entropy().detach(), hidden.grad, weight.grad


@given(
    n=st.integers(1, 23),
    chunk=st.integers(1, 30),
    temperature=st.sampled_from([0.3, 0.7, 1.0, 1.6]),
    dtype=st.sampled_from([torch.float32, torch.float64]),
    seed=st.integers(0, 1000),
    kept=st.booleans(),
)
def test_any_chunk_equals_the_whole(n: int, chunk: int, temperature: float, dtype: torch.dtype, seed: int, kept: bool) -> None:
    """Whether its distribution is kept for the backward pass or made again."""
    hidden, weight, targets, upstream = case(n, dtype, seed)
    expected = whole(hidden, weight, targets, upstream, temperature)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(logprobs_module, "_KEPT", 4 * n * len(weight) - (not kept))
        logprobs, entropies = chunked_logprobs(hidden, weight, targets, temperature=temperature, chunk=chunk)
    (logprobs * upstream).sum().backward()
    assert logprobs.dtype == entropies.dtype == torch.float32
    assert not entropies.requires_grad
    found = (logprobs.detach(), entropies, hidden.grad, weight.grad)
    for name, mine, reference in zip(("logprobs", "entropies", "grad hidden", "grad weight"), found, expected, strict=True):
        scale = max(1.0, float(reference.abs().max()))
        torch.testing.assert_close(mine.double(), reference, rtol=0, atol=2e-6 * scale, msg=lambda m, name=name: f"{name}: {m}")


def test_bfloat16_weights_give_float32_log_probabilities() -> None:
    hidden, weight, targets, upstream = (t.detach() for t in case(12, torch.float32, 0))
    low_hidden, low_weight = hidden.bfloat16().requires_grad_(), weight.bfloat16().requires_grad_()
    logprobs, _ = chunked_logprobs(low_hidden, low_weight, targets, chunk=5)
    (logprobs * upstream).sum().backward()
    expected = whole(low_hidden, low_weight, targets, upstream, 1.0)
    assert logprobs.dtype == torch.float32 and low_hidden.grad.dtype == low_weight.grad.dtype == torch.bfloat16
    torch.testing.assert_close(logprobs.double(), expected[0], rtol=0.02, atol=0.05)
    assert torch.nn.functional.cosine_similarity(low_weight.grad.double().ravel(), expected[3].ravel(), dim=0) > 0.999


def test_extreme_logits_stay_finite() -> None:
    hidden = torch.tensor([[300.0], [-300.0]], requires_grad=True)
    weight = torch.tensor([[1.0], [-1.0], [0.0]], requires_grad=True)
    logprobs, entropies = chunked_logprobs(hidden, weight, torch.tensor([0, 0]), chunk=1)
    logprobs.sum().backward()
    assert logprobs.tolist() == [0.0, -600.0]
    assert entropies.tolist() == [0.0, 0.0]
    assert torch.isfinite(hidden.grad).all() and torch.isfinite(weight.grad).all()


@pytest.mark.parametrize("classes", [2, 19])
def test_entropy_of_the_uniform_distribution(classes: int) -> None:
    _, entropies = chunked_logprobs(torch.zeros(3, 4), torch.ones(classes, 4), torch.zeros(3, dtype=torch.int64), chunk=2)
    torch.testing.assert_close(entropies, torch.full((3,), float(classes)).log())


def test_the_head_without_targets_gives_plain_logits() -> None:
    head = ChunkedHead(4, 7, bias=False)
    hidden = torch.randn(3, 4)
    torch.testing.assert_close(head(hidden), hidden @ head.weight.T)
    logprobs, _ = head(hidden, torch.tensor([1, 2, 3]), 0.5, 2)
    torch.testing.assert_close(logprobs, torch.log_softmax(head(hidden) / 0.5, -1)[torch.arange(3), torch.tensor([1, 2, 3])])
