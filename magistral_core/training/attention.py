"""Causal attention over a packed row, without a `[T, T]` mask.

The sequences of a row are sorted into buckets of similar length. A bucket is padded on the right to its longest sequence and
goes through one call of PyTorch's scaled-dot-product attention with `is_causal=True`: causality alone keeps real tokens from
seeing the padding. Registered with transformers as `varlen`; on GPUs `flash_attention_2` does the same with its own kernel.

Where completions share a prompt, it is a sequence itself, and its keys and values are gathered once for each completion. Short completions
attend to them and to their own by a small mask, equal for all of a bucket. For long ones it is cheaper to let causality skip half of
the square: they go with the prompt's queries before their own, and what comes out for those is dropped. So do all on a GPU, whose flash
kernel takes no mask.
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
#: Tokens of the longest completion that attends to a shared prompt by a mask. Bounds the mask; measured on a CPU with prompts of 60 tokens.
_MASKED = 256
#: Tokens of a row's longest sequence times a head's width, up to which a CPU computes attention in float32: there PyTorch's kernel for
#: bfloat16 has a backward pass that takes up to four times as long. At about twice that, both take as long.
_IN_FLOAT32 = 12_288


@dataclass(frozen=True)
class Bucket:
    """Sequences of one call of attention.

    Attributes:
        queries: int64 [S, L], the row's token at each place; padding points at the row's token 0.
        keys: int64 [S, K], the same; `queries` itself where attention is plainly causal.
        mask: bool [L, K], which keys each query sees; None: causal.
    """

    queries: torch.Tensor
    keys: torch.Tensor
    mask: torch.Tensor | None


@dataclass(frozen=True)
class RowLayout:
    """Where the sequences of a packed row lie.

    Attributes:
        buckets: every token of the row is a query of one of them, a completion's prompt perhaps of several.
        queries, keys: int64, those of all buckets one after the other. Taken from the row at once, for what is taken bucket by bucket has
            a gradient as large as the row each time.
        source: int64 [T], where the query of each token of the row lies in the buckets, flattened one after the other.
        longest: tokens of the longest sequence, prompt included.
    """

    buckets: tuple[Bucket, ...]
    queries: torch.Tensor
    keys: torch.Tensor
    source: torch.Tensor
    longest: int

    @classmethod
    def of(cls, seq_lens: np.ndarray, prefixes: np.ndarray, device: torch.device | str) -> RowLayout:
        """Lay out a row of segments, int [S] each (see `Microbatch`)."""
        starts = np.cumsum(seq_lens) - seq_lens
        continuing = prefixes >= 0
        heads = np.where(continuing, seq_lens[prefixes], 0)
        head_starts = np.where(continuing, starts[prefixes], 0)
        masked = _MASKED if torch.device(device).type == "cpu" else 0
        # A masked bucket has one length of prompts; its queries are those of the completions alone.
        hidden = np.where(continuing & (seq_lens <= masked), heads, 0)
        widths = heads + seq_lens - hidden
        buckets, source, before = [], np.empty(int(seq_lens.sum()), dtype=np.int64), 0
        for mine in _bucketed(hidden, widths):
            head, first = heads[mine, None], int(hidden[mine[0]])
            column = np.arange(first + widths[mine[0]])[None, :]
            keys = np.where(column < head, head_starts[mine, None] + column, starts[mine, None] + column - head)
            valid = column < head + seq_lens[mine, None]
            keys[~valid] = 0
            queries, own = keys[:, first:], (valid & (column >= head))[:, first:]
            source[queries[own]] = before + np.flatnonzero(own)
            before += queries.size
            mask = torch.ones(queries.shape[1], keys.shape[1], dtype=torch.bool, device=device).tril(first) if first else None
            gathered = torch.from_numpy(keys).to(device)
            buckets.append(Bucket(gathered[:, first:].contiguous(), gathered, mask))
        all_queries, all_keys = (torch.cat([getattr(bucket, kind).flatten() for bucket in buckets]) for kind in ("queries", "keys"))
        return cls(tuple(buckets), all_queries, all_keys, torch.from_numpy(source).to(device), int((heads + seq_lens).max()))


def _bucketed(kinds: np.ndarray, lengths: np.ndarray) -> list[np.ndarray]:
    """Indices of one kind and of similar length, the longest of each bucket first."""
    order = np.lexsort((-lengths, kinds))
    edges, longest = [], order[0]
    for place, i in enumerate(order):
        if kinds[i] != kinds[longest] or lengths[longest] > _BUCKET_RATIO * lengths[i]:
            edges.append(place)
            longest = i
    return np.split(order, edges)


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
    narrow = query.device.type == "cpu" and query.dtype == torch.bfloat16 and layout.longest * query.shape[-1] <= _IN_FLOAT32
    dtype = torch.float32 if narrow else query.dtype
    q, k, v = (tensor[0].transpose(0, 1).to(dtype) for tensor in (query, key, value))  # [T, H, D]
    query_sizes, key_sizes = ([getattr(bucket, kind).numel() for bucket in layout.buckets] for kind in ("queries", "keys"))
    taken = zip(
        layout.buckets,
        take(q, layout.queries).split(query_sizes),
        take(k, layout.keys).split(key_sizes),
        take(v, layout.keys).split(key_sizes),
        strict=True,
    )
    rows = []
    for bucket, *parts in taken:
        shapes = (bucket.queries.shape, bucket.keys.shape, bucket.keys.shape)
        queries, keys, values = (
            part.unflatten(0, shape).transpose(1, 2) for part, shape in zip(parts, shapes, strict=True)
        )  # [S, H, L, D]
        attended = F.scaled_dot_product_attention(
            queries,
            keys,
            values,
            attn_mask=bucket.mask,
            is_causal=bucket.mask is None,
            scale=scaling,
            dropout_p=dropout,
            enable_gqa=grouped,
        )
        rows.append(attended.transpose(1, 2).flatten(0, 1))  # [S * L, H, D]
    return take(torch.cat(rows), layout.source).to(query.dtype).unsqueeze(0), None


def take(rows: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    """Rows [T, ...] at int64 places [...], some of them several times, whose gradients then add up in a fixed order.

    Indexing adds from several threads in any order on a CPU; `index_select` does so on a GPU.
    """
    if rows.device.type == "cpu":
        return rows.index_select(0, places.flatten()).unflatten(0, places.shape)
    return rows[places]


def register() -> None:
    """Make `attn_implementation="varlen"` known to transformers. No mask is built for it."""
    AttentionInterface.register(NAME, varlen_attention)
    AttentionMaskInterface.register(NAME, lambda *args, **kwargs: None)
