"""Models of Mistral's architecture with random weights: speed does not depend on what a model has learnt."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from magistral_core.records import Batch, Microbatch


@dataclass(frozen=True)
class Shape:
    """Sizes of a model."""

    layers: int
    hidden: int
    intermediate: int
    heads: int
    vocabulary: int = 4096


#: By about so many million parameters.
SHAPES = {
    10: Shape(6, 320, 896, 5),
    50: Shape(8, 640, 2048, 10),
    200: Shape(12, 1088, 2944, 17),
}


def random_model(shape: Shape, tokenizer: Any, *, seed: int = 0) -> Any:
    """A model in float32. The vocabulary is at least the tokenizer's."""
    import torch
    from transformers import MistralConfig, MistralForCausalLM

    config = MistralConfig(
        vocab_size=max(shape.vocabulary, len(tokenizer)),
        hidden_size=shape.hidden,
        intermediate_size=shape.intermediate,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.heads,
        max_position_embeddings=32_768,
        sliding_window=None,
        tie_word_embeddings=False,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        dtype="float32",
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return MistralForCausalLM(config)


def write_random_model(folder: Path, shape: Shape, *, seed: int = 0) -> Path:
    """A folder that transformers and vLLM load, with the tiny world's tokenizer, whose tokens are the first of the vocabulary."""
    from magistral_core.tiny.tokenizer import train_tokenizer

    tokenizer = train_tokenizer("quick")
    random_model(shape, tokenizer, seed=seed).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def random_sequences(lengths: Sequence[int], shape: Shape, *, seed: int = 0) -> list[Microbatch]:
    """Sequences of random tokens, each a row of its own: a quarter is prompt, the rest carries weight as in an RL step."""
    from magistral_core.training.collation import prompt_row

    rng = np.random.default_rng(seed)
    rows = []
    for length in lengths:
        tokens = rng.integers(10, shape.vocabulary, length).astype(np.int32)
        prompt = max(1, length // 4)
        response = length - prompt
        # Log-probabilities near those of a random model: ratios about 1.
        logprobs = np.full(response, -np.log(shape.vocabulary), dtype=np.float32)
        rows.append(
            prompt_row(
                tokens[:prompt],
                [tokens[prompt:]],
                weights=[1.0 / sum(lengths)],
                logprobs=[logprobs],
                advantages=[float(rng.normal())],
            )
        )
    return rows


def random_batch(groups: int, group_size: int, prompt: int, tokens: int, shape: Shape, *, seed: int = 0) -> Batch:
    """Groups of random tokens, all completions of one length."""
    from magistral_core.records import Batch, Completion, FinishReason, Group, Problem

    rng = np.random.default_rng(seed)
    n = groups * group_size
    logprobs, versions = np.full(tokens, -np.log(shape.vocabulary), dtype=np.float32), np.zeros(tokens, dtype=np.int32)

    def draw(count: int) -> np.ndarray:
        return rng.integers(10, shape.vocabulary, count).astype(np.int32)

    def group(number: int) -> Group:
        prompt_ids = draw(prompt)
        made = (Completion(number, i, prompt_ids, draw(tokens), logprobs, versions, "", FinishReason.STOP) for i in range(group_size))
        return Group(number, Problem(str(number), "random tokens"), tuple(made))

    weights = np.full(n, 1.0 / (n * tokens), dtype=np.float32)
    return Batch(0, tuple(map(group, range(groups))), rng.normal(size=n).astype(np.float32), weights)
