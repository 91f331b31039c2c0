"""A row on its way through the filters, and the work folder that keeps finished rows on disk.

    OUT/.work/identity.json          of which inputs, settings and code
    OUT/.work/rules-00000000.jsonl   rows 0 to shard_rows - 1, each with its verdict; and so on
    OUT/.work/llm.jsonl              rows that the language model changed

A file is written beside and renamed, so that it is whole or absent. A command that was killed finds its shards again and goes on behind
them; with other inputs, settings or code it begins anew.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from magistral_core.curation.reasons import ReasonCode
from magistral_core.errors import InputError


@dataclass(slots=True)
class Entry:
    """A row of the input.

    Attributes:
        index: its place in the whole input, from 0.
        file, line: where it was read; line from 1.
        id: the row's own, or file and line.
        question, answer: as they stand now: as read, or rewritten.
        language, level: as in `Problem`.
        reason: why it was rejected; empty while it survives.
        detail: the words that gave the reason.
        original: the statement as read, if it was rewritten.
        rewritten: `rules` or `model`; empty if it was not.
        doubt: what the rules could not decide.
        options, right: of a multiple choice that rules cannot rewrite.
    """

    index: int
    file: str
    line: int
    id: str
    question: str
    answer: str
    language: str = ""
    level: int = 0
    reason: str = ""
    detail: str = ""
    original: str = ""
    rewritten: str = ""
    doubt: str = ""
    options: tuple[str, ...] = ()
    right: str = ""

    @property
    def source(self) -> dict[str, Any]:
        """File and line, as outputs name them."""
        return {"file": self.file, "line": self.line}

    def reject(self, reason: ReasonCode, detail: str) -> None:
        """Note why it goes no further."""
        self.reason, self.detail = reason.value, detail

    def to_line(self) -> str:
        """One line of JSON; fields with their default value are left out."""
        content = {name: value for name, default in _DEFAULTS.items() if (value := getattr(self, name)) != default}
        return json.dumps(content, ensure_ascii=False)

    @classmethod
    def from_line(cls, line: str) -> Entry:
        """The reverse of `to_line`."""
        content = {**_DEFAULTS, **json.loads(line)}
        content["options"] = tuple(content["options"])
        return cls(**content)


_DEFAULTS: dict[str, Any] = {item.name: "" for item in fields(Entry)} | {"index": 0, "line": 0, "level": 0, "options": ()}


class Work:
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
        self._lock = os.open(self.folder / "lock", os.O_CREAT | os.O_RDWR)
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

    def has_shard(self, number: int) -> bool:
        """Whether a shard was finished."""
        return self._shard(number).exists()

    def write_shard(self, number: int, entries: Iterable[Entry]) -> None:
        """Keep a finished shard."""
        write_whole(self._shard(number), (entry.to_line() for entry in entries))

    def write_changes(self, entries: Iterable[Entry]) -> None:
        """Keep what the language model changed, in the order of the input."""
        write_whole(self.folder / "llm.jsonl", (entry.to_line() for entry in entries))

    @property
    def has_changes(self) -> bool:
        """Whether the language-model step was finished."""
        return (self.folder / "llm.jsonl").exists()

    def entries(self) -> Iterator[Entry]:
        """Every row in order, as it stands after the last finished step."""
        changes = _lines(self.folder / "llm.jsonl") if self.has_changes else iter(())
        change = next(changes, None)
        for path in sorted(self.folder.glob("rules-*.jsonl")):
            for entry in _lines(path):
                if change is not None and change.index == entry.index:
                    yield change
                    change = next(changes, None)
                else:
                    yield entry

    def remove(self) -> None:
        """Take the folder away: the outputs are in place."""
        shutil.rmtree(self.folder)

    def _shard(self, number: int) -> Path:
        return self.folder / f"rules-{number:08d}.jsonl"

    def _empty(self) -> None:
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


def _lines(path: Path) -> Iterator[Entry]:
    with path.open(encoding="utf-8") as file:
        yield from map(Entry.from_line, file)
