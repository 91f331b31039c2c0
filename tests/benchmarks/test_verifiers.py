"""What the verifiers' parts measured, as one result."""

from __future__ import annotations

import pytest

from benchmarks.common import Options
from benchmarks.verifiers import joined, run
from magistral_core.errors import InputError


def test_parts_are_joined() -> None:
    math = {"plain_answers_per_second": 5000.0, "language_ms": 0.5, "pairs": {"plain": 10}, "repetitions": {"language_ms": [0.4, 0.5]}}
    result = joined({"math": math, "code": {"programs_per_second": 7.0, "repetitions": []}})
    assert (result.headline.name, result.headline.value, result.headline.unit) == ("math: plain answers", 5000.0, "a second")
    assert result.headline.higher_is_better
    assert [(row["verifier"], row["measure"], row["value"]) for row in result.table] == [
        ("math", "plain answers per second", 5000.0),
        ("math", "language ms", 0.5),
        ("code", "programs per second", 7.0),
    ]
    assert result.settings == {"parts": ["math", "code"], "math": {"pairs": {"plain": 10}}}
    assert result.repetitions[0] == {"verifier": "math", "measurements": {"language_ms": [0.4, 0.5]}}


def test_a_part_that_is_absent_is_named() -> None:
    with pytest.raises(InputError, match="verifiers_prose.py is not there"):
        run(Options(settings={"parts": "prose"}))
