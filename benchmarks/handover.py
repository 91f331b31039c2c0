"""New weights from the trainer to a generator at work, against a copy of the same bytes into a fresh shared-memory file.

The hand-over is the product's: actors on Ray, a DeepSpeed trainer that publishes, a vLLM engine that loads in flight. It counts what moves
the bytes: `publish` as the coordinator sees it, and the loading inside the engine, checksum included. Until the engine stands still it
finishes the token under way; the pause, which is that, vLLM's own waiting and the loading, is stated apart. Trainer and copy run on the
first core, the engine on the last.
"""

from __future__ import annotations

import asyncio
import os
import statistics
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common import Headline, Options, Result, cores, pin
from benchmarks.random_model import SHAPES, write_random_model

SUMMARY = "weights handed to a generator at work, against a copy of the same bytes in shared memory"

_SHARED_MEMORY = Path("/dev/shm")
_PROMPT_TOKENS = 32


@dataclass(frozen=True)
class Settings:
    """Models in millions of parameters; sequences in flight, each of so many tokens; hand-overs that are measured of each model."""

    millions: tuple[int, ...] = (50,)
    sequences: int = 16
    tokens: int = 512
    repetitions: int = 3
    warm_ups: int = 1
    dtype: str = "float32"


def run(options: Options) -> Result:
    """See the module."""
    settings = options.over(Settings(millions=(10, 50, 200), repetitions=7) if options.full else Settings())
    repetitions: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="handover-") as folder:
        for size in settings.millions:
            model = write_random_model(Path(folder) / str(size), SHAPES[size])
            repetitions += asyncio.run(_measure(model, size, settings))
    table = [_row([item for item in repetitions if item["size"] == size]) for size in settings.millions]
    large = [row for row, size in zip(table, settings.millions, strict=True) if size >= 50] or table
    worst = max(row["hand-over / copy"] for row in large)
    return Result(
        Headline("hand-over over copy, models of 50M parameters and more, worst", worst, "times", higher_is_better=False),
        asdict(settings),
        table,
        repetitions,
    )


async def _measure(model: Path, size: int, settings: Settings) -> list[dict[str, Any]]:
    from magistral_core import api
    from magistral_core.pipeline.runtime_ray import RayRuntime

    recipe = api.load_recipe(
        "tiny",
        [
            f"generation.max_tokens={settings.tokens}",
            f"generation.max_num_seqs={settings.sequences}",
            f"generation.dtype={settings.dtype}",
            f"training.dtype={settings.dtype}",
            "rewards.length=null",
        ],
    )
    runtime = RayRuntime(recipe)
    feeding: asyncio.Task[None] | None = None
    before = os.sched_getaffinity(0)
    try:
        await runtime.start(model, 0, None)
        generator, trainer = runtime._generator_actors[0], runtime._trainer_actors[0]
        pin(await trainer.__ray_call__.remote(lambda _: os.getpid()), cores()[:1])
        pin(await generator.__ray_call__.remote(lambda _: os.getpid()), cores()[-1:])
        os.sched_setaffinity(0, cores()[:1])
        feeding = asyncio.create_task(_keep_busy(runtime, settings))
        await asyncio.sleep(2.0)  # until sequences are under way
        measured = []
        for number in range(settings.warm_ups + settings.repetitions):
            measured.append(await _hand_over(runtime, generator, size, number + 1, copy_first=number % 2 == 1))
        return measured[settings.warm_ups :]
    finally:
        if feeding is not None:
            feeding.cancel()
        os.sched_setaffinity(0, before)
        await runtime.close()


async def _keep_busy(runtime: Any, settings: Settings) -> None:
    """As many sequences as are asked for, always: each that ends is followed by another."""
    from magistral_core.records import Prompt, Request

    prompt = Prompt(np.arange(10, 10 + _PROMPT_TOKENS, dtype=np.int32))
    number, wanted = 0, settings.sequences
    while True:
        await runtime.submit(0, [Request(number + i, 0, prompt, seed=number + i, max_tokens=settings.tokens) for i in range(wanted)])
        number += wanted
        wanted = len(await runtime.collect(0))


async def _hand_over(runtime: Any, generator: Any, size: int, version: int, *, copy_first: bool) -> dict[str, Any]:
    async def totals() -> tuple[float, float]:
        return await generator.__ray_call__.remote(lambda actor: (actor._engine._totals.pause_seconds, actor._engine._totals.load_seconds))

    copy = _copy(runtime, version - 1) if copy_first else None
    pause_before, load_before = await totals()
    began = time.perf_counter()
    weights = await runtime.publish(version)
    published = time.perf_counter()
    in_flight = await runtime.update(0, weights)
    updated = time.perf_counter()
    pause_after, load_after = await totals()
    if copy is None:
        copy = _copy(runtime, version)
    size_bytes = Path(weights.path).stat().st_size
    previous = Path(weights.path).with_name(f"{version - 1}.safetensors")
    previous.unlink(missing_ok=True)  # the last one stays, to be copied
    return {
        "size": size,
        "bytes": size_bytes,
        "copy_s": copy,
        "publish_s": published - began,
        "load_s": load_after - load_before,
        "pause_s": pause_after - pause_before,
        "whole_s": updated - began,
        "in_flight": in_flight,
    }


def _copy(runtime: Any, version: int) -> float:
    """Seconds to write the bytes of a weight file, which lie in this process's memory, to a fresh file in shared memory."""
    content = runtime._way._folder.file(version).read_bytes() if version else b""
    target = _SHARED_MEMORY / f"handover-copy-{os.getpid()}"
    try:
        began = time.perf_counter()
        with open(target, "wb") as file:
            file.write(content)
        return time.perf_counter() - began
    finally:
        target.unlink()


def _row(items: list[dict[str, Any]]) -> dict[str, Any]:
    def middle(name: str) -> float:
        return 1000 * statistics.median(item[name] for item in items)

    return {
        "million parameters": items[0]["size"],
        "MB": round(items[0]["bytes"] / 1e6),
        "copy (ms)": middle("copy_s"),
        "publish (ms)": middle("publish_s"),
        "load (ms)": middle("load_s"),
        "hand-over / copy": statistics.median((item["publish_s"] + item["load_s"]) / item["copy_s"] for item in items),
        "generation paused (ms)": middle("pause_s"),
        "all of it / copy": statistics.median(item["whole_s"] / item["copy_s"] for item in items),
        "sequences in flight": min(item["in_flight"] for item in items),
    }
