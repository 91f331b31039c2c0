"""`magistral verify math`: its contract line by line."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from magistral_core.cli import main


def write(path: Path, *rows: Any) -> Path:
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows), encoding="utf-8")
    return path


def verify(pairs: Path, out: Path) -> int:
    return main(["verify", "math", str(pairs), "--out", str(out)])


def test_one_line_out_for_each_line_in(tmp_path: Path) -> None:
    rows = [
        {"gold": "5", "pred": "\\boxed{5.0}", "id": "a"},
        {"gold": "\\frac{\\sqrt{2}}{2}", "pred": "so $\\boxed{1/\\sqrt{2}}$"},
        {"gold": "5", "pred": "<think>\\boxed{5}</think> \\boxed{6}"},
        {"gold": "5", "pred": "<think>\\boxed{5}</think> five"},
        {"gold": "5", "pred": "\\boxed 5"},
        {"gold": "5", "pred": "5"},
        {"gold": "5", "pred": "\\boxed{3 \\garbage 5}"},
        {"gold": "", "pred": "\\boxed{5}"},
        {"gold": None, "pred": "\\boxed{5}"},
        {"gold": "\\foo{", "pred": "\\boxed{5}"},
        {"gold": 5, "pred": "\\boxed{5}"},
        {"gold": "\ud800", "pred": "\\boxed{\u2028\ud800}"},
        {"gold": "7", "pred": "\\boxed{\\sum_{k=1}^{10^{9}} k^{k}}"},
    ]
    out = tmp_path / "out.jsonl"
    assert verify(write(tmp_path / "pairs.jsonl", *rows), out) == 0
    found = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    assert [row["status"] for row in found] == [
        "correct", "correct", "wrong", "no_answer", "correct", "no_answer", "unparsable", "error", "error", "error",
        "correct", "error", "timeout",
    ]  # fmt: skip
    assert all(row["correct"] is (row["status"] == "correct") and row["seconds"] >= 0 for row in found)
    assert [{key: row[key] for key in source} for row, source in zip(found, rows, strict=True)] == rows


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ({"gold": "5"}, "pairs.jsonl:2: the field `pred` is missing"),
        ({"pred": "5"}, "pairs.jsonl:2: the field `gold` is missing"),
        ("{not json", "pairs.jsonl:2: not a line of JSON"),
        ("", "pairs.jsonl:2: not a line of JSON"),
        ([1], "pairs.jsonl:2: a list instead of an object"),
        ("[" * 100_000, "pairs.jsonl:2: not a line of JSON"),
    ],
)
def test_a_bad_line_is_named_and_nothing_is_written(tmp_path: Path, capsys: pytest.CaptureFixture[str], line: Any, message: str) -> None:
    good = {"gold": "5", "pred": "\\boxed{5}"}
    out = tmp_path / "out.jsonl"
    assert verify(write(tmp_path / "pairs.jsonl", good, line, good), out) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert list(tmp_path.iterdir()) == [tmp_path / "pairs.jsonl"]


def test_files_that_cannot_be_used(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pairs = write(tmp_path / "pairs.jsonl", {"gold": "5", "pred": "\\boxed{5}"})
    assert verify(tmp_path / "absent.jsonl", tmp_path / "out.jsonl") == 2
    assert verify(pairs, tmp_path / "absent" / "out.jsonl") == 2
    assert verify(pairs, tmp_path) == 2
    assert capsys.readouterr().err.count("magistral:") == 3


def test_what_is_no_file_stays_what_it_is(tmp_path: Path) -> None:
    pairs = write(tmp_path / "pairs.jsonl", {"gold": "5", "pred": "\\boxed{5}"})
    pipe, target, link = (tmp_path / name for name in ("pipe", "target.jsonl", "link.jsonl"))
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    try:
        assert verify(pairs, pipe) == 0
        assert json.loads(os.read(reader, 65536))["correct"]
    finally:
        os.close(reader)
    assert pipe.is_fifo()
    link.symlink_to(target)
    assert verify(pairs, link) == 0
    assert link.is_symlink() and json.loads(target.read_text())["correct"]
    assert {path.name for path in tmp_path.iterdir()} == {"pairs.jsonl", "pipe", "target.jsonl", "link.jsonl"}


def test_an_empty_file_gives_an_empty_file(tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    assert verify(write(tmp_path / "pairs.jsonl"), out) == 0
    assert out.read_text() == ""
