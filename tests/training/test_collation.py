"""Greedy collation: nothing lost, nothing doubled, no budget exceeded, whatever the split."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from magistral_core.records import Batch, Completion, FinishReason, Group, Microbatch, Problem
from magistral_core.training.collation import collate, empty_row, pack, predictors, rank_shares, unused_share

BUDGET = 48


@st.composite
def batches(draw: st.DrawFn) -> Batch:
    """Groups of two to five completions of at most `BUDGET` tokens with their prompt, some masked. Token ids never repeat."""
    size = draw(st.integers(2, 5))
    completions = st.lists(st.integers(1, 32), min_size=size, max_size=size)
    lengths = draw(st.lists(st.tuples(st.integers(1, 16), completions), min_size=1, max_size=6))
    n = size * len(lengths)
    counted = np.array(draw(st.lists(st.sampled_from([True, True, False]), min_size=n, max_size=n)))
    ids = iter(np.split(np.arange(10**6, dtype=np.int32), np.cumsum([x for prompt, group in lengths for x in (prompt, *group)])))
    groups = []
    for group_id, (_, group) in enumerate(lengths):
        prompt_ids = next(ids)
        completions = []
        for index, tokens in enumerate(group):
            versions = np.full(tokens, 3, dtype=np.int32)
            if index == 0:
                versions[-1] = 4  # weights were swapped while it was generated (unless it has one token only)
            completions.append(
                Completion(
                    group_id=group_id,
                    index=index,
                    prompt_ids=prompt_ids,
                    token_ids=next(ids),
                    logprobs=-np.arange(1, tokens + 1, dtype=np.float32),
                    versions=versions,
                    text="",
                    finish_reason=FinishReason.STOP,
                )
            )
        groups.append(Group(group_id, Problem(str(group_id), "?"), tuple(completions)))
    weights = np.where(counted, np.linspace(0.5, 1, n), 0).astype(np.float32)
    return Batch(draw(st.integers(0, 99)), tuple(groups), np.linspace(-1, 1, n).astype(np.float32) * counted, weights)


def sequences(rows: list[list[Microbatch]]) -> list[Microbatch]:
    """The sequences of all rows, cut apart and put together again; those of empty rows left out."""
    found = []
    for row in (row for mine in rows for row in mine):
        edges = np.concatenate([[0], np.cumsum(row.seq_lens)])
        assert edges[-1] == len(row.token_ids)
        assert len(row.prefixes) == len(row.seq_lens)
        for segment, prefix in enumerate(row.prefixes.tolist()):
            mine = np.arange(edges[segment], edges[segment + 1])
            before = np.arange(edges[prefix], edges[prefix + 1]) if prefix >= 0 else mine[:0]
            places = np.concatenate([before, mine])
            values = {name: getattr(row, name)[places] for name in Microbatch.__slots__ if name not in {"seq_lens", "prefixes"}}
            part = Microbatch(seq_lens=np.array([len(places)]), prefixes=np.array([-1]), **values)
            if part.mask.any():
                found.append(part)
                np.testing.assert_array_equal(predictors(row)[places[1:]], places[:-1])
            else:
                assert segment in row.prefixes or len(row.seq_lens) == 1, "a prompt without a completion"
    return found


sharing = pytest.mark.parametrize("share", [False, True])


@sharing
@given(batch=batches(), ranks=st.integers(1, 5), seed=st.integers(0, 2**31))
def test_every_counted_completion_is_in_one_place(share: bool, batch: Batch, ranks: int, seed: int) -> None:
    rows = collate(batch, ranks=ranks, budget=BUDGET, seed=seed, share_prompts=share)
    assert len(rows) == ranks
    assert len({len(mine) for mine in rows}) == 1, "ZeRO 2 and 3 hang when ranks run different numbers of microbatches"
    assert len(rows[0]) >= 1
    assert all(len(row.token_ids) <= BUDGET for mine in rows for row in mine)

    completions = [completion for group in batch.groups for completion in group.completions]
    counted = {int(completions[i].token_ids[0]): i for i in np.flatnonzero(batch.weights)}
    found = {int(part.token_ids[part.mask][0]): part for part in sequences(rows)}
    assert sum(row.mask.sum() for mine in rows for row in mine) == sum(completions[i].length for i in counted.values())
    assert sorted(found) == sorted(counted)
    for first, part in found.items():
        i = counted[first]
        completion, p = completions[i], len(completions[i].prompt_ids)
        np.testing.assert_array_equal(part.token_ids, np.concatenate([completion.prompt_ids, completion.token_ids]))
        np.testing.assert_array_equal(part.position_ids, np.arange(len(part.token_ids)))
        generated = np.arange(len(part.token_ids)) >= p
        np.testing.assert_array_equal(part.mask, generated)
        np.testing.assert_array_equal(part.logprobs[p:], completion.logprobs)
        for values, expected in ((part.weights, batch.weights[i]), (part.advantages, batch.advantages[i])):
            np.testing.assert_array_equal(values, np.where(generated, expected, 0))
        assert (part.logprobs[:p] == 0).all()
        # A sequence that met a swap of weights has no one version to be compared with.
        whole = (completion.versions == completion.versions[0]).all()
        np.testing.assert_array_equal(part.versions, np.where(generated & whole, completion.versions[0], -1))


@given(batches(), st.integers(0, 2**31))
def test_any_number_of_ranks_trains_the_same_tokens(batch: Batch, seed: int) -> None:
    def contents(ranks: int, share: bool) -> list[tuple[int, ...]]:
        rows = collate(batch, ranks=ranks, budget=BUDGET, seed=seed, share_prompts=share)
        return sorted(tuple(part.token_ids.tolist()) for part in sequences(rows))

    assert len({tuple(contents(ranks, share)) for ranks in (1, 2, 3, 7) for share in (False, True)}) == 1


@given(batches(), st.integers(1, 5), st.integers(0, 2**31))
def test_a_microbatch_holds_a_prompt_once(batch: Batch, ranks: int, seed: int) -> None:
    rows, again = (collate(batch, ranks=ranks, budget=BUDGET, seed=seed, share_prompts=True) for _ in range(2))
    for mine, same in zip(rows, again, strict=True):
        assert [row.token_ids.tolist() for row in mine] == [row.token_ids.tolist() for row in same]
        sequences_of_rank = []
        for row in mine:
            firsts = row.token_ids[np.cumsum(row.seq_lens) - row.seq_lens]
            assert len(set(firsts.tolist())) == len(firsts), "token ids never repeat, so a prompt is there twice"
            assert 1 not in np.bincount(row.prefixes[row.prefixes >= 0]), "one completion alone is a whole sequence"
            sequences_of_rank += [len(part.token_ids) for part in sequences([[row]])]
        assert sum(bool(row.mask.any()) for row in mine) <= len(pack(sequences_of_rank, BUDGET)), "more microbatches than without sharing"


def tokens(rows: list[list[Microbatch]]) -> list[int]:
    return [sum(len(row.token_ids) for row in mine) for mine in rows]


@given(batches(), st.integers(1, 5), st.integers(0, 2**31))
def test_sharing_takes_no_tokens_of_the_slowest_rank(batch: Batch, ranks: int, seed: int) -> None:
    shared, alone = (tokens(collate(batch, ranks=ranks, budget=10_000, seed=seed, share_prompts=share)) for share in (True, False))
    assert max(shared) <= max(alone)


def regular_batch(groups: int, size: int, prompt: int, lengths: Sequence[int]) -> Batch:
    """Groups of the same size; `lengths` of all completions, in order."""
    made = []
    for g in range(groups):
        prompt_ids = np.full(prompt, g, np.int32)
        mine = [np.zeros(length, np.int32) for length in lengths[g * size : (g + 1) * size]]
        completions = [Completion(g, i, prompt_ids, zeros, zeros, zeros, "", FinishReason.STOP) for i, zeros in enumerate(mine)]
        made.append(Group(g, Problem(str(g), "?"), tuple(completions)))
    n = groups * size
    return Batch(0, tuple(made), np.ones(n, np.float32), np.ones(n, np.float32))


def test_whole_groups_stay_on_a_rank_where_completions_are_alike() -> None:
    batch = regular_batch(8, 8, prompt=60, lengths=[32] * 64)
    assert tokens(collate(batch, ranks=2, budget=4096, seed=0, share_prompts=True)) == [4 * (60 + 8 * 32)] * 2
    assert tokens(collate(batch, ranks=2, budget=4096, seed=0, share_prompts=False)) == [32 * (60 + 32)] * 2


def test_a_group_is_spread_where_its_completions_outweigh_the_prompts() -> None:
    """One group of long completions: with whole groups one rank would have all of it."""
    batch = regular_batch(4, 8, prompt=10, lengths=[1000] * 8 + [10] * 24)
    assert max(tokens(collate(batch, ranks=2, budget=16_384, seed=0, share_prompts=True))) < 8 * 1000


def test_a_group_longer_than_a_microbatch_is_split() -> None:
    rows = collate(regular_batch(1, 8, prompt=20, lengths=[30] * 8), ranks=1, budget=110, seed=0, share_prompts=True)[0]
    assert sorted(row.seq_lens.tolist() for row in rows) == [[20, 30, 30], [20, 30, 30, 30], [20, 30, 30, 30]]


@given(st.integers(0, 40), st.integers(1, 6), st.integers(0, 2**31), st.integers(0, 10**6), st.integers(1, 9))
def test_the_permutation_is_fixed_in_advance(n: int, ranks: int, seed: int, step: int, together: int) -> None:
    shares = rank_shares(n, ranks, seed, step, together)
    again = rank_shares(n, ranks, seed, step, together)
    assert all((a == b).all() for a, b in zip(shares, again, strict=True))
    assert sorted(np.concatenate(shares).tolist()) == list(range(n))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1
    assert all((np.diff(share) > 0).all() for share in shares)
    homes = np.concatenate([np.full(len(share), rank) for rank, share in enumerate(shares)])[np.argsort(np.concatenate(shares))]
    cut = sum(len(set(homes[start : start + together].tolist())) - 1 for start in range(0, n, together))
    assert cut <= ranks - 1, "only the edge of a share cuts a block"


def test_permutations_differ_between_steps_and_seeds_and_ignore_lengths() -> None:
    draws = {tuple(rank_shares(64, 2, seed, step)[0].tolist()) for seed in range(4) for step in range(4)}
    assert len(draws) == 16


@cache
def fewest_bins(lengths: tuple[int, ...], rooms: tuple[int, ...]) -> int:
    """The optimum, by trying everything; `rooms` are the free places of the opened bins."""
    if not lengths:
        return len(rooms)
    head, rest = lengths[0], lengths[1:]
    choices = [fewest_bins(rest, tuple(sorted((*rooms, BUDGET - head))))]
    for i, room in enumerate(rooms):
        if room >= head:
            choices.append(fewest_bins(rest, tuple(sorted((*rooms[:i], room - head, *rooms[i + 1 :])))))
    return min(choices)


@settings(max_examples=60)
@given(st.lists(st.integers(1, BUDGET), max_size=7))
def test_bins_stay_within_the_bound_of_first_fit_decreasing(lengths: list[int]) -> None:
    bins = pack(lengths, BUDGET)
    assert sorted(i for bin_ in bins for i in bin_) == list(range(len(lengths)))
    assert all(sum(lengths[i] for i in bin_) <= BUDGET for bin_ in bins)
    best = fewest_bins(tuple(sorted(lengths, reverse=True)), ())
    assert 9 * len(bins) <= 11 * best + 6


def test_pack_worked_example() -> None:
    # Longest first: 9 | 8 2 | 7 3 | 4 and the other 4
    assert pack([4, 9, 3, 8, 7, 2, 4], 10) == [[1], [3, 5], [4, 2], [0, 6]]


def first_fit_decreasing(lengths: list[int], budget: int) -> int:
    rooms: list[int] = []
    for length in sorted(lengths, reverse=True):
        slot = next((i for i, room in enumerate(rooms) if room >= length), None)
        if slot is None:
            rooms.append(budget - length)
        else:
            rooms[slot] -= length
    return len(rooms)


@settings(max_examples=30)
@given(st.integers(1, 200), st.integers(1, 100), st.integers(0, 99))
def test_never_more_bins_than_first_fit_decreasing(count: int, shortest: int, seed: int) -> None:
    lengths = np.random.default_rng(seed).integers(shortest, 101, count).tolist()
    bins = pack(lengths, 100)
    assert sorted(i for bin_ in bins for i in bin_) == list(range(count))
    assert all(sum(lengths[i] for i in bin_) <= 100 for bin_ in bins)
    assert len(bins) <= first_fit_decreasing(lengths, 100)
    assert bins == pack(lengths, 100), "every process makes the same packing"


def test_lengths_that_first_fit_wastes_are_packed_within_one_percent() -> None:
    """A long tail from a fifth of a budget: the longest that fits, each time, leaves lengths of which no few add up."""
    draws = 2000 * (1 + np.random.default_rng(0).pareto(2, 1000))
    lengths = draws[draws <= 10_000].astype(int).tolist()
    needed = -(-sum(lengths) // 10_000)
    assert first_fit_decreasing(lengths, 10_000) > 1.01 * needed
    assert len(pack(lengths, 10_000)) <= 1.01 * needed


def test_a_sequence_that_fits_nowhere_is_named() -> None:
    with pytest.raises(ValueError, match=r"101 tokens does not fit into training\.token_budget = 100"):
        pack([7, 101], 100)


def test_an_empty_row_counts_nothing() -> None:
    row = empty_row()
    assert not row.mask.any() and not row.weights.any() and not row.advantages.any()
    assert len(row.token_ids) >= 2, "its one scored token needs a predecessor"


@given(batches(), st.integers(1, 4))
def test_unused_share(batch: Batch, ranks: int) -> None:
    rows = collate(batch, ranks=ranks, budget=BUDGET, seed=0, share_prompts=True)
    tokens = sum(len(row.token_ids) for mine in rows for row in mine)
    assert unused_share(rows, BUDGET) == pytest.approx(1 - tokens / (BUDGET * ranks * len(rows[0])))
