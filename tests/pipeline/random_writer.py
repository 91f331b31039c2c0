"""A model that needs no training to earn varied rewards: random weights behind a template that has already given an answer.

The template writes `<think>-</think>\\boxed{1}`, then the model scribbles until it happens to end. The format is valid unless it scribbles
to the maximum length, the answer is seldom right, and the length penalty differs from one completion to the next.
"""

from __future__ import annotations

from pathlib import Path

ANSWERED = "<think>-</think>\\boxed{1}"
TEMPLATE = (
    "{% for message in messages %}{{ '<|' ~ message['role'] ~ '|>' ~ message['content'] }}"
    "{% if message['role'] == 'assistant' %}{{ eos_token }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>" + ANSWERED + "{% endif %}"
)
SPECIAL = ["<pad>", "<s>", "</s>", "<|user|>", "<|assistant|>"]


def make_model(folder: Path, seed: int = 0) -> Path:
    """Write the model, some 0.3M parameters, with a tokenizer of single characters."""
    import torch
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import MistralConfig, MistralForCausalLM, PreTrainedTokenizerFast

    characters = sorted(set(ANSWERED + "0123456789+-=?"))
    vocabulary = {token: index for index, token in enumerate([*SPECIAL, *characters])}
    backend = Tokenizer(models.BPE(vocabulary, []))
    backend.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    backend.decoder = decoders.Fuse()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token=SPECIAL[0], bos_token=SPECIAL[1], eos_token=SPECIAL[2], additional_special_tokens=SPECIAL[3:]
    )
    tokenizer.chat_template = TEMPLATE
    torch.manual_seed(seed)
    config = MistralConfig(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,
        max_position_embeddings=512,
        sliding_window=None,
        tie_word_embeddings=True,
        initializer_range=0.06,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    MistralForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
