"""A policy is compared with itself: nothing in it may be random, though it trains."""

from __future__ import annotations

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from magistral_core.training.trainer import _without_dropout

SIZES = {"vocab_size": 32, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
GPT2 = GPT2Config(n_embd=16, n_layer=2, n_head=2, n_positions=16, resid_pdrop=0.5, embd_pdrop=0.5, attn_pdrop=0.5, **SIZES)
LLAMA = LlamaConfig(
    hidden_size=16,
    intermediate_size=16,
    num_hidden_layers=2,
    num_attention_heads=2,
    max_position_embeddings=16,
    attention_dropout=0.5,
    **SIZES,
)


@pytest.mark.parametrize(("kind", "config"), [(GPT2LMHeadModel, GPT2), (LlamaForCausalLM, LLAMA)])
def test_a_model_with_dropout_says_the_same_twice_while_it_trains(kind: type, config: object) -> None:
    torch.manual_seed(0)
    model = kind(config).train()
    tokens = torch.arange(10)[None]
    assert not torch.equal(model(tokens).logits, model(tokens).logits), "its dropout works"
    _without_dropout(model)
    assert model.training
    assert torch.equal(model(tokens).logits, model(tokens).logits)
