"""Models that a trainer would compute otherwise than the generators are refused by their configuration; ordinary ones are not."""

from __future__ import annotations

import pytest
from transformers import (
    FalconH1Config,
    Gemma3nConfig,
    Gemma3TextConfig,
    GraniteConfig,
    Lfm2Config,
    Llama4TextConfig,
    LlamaConfig,
    MistralConfig,
    PretrainedConfig,
    Qwen3Config,
)

from magistral_core.errors import InputError
from magistral_core.training.supported import refuse_unsupported


@pytest.mark.parametrize(
    "config", [MistralConfig(), LlamaConfig(), Qwen3Config(), Gemma3TextConfig()], ids=lambda config: config.model_type
)
def test_models_whose_layers_all_attend_are_taken(config: PretrainedConfig) -> None:
    refuse_unsupported(config, "m")


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        (Lfm2Config(num_hidden_layers=2, layer_types=["conv", "full_attention"]), "layers of conv"),
        (Llama4TextConfig(), "layers of chunked_attention"),
        (Gemma3nConfig(), "scales the logits (final_logit_softcapping)"),  # it stands in the text model's part
        (FalconH1Config(), "layers of hybrid"),
        (GraniteConfig(logits_scaling=8.0), "scales the logits (logits_scaling)"),
    ],
    ids=lambda value: getattr(value, "model_type", ""),
)
def test_others_are_named(config: PretrainedConfig, reason: str) -> None:
    with pytest.raises(InputError) as refusal:
        refuse_unsupported(config, "m")
    assert reason in str(refusal.value) and str(refusal.value).startswith("model.path m: ")
