"""Objects as files below a folder, for work without a server.

A write goes to a temporary file, is flushed to the disk, and is then renamed to its name: an object is whole, or absent.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

from magistral_core.errors import InfrastructureError, InputError
from magistral_core.storage.objects import CHUNK_BYTES, Listing, MissingObjectError, Names, check_key, disk_full, is_full

#: Where unfinished writes lie, below the root. `check` removes those that no living writer can own.
_PARTIAL = ".partial"
_STALE_S = 24 * 3600


class FileStore:
    """An ObjectStore below a folder; `~` is the home folder, a relative path is taken from the working directory."""

    def __init__(self, root: Path) -> None:
        self.root = root.expanduser().resolve()
        self.uri = f"file:{self.root}"

    def check(self, *, write: bool = True) -> None:
        if not write:
            if not self.root.is_dir():
                raise InputError(f"storage.uri {self.uri}: there is no such folder")
            return
        probe = f"probe-{uuid.uuid4().hex}"
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            self._remove_stale()
            self.put_bytes(probe.encode(), probe)
            same = self.get_bytes(probe) == probe.encode()
            self.delete([probe])
        except OSError as error:
            raise InputError(f"storage.uri {self.uri}: cannot be written ({error.strerror}); choose a folder of yours") from error
        except InfrastructureError as error:
            raise InputError(f"storage.uri {self.uri}: {error}") from error
        if not same:
            raise InputError(f"storage.uri {self.uri}: what was written there reads differently; choose another disk")

    def put_file(self, path: Path, key: str, count: Callable[[int], None] = lambda size: None) -> None:
        def copy(target: BinaryIO) -> None:
            with open(path, "rb") as source:
                while chunk := source.read(CHUNK_BYTES):
                    target.write(chunk)
                    count(len(chunk))

        self._write(key, path.stat().st_size, copy)

    def put_bytes(self, data: bytes, key: str) -> None:
        self._write(key, len(data), lambda target: target.write(data))

    def get_bytes(self, key: str) -> bytes:
        with self._explain(key):
            return self._path(key).read_bytes()

    def get_file(self, key: str, path: Path) -> None:
        size = None
        partial = path.with_name(f"{path.name}.{uuid.uuid4().hex[:8]}.partial")
        try:
            with self._explain(key):
                size = self._path(key).stat().st_size
            path.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(self._path(key), partial)
            partial.replace(path)
        except OSError as error:
            partial.unlink(missing_ok=True)
            if is_full(error):
                raise disk_full(path.parent, size, key) from error
            raise InfrastructureError(f"{path}: cannot be written ({error.strerror})") from error

    def read(self, key: str) -> Iterator[bytes]:
        with self._explain(key), open(self._path(key), "rb") as file:
            while chunk := file.read(CHUNK_BYTES):
                yield chunk

    def list(self, prefix: str) -> Listing:
        # Walk the deepest whole folder of the prefix only.
        start = self.root / prefix.rpartition("/")[0]
        found = []
        for folder, names, files in os.walk(start):
            if Path(folder) == self.root:
                names[:] = [name for name in names if name != _PARTIAL]
            for name in files:
                path = Path(folder, name)
                key = path.relative_to(self.root).as_posix()
                if key.startswith(prefix):
                    with contextlib.suppress(FileNotFoundError):  # deleted meanwhile
                        found.append((key, path.stat().st_size))
        return sorted(found)

    def folders(self, prefix: str) -> Names:
        start = self.root / prefix
        if not start.is_dir():
            return []
        return sorted(path.name for path in start.iterdir() if path.is_dir() and path.name != _PARTIAL and any(path.rglob("*")))

    def exists(self, key: str) -> bool:
        return self._path(key).is_file()

    def delete(self, keys: Iterable[str]) -> None:
        for key in keys:
            path = self._path(key)
            with self._explain(key):
                path.unlink(missing_ok=True)
            for parent in path.parents:
                if parent == self.root:
                    break
                try:
                    parent.rmdir()
                except OSError:  # not empty, or somebody else removed it
                    break

    def _path(self, key: str) -> Path:
        return self.root / check_key(key)

    def _write(self, key: str, size: int, fill: Callable[[BinaryIO], object]) -> None:
        path = self._path(key)
        partial = self.root / _PARTIAL / uuid.uuid4().hex
        try:
            partial.parent.mkdir(parents=True, exist_ok=True)
            with open(partial, "xb") as file:
                fill(file)
                file.flush()
                os.fsync(file.fileno())
            _rename(partial, path)
        except OSError as error:
            partial.unlink(missing_ok=True)
            if is_full(error):
                raise disk_full(self.root, size, key) from error
            raise InfrastructureError(f"{self.uri}: {key} cannot be written ({error.strerror})") from error
        except BaseException:
            partial.unlink(missing_ok=True)
            raise

    def _remove_stale(self) -> None:
        folder = self.root / _PARTIAL
        for path in folder.iterdir() if folder.is_dir() else ():
            with contextlib.suppress(FileNotFoundError):
                if time.time() - path.stat().st_mtime > _STALE_S:
                    path.unlink()

    @contextlib.contextmanager
    def _explain(self, key: str) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError as error:
            raise MissingObjectError(f"{self.uri}/{key}: no such object") from error
        except OSError as error:
            raise InfrastructureError(f"{self.uri}/{key}: {error.strerror}") from error


def _rename(partial: Path, path: Path) -> None:
    """Rename into place, and flush the folder, so that the name survives a power cut."""
    for attempt in range(5):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            partial.replace(path)
            break
        except FileNotFoundError:  # a delete beside this one removed the folder between the two calls
            if attempt == 4:
                raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
