"""The small base model before training: Mistral's architecture, fresh weights, and the folder that transformers and vLLM load."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from magistral_core.config.schema import TinySettings
from magistral_core.tiny.tokenizer import train_tokenizer

if TYPE_CHECKING:
    from transformers import MistralConfig, PreTrainedTokenizerFast

HIDDEN, LAYERS, HEADS, INTERMEDIATE = 128, 4, 4, 320
#: With the usual 0.02 a model this narrow hardly learns to add.
INIT_STD = 0.06
MAX_POSITIONS = 4096


def model_config(tokenizer: PreTrainedTokenizerFast) -> MistralConfig:
    """The architecture: about 0.80M parameters with the quick world's vocabulary."""
    from transformers import MistralConfig

    return MistralConfig(
        vocab_size=len(tokenizer),
        hidden_size=HIDDEN,
        intermediate_size=INTERMEDIATE,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        num_key_value_heads=HEADS,
        max_position_embeddings=MAX_POSITIONS,
        sliding_window=None,
        tie_word_embeddings=True,
        initializer_range=INIT_STD,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        dtype="float32",
    )


def write_initial_model(folder: Path, settings: TinySettings) -> None:
    """Write the fresh model of these settings to `folder`; see `write_model`."""
    write_model(folder, train_tokenizer(settings.world), settings.seed)


def write_model(folder: Path, tokenizer: PreTrainedTokenizerFast, seed: int) -> None:
    """Write config, random float32 weights (seeded), tokenizer and generation config to `folder`."""
    import torch
    from transformers import GenerationConfig, MistralForCausalLM

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = MistralForCausalLM(model_config(tokenizer))
    model.generation_config = GenerationConfig(
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id
    )
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
