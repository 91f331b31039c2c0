"""Where a curated set comes from: its input files with their digests, and the version that inputs, settings and code give it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

from magistral_core import __version__
from magistral_core.config import CodeCurationRecipe, CurationRecipe
from magistral_core.config.curation import SourceSettings
from magistral_core.config.schema import FieldNames
from magistral_core.curation.draft import read_draft
from magistral_core.problems import Row, source_rows

#: Rooms whose code decides what is kept.
_DECIDING = ("curation", "problems", "rewards", "sandbox")
_REPORT_ROWS = 10_000


@dataclass(frozen=True, slots=True)
class SourceFile:
    """An input file (or data set): its name as given, its rows, and the SHA-256 of their content."""

    file: str
    rows: int
    sha256: str


def survey(
    rows: Iterable[Row], check: Callable[[Row], object] = lambda _: None, on_rows: Callable[[int], None] = lambda _: None
) -> list[SourceFile]:
    """Read every row of every input once, before anything is done with any of them.

    Raises:
        InputError: an input that cannot be read, a line that is not a JSON object, or what `check` refuses.
    """
    counts: dict[str, int] = {}
    digests: dict[str, hashlib._Hash] = {}
    for done, row in enumerate(rows, start=1):
        check(row)
        counts[row.file] = counts.get(row.file, 0) + 1
        content = json.dumps([row.line, row.data], sort_keys=True, ensure_ascii=False, default=str)
        digests.setdefault(row.file, hashlib.sha256()).update(content.encode("utf-8", "surrogatepass"))
        if done % _REPORT_ROWS == 0:
            on_rows(done)
    return [SourceFile(file, counts[file], digests[file].hexdigest()) for file in counts]


def input_rows(inputs: Sequence[str], reading: SourceSettings) -> Iterator[Row]:
    """Every row of every input, in order."""
    return (row for path in inputs for row in source_rows(path, reading.split))


def survey_inputs(inputs: Sequence[str], reading: SourceSettings, on_rows: Callable[[int], None] = lambda _: None) -> list[SourceFile]:
    """`survey` of problem files, in which field names that are set must exist."""
    rows = input_rows(inputs, reading)
    if reading.fields == FieldNames():
        return survey(rows, on_rows=on_rows)
    return survey(rows, lambda row: read_draft(row, reading.fields), on_rows)


def version_of(sources: Sequence[SourceFile], against: Sequence[SourceFile], recipe: CurationRecipe | CodeCurationRecipe) -> str:
    """Version of the set: 16 hexadecimal digits of a hash over inputs, evaluation sets, settings and code."""
    settings = recipe.model_dump(mode="json", exclude={"tracking", "shard_rows"})
    content = {"sources": [*map(asdict, sources)], "against": [*map(asdict, against)], "settings": settings, "code": code_version()}
    return digest_of(content)


def digest_of(content: Mapping[str, Any]) -> str:
    """16 hexadecimal digits of a hash over JSON values."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


@cache
def code_version() -> str:
    """The package's version and a hash of the code that decides what is kept."""
    root = Path(__file__).parents[1]
    digest = hashlib.sha256()
    for room in _DECIDING:
        for path in sorted((root / room).rglob("*.py")):
            digest.update(path.relative_to(root).as_posix().encode() + path.read_bytes())
    return f"{__version__}+{digest.hexdigest()[:12]}"
