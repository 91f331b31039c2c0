"""A random Mistral of about one million parameters with a byte-level tokenizer, and requests for it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import MistralConfig, MistralForCausalLM, PreTrainedTokenizerFast

from magistral_core.config.schema import GenerationSettings
from magistral_core.records import Prompt, Request

TEMPLATE = (
    "{% for message in messages %}<|{{ message['role'] }}|>{{ message['content'] }}"
    "{% if message['role'] == 'assistant' %}{{ eos_token }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
MAX_MODEL_LEN = 512
GENERATION = GenerationSettings(dtype="float32", max_tokens=64, max_num_seqs=64, kv_cache_gib=0.0625)


def make_tokenizer(template: str | None = TEMPLATE) -> PreTrainedTokenizerFast:
    """256 bytes and a few special tokens."""
    specials = ["<pad>", "<s>", "</s>", "<|system|>", "<|user|>", "<|assistant|>"]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: index for index, token in enumerate(specials + alphabet)}
    backend = Tokenizer(models.BPE(vocabulary, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="<pad>", bos_token="<s>", eos_token="</s>", additional_special_tokens=specials[3:]
    )
    tokenizer.chat_template = template
    return tokenizer


def make_model(folder: Path, seed: int, tied: bool = True) -> MistralForCausalLM:
    """Write a random model and its tokenizer to a folder; large initial weights, so that two seeds differ clearly."""
    torch.manual_seed(seed)
    tokenizer = make_tokenizer()
    config = MistralConfig(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,
        max_position_embeddings=MAX_MODEL_LEN,
        sliding_window=None,
        tie_word_embeddings=tied,
        initializer_range=0.06,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model = MistralForCausalLM(config).eval()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return model


def make_requests(count: int, max_tokens: int, *, group: int = 0, seed: int = 0, prompt_length: int = 40) -> list[Request]:
    """Requests of one group over one random prompt."""
    prompt = Prompt(np.random.default_rng(1000 + group).integers(6, 262, prompt_length).astype(np.int32))
    return [Request(group, index, prompt, seed=seed * 100_000 + group * 1000 + index, max_tokens=max_tokens) for index in range(count)]
