"""What a sampler has finished, kept on disk: a run that is killed and started again samples only what is missing.

A journal is a folder: `journal.json` says what was asked for, `part-000000.parquet` and so on hold completions. A part is written
beside and renamed, so that it exists whole or not at all.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

from magistral_core.errors import InputError
from magistral_core.paths import locked
from magistral_core.records import Completion, FinishReason, Request
from magistral_core.storage.objects import explain_full_disk

Key = tuple[int, int]
#: Columns that are kept as arrays: lists of Python's numbers take six times the memory.
_ARRAYS = {"prompt_ids": np.int32, "token_ids": np.int32, "logprobs": np.float32, "versions": np.int32}
#: A journal that nobody went on with for so long is removed.
_STALE_S = 30 * 24 * 3600


@contextlib.contextmanager
def journal_until_done(root: Path, identity: Any) -> Iterator[Path | None]:
    """A journal's folder below `root` that belongs to one piece of work, and is removed when the block ends without an error.

    Args:
        root: made if missing; journals in it that are older than a month are removed.
        identity: what makes two pieces of work differ, as JSON values.

    Yields:
        The folder; None where another process has the same work under way (or just ended it).

    Raises:
        InputError: `root` cannot be written.
    """
    name = xxhash.xxh3_128_hexdigest(json.dumps(identity, sort_keys=True).encode())
    with contextlib.ExitStack() as stack:
        try:
            root.mkdir(parents=True, exist_ok=True)
            _remove_stale(root)
            folder = locked(root / name, stack)
        except OSError as error:
            raise InputError(f"{root}: cannot be written ({error.strerror}); set MAGISTRAL_CACHE to a folder of yours") from error
        yield folder
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)


def _remove_stale(root: Path) -> None:
    for path in root.iterdir():
        with contextlib.suppress(FileNotFoundError):  # another process removed it first
            if time.time() - path.stat().st_mtime > _STALE_S:
                shutil.rmtree(path, ignore_errors=True)


class Journal:
    """Completions by (group_id, index): those that the folder held when it was opened. What is written since is on the disk alone.

    Args:
        folder: made if missing.
        settings: whatever makes two samplings differ (model, temperature, ...), as JSON values.

    Raises:
        InputError: the folder holds the completions of another sampling, or cannot be read.
    """

    def __init__(self, folder: str | Path, settings: Mapping[str, Any]) -> None:
        self.folder = Path(folder)
        self._pending: list[Completion] = []
        self._finished: dict[Key, dict[str, Any]] = {}
        self.folder.mkdir(parents=True, exist_ok=True)
        self._check_settings(json.loads(json.dumps(settings)))
        self._parts = sorted(self.folder.glob("part-*.parquet"))
        for part in self._parts:
            for row in _read(part):
                self._finished[row["group_id"], row["index"]] = {
                    **row,
                    **{name: np.asarray(row[name], kind) for name, kind in _ARRAYS.items()},
                }

    def __len__(self) -> int:
        return len(self._finished)

    def get(self, request: Request) -> Completion | None:
        """The finished completion of a request, if there is one.

        Raises:
            InputError: the journal has it for another prompt, seed or limit of tokens.
        """
        row = self._finished.get((request.group_id, request.index))
        if row is None:
            return None
        # Journals of before the limit was kept hold none.
        asked = (row["seed"], row.get("max_tokens", request.max_tokens))
        if not np.array_equal(row["prompt_ids"], request.prompt.token_ids) or asked != (request.seed, request.max_tokens):
            raise InputError(
                f"{self.folder}: completion {request.index} of group {request.group_id} was sampled for another prompt, seed or limit of "
                f"tokens; remove the journal, or name another"
            )
        return Completion(
            group_id=request.group_id,
            index=request.index,
            prompt_ids=request.prompt.token_ids,
            token_ids=row["token_ids"],
            logprobs=row["logprobs"],
            versions=row["versions"],
            text=row["text"],
            finish_reason=FinishReason(row["finish_reason"]),
        )

    def write(self, finished: list[tuple[Request, Completion]]) -> None:
        """Keep completions for good: they are on disk when this returns. Raises InputError if the disk is full."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        if not finished:
            return
        rows = [_row(request, completion) for request, completion in finished]
        # By the last one's number: a part that was removed from between leaves a gap, and no good one may be written over.
        number = int(self._parts[-1].stem.rpartition("-")[2]) + 1 if self._parts else 0
        path = self.folder / f"part-{number:06d}.parquet"
        partial = path.with_suffix(".tmp")
        with explain_full_disk(self.folder, what="finished samples"), partial.open("wb") as file:
            pq.write_table(pa.Table.from_pylist(rows), file, compression="zstd")
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
        self._parts.append(path)

    def _check_settings(self, settings: Mapping[str, Any]) -> None:
        path = self.folder / "journal.json"
        if not path.exists():
            partial = path.with_suffix(".tmp")
            with partial.open("w", encoding="utf-8") as file:
                file.write(json.dumps(settings, indent=1))
                file.flush()
                os.fsync(file.fileno())
            os.replace(partial, path)
            return
        try:
            known = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise InputError(f"{path} cannot be read ({error}); remove the folder, what it held is sampled again") from error
        for name in sorted(known.keys() | settings.keys()):
            if known.get(name) != settings.get(name):
                raise InputError(
                    f"{self.folder}: the journal was begun with {name} = {known.get(name)!r}, this is {settings.get(name)!r}; "
                    f"remove the journal, or name another"
                )


def _row(request: Request, completion: Completion) -> dict[str, Any]:
    return {
        "group_id": completion.group_id,
        "index": completion.index,
        "seed": request.seed,
        "max_tokens": request.max_tokens,
        "prompt_ids": completion.prompt_ids.tolist(),
        "token_ids": completion.token_ids.tolist(),
        "logprobs": completion.logprobs.tolist(),
        "versions": completion.versions.tolist(),
        "text": completion.text,
        "finish_reason": str(completion.finish_reason),
    }


def _read(part: Path) -> Iterator[dict[str, Any]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        yield from pq.read_table(part).to_pylist()
    except (pa.ArrowInvalid, OSError) as error:
        raise InputError(
            f"{part} cannot be read ({str(error).splitlines()[0]}); remove this file, what it held is sampled again"
        ) from error
