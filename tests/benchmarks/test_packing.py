"""Both sides of the packing benchmark hold the same tokens with the same weight."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.gpu.run import flops_per_token
from benchmarks.packing import _pad, _padded_batches
from benchmarks.random_model import Shape, random_batch, random_sequences
from magistral_core.training.collation import build_row, collate

SHAPE = Shape(layers=2, hidden=8, intermediate=16, heads=2, vocabulary=100)


def test_padded_batches_keep_order_and_budget() -> None:
    sequences = random_sequences([10, 30, 20, 5, 40, 2], SHAPE)
    batches = _padded_batches(sequences, 60)
    assert [(width, [len(sequence.token_ids) for sequence in batch]) for batch, width in batches] == [
        (30, [10, 30]),
        (20, [20, 5]),
        (40, [40]),
        (2, [2]),
    ]
    assert [sequence for batch, _ in batches for sequence in batch] == sequences


def test_padding_carries_no_weight() -> None:
    [sequence] = random_sequences([12], SHAPE)
    padded = _pad(sequence, 20)
    assert padded.seq_lens.tolist() == [20] and padded.position_ids.tolist() == list(range(20))
    np.testing.assert_array_equal(padded.token_ids[:12], sequence.token_ids)
    assert not padded.mask[12:].any() and not padded.weights[12:].any()
    assert padded.weights.sum() == pytest.approx(sequence.weights.sum())
    assert len(build_row([padded, padded]).token_ids) == 40


def test_shared_and_repeated_prompts_train_the_same_tokens() -> None:
    batch = random_batch(3, 4, 10, 7, SHAPE)
    shared, repeated = (collate(batch, ranks=1, budget=1000, seed=0, share_prompts=share)[0] for share in (True, False))
    assert [len(row.token_ids) for row in shared] == [3 * (10 + 4 * 7)]
    assert [len(row.token_ids) for row in repeated] == [3 * 4 * (10 + 7)]
    for name in ("token_ids", "logprobs", "advantages", "weights"):
        np.testing.assert_array_equal(*(getattr(row, name)[row.mask] for row in (*shared, *repeated)))


def test_flops_of_a_known_case() -> None:
    # One sequence of 3 tokens: 6 pairs; matrices of 1000 parameters beside the embedding's 800.
    assert flops_per_token(1800, SHAPE, [3]) == pytest.approx(6 * 1000 + 12 * 2 * 8 * 6 / 3)
