"""This project's loop as a side of a comparison: the real coordinator and the Ray runtime, with neither storage nor tracking."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil

from benchmarks.common import pin
from benchmarks.synthetic import Lengths
from magistral_core import api
from magistral_core.config.schema import Recipe
from magistral_core.pipeline.coordinator import Coordinator
from magistral_core.pipeline.runtime import Runtime
from magistral_core.pipeline.runtime_ray import RayRuntime
from magistral_core.pipeline.state import LoopState
from magistral_core.records import Batch, Completion, FinishReason, Microbatch, Request
from magistral_core.training.report import StepReport


class PlannedRuntime(RayRuntime):
    """The Ray runtime with completions that end where the plan says, each trained `passes` times in its step. All else is the product's."""

    def __init__(self, recipe: Recipe, lengths: Lengths, passes: int) -> None:
        super().__init__(recipe)
        self._lengths, self._passes = lengths, passes

    async def submit(self, generator: int, requests: Sequence[Request]) -> None:
        await super().submit(generator, [replace(r, max_tokens=self._lengths.of(r.group_id, r.index)) for r in requests])

    async def collect(self, generator: int) -> list[Completion]:
        return [replace(c, finish_reason=FinishReason.STOP) for c in await super().collect(generator)]

    async def train(self, rows: Sequence[Sequence[Microbatch]], step: int) -> StepReport:
        return await super().train([[*row] * self._passes for row in rows], step)


class _Observer:
    def __init__(self, emit: Callable[..., None]) -> None:
        self._emit = emit

    def on_step(self, step: int, metrics: dict[str, float], batch: Batch) -> None:
        tokens = sum(completion.length for group in batch.groups for completion in group.completions)
        self._emit(step=step, tokens=tokens, metrics=metrics)

    def staging(self, step: int) -> Path:
        raise NotImplementedError("a benchmark's run is ended before it has a checkpoint")

    def on_checkpoint(self, step: int, folder: Path, metrics: dict[str, float]) -> None:
        raise NotImplementedError("a benchmark's run is ended before it has a checkpoint")

    def moved(self) -> int:
        return 0

    def on_restart(self, role: str, cause: str) -> None:
        raise RuntimeError(f"{role} died within a benchmark: {cause}")

    def on_validation(self, step: int, metrics: dict[str, float]) -> None:
        """These recipes have none."""

    def on_stage(self, step: int, stages: list[dict[str, Any]]) -> None:
        raise NotImplementedError("a benchmark has no curriculum")


def train(
    *, emit: Callable[..., None], recipe: Mapping[str, Any], lengths: Mapping[str, Any] | None, roles_pinned: bool = False, passes: int = 1
) -> None:
    """Run a recipe until this process is ended (see `sides.Side`).

    Args:
        emit: told of each step, with the loop's metrics and the trained tokens.
        recipe: as data.
        lengths: arguments of `Lengths`; None: completions end by themselves.
        roles_pinned: each generator and each trainer rank has a core of its own, in this order, round and round.
        passes: times that a completion of planned length goes through the trainer in its step: what training costs beside generating.
    """

    def runtime(recipe: Recipe) -> Runtime:
        return PlannedRuntime(recipe, Lengths(**lengths), passes) if lengths else RayRuntime(recipe)

    asyncio.run(loop(emit, recipe, runtime, roles_pinned=roles_pinned))


async def loop(
    emit: Callable[..., None], data: Mapping[str, Any], make_runtime: Callable[[Recipe], Runtime], *, roles_pinned: bool = False
) -> None:
    """The coordinator on a runtime, until this process is ended."""
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    prepared = api.prepare(Recipe.model_validate(data))
    runtime = make_runtime(prepared.recipe)
    try:
        await runtime.start(prepared.model_dir, 0, None)
        if roles_pinned:
            _pin_roles(prepared.recipe.pipeline.generators)
        emit(ready=True)
        await Coordinator(prepared.recipe, runtime, prepared.stream, prepared.prompt, _Observer(emit), LoopState()).run()
    except asyncio.CancelledError:
        pass
    finally:
        await runtime.close()


def _pin_roles(generators: int) -> None:
    """Generators from the first core on, trainer ranks after them."""
    cores = sorted(os.sched_getaffinity(0))
    family = psutil.Process().children(recursive=True)
    roles = {
        name: [p.pid for p in family if any(f"ray::{name}" in word for word in p.cmdline())] for name in ("GeneratorActor", "TrainerActor")
    }
    assert len(roles["GeneratorActor"]) == generators, f"{len(roles['GeneratorActor'])} processes of generators, {generators} wanted"
    for place, pid in enumerate(roles["GeneratorActor"]):
        pin(pid, [cores[place % len(cores)]])
    first = generators if generators < len(cores) else 0
    for place, pid in enumerate(roles["TrainerActor"]):
        pin(pid, [cores[(first + place) % len(cores)]])
