"""Greedy collation of completions into packed microbatches of a fixed token budget (Magistral, section 3). Pure numpy.

A minibatch is a number of completions. Each rank's share, drawn by a permutation fixed in advance, is sorted by length and
packed, longest first, each into the first microbatch where it fits. Every rank gets the same number of microbatches (ZeRO
stages 2 and 3 hang otherwise): a rank with fewer gets empty ones that add nothing to the gradient.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from magistral_core.records import Batch, Completion, Microbatch

#: The shortest row that still predicts a token; what an empty microbatch holds.
_EMPTY_TOKENS = 2


def pack(lengths: Sequence[int], budget: int) -> list[list[int]]:
    """First-fit decreasing: indices of the sequences in each microbatch.

    Args:
        lengths: tokens of each sequence.
        budget: tokens of a microbatch.

    Raises:
        ValueError: a sequence is longer than the budget.
    """
    order = sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))
    bins: list[list[int]] = []
    room: list[int] = []
    for i in order:
        if lengths[i] > budget:
            raise ValueError(f"a sequence of {lengths[i]} tokens does not fit into training.token_budget = {budget}")
        slot = next((b for b, free in enumerate(room) if free >= lengths[i]), None)
        if slot is None:
            bins.append([])
            room.append(budget)
            slot = len(bins) - 1
        bins[slot].append(i)
        room[slot] -= lengths[i]
    return bins


def rank_shares(n: int, ranks: int, seed: int, step: int) -> list[np.ndarray]:
    """The pre-set permutation of a minibatch's completions to ranks: which indices each rank gets, in ascending order."""
    order = np.random.default_rng((seed, step)).permutation(n)
    return [np.sort(share) for share in np.array_split(order, ranks)]


def arrange(batch: Batch, *, ranks: int, budget: int, seed: int) -> list[list[list[int]]]:
    """Which completions of a batch go into which microbatch: a list of microbatches a rank. Masked completions go nowhere."""
    lengths = [len(completion.prompt_ids) + completion.length for group in batch.groups for completion in group.completions]
    layout = []
    for share in rank_shares(len(lengths), ranks, seed, batch.step):
        mine = [i for i in share.tolist() if batch.weights[i] > 0]
        layout.append([[mine[i] for i in indices] for indices in pack([lengths[i] for i in mine], budget)])
    return layout


def collate(batch: Batch, *, ranks: int, budget: int, seed: int) -> list[list[Microbatch]]:
    """Cut a batch into microbatches, a list a rank, all lists equally long."""
    completions = [completion for group in batch.groups for completion in group.completions]
    layout = arrange(batch, ranks=ranks, budget=budget, seed=seed)
    rows = [[build_row([_sequence(completions[i], batch, i) for i in indices]) for indices in bins] for bins in layout]
    most = max(1, max(len(row) for row in rows))
    return [row + [empty_row()] * (most - len(row)) for row in rows]


def unused_share(rows: Iterable[Sequence[Microbatch]], budget: int) -> float:
    """Share of the step's token budget that holds no token: what padding would have been."""
    lengths = [len(microbatch.token_ids) for row in rows for microbatch in row]
    return 1.0 - sum(lengths) / (budget * len(lengths))


def build_row(sequences: Sequence[Microbatch]) -> Microbatch:
    """Put sequences one after the other into one row."""

    def join(name: str) -> np.ndarray:
        return np.concatenate([getattr(sequence, name) for sequence in sequences])

    return Microbatch(**{name: join(name) for name in Microbatch.__slots__})


def sequence_row(
    prompt_ids: np.ndarray,
    response_ids: np.ndarray,
    *,
    weight: float,
    logprobs: np.ndarray | None = None,
    advantage: float = 0.0,
    versions: np.ndarray | None = None,
) -> Microbatch:
    """One sequence as a row of its own: `P` prompt tokens, then `T` response tokens which alone carry weight."""
    p, t = len(prompt_ids), len(response_ids)

    def padded(values: np.ndarray | float | bool, before: float | bool, dtype: type) -> np.ndarray:
        row: np.ndarray = np.full(p + t, before, dtype=dtype)
        row[p:] = values
        return row

    return Microbatch(
        token_ids=np.concatenate([prompt_ids, response_ids]).astype(np.int32),
        position_ids=np.arange(p + t, dtype=np.int32),
        seq_lens=np.array([p + t], dtype=np.int32),
        logprobs=padded(0.0 if logprobs is None else logprobs, 0.0, np.float32),
        advantages=padded(advantage, 0.0, np.float32),
        weights=padded(weight, 0.0, np.float32),
        versions=padded(-1 if versions is None else versions, -1, np.int32),
        mask=padded(weight > 0, False, np.bool_),
    )


def empty_row() -> Microbatch:
    """A microbatch that runs forward and backward and adds nothing."""
    tokens = np.zeros(_EMPTY_TOKENS, dtype=np.int32)
    return sequence_row(tokens[:1], tokens[1:], weight=0.0)


def _sequence(completion: Completion, batch: Batch, index: int) -> Microbatch:
    return sequence_row(
        completion.prompt_ids,
        completion.token_ids,
        weight=float(batch.weights[index]),
        logprobs=completion.logprobs,
        advantage=float(batch.advantages[index]),
        # Only whole sequences of one version compare exactly: after a swap, cached keys are still the older weights'.
        versions=completion.versions if (completion.versions == completion.versions[0]).all() else None,
    )
