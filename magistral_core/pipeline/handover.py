"""Weights on their way from the trainer to the generators: `Handover`, and one file a version, in shared memory or on shared storage.

The trainer writes a safetensors file, under `/dev/shm` unless the recipe names another folder; the coordinator sends each generator its
path and checksum. The file stays until a newer one was taken, for a generator that is started again. A reaper removes the folder when
the coordinator ends, however it ends.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from magistral_core.config.schema import PipelineSettings
from magistral_core.errors import InputError
from magistral_core.pipeline.reaper import Reaper

_SHARED_MEMORY = Path("/dev/shm")  # noqa: S108  (memory that all processes of this machine share)


@dataclass(frozen=True, slots=True)
class WeightFile:
    """Weights of one version: where, and the xxh3 checksum of the file's bytes."""

    path: str
    version: int
    checksum: str


class HandoverFolder:
    """A folder for weight files that does not outlive this process.

    Args:
        base: where it is made, a folder that every machine of the run sees; None: shared memory of this machine.

    Raises:
        InputError: it cannot be made there.
    """

    def __init__(self, base: str | None = None) -> None:
        place = Path(base).absolute() if base else _SHARED_MEMORY if _SHARED_MEMORY.is_dir() else None
        try:
            self.path = Path(tempfile.mkdtemp(prefix="magistral-weights-", dir=place))
        except OSError as error:
            raise InputError(f"{place}: no folder for weights can be made there ({error.strerror}); set pipeline.weights_folder") from error
        self.reaper = Reaper(self.path)

    def file(self, version: int) -> Path:
        """Where the weights of a version belong."""
        return self.path / f"{version}.safetensors"

    def remove(self, weights: WeightFile) -> None:
        """Every generator has these weights."""
        Path(weights.path).unlink(missing_ok=True)

    def clear(self) -> None:
        """Remove all weights, also those of a writer that was killed."""
        for file in self.path.glob("*.safetensors*"):
            file.unlink(missing_ok=True)

    def close(self) -> None:
        """Remove the folder, and what else the reaper was told of."""
        self.reaper.close()


class Peers(Protocol):
    """The processes at both ends of a hand-over: call a method of theirs by name."""

    async def ask_trainers(self, method: str, *arguments: Any) -> list[Any]:
        """The answers of all ranks. Raises TrainerError if one is gone."""

    async def ask_trainer(self, rank: int, method: str, *arguments: Any) -> Any:
        """The answer of one rank."""

    async def ask_generator(self, generator: int, method: str, *arguments: Any) -> Any:
        """The answer of a generator. Raises GeneratorError if it is gone."""


class Handover(Protocol):
    """How the weights of a version come from the trainers, however they share them out, to generators that shard otherwise.

        publish ──> deliver, to each generator at a time of its own ──> discard

    Parameters are gathered whole, one after the other; vLLM cuts them into the shards that it wants. Deadlines are the coordinator's.
    """

    async def publish(self, version: int) -> WeightFile:
        """Take the trainers' present weights; training may go on once this returns."""

    async def deliver(self, generator: int, weights: WeightFile) -> int:
        """Swap a generator's weights. Its answer is the acknowledgement: how many sequences were in flight there."""

    async def discard(self, weights: WeightFile) -> None:
        """Nobody will ask for these weights again."""

    def forget(self, generator: int) -> None:
        """The generator was started anew, or the trainers were: what was agreed with it is void."""

    def close(self) -> None:
        """Leave nothing behind."""


class FileHandover:
    """Hand-over by files in a folder that all see: shared memory, or shared storage. See Handover."""

    def __init__(self, folder: HandoverFolder, peers: Peers) -> None:
        self._folder = folder
        self._peers = peers

    async def publish(self, version: int) -> WeightFile:
        """See Handover."""
        path = str(self._folder.file(version))
        return WeightFile(path, version, (await self._peers.ask_trainers("publish", path))[0])

    async def deliver(self, generator: int, weights: WeightFile) -> int:
        """See Handover. The generator checks the file's checksum first."""
        return int(await self._peers.ask_generator(generator, "update", weights))

    async def discard(self, weights: WeightFile) -> None:
        """See Handover."""
        self._folder.remove(weights)

    def forget(self, generator: int) -> None:
        """See Handover. A file can be read by anyone."""

    def close(self) -> None:
        """See Handover."""
        self._folder.close()


def handover_kind(settings: PipelineSettings) -> Literal["shared_memory", "files", "nccl"]:
    """Which hand-over a recipe gets. NCCL only where it is asked for by name, since it has never run."""
    if settings.handover != "auto":
        return settings.handover
    return "files" if settings.weights_folder else "shared_memory"
