"""Weight files that pass from the trainer to the engines: safetensors with a checksum over the file's bytes."""

from __future__ import annotations

import mmap
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import xxhash

if TYPE_CHECKING:
    import torch


def file_checksum(path: str | Path) -> str:
    """The xxh3_64 of a file's bytes, as 16 hexadecimal digits. About 10 GB/s, so that it does not lengthen a pause."""
    with open(path, "rb") as file:
        if os.fstat(file.fileno()).st_size == 0:
            return xxhash.xxh3_64_hexdigest(b"")
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as view:
            return xxhash.xxh3_64_hexdigest(view)


def write_weight_file(tensors: Mapping[str, torch.Tensor], path: str | Path) -> str:
    """Write tensors, named as in the Hugging Face checkpoint, and return the file's checksum.

    A reader sees the whole file or none: it is written beside and renamed. Put it under `/dev/shm` for engines on the
    same machine. Tied tensors are written once, under the name that comes first.
    """
    from safetensors.torch import save_file

    path = Path(path)
    seen: set[int] = set()
    unique = {}
    for name, tensor in tensors.items():
        if tensor.data_ptr() not in seen:
            seen.add(tensor.data_ptr())
            unique[name] = tensor.detach().contiguous()
    partial = path.with_name(path.name + ".tmp")
    save_file(unique, str(partial))
    checksum = file_checksum(partial)
    os.replace(partial, path)
    return checksum
