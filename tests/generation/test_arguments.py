"""What is refused before an engine is started."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from magistral_core.config.schema import GenerationSettings
from magistral_core.errors import InputError
from magistral_core.generation.arguments import check_cache

#: Of a model with 28 layers of 8 times 128 keys and values: 114,688 bytes a token in bfloat16.
CONFIG: dict[str, Any] = {
    "num_hidden_layers": 28,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "hidden_size": 1024,
    "sliding_window": None,
}


def model(folder: Path, **changes: Any) -> Path:
    (folder / "config.json").write_text(json.dumps(CONFIG | changes))
    return folder


def test_a_sequence_that_the_cache_of_a_cpu_does_not_hold_is_refused_with_what_it_needs(tmp_path: Path) -> None:
    folder = model(tmp_path)
    with pytest.raises(InputError, match=r"one sequence of 10240 tokens take 1\.09 GiB, and an engine has generation\.kv_cache_gib=1; "):
        check_cache(folder, GenerationSettings(), 10_240)
    check_cache(folder, GenerationSettings(kv_cache_gib=1.1), 10_240)
    check_cache(folder, GenerationSettings(), 9_000)
    with pytest.raises(InputError, match=r"1\.92 GiB"):
        check_cache(folder, GenerationSettings(dtype="float32"), 9_000)


@pytest.mark.parametrize("changes", [{"sliding_window": 512}, {"kv_lora_rank": 64}, {"layer_types": ["full_attention", "conv"]}])
def test_models_that_do_not_keep_all_keys_and_values_are_left_to_vllm(changes: dict[str, Any], tmp_path: Path) -> None:
    check_cache(model(tmp_path, **changes), GenerationSettings(), 100_000)
    unused = {"sliding_window": 512, "use_sliding_window": False, "layer_types": ["full_attention"] * 28}
    with pytest.raises(InputError):
        check_cache(model(tmp_path, **unused), GenerationSettings(), 100_000)


def test_a_multimodal_model_is_judged_by_its_text_part(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"text_config": CONFIG, "vision_config": {"num_hidden_layers": 4}}))
    with pytest.raises(InputError, match=r"10\.68 GiB"):
        check_cache(tmp_path, GenerationSettings(), 100_000)
