"""Weight files that pass from the trainer to the engines: safetensors with a checksum over the file's bytes."""

from __future__ import annotations

import functools
import json
import math
import mmap
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import xxhash

if TYPE_CHECKING:
    import torch

#: The names of dtypes in the safetensors format.
_DTYPES = {"float64": "F64", "float32": "F32", "float16": "F16", "bfloat16": "BF16", "float8_e4m3fn": "F8_E4M3", "float8_e5m2": "F8_E5M2"}
#: Stays in a core's cache between hashing and writing.
_CHUNK_BYTES = 1 << 18
#: Files of a model's folder that its samples depend on.
_MODEL_SUFFIXES = {".safetensors", ".bin", ".pt", ".json", ".jinja", ".model", ".txt"}


def file_checksum(path: str | Path) -> str:
    """The xxh3_64 of a file's bytes, as 16 hexadecimal digits. About 10 GB/s, so that it does not lengthen a pause."""
    with open(path, "rb") as file:
        if os.fstat(file.fileno()).st_size == 0:
            return xxhash.xxh3_64_hexdigest(b"")
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as view:
            return xxhash.xxh3_64_hexdigest(view)


def model_checksums(folder: Path) -> dict[str, str]:
    """Checksums, by name, of everything in a model's folder that samples depend on: weights, configurations, tokenizer and template."""
    return {path.name: _checksum_once(path, path.stat().st_mtime_ns) for path in sorted(folder.iterdir()) if path.suffix in _MODEL_SUFFIXES}


@functools.lru_cache
def _checksum_once(path: Path, _changed_ns: int) -> str:
    return file_checksum(path)


def write_weight_file(tensors: Mapping[str, torch.Tensor], path: str | Path) -> str:
    """Write tensors, named as in the Hugging Face checkpoint, and return the file's checksum.

    Tied tensors are written once, under the name that comes first. For the rest see `stream_weight_file`.
    """
    first: dict[int, str] = {}
    kept = {name: tensor for name, tensor in tensors.items() if first.setdefault(tensor.data_ptr(), name) == name}
    return stream_weight_file({name: (tensor.dtype, tensor.shape) for name, tensor in kept.items()}, kept.values(), path)


def stream_weight_file(layout: Mapping[str, tuple[torch.dtype, Sequence[int]]], tensors: Iterable[torch.Tensor], path: str | Path) -> str:
    """Write a safetensors file tensor by tensor, each straight from its memory, and return the file's checksum.

    A reader sees the whole file or none: it is written beside and renamed. Put it under `/dev/shm` for engines on the same machine.

    Args:
        layout: dtype and shape of every tensor, named as in the Hugging Face checkpoint.
        tensors: in the order of `layout`; each is done with before the next is asked for.

    Raises:
        ValueError: a tensor is not as laid out, or of a dtype that weights do not have.
    """
    path = Path(path)
    partial = path.with_name(path.name + ".tmp")
    digest = xxhash.xxh3_64()
    try:
        with open(partial, "wb") as file:
            header = _header(layout)
            digest.update(header)
            file.write(header)
            for (name, (dtype, shape)), tensor in zip(layout.items(), tensors, strict=True):
                if (tensor.dtype, tuple(tensor.shape)) != (dtype, tuple(shape)):
                    raise ValueError(f"{name}: is {tensor.dtype} {tuple(tensor.shape)}, laid out was {dtype} {tuple(shape)}")
                content = _bytes_of(tensor)
                for start in range(0, len(content), _CHUNK_BYTES):  # hashed while it is in the cache
                    chunk = content[start : start + _CHUNK_BYTES]
                    digest.update(chunk)
                    file.write(chunk)
        os.replace(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    return digest.hexdigest()


def _header(layout: Mapping[str, tuple[torch.dtype, Sequence[int]]]) -> bytes:
    """The length of what follows, then JSON padded to eight bytes: names with dtype, shape, and first and last byte."""
    entries: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, (dtype, shape) in layout.items():
        code = _DTYPES.get(str(dtype).removeprefix("torch."))
        if code is None:
            raise ValueError(f"{name}: weights in {dtype} cannot be handed over; known are {', '.join(_DTYPES)}")
        begin, end = end, end + math.prod(shape) * dtype.itemsize
        entries[name] = {"dtype": code, "shape": list(shape), "data_offsets": [begin, end]}
    text = json.dumps(entries).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _bytes_of(tensor: torch.Tensor) -> memoryview:
    """A tensor's memory, where it is contiguous and on a CPU; else a copy's."""
    import torch

    return memoryview(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
