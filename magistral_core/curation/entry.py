"""A row on its way through the filters, and the work folder that keeps finished rows on disk.

    OUT/.work/identity.json          of which inputs, settings and code
    OUT/.work/rules-00000000.jsonl   rows 0 to shard_rows - 1, each with its verdict; and so on
    OUT/.work/llm.jsonl              rows that the language model changed

A file is written beside and renamed, so that it is whole or absent. A command that was killed finds its shards again and goes on behind
them; with other inputs, settings or code it begins anew.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from magistral_core.curation.reasons import ReasonCode
from magistral_core.curation.work import WorkFolder, write_whole


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


class Work(WorkFolder):
    """The work folder of a curation of mathematics: finished shards, and what the language model changed."""

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

    def _shard(self, number: int) -> Path:
        return self.folder / f"rules-{number:08d}.jsonl"


def _lines(path: Path) -> Iterator[Entry]:
    with path.open(encoding="utf-8") as file:
        yield from map(Entry.from_line, file)
