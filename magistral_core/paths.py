"""Where this project keeps what it can make again."""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

from magistral_core.errors import InputError


def cache_folder() -> Path:
    """Base models made here, checkpoints and samples on their way: MAGISTRAL_CACHE, or ~/.cache/magistral."""
    return Path(os.environ.get("MAGISTRAL_CACHE") or Path.home() / ".cache" / "magistral").absolute()


@contextlib.contextmanager
def scratch_folder(kind: str) -> Iterator[Path]:
    """A folder below the cache for the time of the block. Those of the same kind that killed processes left go first. Raises InputError."""
    parent = cache_folder() / kind
    with contextlib.ExitStack() as stack:
        try:
            parent.mkdir(parents=True, exist_ok=True)
            for left in parent.iterdir():
                with contextlib.ExitStack() as lock:
                    if locked(left, lock):
                        shutil.rmtree(left, ignore_errors=True)
            while (folder := locked(parent / secrets.token_hex(8), stack)) is None:
                pass  # another command took it for one that was left, before it was locked
        except OSError as error:
            raise InputError(f"{parent}: cannot be written ({error.strerror}); set MAGISTRAL_CACHE to a folder of yours") from error
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def locked(folder: Path, stack: contextlib.ExitStack) -> Path | None:
    """The folder, made if missing and locked until the stack ends; None if another process has it. Raises OSError."""
    try:
        folder.mkdir(exist_ok=True)
        handle = os.open(folder, os.O_RDONLY)
        stack.callback(os.close, handle)
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return folder if folder.stat().st_ino == os.fstat(handle).st_ino else None
    except (BlockingIOError, FileNotFoundError):
        return None
