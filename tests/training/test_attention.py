"""Attention over a packed row against the dense attention of each sequence alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from magistral_core.training import attention
from magistral_core.training.attention import RowLayout, varlen_attention

HEADS, DIM = 4, 8


def qkv(tokens: int, kv_heads: int, seed: int = 0) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [
        torch.randn(1, heads, tokens, DIM, generator=generator, dtype=torch.float64, requires_grad=True)
        for heads in (HEADS, kv_heads, kv_heads)
    ]


def dense(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scaling: float) -> torch.Tensor:
    """Causal attention of one sequence, [1, H, L, D] -> [1, L, H, D], without any library's attention."""
    k, v = (tensor.repeat_interleave(HEADS // k.shape[1], dim=1) for tensor in (k, v))
    scores = (q @ k.transpose(-1, -2)) * scaling
    future = torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1)
    return (scores.masked_fill(future, -torch.inf).softmax(-1) @ v).transpose(1, 2)


@st.composite
def segments(draw: st.DrawFn, longest: int = 20) -> tuple[np.ndarray, np.ndarray]:
    """Lengths and prefixes of a row: whole sequences, and prompts with the completions that share them."""
    lens, prefixes = [], []
    for completions in draw(st.lists(st.integers(0, 4), min_size=1, max_size=5)):
        prompt = len(lens)
        lens += draw(st.lists(st.integers(1, longest), min_size=1 + completions, max_size=1 + completions))
        prefixes += [-1] + [prompt] * completions
    return np.array(lens), np.array(prefixes)


@given(segments(), st.sampled_from([1, 2, 4]), st.sampled_from([0.2, DIM**-0.5]), st.sampled_from([0, 5, 256]))
def test_a_row_is_its_sequences_one_by_one(row: tuple[np.ndarray, np.ndarray], kv_heads: int, scaling: float, masked: int) -> None:
    """With all completions of shared prompts by a mask, with some and with none."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(attention, "_MASKED", masked)
        check_row(*row, kv_heads, scaling)


def check_row(seq_lens: np.ndarray, prefixes: np.ndarray, kv_heads: int, scaling: float) -> None:
    inputs = qkv(int(seq_lens.sum()), kv_heads)
    out, weights = varlen_attention(torch.nn.Identity(), *inputs, None, layout=RowLayout.of(seq_lens, prefixes, "cpu"), scaling=scaling)
    assert weights is None
    parts = list(zip(*(tensor.split(seq_lens.tolist(), dim=2) for tensor in inputs), strict=True))
    expected = []
    for part, length, prefix in zip(parts, seq_lens.tolist(), prefixes.tolist(), strict=True):
        whole = part if prefix < 0 else tuple(torch.cat(both, dim=2) for both in zip(parts[prefix], part, strict=True))
        expected.append(dense(*whole, scaling)[:, -length:])
    joined = torch.cat(expected, dim=1)
    torch.testing.assert_close(out, joined)
    upstream = torch.randn(out.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    found = torch.autograd.grad((out * upstream).sum(), inputs)
    torch.testing.assert_close(found, torch.autograd.grad((joined * upstream).sum(), inputs))


@given(segments(longest=400))
def test_every_token_is_one_query_and_padding_is_bounded(row: tuple[np.ndarray, np.ndarray]) -> None:
    seq_lens, prefixes = row
    layout = RowLayout.of(seq_lens, prefixes, "cpu")
    places = torch.cat([bucket.queries.flatten() for bucket in layout.buckets])
    assert places[layout.source].tolist() == list(range(seq_lens.sum()))
    heads = np.where(prefixes >= 0, seq_lens[prefixes], 0)
    whole = heads + seq_lens
    assert layout.longest == whole.max()
    for kind in ("queries", "keys"):
        assert sum(getattr(bucket, kind).numel() for bucket in layout.buckets) <= 1.25 * whole.sum()


def test_a_window_shorter_than_a_sequence_is_refused() -> None:
    """A sequence is as long as its prompt and completion together, wherever the prompt lies."""
    layout = RowLayout.of(np.array([5, 4, 3]), np.array([-1, 0, 0]), "cpu")
    row = qkv(12, HEADS)
    varlen_attention(torch.nn.Identity(), *row, None, layout=layout, sliding_window=9)
    with pytest.raises(ValueError, match=r"sliding window \(8\).*9 tokens; use sdpa"):
        varlen_attention(torch.nn.Identity(), *row, None, layout=layout, sliding_window=8)


@pytest.mark.parametrize("limit", [0, 10**9])
def test_short_rows_in_bfloat16_are_rounded_only_at_their_ends(limit: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """In float32 within: outputs and gradients are those of the same inputs in float64, rounded once. PyTorch's own path rounds more."""
    monkeypatch.setattr(attention, "_IN_FLOAT32", limit)
    seq_lens, prefixes = np.array([9, 6, 7, 8, 5]), np.array([-1, 0, 0, 0, -1])
    layout = RowLayout.of(seq_lens, prefixes, "cpu")
    exact = qkv(int(seq_lens.sum()), 2)
    coarse = [tensor.detach().bfloat16().requires_grad_() for tensor in exact]
    with torch.no_grad():
        for tensor, rounded in zip(exact, coarse, strict=True):
            tensor.copy_(rounded)
    errors = []
    upstream = torch.randn(1, int(seq_lens.sum()), HEADS, DIM, generator=torch.Generator().manual_seed(1)).bfloat16()
    outs = [varlen_attention(torch.nn.Identity(), *row, None, layout=layout)[0] for row in (coarse, exact)]
    grads = [torch.autograd.grad(out, row, upstream.to(out.dtype)) for out, row in zip(outs, (coarse, exact), strict=True)]
    assert outs[0].dtype == grads[0][0].dtype == torch.bfloat16
    for found, wanted in zip((outs[0], *grads[0]), (outs[1], *grads[1]), strict=True):
        errors.append(float(((found.detach().double() - wanted.detach()) / (wanted.detach().abs() + 1e-6)).abs().max()))
    once = 2.0**-8
    assert (max(errors) <= once) == (limit > 0), errors
