"""The norm in one autograd function, against that of transformers and its gradient."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoModelForCausalLM, Gemma2Config, MistralConfig, Qwen3Config
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from magistral_core.training.norms import FusedRMSNorm, fuse_norms


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 2e-6), (torch.bfloat16, 2.0**-6)])
@pytest.mark.parametrize("shape", [(7, 48), (2, 5, 3, 16)])
def test_values_and_gradients_are_those_of_transformers(shape: tuple[int, ...], dtype: torch.dtype, tolerance: float) -> None:
    generator = torch.Generator().manual_seed(0)
    plain = LlamaRMSNorm(shape[-1], eps=1e-5).to(dtype)
    with torch.no_grad():
        plain.weight.copy_(torch.rand(shape[-1], generator=generator) + 0.5)
    x = (3 * torch.randn(shape, generator=generator)).to(dtype).requires_grad_()
    upstream = torch.randn(shape, generator=generator).to(dtype)
    wanted = plain(x)
    wanted_grads = torch.autograd.grad(wanted, [x, plain.weight], upstream)
    plain.__class__ = FusedRMSNorm
    kept = x.detach().clone(), upstream.clone()
    found = plain(x)
    found_grads = torch.autograd.grad(found, [x, plain.weight], upstream)
    for one, other in zip((found, *found_grads), (wanted, *wanted_grads), strict=True):
        assert one.dtype == dtype
        assert float((one - other).abs().max()) <= tolerance * float(other.abs().max())
    assert torch.equal(x, kept[0]) and torch.equal(upstream, kept[1]), "what came in is as it was"


_SIZES = {
    "vocab_size": 32, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2,
    "num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 8, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip


@pytest.mark.parametrize(
    ("config", "norms"),
    [(MistralConfig, 5), (Qwen3Config, 9), (Gemma2Config, 0)],
    ids=["mistral", "with norms of heads", "scaled otherwise"],
)
def test_norms_of_the_same_code_are_taken(config: type, norms: int) -> None:
    """Two a layer and the last, where heads have norms four a layer. Gemma's adds one to its weight: not the same."""
    torch.manual_seed(0)
    lm = AutoModelForCausalLM.from_config(config(**_SIZES))
    tokens = torch.arange(3, 11)[None]
    before = lm(tokens).logits
    assert fuse_norms(lm) == norms
    torch.testing.assert_close(lm(tokens).logits, before, rtol=1e-4, atol=1e-5)
