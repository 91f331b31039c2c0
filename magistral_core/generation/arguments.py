"""How a vLLM engine is set up: arguments and environment, the same for both engines."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from magistral_core.config.schema import GenerationSettings
from magistral_core.errors import InputError
from magistral_core.processes import THREAD_ENVIRONMENT

if TYPE_CHECKING:
    from vllm.engine.arg_utils import AsyncEngineArgs

_GIB = 1 << 30

#: A short prompt fills at least one block, so that the completions of a group share its computation. vLLM's own default
#: on a CPU is 128, which short prompts never reach.
_CPU_BLOCK_SIZE = 32

#: Tokens that one step of the engine reads at most, raised to the longest sequence.
_CPU_BATCHED_TOKENS = 8192

#: Key of vLLM's `additional_config` under which `multistep` finds the decoding steps between two looks at the queues.
STEPS_KEY = "decoding_steps"
#: Those steps, times the bytes of weights: a large model has one, for its own computation
#: outweighs all else, and an update would have to wait.
_CPU_STEP_BYTES = 128 << 20
_CPU_STEPS = 8

_ENVIRONMENT = {
    **THREAD_ENVIRONMENT,
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    "VLLM_LOGGING_LEVEL": "ERROR",  # on a CPU it warns of things that are as intended
    "VLLM_PLUGINS": "",
    "TOKENIZERS_PARALLELISM": "false",
}


def prepare_environment() -> None:
    """Set the environment variables that vLLM reads, where the user has not set them. Call before importing vLLM."""
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)


def model_context(model_path: str | Path) -> int | None:
    """Longest sequence that a model's config allows, in tokens; None where the config does not say.

    Raises:
        InputError: the folder has no readable config.
    """
    config = _read_config(model_path)
    config = config.get("text_config", config)
    length = config.get("max_position_embeddings")
    return int(length) if length else None


def check_context(model_path: str | Path, max_model_len: int) -> None:
    """Raise InputError where sequences of `max_model_len` tokens exceed what the model was made for."""
    context = model_context(model_path) if Path(model_path).exists() else None
    if context is not None and max_model_len > context:
        raise InputError(
            f"{model_path}: the model reads at most {context} tokens, prompt and completion need {max_model_len}; "
            f"lower generation.max_tokens or prompt.max_tokens"
        )


def check_cache(model_path: str | Path, generation: GenerationSettings, max_model_len: int) -> None:
    """Raise InputError where an engine on a CPU has no room for the keys and values of one sequence of `max_model_len` tokens.

    vLLM says so itself, in the log of a process of its own. Models that do not keep all of them (a window, latent attention, layers that
    do not attend) are left to it.
    """
    config = _read_config(model_path) if Path(model_path).exists() else {}
    config = config.get("text_config", config)
    window = config.get("sliding_window") and config.get("use_sliding_window", True)
    partly = any(config.get(name) for name in ("kv_lora_rank", "layers_block_type", "attn_layer_period"))
    if window or partly or set(config.get("layer_types") or ()) - {"full_attention"}:
        return
    if not {"num_hidden_layers", "num_attention_heads", "hidden_size"} <= config.keys():
        return
    heads = config.get("num_key_value_heads") or config["num_attention_heads"]
    head = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
    values = 2 * config["num_hidden_layers"] * heads * head * max_model_len / generation.tensor_parallel
    needed = values * (4 if generation.dtype == "float32" else 2) / _GIB
    if needed > generation.kv_cache_gib:
        raise InputError(
            f"{model_path}: keys and values of one sequence of {max_model_len} tokens take {needed:.2f} GiB, and an engine has "
            f"generation.kv_cache_gib={generation.kv_cache_gib:g}; raise it, or lower max_tokens of generation, evaluation or sampling"
        )


def engine_args(
    model_path: str | Path, generation: GenerationSettings, *, max_model_len: int, seed: int = 0, nccl: bool = False
) -> AsyncEngineArgs:
    """The arguments of an engine for a model folder (or hub name); `nccl` if new weights will come that way.

    Log-probabilities are those after temperature, which is what a token was sampled with and what the trainer computes.
    The tokenizer stays outside: tokens in, tokens out.

    Raises:
        InputError: `max_model_len` exceeds what the model was made for, or what the cache on a CPU holds, or the folder is not a model.
    """
    check_context(model_path, max_model_len)
    prepare_environment()
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.platforms import current_platform

    executor = "SingleExecutor" if generation.tensor_parallel == 1 else "ParallelExecutor"
    arguments: dict[str, Any] = {
        "model": str(model_path),
        "dtype": generation.dtype,
        "seed": seed,
        "max_model_len": max_model_len,
        "max_num_seqs": generation.max_num_seqs,
        "tensor_parallel_size": generation.tensor_parallel,
        "enforce_eager": generation.enforce_eager,
        "enable_prefix_caching": True,
        "skip_tokenizer_init": True,
        "disable_log_stats": True,
        "use_tqdm_on_load": False,
        "logprobs_mode": "processed_logprobs",
        "worker_extension_cls": "magistral_core.generation.worker.WeightReceiver",
        "distributed_executor_backend": f"magistral_core.generation.worker.{executor}",
    }
    if nccl:
        arguments["weight_transfer_config"] = {"backend": "nccl"}
    if current_platform.is_cpu():
        check_cache(model_path, generation, max_model_len)
        arguments["enforce_eager"] = True  # compiling took 39 s and gained little
        arguments["block_size"] = _CPU_BLOCK_SIZE
        # A prompt cut into chunks rewinds its request's random generator, which vLLM cannot do on a CPU: the engine dies.
        arguments["enable_chunked_prefill"] = False
        arguments["max_num_batched_tokens"] = max(max_model_len, _CPU_BATCHED_TOKENS)
        arguments["kv_cache_memory_bytes"] = int(generation.kv_cache_gib * _GIB)
        if generation.tensor_parallel == 1 and (steps := _decoding_steps(model_path)) > 1:
            arguments["scheduler_cls"] = "magistral_core.generation.multistep.MultiStepScheduler"
            arguments["additional_config"] = {STEPS_KEY: steps}
    else:
        arguments["gpu_memory_utilization"] = generation.gpu_memory_utilization
    return AsyncEngineArgs(**arguments)


def _decoding_steps(model_path: str | Path) -> int:
    """Decoding steps between two looks at the queues. One for a model that is not here yet."""
    weights = sum(path.stat().st_size for path in Path(model_path).glob("*.safetensors"))
    return min(_CPU_STEPS, max(1, _CPU_STEP_BYTES // weights)) if weights else 1


def _read_config(model_path: str | Path) -> dict[str, Any]:
    path = Path(model_path) / "config.json"
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InputError(f"{path} is missing: {model_path} is not a model folder; save the model with save_pretrained") from error
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read ({error})") from error
