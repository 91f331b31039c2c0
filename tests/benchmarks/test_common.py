"""What all benchmarks share: settings, two sides in turn, cores, fresh processes, the result file."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import load, summaries
from benchmarks.common import Headline, Options, Result, cores, in_child, in_turn, pin, pinned, short
from magistral_core.errors import InfrastructureError, InputError


@dataclass(frozen=True)
class Settings:
    repetitions: int = 3
    sizes: tuple[float, ...] = (1.0, 2.0)
    name: str = "x"
    quick: bool = False


def test_settings_take_the_type_of_their_default() -> None:
    given = {"repetitions": "7", "sizes": "0.5,3", "name": "7", "quick": "true"}
    assert Options(settings=given).over(Settings()) == Settings(7, (0.5, 3.0), "7", True)
    assert Options().over(Settings(repetitions=5)) == Settings(repetitions=5)


@pytest.mark.parametrize(
    ("key", "text", "words"), [("sise", "1", "repetitions, sizes"), ("repetitions", "1.5", "type int"), ("quick", "maybe", "bool")]
)
def test_wrong_settings_are_refused(key: str, text: str, words: str) -> None:
    with pytest.raises(InputError, match=f"--set {key}") as caught:
        Options(settings={key: text}).over(Settings())
    assert words in str(caught.value)


def test_sides_take_turns_at_going_first() -> None:
    calls: list[str] = []

    def side(name: str, values: list[float]) -> float:
        calls.append(name)
        return values.pop(0)

    a, b = [100.0, 2.0, 4.0, 9.0], [1.0, 1.0, 1.0, 3.0]
    pairs = in_turn(lambda: side("a", a), lambda: side("b", b), 3, warm_ups=1)
    assert "".join(calls) == "abbaabba"
    assert (pairs.a, pairs.b) == ((2.0, 4.0, 9.0), (1.0, 1.0, 3.0))
    assert (pairs.median_a, pairs.median_b) == (4.0, 1.0)
    assert pairs.ratio == 3.0  # of 2, 4 and 3; not the ratio of the medians


def test_pinning_binds_children_and_is_undone() -> None:
    before = os.sched_getaffinity(0)
    with pinned(cores()[:1]):
        inside = in_child("benchmarks.machine:machine_facts")
    assert inside["cores"] == 1
    assert os.sched_getaffinity(0) == before


def test_a_running_process_is_moved() -> None:
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        pin(process.pid, cores()[-1:])
        assert os.sched_getaffinity(process.pid) == set(cores()[-1:])
    finally:
        process.kill()
        process.wait()


def test_a_child_tells_its_memory() -> None:
    facts = in_child("benchmarks.machine:machine_facts")
    assert 2**20 < facts["start_rss_bytes"] <= facts["peak_rss_bytes"]


def test_a_child_that_fails_says_why() -> None:
    with pytest.raises(InfrastructureError, match="nothing_of_that_name"):
        in_child("benchmarks.machine:nothing_of_that_name")


def result(**changes: Any) -> Result:
    parts: dict[str, Any] = {
        "headline": Headline("x", np.float64(2) / 3, "times", True),
        "settings": {"sizes": (1, 2)},
        "table": [{"n": np.int64(5)}],
        "repetitions": [{"s": 0.123456789}],
    }
    return Result(**{**parts, **changes})


def test_the_file_is_plain_json_and_names_no_machine() -> None:
    content = result().to_json("some", full=True, seconds=1.26)
    text = json.dumps(content)
    assert json.loads(text) == content
    assert content["headline"] == {"name": "x", "value": 0.6666667, "unit": "times", "higher_is_better": True}
    assert content["table"] == [{"n": 5}] and content["repetitions"] == [{"s": 0.1234568}]
    assert content["machine"]["cores"] >= 1 and "torch" in content["machine"]["versions"]
    assert os.uname().nodename not in text and str(Path.cwd()) not in text


@pytest.mark.parametrize(
    ("value", "text"), [(None, "-"), (True, "yes"), (12345, "12,345"), (1234.5, "1,234"), (0.012345, "0.0123"), ("word", "word")]
)
def test_values_in_tables(value: Any, text: str) -> None:
    assert short(value) == text


def test_every_benchmark_can_be_loaded_without_an_engine() -> None:
    names = list(summaries())
    assert "collation" in names
    heavy = {"torch", "vllm", "ray", "mlflow"}
    code = f"import sys, benchmarks; [benchmarks.load(n) for n in {names}]; print(*({heavy} & set(sys.modules)))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert loaded.stdout.strip() == ""


def test_an_unknown_benchmark_is_named() -> None:
    with pytest.raises(InputError, match="'collision'.*collation"):
        load("collision")
