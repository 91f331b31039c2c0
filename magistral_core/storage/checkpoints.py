"""Checkpoints of a run: objects first, a manifest last. A checkpoint without a valid manifest does not exist.

    runs/{run_id}/checkpoints/step-00000025/{attempt}/...            the files, under keys that are never written twice
    runs/{run_id}/checkpoints/step-00000025/{attempt}/manifest.json  sizes and SHA-256 of all of them, written last

Each save has an attempt folder of its own, so that a step saved again (by a run that was resumed before it) never
touches a valid checkpoint in place; the newest valid attempt counts. Old ones go in `prune`, after the newest was read back.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
import secrets
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

from magistral_core.errors import InfrastructureError, InputError
from magistral_core.storage.objects import MissingObjectError, ObjectStore, open_store

log = logging.getLogger(__name__)

FORMAT = 1
MANIFEST = "manifest.json"
_THREADS = 4
T = TypeVar("T")
R = TypeVar("R")
_URI = re.compile(r"(?P<store>.+)/runs/(?P<run>[^/]+)/checkpoints/step-(?P<step>\d+)(/(?P<attempt>[^/]+))?/?")


class CorruptCheckpointError(InfrastructureError):
    """An object is absent, or is not what the manifest says."""


@dataclass(frozen=True, slots=True)
class StoredFile:
    """One file of a checkpoint: relative path, bytes, SHA-256 in hex."""

    path: str
    size: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Manifest:
    """A committed checkpoint.

    Attributes:
        run_id, step: what it is a checkpoint of; `step` optimiser steps were done.
        attempt: which save of this step; later ones sort higher.
        uri: where its files lie, `{store}/runs/{run_id}/checkpoints/step-.../{attempt}`.
        files: all its files.
        metadata: what the caller gave with it; JSON.
        created: UTC, ISO 8601.
    """

    run_id: str
    step: int
    attempt: str
    uri: str
    files: tuple[StoredFile, ...]
    metadata: Mapping[str, Any]
    created: str

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files)


class CheckpointStore:
    """The checkpoints of one run.

    Args:
        store: where they lie.
        run_id: the run.
        guard: called before each manifest is written; raises if this process may not write for the run any more (see
            `runs.Lease.check`).

    Attributes:
        moved: bytes uploaded, or read back, so far.
        incomplete: of the last listing, what is wrong with those that were committed and lack files now.
    """

    def __init__(self, store: ObjectStore, run_id: str, guard: Callable[[], None] | None = None) -> None:
        self.store = store
        self.run_id = run_id
        self._guard = guard
        self._root = f"runs/{run_id}/checkpoints/"
        self._named = (0, "")
        self.moved = 0
        self.incomplete: list[str] = []

    @classmethod
    def from_uri(cls, uri: str) -> tuple[CheckpointStore, int]:
        """The store, and the step that a checkpoint's URI names; of that step the store gives the copy that the URI names, if any.

        Raises InputError if it is no such URI.
        """
        match = _URI.fullmatch(uri)
        if not match:
            raise InputError(f"{uri}: not a checkpoint; its URI ends in runs/RUN/checkpoints/step-N")
        checkpoints, step = cls(open_store(match["store"]), match["run"]), int(match["step"])
        checkpoints._named = (step, match["attempt"] or "")
        return checkpoints, step

    def save(self, step: int, folder: Path, metadata: Mapping[str, Any] | None = None) -> Manifest:
        """Upload every file below `folder`, then commit.

        Raises:
            InputError: the folder is empty, or the store's disk is full. InfrastructureError: the store failed, or the
            guard refused. Whatever is raised, no earlier checkpoint is touched and this one does not exist.
        """
        paths = sorted(path for path in folder.rglob("*") if path.is_file())
        if not paths:
            raise InputError(f"{folder}: nothing to save in a checkpoint")
        # Counted, not dated: clocks go backwards. The random part keeps two writers apart, should a lease ever fail.
        earlier = self.store.folders(f"{self._root}step-{step:08d}/")
        number = 1 + max((int(name.partition("-")[0]) for name in earlier), default=0)
        attempt = f"{number:03d}-{secrets.token_hex(3)}"
        prefix = self._prefix(step, attempt)

        def upload(path: Path) -> StoredFile:
            name = path.relative_to(folder).as_posix()
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            self.store.put_file(path, prefix + name, self._count)
            return StoredFile(name, path.stat().st_size, digest)

        if any(path.relative_to(folder).as_posix() == MANIFEST for path in paths):
            raise InputError(f"{folder / MANIFEST}: a checkpoint's own file cannot have this name")
        # The largest begin first, so that none is left alone at the end.
        by_size = sorted(paths, key=lambda path: path.stat().st_size, reverse=True)
        files = tuple(sorted(_in_parallel(upload, by_size), key=lambda file: file.path))
        manifest = Manifest(
            run_id=self.run_id,
            step=step,
            attempt=attempt,
            uri=f"{self.store.uri}/{prefix.rstrip('/')}",
            files=files,
            metadata=json.loads(json.dumps(dict(metadata or {}))),
            created=datetime.now(UTC).isoformat(timespec="seconds"),
        )
        if self._guard:
            self._guard()
        self.store.put_bytes(_encode(manifest), prefix + MANIFEST)
        return manifest

    def manifests(self) -> list[Manifest]:
        """Every valid checkpoint, by step, one a step: its newest valid attempt.

        Valid: the manifest can be read, and every file is listed with its size. What is not valid is logged and left out.
        """
        return [attempts[-1] for attempts in self._valid(self.store.list(self._root)).values()]

    def steps(self) -> list[int]:
        """Steps with a valid checkpoint, ascending."""
        return [manifest.step for manifest in self.manifests()]

    def latest(self) -> Manifest | None:
        """The newest valid checkpoint, or None."""
        return next(reversed(self.manifests()), None)

    def get(self, step: int) -> Manifest:
        """The valid checkpoint of a step: the copy that was named (`from_uri`), else the newest. Raises InputError if there is none."""
        valid = self._valid(self.store.list(self._root))
        if step not in valid:
            have = ", ".join(map(str, valid)) or "none"
            raise InputError(f"{self.store.uri}/{self._root}: no checkpoint of step {step}; there are: {have}")
        named, copy = self._named
        if named != step or not copy:
            return valid[step][-1]
        found = next((manifest for manifest in valid[step] if manifest.attempt == copy), None)
        if found is None:
            uri = f"{self.store.uri}/{self._prefix(step, copy)}"
            raise InputError(f"{uri}: no such copy of the checkpoint; that of step {step} is {valid[step][-1].uri}")
        return found

    def download(self, step: int, dest: Path, subset: str = "") -> Manifest:
        """Fetch a checkpoint into a folder, verifying every file.

        Args:
            step: which.
            dest: made if missing; files of the same names are replaced.
            subset: only files whose path starts with this, as in `model/`; they keep their whole path.

        Raises:
            InputError: no such checkpoint or subset, or the local disk is full. CorruptCheckpointError: a file is not what the
            manifest says; `dest` then holds no such file.
        """
        manifest = self.get(step)
        wanted = [file for file in manifest.files if file.path.startswith(subset)]
        if not wanted:
            raise InputError(f"{manifest.uri}: no file starts with {subset!r}")

        def fetch(file: StoredFile) -> None:
            target = dest / file.path
            self.store.get_file(self._key(manifest, file), target)
            with target.open("rb") as opened:
                found = hashlib.file_digest(opened, "sha256").hexdigest()
            if found != file.sha256:
                target.unlink()
                raise _corrupt(manifest, file, found)

        _in_parallel(fetch, wanted)
        return manifest

    def verify(self, step: int) -> Manifest:
        """Read every file of a checkpoint back and compare; nothing is written locally.

        Raises:
            InputError: no such checkpoint. CorruptCheckpointError: a file is not what the manifest says.
        """
        manifest = self.get(step)
        self._verify(manifest)
        return manifest

    def discard(self, manifest: Manifest) -> None:
        """Delete a checkpoint that is damaged: with its manifest it is none any more, and `prune` takes the rest."""
        self.store.delete([self._prefix(manifest.step, manifest.attempt) + MANIFEST])

    def prune(self, keep: int, *, read_back: bool = True) -> list[int]:
        """Delete all but the newest `keep` checkpoints, and what dead attempts left; returns the steps that went.

        Nothing goes before the newest checkpoint was read back and found whole. `read_back=False` is satisfied with the
        listed sizes. An upload in progress is never touched: it belongs to a step after the newest valid one.

        Raises:
            CorruptCheckpointError: the newest is damaged; nothing was deleted.
        """
        if keep < 1:
            raise InputError(f"checkpoints.keep: {keep}; at least one must be kept")
        listing = self.store.list(self._root)
        valid = self._valid(listing)
        if not valid:
            return []
        newest = next(reversed(valid.values()))[-1]
        if read_back:
            self._verify(newest)
        kept = {self._prefix(step, attempts[-1].attempt) for step, attempts in list(valid.items())[-keep:]}
        goes = []
        for key, _ in listing:
            step, attempt = _place(key.removeprefix(self._root))
            settled = step >= 0 and (step, attempt) < (newest.step, newest.attempt)
            if settled and self._prefix(step, attempt) not in kept:
                goes.append(key)
        # Manifests first: a prune that is killed leaves leftovers, never a manifest without its files.
        self.store.delete(key for key in goes if key.endswith(f"/{MANIFEST}"))
        self.store.delete(key for key in goes if not key.endswith(f"/{MANIFEST}"))
        return list(valid)[:-keep]

    def _valid(self, listing: Iterable[tuple[str, int]]) -> dict[int, list[Manifest]]:
        """Valid attempts of each step, both ascending, from one listing."""
        sizes: dict[tuple[int, str], dict[str, int]] = {}
        for key, size in listing:
            step, attempt = _place(key.removeprefix(self._root))
            if step < 0:
                continue
            sizes.setdefault((step, attempt), {})[key.removeprefix(self._prefix(step, attempt))] = size
        found: dict[int, list[Manifest]] = {}
        self.incomplete = []
        for (step, attempt), files in sorted(sizes.items()):
            manifest = self._read(step, attempt, files)
            if manifest:
                found.setdefault(step, []).append(manifest)
        return found

    def _read(self, step: int, attempt: str, sizes: Mapping[str, int]) -> Manifest | None:
        prefix = self._prefix(step, attempt)
        where = f"{self.store.uri}/{prefix}"
        if MANIFEST not in sizes:
            log.warning("%s has no manifest: not a checkpoint", where)
            return None
        try:
            manifest = _decode(self.store.get_bytes(prefix + MANIFEST), where.rstrip("/"))
        except MissingObjectError:  # pruned by somebody since it was listed
            return None
        except (ValueError, KeyError, TypeError) as error:
            log.warning("%s%s cannot be read (%s): not a checkpoint", where, MANIFEST, error)
            return None
        if (manifest.run_id, manifest.step, manifest.attempt) != (self.run_id, step, attempt):
            log.warning("%s%s describes another checkpoint: ignored", where, MANIFEST)
            return None
        wrong = [file.path for file in manifest.files if sizes.get(file.path) != file.size]
        if wrong:
            self.incomplete.append(f"{where} lacks {', '.join(wrong[:3])} or has it in another size")
            log.warning("%s: ignored", self.incomplete[-1])
            return None
        return manifest

    def _count(self, size: int) -> None:
        self.moved += size

    def _verify(self, manifest: Manifest) -> None:
        def compare(file: StoredFile) -> None:
            digest = hashlib.sha256()
            for chunk in self.store.read(self._key(manifest, file)):
                digest.update(chunk)
                self._count(len(chunk))
            if digest.hexdigest() != file.sha256:
                raise _corrupt(manifest, file, digest.hexdigest())

        _in_parallel(compare, manifest.files)

    def _prefix(self, step: int, attempt: str) -> str:
        return f"{self._root}step-{step:08d}/{attempt}/"

    def _key(self, manifest: Manifest, file: StoredFile) -> str:
        return self._prefix(manifest.step, manifest.attempt) + file.path


def _place(key: str) -> tuple[int, str]:
    """(step, attempt) of a key below `checkpoints/`; a key of somebody else's belongs to step -1, which nothing touches."""
    folder, _, rest = key.partition("/")
    attempt = rest.partition("/")[0]
    number = folder.removeprefix("step-")
    return (int(number), attempt) if folder.startswith("step-") and number.isdigit() else (-1, attempt)


def _corrupt(manifest: Manifest, file: StoredFile, found: str) -> CorruptCheckpointError:
    return CorruptCheckpointError(
        f"{manifest.uri}/{file.path}: damaged, SHA-256 {found[:12]}... instead of {file.sha256[:12]}...; use another step"
    )


def _in_parallel(work: Callable[[T], R], items: Iterable[T]) -> list[R]:
    """Results in order; the first error is raised after the work under way has ended."""
    pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="checkpoint")
    try:
        return list(pool.map(work, items))
    finally:
        pool.shutdown(cancel_futures=True)


def _encode(manifest: Manifest) -> bytes:
    content = asdict(manifest)
    del content["uri"]  # where it lies says that, also after a bucket was copied
    return json.dumps({"format": FORMAT, **content}, indent=1, ensure_ascii=False).encode()


def _decode(data: bytes, uri: str) -> Manifest:
    content = json.loads(data)
    if content.pop("format") != FORMAT:
        raise ValueError("of another format")
    files = tuple(StoredFile(**file) for file in content.pop("files"))
    for file in files:
        path = PurePosixPath(file.path)
        if path.is_absolute() or ".." in path.parts:
            raise ValueError(f"names a file outside it, {file.path!r}")
    return Manifest(uri=uri, files=files, **content)
