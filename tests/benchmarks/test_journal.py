"""A long benchmark that was cut off goes on where it was."""

from __future__ import annotations

from pathlib import Path

from benchmarks.common import Headline, Result
from benchmarks.journal import Journal


def test_what_is_kept_is_not_measured_again(tmp_path: Path) -> None:
    path, measured = str(tmp_path / "cells.jsonl"), []

    def measure(name: str, repetitions: int) -> float:
        found = Journal(path).once(name, repetitions, lambda: measured.append(name) or {"rate": float(len(measured))})
        return float(found["rate"])

    assert [measure("a", 2), measure("b", 2), measure("a", 2), measure("a", 1)] == [1.0, 2.0, 1.0, 1.0]
    assert measure("a", 5) == 3.0  # more repetitions than it has
    assert measure("a", 5) == 3.0
    assert measured == ["a", "b", "a"]


def test_what_was_measured_otherwise_is_measured_again(tmp_path: Path) -> None:
    path = str(tmp_path / "cells.jsonl")
    for number, rows in enumerate([16, 64, 64, 16]):
        found = Journal(path, {"rows": rows}).once("a", 1, lambda number=number: {"number": number})
        assert found == {"number": [0, 1, 1, 0][number]}


def test_without_a_file_everything_is_measured() -> None:
    journal = Journal("")
    assert [journal.once("a", 1, lambda: {"n": 1})["n"], journal.once("a", 1, lambda: {"n": 2})["n"]] == [1, 2]


def test_a_result_counts_the_time_of_earlier_parts(tmp_path: Path) -> None:
    path = tmp_path / "cells.jsonl"
    path.write_text(
        '{"key": "a", "repetitions": 2, "seconds": 7.5, "found": {}}\n{"key": "b", "repetitions": 2, "seconds": 9.0, "found": {}}\n'
    )
    journal = Journal(str(path))
    journal.once("a", 2, dict)
    journal.once("c", 2, dict)
    assert journal.earlier_seconds == 7.5
    result = Result(Headline("h", 1.0, "x", higher_is_better=True), {}, [], [], earlier_seconds=journal.earlier_seconds)
    content = result.to_json("trl", full=True, seconds=2.0)
    assert content["seconds"] == 9.5
    assert "earlier_seconds" not in content
