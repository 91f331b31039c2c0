"""Where grades are kept: Parquet in an object store, a row a problem, readable by any program.

    grades/KEY/about.json             what was sampled, and how; KEY is its hash
    grades/KEY/part-00000000-....parquet

An object is whole or absent, and no part is ever written again. Parts have names of their own, so that several commands may add grades
of the same kind; of a problem that two of them graded at the same time the first part by name counts.
"""

from __future__ import annotations

import io
import json
import uuid
from collections.abc import Mapping
from typing import Any

from magistral_core.curation.grading import AnswerClass, Grade
from magistral_core.curation.lineage import digest_of
from magistral_core.errors import InputError
from magistral_core.storage import ObjectStore


class GradeStore:
    """The grades of one grader, by problem. Those kept before are read at once.

    Args:
        store: where.
        about: everything that a grade depends on but the problem, as JSON values.

    Raises:
        InputError: a part cannot be read.
        InfrastructureError: the store fails.
    """

    def __init__(self, store: ObjectStore, about: Mapping[str, Any]) -> None:
        text = json.dumps(about, sort_keys=True, indent=1)
        self.key = digest_of(about)
        self._store = store
        self._prefix = f"grades/{self.key}/"
        self._grades: dict[str, Grade] = {}
        parts = [key for key, _ in store.list(self._prefix) if key.endswith(".parquet")]
        self._parts = len(parts)
        for part in parts:
            for problem, grade in read_grades(store.get_bytes(part), f"{store.uri}/{part}"):
                self._grades.setdefault(problem, grade)
        if not store.exists(f"{self._prefix}about.json"):
            store.put_bytes(text.encode(), f"{self._prefix}about.json")

    def __len__(self) -> int:
        return len(self._grades)

    def get(self, problem: str) -> Grade | None:
        """The grade of a problem, if it has one."""
        return self._grades.get(problem)

    def add(self, grades: Mapping[str, Grade]) -> None:
        """Keep grades for good: they are stored when this returns. Raises InfrastructureError."""
        part = f"{self._prefix}part-{self._parts:08d}-{uuid.uuid4().hex[:8]}.parquet"
        self._store.put_bytes(write_grades(grades), part)
        self._parts += 1
        self._grades.update(grades)


def write_grades(grades: Mapping[str, Grade]) -> bytes:
    """A Parquet file with a row a problem."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    answer = pa.struct([("answer", pa.string()), ("votes", pa.int32()), ("correct", pa.bool_())])
    schema = pa.schema(
        [
            *(("problem", pa.string()), ("pass_rate", pa.float64())),
            *((name, pa.int32()) for name in ("samples", "correct", "errors", "truncated")),
            *(("tokens", pa.float64()), ("answers", pa.list_(answer))),
        ]
    )
    rows = [
        {
            "problem": problem,
            "pass_rate": grade.pass_rate,
            "correct": grade.correct,
            **{name: getattr(grade, name) for name in ("samples", "errors", "truncated", "tokens")},
            "answers": [{"answer": item.answer, "votes": item.votes, "correct": item.correct} for item in grade.answers],
        }
        for problem, grade in grades.items()
    ]
    file = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows, schema), file, compression="zstd")
    return file.getvalue()


def read_grades(data: bytes, name: str) -> list[tuple[str, Grade]]:
    """What `write_grades` wrote; `name` stands for it in errors. Raises InputError."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        rows = pq.read_table(io.BytesIO(data)).to_pylist()
    except (pa.ArrowInvalid, OSError) as error:
        raise InputError(
            f"{name} cannot be read ({str(error).splitlines()[0]}); remove this object, what it held is sampled again"
        ) from error
    return [
        (
            row["problem"],
            Grade(row["samples"], row["errors"], row["truncated"], row["tokens"], tuple(AnswerClass(**item) for item in row["answers"])),
        )
        for row in rows
    ]
