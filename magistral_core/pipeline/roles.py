"""The trainer's role in the loop, as a plain class: the same in one process and in a Ray actor."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from pathlib import Path

from magistral_core.config.schema import Recipe
from magistral_core.errors import InputError
from magistral_core.generation.transfer import Contents, WeightSender
from magistral_core.generation.weights import stream_weight_file
from magistral_core.pipeline.state import MODEL_FOLDER, TRAINER_FOLDER
from magistral_core.records import Microbatch
from magistral_core.storage import explain_full_disk
from magistral_core.training.report import StepReport
from magistral_core.training.trainer import Trainer, join_group


class TrainerRole:
    """One trainer rank.

    Args:
        recipe: the run.
        model_dir: folder with config, weights and tokenizer.
        checkpoint: folder of a checkpoint to go on from, or None.
        rank, world, address, port: its place in the process group.
    """

    def __init__(
        self,
        recipe: Recipe,
        model_dir: str,
        checkpoint: str | None,
        *,
        rank: int = 0,
        world: int = 1,
        address: str = "127.0.0.1",
        port: int,
    ) -> None:
        self._loss = recipe.loss
        self._sender = WeightSender()
        join_group(rank, world, address, port)
        self._trainer = Trainer(model_dir, recipe.training, temperature=recipe.generation.temperature, seed=recipe.seed)
        if checkpoint is not None:
            self._trainer.load(Path(checkpoint) / TRAINER_FOLDER)

    def train(self, rows: Sequence[Microbatch], step: int) -> StepReport:
        """One optimiser step."""
        return self._trainer.step_rl(rows, self._loss, step=step)

    def publish(self, path: str) -> str:
        """Write the current weights for the generators; the checksum from rank 0, an empty text from the others."""
        tensors = (tensor for _, tensor in self._trainer.weights())
        if self._trainer.rank == 0:
            with explain_full_disk(Path(path).parent, what="new weights", settings="pipeline.weights_folder; of a container: --shm-size"):
                return stream_weight_file(self._trainer.layout(), tensors, path)
        for _ in tensors:  # the others only take part in the gathering
            pass
        return ""

    def stage(self, version: int) -> Contents | None:
        """Keep the current weights for sending; what they are, from rank 0."""
        if self._trainer.rank == 0:
            return self._sender.stage(version, self._trainer.weights())
        for _ in self._trainer.weights():  # only to take part in the gathering
            pass
        return None

    def unstage(self, version: int) -> None:
        """Drop what `stage` kept."""
        self._sender.unstage(version)

    def join(self, generator: int, address: str, port: int, ranks: int) -> None:
        """Rank 0: meet a generator's workers, which join at the same time."""
        self._sender.join(generator, address, port, ranks)

    def send(self, generator: int, version: int) -> None:
        """Rank 0: send a staged version to a generator, which receives at the same time."""
        self._sender.send(generator, version)

    def save(self, folder: str) -> None:
        """Write this rank's part of a checkpoint, into a folder that is there: the trainer's state, and the model as one that vLLM loads.

        Raises:
            InputError: the folder is not seen from this machine; what was written here would be missing from the checkpoint.
        """
        check_seen(folder)
        with explain_full_disk(Path(folder)):
            self._trainer.save(Path(folder) / TRAINER_FOLDER)
            self._trainer.export(Path(folder) / MODEL_FOLDER)

    def close(self) -> None:
        """Free the trainer's memory. The process group ends with the process, or with the engine that shares it."""
        self._trainer.close()


def check_seen(path: str, setting: str = "MAGISTRAL_CACHE") -> None:
    """Raises InputError where a path on the coordinator's machine is not there on this one; `setting` names another."""
    if not Path(path).exists():
        raise InputError(f"{path}: not seen from {socket.gethostname()}; set {setting} to a folder that every machine of the run sees")
