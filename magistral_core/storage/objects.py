"""Objects under keys: in S3 (`s3://bucket/prefix`), or in a folder (`file:DIR`) for work without a server.

Both keep the same promise: an object under its key is whole. A write that fails or is killed leaves what was there before.
Neither promises atomic conditional writes, so nothing here offers them (see `runs.Lease`).
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Protocol

from magistral_core.errors import InfrastructureError, InputError

CHUNK_BYTES = 1 << 20
#: A variable, set by whoever points S3 at the local stack although the environment names an account of its own: the stack's bucket.
REPLACES_ACCOUNT = "MAGISTRAL_STACK_REPLACES_ACCOUNT"
_FULL = {errno.ENOSPC, errno.EDQUOT}

#: (key, bytes), sorted by key.
Listing = list[tuple[str, int]]
#: Sorted.
Names = list[str]


class MissingObjectError(InfrastructureError):
    """No object under this key."""


class StoreUnreachableError(InfrastructureError):
    """The store does not answer now, or broke over a request; the same call may succeed later."""


class ObjectStore(Protocol):
    """Objects under keys: relative, `/`-separated, without `.` and `..`.

    Every method raises InfrastructureError when the store fails (StoreUnreachableError where it is away), MissingObjectError for an
    absent key, and InputError when a disk is full.
    """

    @property
    def uri(self) -> str:
        """`s3://bucket/prefix` or `file:/absolute/folder`, without a slash at the end."""
        ...

    def check(self, *, write: bool = True) -> None:
        """Write, read and delete a tiny object; makes the bucket or the folder if it is missing. Raises InputError.

        Without `write` only look whether it is there: its readers need no right to write.
        """
        ...

    def put_file(self, path: Path, key: str, count: Callable[[int], None] = lambda size: None) -> None:
        """Store a file; `count` is told how many bytes went, as they go, and may be called in other threads."""
        ...

    def put_bytes(self, data: bytes, key: str) -> None:
        """Store some bytes."""
        ...

    def get_bytes(self, key: str) -> bytes:
        """A whole object."""
        ...

    def get_file(self, key: str, path: Path) -> None:
        """Write an object into a file; the file appears whole or not at all."""
        ...

    def read(self, key: str) -> Iterator[bytes]:
        """An object in pieces of at most `CHUNK_BYTES`."""
        ...

    def list(self, prefix: str) -> Listing:
        """(key, bytes) of every object whose key starts with the prefix, sorted by key."""
        ...

    def folders(self, prefix: str) -> Names:
        """Names directly below a prefix (empty, or ending in `/`) that have objects below them, sorted."""
        ...

    def exists(self, key: str) -> bool:
        """Whether there is an object under this key."""
        ...

    def delete(self, keys: Iterable[str]) -> None:
        """Delete objects; absent ones are no error."""
        ...


def open_store(uri: str) -> ObjectStore:
    """The store at a URI. Nothing is contacted yet: call `check` before relying on it.

    Args:
        uri: `s3://bucket/prefix` (endpoint and account from the usual AWS variables) or `file:DIR`.

    Raises:
        InputError: not such a URI, or no credentials.
    """
    scheme, _, rest = uri.partition(":")
    if scheme == "s3" and rest.startswith("//"):
        from magistral_core.storage.s3 import S3Store

        bucket, _, prefix = rest.removeprefix("//").partition("/")
        if bucket:
            return S3Store(bucket, prefix.strip("/"))
    if scheme == "file" and rest:
        from magistral_core.storage.files import FileStore

        folder = rest.removeprefix("//") if rest.startswith("///") else rest
        if not folder.startswith("//"):  # file://host/path names another machine
            return FileStore(Path(folder))
    raise InputError(f"storage.uri {uri!r}: not a storage URI; write s3://bucket/prefix or file:DIR")


def replaced_account(bucket: str) -> str:
    """The end of a message that something is not in a bucket: that it may be in another account, where the local stack is in its place."""
    if os.environ.get(REPLACES_ACCOUNT, bucket) == bucket:
        return ""
    return (
        "; the local stack was looked at, which stands in for the S3 account that the environment names: to use that account set "
        f"MAGISTRAL_STORAGE_URI=s3://{bucket}, or AWS_ENDPOINT_URL_S3"
    )


def check_key(key: str) -> str:
    """The key itself. Raises ValueError if it could leave its store."""
    if not key or any(part in {"", ".", ".."} for part in key.split("/")):
        raise ValueError(f"not an object key: {key!r}")
    return key


def is_full(error: BaseException) -> bool:
    """Whether an error says that a disk or a quota is full."""
    return isinstance(error, OSError) and error.errno in _FULL


#: What names the places of most files.
PLACES = "storage.uri, MAGISTRAL_CACHE"


def disk_full(place: str | Path, needed: int | None, what: str, settings: str = PLACES) -> InputError:
    """The error for a full disk: names the place, what did not fit, the bytes that it needs, and the `settings` that name another place."""
    need = "" if needed is None else f" ({needed:,} bytes"
    if need:
        try:
            need += f" needed, {shutil.disk_usage(place).free:,} free)"
        except OSError:
            need += " needed)"
    return InputError(f"{place}: the disk is full, no room for {what}{need}; free some space, or choose another place ({settings})")


@contextlib.contextmanager
def explain_full_disk(place: Path, needed: int | None = None, what: str = "a checkpoint", settings: str = PLACES) -> Iterator[None]:
    """Turn "no space left" raised inside into the one-line InputError of `disk_full`.

    For code that writes into the local folder `place`: also for writers that hide the system's error number, as torch.save
    does, when fewer than `needed` bytes (or 1 MiB) are free at that moment.
    """
    try:
        yield
    except OSError as error:
        if is_full(error):
            raise disk_full(place, needed, what, settings) from error
        raise
    except RuntimeError as error:
        if shutil.disk_usage(place).free < max(needed or 0, 1 << 20):
            raise disk_full(place, needed, what, settings) from error
        raise
