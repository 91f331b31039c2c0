"""The table of docs/math-verifier.md is what the verifiers make of the labelled pairs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from docs.math_table import END, PAGE, START, count, ours

ROOT = Path(__file__).resolve().parents[2]


def test_our_columns_are_current() -> None:
    table = PAGE.read_text(encoding="utf-8").partition(START)[2].partition(END)[0]
    shown = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.strip().splitlines()[2:-2]]
    found = {row[0]: (int(row[1]), int(row[4]), int(row[5])) for row in shown}
    assert found == count(ours)


@pytest.mark.slow
def test_the_whole_table_is_current() -> None:
    subprocess.run([sys.executable, "-m", "docs.math_table", "--check"], check=True, cwd=ROOT, timeout=600)
