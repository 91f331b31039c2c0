"""docs/performance.md says what the published results say."""

from __future__ import annotations

import json

import pytest

from benchmarks import RESULTS, summaries
from benchmarks.page import PAGE, put_between, render, section


def test_the_page_agrees_with_the_result_files() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert render(text) == text, "run: python -m benchmarks.page"


def test_every_published_result_is_a_full_run_of_a_benchmark() -> None:
    for path in RESULTS.glob("*.json"):
        content = json.loads(path.read_text(encoding="utf-8"))
        assert content["benchmark"] == path.stem and path.stem in {*summaries(), "gpu"}
        assert content["full"], f"{path.name}: made without --full"
        assert {"name", "value", "unit", "higher_is_better"} == content["headline"].keys()
        assert content["settings"] and content["repetitions"]


def test_a_result_as_a_section() -> None:
    machine = {"cores": 2, "processor": "P", "gpus": [], "load_average_1min": 0.5}
    content = {
        "headline": {"name": "gain", "value": 1.2345, "unit": "times", "higher_is_better": True},
        "table": [{"n": 1000, "share": 0.5}],
        "remarks": ["It falls short."],
        "seconds": 61.0,
        "machine": machine,
    }
    assert section("some", content) == (
        "**gain: 1.23 times**\n\n| n | share |\n| --- | --- |\n| 1,000 | 0.5 |\n\n- It falls short.\n\n"
        "Made in 61 s on 2 cores of P; load average at the end 0.5.\n"
    )
    assert "magistral bench some --full" in section("some", None)


def test_a_page_without_a_place_is_refused() -> None:
    text = "a\n<!-- x:start -->\nold\n<!-- x:end -->\nb\n"
    assert put_between(text, "x", "new\n") == "a\n<!-- x:start -->\nnew\n<!-- x:end -->\nb\n"
    with pytest.raises(ValueError, match="no place for y"):
        put_between(text, "y", "")
