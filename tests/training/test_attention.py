"""Attention over a packed row against the dense attention of each sequence alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

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


@given(st.lists(st.integers(1, 20), min_size=1, max_size=7), st.sampled_from([1, 2, 4]), st.sampled_from([0.2, DIM**-0.5]))
def test_a_row_is_its_sequences_one_by_one(seq_lens: list[int], kv_heads: int, scaling: float) -> None:
    row = qkv(sum(seq_lens), kv_heads)
    layout = RowLayout.of(np.array(seq_lens), "cpu")
    out, weights = varlen_attention(torch.nn.Identity(), *row, None, layout=layout, scaling=scaling)
    assert weights is None
    expected = torch.cat([dense(*parts, scaling) for parts in zip(*(t.split(seq_lens, dim=2) for t in row), strict=True)], dim=1)
    torch.testing.assert_close(out, expected)
    upstream = torch.randn(out.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    found = torch.autograd.grad((out * upstream).sum(), row)
    torch.testing.assert_close(found, torch.autograd.grad((expected * upstream).sum(), row))


@given(st.lists(st.integers(1, 200), min_size=1, max_size=12))
def test_every_token_lies_in_one_bucket_and_padding_is_bounded(seq_lens: list[int]) -> None:
    layout = RowLayout.of(np.array(seq_lens), "cpu")
    places = torch.cat([target for _, target in layout.scatter])
    assert sorted(places.tolist()) == list(range(sum(seq_lens)))
    assert layout.longest == max(seq_lens)
    assert sum(gather.numel() for gather in layout.gather) <= 1.25 * sum(seq_lens)


def test_a_window_shorter_than_a_sequence_is_refused() -> None:
    layout = RowLayout.of(np.array([9, 3]), "cpu")
    row = qkv(12, HEADS)
    varlen_attention(torch.nn.Identity(), *row, None, layout=layout, sliding_window=9)
    with pytest.raises(ValueError, match=r"sliding window \(8\).*9 tokens; use sdpa"):
        varlen_attention(torch.nn.Identity(), *row, None, layout=layout, sliding_window=8)
