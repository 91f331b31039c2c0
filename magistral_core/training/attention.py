"""Causal attention over a packed row, without a `[T, T]` mask.

The sequences of a row are sorted into buckets of similar length. A bucket is padded on the right to its longest sequence and
goes through one call of PyTorch's scaled-dot-product attention with `is_causal=True`: causality alone keeps real tokens from
seeing the padding. Registered with transformers as `varlen`; on GPUs `flash_attention_2` does the same with its own kernel.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from transformers import AttentionInterface, AttentionMaskInterface

NAME = "varlen"
#: Within a bucket the longest sequence is at most this much longer than the shortest: bounds the work spent on padding.
_BUCKET_RATIO = 1.25


@dataclass(frozen=True)
class RowLayout:
    """Where the sequences of a packed row lie.

    Attributes:
        gather: per bucket, int64 [S, L]: the row's token at each place; padding points at the row's token 0.
        scatter: per bucket, (int64 [tokens] places in the flattened [S * L], int64 [tokens] places in the row).
        longest: tokens of the longest sequence.
    """

    gather: tuple[torch.Tensor, ...]
    scatter: tuple[tuple[torch.Tensor, torch.Tensor], ...]
    longest: int

    @classmethod
    def of(cls, seq_lens: np.ndarray, device: torch.device | str) -> RowLayout:
        """Lay out a row of sequences with the given lengths, int [S]."""
        starts = np.concatenate([[0], np.cumsum(seq_lens)[:-1]])
        order = np.argsort(-seq_lens, kind="stable")
        buckets: list[list[int]] = []
        for i in order.tolist():
            if not buckets or seq_lens[buckets[-1][0]] > _BUCKET_RATIO * seq_lens[i]:
                buckets.append([])
            buckets[-1].append(i)
        gather, scatter = [], []
        for bucket in buckets:
            width = int(seq_lens[bucket[0]])
            places = np.zeros((len(bucket), width), dtype=np.int64)
            valid = np.arange(width)[None, :] < seq_lens[bucket][:, None]
            places[valid] = (starts[bucket][:, None] + np.arange(width)[None, :])[valid]
            flat = np.flatnonzero(valid)
            gather.append(torch.from_numpy(places).to(device))
            scatter.append((torch.from_numpy(flat).to(device), torch.from_numpy(places.reshape(-1)[flat]).to(device)))
        return cls(tuple(gather), tuple(scatter), int(seq_lens.max()))


def varlen_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    layout: RowLayout,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """Attention of one layer: query [1, H, T, D], key and value [1, H_kv, T, D] -> [1, T, H, D]."""
    if sliding_window is not None and layout.longest > sliding_window:
        raise ValueError(
            f"training.attention: varlen has no sliding window ({sliding_window}), and a sequence has {layout.longest} tokens; use sdpa"
        )
    grouped = key.shape[1] != query.shape[1]
    q, k, v = (tensor[0].transpose(0, 1) for tensor in (query, key, value))  # [T, H, D]
    out = torch.zeros_like(q)
    for places, (source, target) in zip(layout.gather, layout.scatter, strict=True):
        queries, keys, values = (tensor[places].transpose(1, 2) for tensor in (q, k, v))  # [S, H, L, D]
        attended = F.scaled_dot_product_attention(
            queries, keys, values, is_causal=True, scale=scaling, dropout_p=dropout, enable_gqa=grouped
        )
        rows = attended.transpose(1, 2).flatten(0, 1)  # [S * L, H, D]
        out = out.index_copy(0, target, rows[source])
    return out.unsqueeze(0), None


def register() -> None:
    """Make `attn_implementation="varlen"` known to transformers. No mask is built for it."""
    AttentionInterface.register(NAME, varlen_attention)
    AttentionMaskInterface.register(NAME, lambda *args, **kwargs: None)
