"""Causal attention over a packed row, without a `[T, T]` mask.

The sequences of a row are sorted into buckets of similar length. A bucket is padded on the right to its longest sequence and
goes through one call of PyTorch's scaled-dot-product attention with `is_causal=True`: causality alone keeps real tokens from
seeing the padding. Registered with transformers as `varlen`; on GPUs `flash_attention_2` does the same with its own kernel.

Where completions share a prompt, its queries, keys and values were made once and are gathered once for each completion: attention sees
whole sequences. What comes out for the prompt is taken from the first of them, for no prompt sees what follows it.
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
        source: int64 [T], where each token of the row lies in the buckets, flattened one after the other.
        longest: tokens of the longest sequence, prompt included.
    """

    gather: tuple[torch.Tensor, ...]
    source: torch.Tensor
    longest: int

    @classmethod
    def of(cls, seq_lens: np.ndarray, prefixes: np.ndarray, device: torch.device | str) -> RowLayout:
        """Lay out a row of segments, int [S] each (see `Microbatch`)."""
        starts = np.cumsum(seq_lens) - seq_lens
        continuing = prefixes >= 0
        heads = np.where(continuing, seq_lens[prefixes], 0)
        head_starts = np.where(continuing, starts[prefixes], 0)
        lengths = heads + seq_lens
        shared, first = np.unique(prefixes[continuing], return_index=True)
        from_prompt = ~continuing  # those that give what attention makes of their first tokens
        from_prompt[np.flatnonzero(continuing)[first]] = True
        sequences = np.setdiff1d(np.arange(len(seq_lens)), shared)
        order = sequences[np.argsort(-lengths[sequences], kind="stable")]
        buckets: list[list[int]] = []
        for i in order.tolist():
            if not buckets or lengths[buckets[-1][0]] > _BUCKET_RATIO * lengths[i]:
                buckets.append([])
            buckets[-1].append(i)
        gather, source, before = [], np.empty(int(seq_lens.sum()), dtype=np.int64), 0
        for bucket in buckets:
            column = np.arange(lengths[bucket[0]])[None, :]
            head = heads[bucket][:, None]
            places = np.where(column < head, head_starts[bucket][:, None] + column, starts[bucket][:, None] + column - head)
            places[column >= lengths[bucket][:, None]] = 0
            wanted = (column < lengths[bucket][:, None]) & ((column >= head) | from_prompt[bucket][:, None])
            source[places[wanted]] = before + np.flatnonzero(wanted)
            gather.append(torch.from_numpy(places).to(device))
            before += places.size
        return cls(tuple(gather), torch.from_numpy(source).to(device), int(lengths[order].max()))


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
    rows = []
    for places in layout.gather:
        queries, keys, values = (tensor[places].transpose(1, 2) for tensor in (q, k, v))  # [S, H, L, D]
        attended = F.scaled_dot_product_attention(
            queries, keys, values, is_causal=True, scale=scaling, dropout_p=dropout, enable_gqa=grouped
        )
        rows.append(attended.transpose(1, 2).flatten(0, 1))  # [S * L, H, D]
    return torch.cat(rows)[layout.source].unsqueeze(0), None


def register() -> None:
    """Make `attn_implementation="varlen"` known to transformers. No mask is built for it."""
    AttentionInterface.register(NAME, varlen_attention)
    AttentionMaskInterface.register(NAME, lambda *args, **kwargs: None)
