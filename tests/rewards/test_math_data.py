"""Every reference answer of the data sets that runs and suites use is one that can be verified."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from magistral_core.rewards.math import quick_gold_verdict
from magistral_core.rewards.math.judge import check_gold

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"


def lines(path: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (DATA / path).read_text(encoding="utf-8").splitlines()]


def gsm8k() -> list[str]:
    return [row["answer"].rpartition("####")[2].strip() for split in ("train", "test") for row in lines(f"gsm8k/{split}.jsonl")]


def theoremqa() -> list[str]:
    return [str(row["Answer"]) for row in json.loads((DATA / "theoremqa/theoremqa_test.json").read_text(encoding="utf-8"))]


SETS: dict[str, tuple[int, Callable[[], list[str]]]] = {
    "math500": (500, lambda: [row["answer"] for row in lines("math500/test.jsonl")]),
    "gsm8k": (8792, gsm8k),
    "aime": (60, lambda: [str(row["expected_answer"]) for year in (24, 25) for row in lines(f"aime_2024_2025/aime{year}.test.txt")]),
    "amc23": (40, lambda: [str(row["answer"]) for row in lines("amc23/test.jsonl")]),
    "theoremqa": (800, theoremqa),
}


@pytest.mark.skipif(not DATA.is_dir(), reason="the data folder ../shared/data is not here")
@pytest.mark.parametrize("name", SETS)
def test_every_reference_equals_itself(name: str) -> None:
    size, answers = SETS[name]
    golds = answers()
    assert len(golds) == size
    unusable = []
    for gold in golds:
        quick = quick_gold_verdict(gold)
        status = quick.status if quick is not None else check_gold(gold)[0]
        if status.value != "correct":
            unusable.append((gold, status.value))
    assert unusable == []
