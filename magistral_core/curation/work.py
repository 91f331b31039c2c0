"""The work folder of a curation: what is finished lies on disk, so that a command that was killed goes on behind it.

OUT/.work/identity.json   of which inputs, settings and code
OUT/.work/lock            held while a command works here
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import xxhash

from magistral_core.errors import InputError
from magistral_core.storage.objects import disk_full, is_full


def check_out(out: Path, inputs: Iterable[str], outputs: Iterable[str]) -> None:
    """Raise InputError where the output folder is a file, or an input is one of the files to be replaced there: before inputs are read."""
    if out.exists() and not out.is_dir():
        raise InputError(f"--out {out}: is a file; give a folder")
    given = {Path(path).expanduser().resolve() for path in inputs}
    for name in outputs:
        if (out / name).resolve() in given:
            raise InputError(f"--out {out}: {name} there is an input, and would be replaced; choose another folder")


class WorkFolder:
    """The work folder of one curation. A context manager: while it is open, no other command may write to the same output.

    Args:
        out: the output folder; made if missing.
        identity: what finished work depends on; other work found there is removed.

    Raises:
        InputError: the folder cannot be made, or another curation writes there.
    """

    def __init__(self, out: Path, identity: str) -> None:
        self.folder = out / ".work"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"--out {out}: cannot be made ({error.strerror}); choose another folder") from error
        try:
            self._lock = os.open(self.folder / "lock", os.O_CREAT | os.O_RDWR)
        except OSError as error:
            raise InputError(f"--out {out}: cannot be written ({error.strerror}); choose another folder") from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(self._lock)
            raise InputError(f"--out {out}: another curation is writing there; wait for it, or choose another folder") from error
        known = self.folder / "identity.json"
        if not known.exists() or json.loads(known.read_text(encoding="utf-8")) != identity:
            self._empty()
            write_whole(known, [json.dumps(identity)])

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        os.close(self._lock)
        if error is not None and is_full(error):
            raise disk_full(self.folder.parent, None, "the set", "--out") from error

    def deliver(self, report: Mapping[str, Any], texts: Mapping[str, str], outputs: Iterable[str]) -> None:
        """Write report.json and some texts by file name, then rename all outputs to their places."""
        write_whole(self.folder / "report.json", [json.dumps(report, indent=1, ensure_ascii=False)])
        for name, text in texts.items():
            write_whole(self.folder / name, [text])
        for name in outputs:
            os.replace(self.folder / name, self.folder.parent / name)

    def remove(self) -> None:
        """Take the folder away: the outputs are in place."""
        self._disown()
        shutil.rmtree(self.folder)

    def _disown(self) -> None:
        """First of all: killed while the rest is taken away, no command shall go on with what is left."""
        (self.folder / "identity.json").unlink(missing_ok=True)

    def _empty(self) -> None:
        self._disown()
        for path in self.folder.iterdir():
            if path.name != "lock":
                shutil.rmtree(path) if path.is_dir() else path.unlink()


def write_whole(path: Path, lines: Iterable[str]) -> None:
    """Write lines to a file that is whole, or absent."""
    partial = path.with_name(path.name + ".tmp")
    with partial.open("w", encoding="utf-8") as file:
        file.writelines(line + "\n" for line in lines)
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, path)


class UniqueIds:
    """Ids of the rows that are kept: training needs them unique."""

    def __init__(self) -> None:
        self._taken: set[int] = set()

    def unique(self, own: str, file: str, line: int, index: int) -> str:
        """The row's id, or one with its place where another row has the same."""
        for candidate in (own, f"{own}@{file}:{line}", f"{own}@{index}"):
            key = xxhash.xxh3_64_intdigest(candidate.encode("utf-8", "surrogatepass"))
            if key not in self._taken:
                self._taken.add(key)
                return candidate
        raise AssertionError("a row's index is unique")
