"""Sides of a comparison: they take the steps they are told, stand still otherwise, and leave nothing behind."""

from __future__ import annotations

import time

import psutil
import pytest

from benchmarks.sides import Side
from magistral_core.errors import InfrastructureError


def test_a_side_stands_still_between_its_turns() -> None:
    with Side("tests.benchmarks.toy_side:count", {"seconds": 0.01}) as side:
        first = side.advance(20)
        helper = psutil.Process(side.ready["helper"])
        before = helper.cpu_times().user
        time.sleep(2.0)
        assert helper.status() == psutil.STATUS_STOPPED
        assert helper.cpu_times().user == before
        second = side.advance(2)
    steps = [line["step"] for line in first.lines + second.lines]
    assert len(steps) == 22
    assert steps == sorted(set(steps))  # what was done before the stop reached it belongs to neither turn
    assert first.seconds >= 0.2
    assert second.seconds < 2.0  # standing still is not counted
    assert sum(first.cpu_seconds.values()) > 0
    assert not helper.is_running() or helper.status() == psutil.STATUS_ZOMBIE


@pytest.mark.timeout(60)
def test_a_side_that_is_slow_to_stop_does_not_stop_after_it_is_told_to_go_on() -> None:
    with Side("tests.benchmarks.toy_side:slow_to_stop", {}) as side:
        assert [line["step"] for line in side.advance(1).lines] == [1]


@pytest.mark.parametrize(
    ("given", "found"), [({}, "passive"), ({"OMP_WAIT_POLICY": "active"}, "active"), ({"OMP_WAIT_POLICY": None}, None)]
)
def test_a_side_has_the_variables_it_is_given_and_none_it_must_not_have(
    given: dict[str, str | None], found: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_WAIT_POLICY", "passive")
    with Side("tests.benchmarks.toy_side:environment", {"name": "OMP_WAIT_POLICY"}, given) as side:
        assert side.ready["value"] == found
        side.close()  # once here, once by the block


def test_a_side_that_fails_says_why() -> None:
    with Side("tests.benchmarks.toy_side:fail", {}) as side, pytest.raises(InfrastructureError, match="no such model"):
        side.advance(1)
