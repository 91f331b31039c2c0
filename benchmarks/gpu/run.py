"""The stack on one NVIDIA GPU: `python -m benchmarks.gpu.run`, after `make setup` with the `gpu` extra; writes benchmarks/results/gpu.json.

trainer     tokens/s, MFU and peak memory of DeepSpeed steps on packed rows, of every attention that is installed
parity      log-probabilities of packed rows against the same sequences one by one
logprobs    memory and time of log-probabilities in chunks against plain ones
generator   vLLM's tokens/s, and weights taken with sequences in flight

Each part has a process of its own; one that cannot run here (a package is absent, memory runs out) is recorded with its reason, and the
others go on. MFU is model FLOP/s utilisation, over the GPU's dense bfloat16 peak; see `flops_per_token`. `--cpu-smoke` runs the same code
on a CPU, with models of no meaning: it shows that the script works, and nothing about speed.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks import RESULTS
from benchmarks.common import Headline, Result, in_child, short
from benchmarks.random_model import Shape, random_sequences, write_random_model
from magistral_core.cli.common import quiet_engines
from magistral_core.errors import MagistralError

#: Dense bfloat16 operations a second, from NVIDIA's data sheets; the first name that the GPU's contains.
PEAK_FLOPS = {"H100 PCIe": 756e12, "H100": 989e12, "H200": 989e12, "A100": 312e12, "L40S": 362e12, "A10": 125e12, "RTX 4090": 165e12}
_SHAPES = {
    "0.2B": Shape(12, 1024, 2816, 16, vocabulary=32_768),
    "1B": Shape(24, 1792, 4864, 28, vocabulary=32_768),
}
_SMOKE_SHAPES = {"smoke": Shape(2, 64, 160, 2, vocabulary=512)}
_ATTENTIONS = ("flash_attention_2", "varlen", "sdpa")


def main() -> int:
    """Run every part, write the file, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="result file; without it benchmarks/results/gpu.json")
    parser.add_argument("--cpu-smoke", action="store_true", help="run on a CPU with tiny models, to see that the script works; needs --out")
    options = parser.parse_args()
    quiet_engines()
    import torch

    smoke = options.cpu_smoke
    if smoke and options.out is None:
        parser.error("--cpu-smoke needs --out FILE: what it writes is no published result")
    if not smoke and not torch.cuda.is_available():
        parser.error("no NVIDIA GPU here; --cpu-smoke --out FILE shows that the script works")
    began = time.monotonic()
    result = measure(smoke)
    content = {**result.to_json("gpu", full=not smoke, seconds=time.monotonic() - began), "cpu_smoke": smoke}
    (options.out or RESULTS / "gpu.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    for row in content["table"]:
        print("  ".join(short(value) for value in row.values()))
    return 0


def measure(smoke: bool) -> Result:
    """All parts; those that failed are in the table with the reason."""
    shapes = _SMOKE_SHAPES if smoke else _SHAPES
    table: list[dict[str, Any]] = []
    repetitions: list[dict[str, Any]] = []
    settings = {
        "smoke": smoke,
        "budget": 512 if smoke else 16_384,
        "longest": 128 if smoke else 4096,
        "sequences": 8 if smoke else 64,
        "steps": 2 if smoke else 8,
        "dtype": "float32" if smoke else "bfloat16",
    }

    def part(name: str, function: str, **arguments: Any) -> dict[str, Any] | None:
        try:
            found = in_child(f"benchmarks.gpu.run:{function}", **arguments)
        except MagistralError as error:
            last = next((line for line in reversed(str(error).splitlines()) if line.strip()), "?")
            reason = last.replace(f"{folder}/", "").replace("|", "/").strip()
            table.append(_row(name, "did not run here", None, "", reason[:200]))
            return None
        repetitions.append({"part": name, **arguments, **found})
        return found

    with tempfile.TemporaryDirectory(prefix="gpu-") as folder:
        best: tuple[float, str] | None = None
        for size, shape in shapes.items():
            model = str(write_random_model(Path(folder) / size, shape))
            for attention in _ATTENTIONS:
                common = {"model": model, "shape": asdict(shape), "attention": attention, "settings": settings}
                name = f"{size}, {attention}"
                trained = part(f"trainer {name}", "train", **common)
                if trained is not None:
                    table += _trainer_rows(f"trainer {name}", trained)
                    best = max(best or (0.0, ""), (trained["tokens_per_s"], name))
                parity = part(f"parity {name}", "packed_parity", **common)
                if parity is not None:
                    note = f"{parity['tokens']:,} tokens; mean {parity['mean']:.2g}"
                    table.append(_row(f"parity {name}", "largest difference of log-probabilities", parity["largest"], "nats", note))
            generated = part(f"generator {size}", "generate", model=model, settings=settings)
            if generated is not None:
                table.append(
                    _row(f"generator {size}", "generated", generated["tokens_per_s"], "tokens/s", f"{generated['sequences']} sequences")
                )
                note = f"{generated['in_flight']} sequences in flight"
                table.append(_row(f"generator {size}", "weights taken, generation paused", 1000 * generated["pause_s"], "ms", note))
        for chunk in (0, 1024):
            name = f"logprobs, {'chunks of ' + str(chunk) if chunk else 'plain'}"
            found = part(name, "logprobs", chunk=chunk, rows=256 if smoke else 8192, vocabulary=1024 if smoke else 131_072)
            if found is not None:
                table.append(_row(name, "peak memory over the inputs", found["peak_mib"], "MiB", f"{1000 * found['seconds']:.0f} ms"))
    if best is None:
        raise MagistralError(f"no trainer ran: {table}")
    return Result(
        Headline(f"trained tokens, {best[1]}", best[0], "tokens/s", higher_is_better=True),
        settings,
        table,
        repetitions,
        ["Made by --cpu-smoke on a CPU: these numbers mean nothing."] if smoke else [],
    )


def _row(part: str, measured: str, value: float | None, unit: str, note: str = "") -> dict[str, Any]:
    return {"part": part, "measured": measured, "value": value, "unit": unit, "note": note}


def _trainer_rows(part: str, found: Mapping[str, Any]) -> list[dict[str, Any]]:
    rows = [_row(part, "trained", found["tokens_per_s"], "tokens/s", f"{found['parameters'] / 1e6:.0f}M parameters")]
    if found["mfu"] is not None:
        rows.append(_row(part, "model FLOP/s utilisation", 100 * found["mfu"], "%", found["gpu"]))
    if found["peak_gib"] is not None:
        rows.append(_row(part, "peak memory", found["peak_gib"], "GiB"))
    return rows


def _trainer(model: str, attention: str, settings: Mapping[str, Any]) -> Any:
    from magistral_core.config.schema import TrainingSettings
    from magistral_core.processes import free_port
    from magistral_core.training.trainer import Trainer, join_group

    join_group(0, 1, "127.0.0.1", free_port())
    return Trainer(model, TrainingSettings(dtype=settings["dtype"], token_budget=settings["budget"], zero_stage=1, attention=attention))


def _sequences(shape: Mapping[str, int], settings: Mapping[str, Any]) -> list[Any]:
    import numpy as np

    from benchmarks.collation import DISTRIBUTIONS

    draw = DISTRIBUTIONS["log-normal, 5x the shortest"]
    return random_sequences(draw(np.random.default_rng(0), settings["sequences"], settings["longest"]).tolist(), Shape(**shape))


def _packed(sequences: Sequence[Any], budget: int) -> list[Any]:
    from magistral_core.training.collation import build_row, pack

    return [build_row([sequences[i] for i in bin_]) for bin_ in pack([len(sequence.token_ids) for sequence in sequences], budget)]


def train(model: str, shape: dict[str, int], attention: str, settings: dict[str, Any]) -> dict[str, Any]:
    """In a process of its own: optimiser steps on packed rows."""
    import torch

    from magistral_core.config.schema import LossSettings

    trainer = _trainer(model, attention, settings)
    sequences = _sequences(shape, settings)
    rows = _packed(sequences, settings["budget"])
    seconds = []
    for step in range(2 + settings["steps"]):
        seconds.append(trainer.step_rl(rows, LossSettings(), step=step).seconds)
    lengths = [len(sequence.token_ids) for sequence in sequences]
    tokens_per_s = sum(lengths) / statistics.median(seconds[2:])
    found: dict[str, Any] = {"seconds": seconds, "tokens_per_s": tokens_per_s, "parameters": trainer.parameter_count}
    if not torch.cuda.is_available():
        return {**found, "gpu": "none", "mfu": None, "peak_gib": None}
    gpu = torch.cuda.get_device_name(0)
    peak = next((flops for name, flops in PEAK_FLOPS.items() if name in gpu), None)
    return {
        **found,
        "gpu": gpu,
        "mfu": None if peak is None else tokens_per_s * flops_per_token(trainer.parameter_count, Shape(**shape), lengths) / peak,
        "peak_gib": torch.cuda.max_memory_allocated() / 2**30,
    }


def flops_per_token(parameters: int, shape: Shape, lengths: Sequence[int]) -> float:
    """Floating-point operations that training needs a token; what is computed again to save memory is not counted.

    6 a parameter of the matrices (the embedding is looked up, not multiplied). Attention takes 4 forward (two products) and 8 backward, a
    layer, hidden unit and pair of tokens of which one sees the other.
    """
    matrices = parameters - shape.vocabulary * shape.hidden
    pairs = sum(length * (length + 1) / 2 for length in lengths)
    return 6.0 * matrices + 12.0 * shape.layers * shape.hidden * pairs / sum(lengths)


def packed_parity(model: str, shape: dict[str, int], attention: str, settings: dict[str, Any]) -> dict[str, Any]:
    """In a process of its own: log-probabilities of packed rows against one sequence at a time."""
    import numpy as np

    from magistral_core.training.collation import build_row

    trainer = _trainer(model, attention, settings)
    sequences = _sequences(shape, settings)[:8]
    packed = trainer.logprobs(build_row(sequences))
    single = np.concatenate([trainer.logprobs(sequence) for sequence in sequences])
    difference = np.abs(packed - single)
    return {"largest": float(difference.max()), "mean": float(difference.mean()), "tokens": len(difference)}


def logprobs(chunk: int, rows: int, vocabulary: int) -> dict[str, Any]:
    """In a process of its own: the memory of log-probabilities with their gradient, on the GPU if there is one."""
    import torch

    from magistral_core.training.logprobs import chunked_logprobs

    gpu = torch.cuda.is_available()
    device = torch.device("cuda" if gpu else "cpu")
    hidden = torch.randn(rows, 1024, device=device, dtype=torch.bfloat16 if gpu else torch.float32).requires_grad_()
    weight = torch.randn(vocabulary, 1024, device=device, dtype=hidden.dtype).requires_grad_()
    targets = torch.randint(vocabulary, (rows,), device=device)
    before = torch.cuda.memory_allocated() if gpu else 0
    seconds = []
    for _ in range(3):
        began = time.perf_counter()
        if chunk:
            values, _entropy = chunked_logprobs(hidden, weight, targets, chunk=chunk)
        else:
            values = torch.log_softmax((hidden @ weight.T).float(), dim=-1).gather(-1, targets[:, None]).squeeze(-1)
        values.mean().backward()
        if gpu:
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - began)
    peak = (torch.cuda.max_memory_allocated() - before) / 2**20 if gpu else None
    return {"seconds": statistics.median(seconds), "peak_mib": peak}


def generate(model: str, settings: dict[str, Any]) -> dict[str, Any]:
    """In a process of its own: an engine at work, then new weights while it is."""
    import asyncio

    return asyncio.run(_generate(model, settings))


async def _generate(model: str, settings: dict[str, Any]) -> dict[str, Any]:
    import asyncio

    import numpy as np
    import torch
    from safetensors.torch import load_file

    from magistral_core.config.schema import GenerationSettings
    from magistral_core.generation.engine import GeneratorEngine
    from magistral_core.generation.weights import write_weight_file
    from magistral_core.records import Prompt, Request

    sequences, tokens = (8, 64) if settings["smoke"] else (256, 1024)
    generation = GenerationSettings(dtype=settings["dtype"], max_tokens=tokens, max_num_seqs=sequences, kv_cache_gib=0.25)
    engine = GeneratorEngine(model, generation, max_model_len=64 + tokens)
    await engine.start()
    try:
        prompt = Prompt(np.arange(10, 42, dtype=np.int32))

        async def batch(first: int) -> tuple[int, float]:
            began = time.perf_counter()
            requests = [Request(first + i, 0, prompt, seed=first + i, max_tokens=tokens) for i in range(sequences)]
            completions = await asyncio.gather(*map(engine.generate, requests))
            return sum(completion.length for completion in completions), time.perf_counter() - began

        await batch(0)
        made, seconds = await batch(1000)
        with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
            dtype = getattr(torch, settings["dtype"])  # as a trainer hands them over
            weights = {name: tensor.to(dtype) for name, tensor in load_file(next(Path(model).glob("*.safetensors"))).items()}
            checksum = write_weight_file(weights, Path(folder) / "1.safetensors")
            under_way = asyncio.create_task(batch(2000))
            await asyncio.sleep(min(1.0, seconds / 3))
            update = await engine.update_weights(Path(folder) / "1.safetensors", 1, checksum)
            await under_way
    finally:
        await engine.close()
    return {
        "tokens_per_s": made / seconds,
        "sequences": sequences,
        "pause_s": update.seconds,
        "load_s": update.load_seconds,
        "in_flight": update.in_flight,
    }


if __name__ == "__main__":
    sys.exit(main())
