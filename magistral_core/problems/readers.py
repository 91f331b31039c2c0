"""Read raw rows from files, one at a time: JSON lines, JSON lists, Parquet and folders of them.

Readers know where a row stands and whether the file can be read at all; what its fields mean is `fields.py`'s business.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from magistral_core.errors import InputError

#: Endings of problem files. `.json` and `.txt` may hold JSON lines too: several public data sets do.
SUFFIXES = (".jsonl", ".json", ".txt", ".parquet")
#: Longest line that is read; a longer one is not a problem but a file of another kind.
MAX_LINE_BYTES = 64 * 2**20


@dataclass(frozen=True, slots=True)
class Row:
    """One row of a file.

    Attributes:
        file: the file as the user names it (a path or an `s3://` address).
        line: its line, or its number in a list or table; from 1.
        data: the fields.
    """

    file: str
    line: int
    data: Mapping[str, Any]

    @property
    def place(self) -> str:
        """`file:line`, for messages."""
        return f"{self.file}:{self.line}"


def read_rows(path: Path, name: str = "") -> Iterator[Row]:
    """Rows of one file, lazily and in order. `name` stands for the path in messages. Raises InputError."""
    name = name or str(path)
    if not path.exists():
        raise InputError(f"{name}: no such problem file")
    if not path.is_file():
        raise InputError(f"{name}: not a file")
    if path.suffix not in SUFFIXES:
        raise InputError(f"{name}: unknown kind of problem file; use one of {', '.join(SUFFIXES)}")
    if not os.access(path, os.R_OK):
        raise InputError(f"{name}: this user may not read the file")
    if path.stat().st_size == 0:
        raise InputError(f"{name}: the file is empty")
    if path.suffix == ".parquet":
        rows = _parquet(path, name)
    elif path.suffix == ".json" and _starts_with_bracket(path):
        rows = _json_list(path, name)
    else:
        rows = _json_lines(path, name)
    found = False
    for row in rows:
        found = True
        yield row
    if not found:
        raise InputError(f"{name}: the file holds no problems")


def problem_files(folder: Path) -> list[Path]:
    """Every problem file in a folder and its subfolders, sorted; hidden ones are passed over. Raises InputError."""
    files = sorted(
        path
        for path in folder.rglob("*")
        if path.suffix in SUFFIXES and path.is_file() and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    )
    if not files:
        raise InputError(f"{folder}: the folder holds no problem file ({', '.join(SUFFIXES)})")
    return files


def _json_lines(path: Path, name: str) -> Iterator[Row]:
    with path.open("rb") as file:
        number = 0
        while line := file.readline(MAX_LINE_BYTES + 1):
            number += 1
            if len(line) > MAX_LINE_BYTES:
                raise InputError(f"{name}:{number}: the line is longer than {MAX_LINE_BYTES // 2**20} MiB; write one problem a line")
            text = _decode(line, f"{name}:{number}", first=number == 1)
            if not text.strip():
                continue
            try:
                data = json.loads(text)
            except (ValueError, RecursionError) as error:
                if not line.endswith(b"\n"):
                    raise InputError(
                        f"{name}:{number}: the last line is cut off (the file was not written to its end); write the file again"
                    ) from error
                raise InputError(f"{name}:{number}: not JSON ({error}); write one JSON object a line") from error
            yield Row(name, number, _object(data, f"{name}:{number}"))


def _json_list(path: Path, name: str) -> Iterator[Row]:
    text = _decode(path.read_bytes(), name, first=True)
    try:
        items = json.loads(text)
    except json.JSONDecodeError as error:
        if error.pos >= len(text.rstrip()) or "Unterminated" in error.msg:
            raise InputError(
                f"{name}:{error.lineno}: the list is cut off (the file was not written to its end); write the file again"
            ) from error
        raise InputError(f"{name}:{error.lineno}: not JSON ({error.msg}); the file must hold one list of objects") from error
    except (ValueError, RecursionError) as error:  # a number of thousands of digits, brackets within brackets
        raise InputError(f"{name}: cannot be read ({error})") from error
    for number, item in enumerate(items, start=1):
        yield Row(name, number, _object(item, f"{name}, item {number}"))


def _parquet(path: Path, name: str) -> Iterator[Row]:
    import pyarrow
    import pyarrow.parquet

    number = 0
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=1024):
                for data in batch.to_pylist():
                    number += 1
                    yield Row(name, number, data)
    except (pyarrow.ArrowException, OSError) as error:
        raise InputError(f"{name}: not a whole Parquet file ({' '.join(str(error).split())[:200]}); write the file again") from error


def _starts_with_bracket(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(4096).removeprefix(b"\xef\xbb\xbf").lstrip()[:1] == b"["


def _decode(raw: bytes, place: str, *, first: bool) -> str:
    try:
        return raw.decode("utf-8-sig" if first else "utf-8")
    except UnicodeDecodeError as error:
        guess = "UTF-16" if first and raw[:2] in (b"\xff\xfe", b"\xfe\xff") else "LATIN1"
        raise InputError(
            f"{place}: not UTF-8 (byte {error.start}: {error.reason}); convert the file, for instance with iconv -f {guess} -t UTF-8"
        ) from error


def _object(data: Any, place: str) -> dict[str, Any]:
    if not isinstance(data, dict):
        raise InputError(f"{place}: a problem is a JSON object with a question and an answer, this is a {type(data).__name__}")
    return data
