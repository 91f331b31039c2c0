"""The labelled pairs of `data/math_pairs.jsonl`, by the rules of docs/math-verifier.md.

They were written before the verifier, but for `second set` and `third set`: those tried it when it passed the sets before.
"""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from magistral_core.boxed import extract_boxed
from magistral_core.rewards import answer_part
from magistral_core.rewards.math import quick_verdict
from magistral_core.rewards.math.judge import judge

PAIRS = [json.loads(line) for line in (Path(__file__).parent / "data/math_pairs.jsonl").read_text(encoding="utf-8").splitlines()]
KINDS = (
    "unicode", "spacing", "thousands", "units", "percent", "mixed numbers", "degrees", "repeating decimals", "scientific notation",
    "complex numbers", "intervals and inequalities", "sets", "tuples", "matrices", "unions", "plus-minus", "bases", "equations", "choices",
    "plain text", "rounding", "partial parses", "whole response",
)  # fmt: skip


def accepted(pair: dict[str, Any]) -> bool:
    answer = extract_boxed(answer_part(pair["pred"]), bare=True) or ""
    quick = quick_verdict(pair["gold"], answer)
    return (quick.status if quick is not None else judge(pair["gold"], answer)[0]).value == "correct"


@pytest.fixture(scope="module")
def verdicts() -> list[bool]:
    return [accepted(pair) for pair in PAIRS]


def test_the_set_is_large_and_covers_every_kind() -> None:
    assert len({(pair["gold"], pair["pred"]) for pair in PAIRS}) == len(PAIRS) >= 400
    counts = Counter(pair["category"] for pair in PAIRS)
    assert all(counts[kind] >= 15 for kind in KINDS)
    assert 0.4 < sum(pair["equal"] for pair in PAIRS) / len(PAIRS) < 0.7


def test_no_false_accept(verdicts: list[bool]) -> None:
    assert [pair for pair, accept in zip(PAIRS, verdicts, strict=True) if accept and not pair["equal"]] == []


def test_nearly_all_are_right(verdicts: list[bool]) -> None:
    right = sum(pair["equal"] == accept for pair, accept in zip(PAIRS, verdicts, strict=True))
    assert right >= 0.98 * len(PAIRS)


def test_equal_pairs_are_equal_in_either_direction() -> None:
    """Nothing but an approximate reference is treated unlike the answer."""
    one_way = [
        pair
        for pair in PAIRS
        if pair["equal"] and pair["category"] not in ("rounding", "whole response", "second set", "third set")
        and not accepted({"gold": extract_boxed(pair["pred"]), "pred": f"\\boxed{{{pair['gold']}}}"})
    ]  # fmt: skip
    assert one_way == []
