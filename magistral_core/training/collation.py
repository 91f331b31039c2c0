"""Greedy collation of completions into packed microbatches of a fixed token budget (Magistral, section 3). Pure numpy.

A minibatch is a number of completions. Each rank's share, drawn by a permutation fixed in advance, is sorted by length and
packed, longest first, into microbatches where they fit. Every rank gets the same number of microbatches (ZeRO
stages 2 and 3 hang otherwise): a rank with fewer gets empty ones that add nothing to the gradient.

Completions of one group within a microbatch may share its prompt, which is then there once. Groups stay together as far as that costs
neither tokens of the slowest rank nor a microbatch more than its completions need one by one.
"""

from __future__ import annotations

import random
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from magistral_core.records import Batch, Completion, Microbatch

#: The shortest row that still predicts a token; what an empty microbatch holds.
_EMPTY_TOKENS = 2
#: Packings that are tried: fillings drawn for each microbatch, and the share of the budget that counts as full. Without draws it is
#: first-fit decreasing. A coarse slack keeps the lengths that are left more even, a fine one wastes less: neither wins always.
_FILLINGS = ((0, 0.0), (50, 0.001), (50, 0.003), (100, 0.01))


def pack(lengths: Sequence[int], budget: int, *, taken: int = 0) -> list[list[int]]:
    """Greedy collation: indices of the sequences in each microbatch.

    A microbatch is opened by the longest sequence left, then filled. First-fit decreasing takes the longest that still fits each time;
    it uses up the lengths from above, and the last microbatches are made of lengths that do not add up (to 6% more microbatches than
    needed where a sequence may be as long as the budget). So fillings that are drawn at random from what fits are tried as well, each
    until little room is left. The packing with the fewest microbatches counts; the draws are the same every time.

    Args:
        lengths: tokens of each sequence.
        budget: tokens of a microbatch.
        taken: tokens of each microbatch that are something else's, such as a prompt that its sequences share.

    Raises:
        ValueError: a sequence is longer than the budget.
    """
    if lengths and max(lengths) + taken > budget:
        raise ValueError(f"a sequence of {max(lengths) + taken} tokens does not fit into training.token_budget = {budget}")
    room = budget - taken
    best: list[list[int]] | None = None
    for draws, slack in _FILLINGS:
        bins = _pack_once(lengths, room, draws, int(slack * room))
        if best is None or len(bins) < len(best):
            best = bins
        if len(best) * room < sum(lengths) + room:
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


def rank_shares(n: int, ranks: int, seed: int, step: int, together: int = 1) -> list[np.ndarray]:
    """The pre-set permutation of a minibatch's completions to ranks: which indices each rank gets, in ascending order.

    Blocks of `together` neighbours stay on one rank, but for those that the edge of a share cuts: shares are equally many completions.
    """
    starts = together * np.random.default_rng((seed, step)).permutation(-(-n // together))
    order = (starts[:, None] + np.arange(together)).ravel()
    return [np.sort(share) for share in np.array_split(order[order < n], ranks)]


@dataclass(frozen=True)
class Loads:
    """Tokens that the completions of a batch bring to a row, int [n] each.

    Attributes:
        sharing: completions with the same number share a prompt; neighbours in the batch.
        prompts, lengths: tokens of the prompt, and of the completion.
    """

    sharing: np.ndarray
    prompts: np.ndarray
    lengths: np.ndarray

    @classmethod
    def of(cls, batch: Batch, *, share_prompts: bool) -> Loads:
        """Those of a batch; a prompt is there once for each group, or else for each completion."""
        completions = [(i, completion) for i, group in enumerate(batch.groups) for completion in group.completions]
        groups = np.array([i for i, _ in completions])
        return cls(
            sharing=groups if share_prompts else np.arange(len(groups)),
            prompts=np.array([len(completion.prompt_ids) for _, completion in completions]),
            lengths=np.array([completion.length for _, completion in completions]),
        )

    def tokens(self, indices: np.ndarray) -> int:
        """Of a row that holds these completions."""
        _, first = np.unique(self.sharing[indices], return_index=True)
        return int(self.lengths[indices].sum() + self.prompts[indices][first].sum())

    def by_prompt(self, indices: np.ndarray) -> list[np.ndarray]:
        """These completions, given in ascending order, cut where the prompt changes."""
        return np.split(indices, np.flatnonzero(np.diff(self.sharing[indices])) + 1) if len(indices) else []

    @property
    def blocks(self) -> list[int]:
        """How many neighbours may stay together: the largest group, half of it, and so on to one."""
        largest = int(np.bincount(self.sharing).max(initial=1))
        return [-(-largest // 2**i) for i in range((largest - 1).bit_length() + 1)]


def arrange(batch: Batch, loads: Loads, *, ranks: int, budget: int, seed: int) -> list[list[np.ndarray]]:
    """Which completions of a batch go into which microbatch: a list of microbatches a rank, the completions of a group side by side.

    Masked completions go nowhere. Of the pre-set permutations, from whole groups to single completions, the one counts whose slowest
    rank has the fewest tokens.
    """
    options = [rank_shares(len(loads.lengths), ranks, seed, batch.step, together) for together in loads.blocks]
    counted = [[share[batch.weights[share] > 0] for share in shares] for shares in options]
    best = min(counted, key=lambda shares: max(loads.tokens(share) for share in shares))
    return [_pack_share(share, loads, budget) for share in best]


def _pack_share(share: np.ndarray, loads: Loads, budget: int) -> list[np.ndarray]:
    """A rank's microbatches: as few as those of single completions, with as large parts of the groups as that permits."""
    best: list[np.ndarray] | None = None
    for together in loads.blocks:
        parts, tokens = _parts(share, together, loads, budget)
        bins = pack(tokens, budget)
        if best is None or len(bins) < len(best):
            best = [np.sort(np.concatenate([parts[i] for i in chosen])) for chosen in bins]
        if len(best) * budget < loads.tokens(share) + budget:
            break  # all tokens together need as many
    return best or []


def _parts(share: np.ndarray, together: int, loads: Loads, budget: int) -> tuple[list[np.ndarray], list[int]]:
    """Completions in parts of one prompt and of so many neighbours, or of fewer where these do not fit into a microbatch; their tokens."""
    parts, tokens = [], []
    for mine in loads.by_prompt(share):
        prompt = int(loads.prompts[mine[0]])
        for part in np.split(mine, range(together, len(mine), together)):
            total = prompt + int(loads.lengths[part].sum())
            bins = [part] if total <= budget else [part[chosen] for chosen in pack(loads.lengths[part].tolist(), budget, taken=prompt)]
            parts += bins
            tokens += [total] if len(bins) == 1 else [prompt + int(loads.lengths[bin_].sum()) for bin_ in bins]
    return parts, tokens


def collate(batch: Batch, *, ranks: int, budget: int, seed: int, share_prompts: bool) -> list[list[Microbatch]]:
    """Cut a batch into microbatches, a list a rank, all lists equally long."""
    completions = [completion for group in batch.groups for completion in group.completions]
    loads = Loads.of(batch, share_prompts=share_prompts)
    layout = arrange(batch, loads, ranks=ranks, budget=budget, seed=seed)

    def row(indices: np.ndarray) -> Microbatch:
        return build_row([_group_row([completions[i] for i in mine], batch, mine) for mine in loads.by_prompt(indices)])

    rows = [[row(indices) for indices in bins] for bins in layout]
    most = max(1, max(len(row) for row in rows))
    return [row + [empty_row()] * (most - len(row)) for row in rows]


def unused_share(rows: Iterable[Sequence[Microbatch]], budget: int) -> float:
    """Share of the step's token budget that holds no token: what padding would have been."""
    lengths = [len(microbatch.token_ids) for row in rows for microbatch in row]
    return 1.0 - sum(lengths) / (budget * len(lengths))


def build_row(sequences: Sequence[Microbatch]) -> Microbatch:
    """Put rows one after the other into one."""

    def join(name: str) -> np.ndarray:
        return np.concatenate([getattr(sequence, name) for sequence in sequences])

    firsts = np.cumsum([0, *(len(sequence.seq_lens) for sequence in sequences[:-1])])
    prefixes = [np.where(s.prefixes < 0, -1, s.prefixes + first) for s, first in zip(sequences, firsts, strict=True)]
    return replace(Microbatch(**{name: join(name) for name in Microbatch.__slots__}), prefixes=np.concatenate(prefixes).astype(np.int32))


def prompt_row(
    prompt_ids: np.ndarray,
    responses: Sequence[np.ndarray],
    *,
    weights: Sequence[float] | np.ndarray,
    advantages: Sequence[float] | np.ndarray | None = None,
    logprobs: Sequence[np.ndarray] | None = None,
    versions: Sequence[np.ndarray] | None = None,
) -> Microbatch:
    """A prompt and its responses as a row: first the prompt, then all their tokens, which alone carry weight.

    A single response makes one sequence with its prompt; of several, each continues the prompt, which the row holds once.

    Args:
        prompt_ids: int [P].
        responses: int [T_i] each.
        weights, advantages: of each response.
        logprobs, versions: float [T_i] and int [T_i] of each response.
    """
    p, own = len(prompt_ids), np.array([len(response) for response in responses])
    total = p + int(own.sum())

    def padded(values: np.ndarray | float, before: float, dtype: type) -> np.ndarray:
        row: np.ndarray = np.full(total, before, dtype=dtype)
        row[p:] = values
        return row

    places = np.arange(total, dtype=np.int32)
    several = len(own) > 1
    if several:
        places[p:] -= np.repeat(np.cumsum(own) - own, own).astype(np.int32)
    weight = np.repeat(weights, own)
    return Microbatch(
        token_ids=np.concatenate([prompt_ids, *responses]).astype(np.int32),
        position_ids=places,
        seq_lens=np.array([p, *own] if several else [total], dtype=np.int32),
        prefixes=np.array([-1, *[0] * len(own)] if several else [-1], dtype=np.int32),
        logprobs=padded(0.0 if logprobs is None else np.concatenate(logprobs), 0.0, np.float32),
        advantages=padded(0.0 if advantages is None else np.repeat(advantages, own), 0.0, np.float32),
        weights=padded(weight, 0.0, np.float32),
        versions=padded(-1 if versions is None else np.concatenate(versions), -1, np.int32),
        mask=padded(weight > 0, False, np.bool_),
    )


def predictors(row: Microbatch) -> np.ndarray:
    """The place whose state predicts each token, int64 [T]; meaningless where nothing predicts it."""
    places = np.arange(len(row.token_ids)) - 1
    ends = np.cumsum(row.seq_lens)
    continuing = row.prefixes >= 0
    places[(ends - row.seq_lens)[continuing]] = ends[row.prefixes[continuing]] - 1
    return places


def empty_row() -> Microbatch:
    """A microbatch that runs forward and backward and adds nothing."""
    tokens = np.zeros(_EMPTY_TOKENS, dtype=np.int32)
    return prompt_row(tokens[:1], [tokens[1:]], weights=[0.0])


def _group_row(completions: Sequence[Completion], batch: Batch, indices: np.ndarray) -> Microbatch:
    """Completions of one prompt, those at these indices of the batch."""
    return prompt_row(
        completions[0].prompt_ids,
        [completion.token_ids for completion in completions],
        weights=batch.weights[indices],
        advantages=batch.advantages[indices],
        logprobs=[completion.logprobs for completion in completions],
        versions=[_one_version(completion) for completion in completions],
    )


def _one_version(completion: Completion) -> np.ndarray:
    """Versions of a completion, or -1 where it met new weights: cached keys are still the older ones', so that it compares with none."""
    versions = completion.versions
    return versions if (versions == versions[0]).all() else np.full_like(versions, -1)
