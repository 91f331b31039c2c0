"""Greedy collation of completions into packed microbatches of a fixed token budget (Magistral, section 3). Pure numpy.

A minibatch is a number of completions. Each rank's share, drawn by a permutation fixed in advance, is sorted by length and
packed, longest first, into microbatches where they fit. Every rank gets the same number of microbatches (ZeRO
stages 2 and 3 hang otherwise): a rank with fewer gets empty ones that add nothing to the gradient.
"""

from __future__ import annotations

import random
from bisect import bisect_right
from collections.abc import Iterable, Sequence

import numpy as np

from magistral_core.records import Batch, Completion, Microbatch

#: The shortest row that still predicts a token; what an empty microbatch holds.
_EMPTY_TOKENS = 2
#: Packings that are tried: fillings drawn for each microbatch, and the share of the budget that counts as full. Without draws it is
#: first-fit decreasing. A coarse slack keeps the lengths that are left more even, a fine one wastes less: neither wins always.
_FILLINGS = ((0, 0.0), (50, 0.001), (50, 0.003), (100, 0.01))


def pack(lengths: Sequence[int], budget: int) -> list[list[int]]:
    """Greedy collation: indices of the sequences in each microbatch.

    A microbatch is opened by the longest sequence left, then filled. First-fit decreasing takes the longest that still fits each time;
    it uses up the lengths from above, and the last microbatches are made of lengths that do not add up (to 6% more microbatches than
    needed where a sequence may be as long as the budget). So fillings that are drawn at random from what fits are tried as well, each
    until little room is left. The packing with the fewest microbatches counts; the draws are the same every time.

    Args:
        lengths: tokens of each sequence.
        budget: tokens of a microbatch.

    Raises:
        ValueError: a sequence is longer than the budget.
    """
    if lengths and max(lengths) > budget:
        raise ValueError(f"a sequence of {max(lengths)} tokens does not fit into training.token_budget = {budget}")
    best: list[list[int]] | None = None
    for draws, slack in _FILLINGS:
        bins = _pack_once(lengths, budget, draws, int(slack * budget))
        if best is None or len(bins) < len(best):
            best = bins
        if len(best) * budget < sum(lengths) + budget:
            break  # all tokens together need as many
    return best or []


def _pack_once(lengths: Sequence[int], budget: int, draws: int, slack: int) -> list[list[int]]:
    """One packing; `draws` fillings of a microbatch at most, until one leaves no more than `slack` tokens of room."""
    left = sorted(range(len(lengths)), key=lambda i: (lengths[i], -i))
    values = [lengths[i] for i in left]
    rng = random.Random(len(lengths))
    bins = []
    while left:
        room = budget - values.pop()
        chosen = [left.pop()]
        for place in sorted(_fill(values, room, draws, slack, rng), reverse=True):
            chosen.append(left.pop(place))
            del values[place]
        bins.append(chosen)
    return bins


def _fill(values: Sequence[int], room: int, draws: int, slack: int, rng: random.Random) -> list[int]:
    """Places in ascending `values` whose sum fits into `room`: always the longest that fits, or the best of some random fillings."""
    best: list[int] = []
    best_free = room + 1
    for _ in range(max(draws, 1)):
        chosen: list[int] = []
        free = room
        while True:
            place = _longest_left(values, free, chosen)
            if place is None:
                break
            if draws and free - values[place] > slack:
                # It would not fill the microbatch: any that fits may do as well, if another can follow it.
                other = rng.randrange(place + 1)
                if other not in chosen and values[other] + values[0] <= free:
                    place = other
            chosen.append(place)
            free -= values[place]
        if free < best_free:
            best, best_free = chosen, free
        if best_free <= slack:
            break
    return best


def _longest_left(values: Sequence[int], free: int, taken: Sequence[int]) -> int | None:
    place = bisect_right(values, free) - 1
    while place in taken:
        place -= 1
    return place if place >= 0 else None


def rank_shares(n: int, ranks: int, seed: int, step: int) -> list[np.ndarray]:
    """The pre-set permutation of a minibatch's completions to ranks: which indices each rank gets, in ascending order."""
    order = np.random.default_rng((seed, step)).permutation(n)
    return [np.sort(share) for share in np.array_split(order, ranks)]


def collate(batch: Batch, *, ranks: int, budget: int, seed: int) -> list[list[Microbatch]]:
    """Cut a batch into microbatches, a list a rank, all lists equally long."""
    completions = [completion for group in batch.groups for completion in group.completions]
    rows: list[list[Microbatch]] = []
    for share in rank_shares(len(completions), ranks, seed, batch.step):
        mine = [i for i in share.tolist() if batch.weights[i] > 0]
        bins = pack([len(completions[i].prompt_ids) + completions[i].length for i in mine], budget)
        rows.append([build_row([_sequence(completions[mine[i]], batch, mine[i]) for i in indices]) for indices in bins])
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
