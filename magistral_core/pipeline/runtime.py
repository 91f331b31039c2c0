"""What the coordinator needs of the processes that do the work, and the runtime that does it all in one process."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from magistral_core.config.schema import Recipe
from magistral_core.pipeline.handover import HandoverFolder, WeightFile
from magistral_core.processes import free_port
from magistral_core.records import Completion, Group, Microbatch, Request
from magistral_core.training.report import StepReport


class Runtime(Protocol):
    """Generators, verifiers and trainers behind awaitable calls. `generator` counts from 0, `generators` is how many there are now.

    Calls on a generator raise GeneratorError, calls on the trainers TrainerError, where a process ended (see supervision).
    """

    generators: int

    async def start(self, model_dir: Path, version: int, checkpoint: Path | None) -> None:
        """Start every role with the weights in `model_dir`; trainers go on from `checkpoint` if given."""

    async def submit(self, generator: int, requests: Sequence[Request]) -> None:
        """Hand requests to a generator; returns before they are generated."""

    async def restart(self, generator: int) -> int:
        """Replace a generator by a new one, which holds nothing, or add the next; the version of the weights that it begins with."""

    async def remove(self, generator: int) -> None:
        """End the last generator."""

    async def rewind(self, model_dir: Path, version: int, checkpoint: Path | None) -> None:
        """Replace the trainers by new ones at a checkpoint; generators stay, forget what they hold, and take its weights."""

    async def collect(self, generator: int) -> list[Completion]:
        """Finished completions of a generator; waits for one. None of them is a sign of life from sequences that take long."""

    async def score(self, groups: Sequence[Group]) -> list[Group]:
        """The groups with their scores, in the same order."""

    async def train(self, rows: Sequence[Sequence[Microbatch]], step: int) -> StepReport:
        """One optimiser step, `rows` a list of microbatches a rank."""

    async def publish(self, version: int) -> WeightFile:
        """Write the trainers' weights for the generators."""

    async def update(self, generator: int, weights: WeightFile) -> int:
        """Swap a generator's weights; how many sequences were in flight there."""

    async def discard(self, weights: WeightFile) -> None:
        """Every generator has these weights: free their memory."""

    async def save(self, folder: Path) -> None:
        """Write trainer state and model folder."""

    async def close(self) -> None:
        """End every process and free what they held."""


class LocalRuntime:
    """Everything in the calling process, one thing at a time: for exact tests and for reading along.

    `collect` generates all that was submitted, in order, so a run is reproducible to the bit.
    """

    generators = 1

    def __init__(self, recipe: Recipe) -> None:
        self._recipe = recipe
        self._pending: list[Request] = []
        self._arrival = asyncio.Event()

    async def start(self, model_dir: Path, version: int, checkpoint: Path | None) -> None:
        """See Runtime."""
        from magistral_core.generation.engine import LocalEngine
        from magistral_core.pipeline.roles import TrainerRole
        from magistral_core.rewards import Verifier

        recipe = self._recipe
        self._folder = HandoverFolder(recipe.pipeline.weights_folder)
        self._verifier = Verifier(recipe.rewards, recipe.prompt, [stage.rewards.length for stage in recipe.stages()])
        self._verifier.start()
        # vLLM joins a process group of its own for one worker, the trainer then finds it made: the trainer goes first.
        self._trainer = TrainerRole(recipe, str(model_dir), str(checkpoint) if checkpoint else None, port=free_port())
        self._engine = LocalEngine(
            model_dir, recipe.generation, max_model_len=recipe.max_model_len, seed=recipe.seed, prompt=recipe.prompt, version=version
        )
        self._engine.check_updatable()

    async def restart(self, generator: int) -> int:
        """See Runtime. Nothing dies here without this process."""
        raise NotImplementedError

    async def remove(self, generator: int) -> None:
        """See Runtime. There is only one."""
        raise NotImplementedError

    async def rewind(self, model_dir: Path, version: int, checkpoint: Path | None) -> None:
        """See Runtime. Nothing dies here without this process."""
        raise NotImplementedError

    async def submit(self, generator: int, requests: Sequence[Request]) -> None:
        """See Runtime."""
        self._pending.extend(requests)
        self._arrival.set()

    async def collect(self, generator: int) -> list[Completion]:
        """See Runtime."""
        await self._arrival.wait()
        self._arrival.clear()
        requests, self._pending = self._pending, []
        return self._engine.generate(requests)

    async def score(self, groups: Sequence[Group]) -> list[Group]:
        """See Runtime."""
        return self._verifier.score_many(list(groups))

    async def train(self, rows: Sequence[Sequence[Microbatch]], step: int) -> StepReport:
        """See Runtime."""
        return self._trainer.train(rows[0], step)

    async def publish(self, version: int) -> WeightFile:
        """See Runtime."""
        path = str(self._folder.file(version))
        return WeightFile(path, version, self._trainer.publish(path))

    async def update(self, generator: int, weights: WeightFile) -> int:
        """See Runtime."""
        return self._engine.update_weights(weights.path, weights.version, weights.checksum).in_flight

    async def discard(self, weights: WeightFile) -> None:
        """See Runtime."""
        self._folder.remove(weights)

    async def save(self, folder: Path) -> None:
        """See Runtime."""
        self._trainer.save(str(folder))

    async def close(self) -> None:
        """See Runtime."""
        from magistral_core.training.trainer import leave_group

        for name in ("_trainer", "_engine", "_verifier", "_folder"):
            role = self.__dict__.pop(name, None)
            if role is not None:
                role.close()
        leave_group()
