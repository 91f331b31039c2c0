"""Models of Mistral's architecture with random weights: speed does not depend on what a model has learnt."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


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


def write_random_model(folder: Path, shape: Shape, *, seed: int = 0) -> Path:
    """A folder that transformers and vLLM load, with the tiny world's tokenizer, whose tokens are the first of the vocabulary."""
    import torch
    from transformers import MistralConfig, MistralForCausalLM

    from magistral_core.tiny.tokenizer import train_tokenizer

    tokenizer = train_tokenizer("quick")
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
        model = MistralForCausalLM(config)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
