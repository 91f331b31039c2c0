"""Weights on their way from the trainer to the generators: one file a version, in shared memory or on shared storage.

The trainer writes a safetensors file, under `/dev/shm` unless the recipe names another folder; the coordinator sends each generator its
path and checksum. The file stays until a newer one was taken, for a generator that is started again. A reaper removes the folder when
the coordinator ends, however it ends.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

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
        place = Path(base) if base else _SHARED_MEMORY if _SHARED_MEMORY.is_dir() else None
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

    def close(self) -> None:
        """Remove the folder, and what else the reaper was told of."""
        self.reaper.close()
