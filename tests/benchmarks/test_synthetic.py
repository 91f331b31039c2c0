"""Planned lengths, and the random models that they are planned for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.synthetic import PREFILL, SHAPES, Lengths, model_folder, parity, recipe
from magistral_core import api
from magistral_core.config.schema import Recipe
from magistral_core.records import Problem


@given(st.sampled_from([16, 64]), st.integers(8, 300), st.sampled_from([1.0, 3.0, 5.0]), st.integers(0, 50))
def test_each_batch_has_the_mean_and_the_longest_that_were_asked_for(batch: int, mean: int, skew: float, number: int) -> None:
    found = Lengths(mean, skew, batch, 8).of_batch(number)
    assert found.shape == (batch,)
    assert abs(found.mean() - mean) < 0.51
    assert found.max() == round(mean * skew)
    assert found.min() >= 1


def test_lengths_are_dealt_out_anew_in_each_batch_and_read_by_group() -> None:
    lengths = Lengths(32, 5.0, 16, 8)
    assert sorted(lengths.of_batch(1)) == sorted(lengths.of_batch(2))
    assert list(lengths.of_batch(1)) != list(lengths.of_batch(2))
    assert [lengths.of(group, index) for group in (2, 3) for index in range(8)] == list(lengths.of_batch(1))


def test_batches_that_warm_up_are_brief() -> None:
    lengths = Lengths(256, 5.0, 16, 8, settle=2)
    assert max(lengths.of_batch(1)) == lengths.brief < max(lengths.of_batch(2))


def test_the_reward_differs_with_the_text() -> None:
    rewards = [parity(problem=Problem("p", "1+1"), response=text, thoughts="", answer="", length=4) for text in ("bbbb", "abab", "aaaa")]
    assert rewards == [1.0, 0.5, 0.0]


@pytest.mark.slow
@pytest.mark.parametrize("size", SHAPES)
def test_a_random_model_has_its_size_and_never_ends_by_itself(size: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MAGISTRAL_CACHE", str(tmp_path))
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(model_folder(size))
    millions = sum(p.numel() for p in model.parameters()) / 1e6
    # The smallest, all of whose parameters are 0.126 million, is named by its first decimal.
    assert millions == pytest.approx(float(size.removesuffix("M")), rel=0.15) or f"{millions:.1f}M" == size
    import torch

    logits = model(torch.randint(3, 300, (2, 40))).logits
    end = logits[..., model.config.eos_token_id]
    assert (end < logits.max(-1).values - 100).all()
    rest = np.delete(logits.softmax(-1).detach().numpy(), model.config.eos_token_id, axis=-1)
    assert rest.max() < 0.5  # noise, and no token but the end is held down


@pytest.mark.parametrize("size", SHAPES)
def test_recipes_of_all_sizes_hold_two_batches_of_the_longest(size: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.synthetic.model_folder", lambda size: tmp_path / size)  # making one takes seconds
    found = Recipe.model_validate(recipe(size, Lengths(32, 5.0, 16, 8)))
    assert found.pipeline.n_async == found.generation.max_num_seqs == 32
    values = 32 * (64 + 160) * SHAPES[size].layers * SHAPES[size].hidden * 2  # a key and a value
    assert found.generation.kv_cache_gib == max(0.1, 4 * values / 2**30)


@pytest.mark.slow
def test_a_planned_recipe_is_valid_and_its_prompts_write_a_whole_answer() -> None:
    prepared = api.prepare(Recipe.model_validate(recipe("0.1M", Lengths(32, 5.0, 16, 8), pipeline={"trainers": 2})))
    assert prepared.recipe.pipeline.trainers == 2
    assert prepared.prompt(prepared.problems[0]).prefill == PREFILL
