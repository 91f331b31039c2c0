"""The metrics of a step, against an example worked out by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_groups import make_completion, make_group, make_score

from magistral_core.config.schema import LossSettings
from magistral_core.pipeline.batches import build_batch
from magistral_core.pipeline.metrics import Clock, policy_metrics, resample_metrics, rollout_metrics
from magistral_core.records import Group, Problem, Score, ScoreStatus
from magistral_core.training.report import StepReport

NOT_WELL_FORMED = Score(0.0, ScoreStatus.BAD_FORMAT, {"format": 0.0, "correct": 0.0}, seconds=0.5)


def example() -> list[Group]:
    """Two groups of two and one of three: right, wrong; malformed, malformed and cut; right, wrong, broken verifier."""
    problem = Problem("p", "q", "a")
    cut = (make_completion(1, 0, 10), make_completion(1, 1, 20, cut=True))
    return [
        make_group(0, [1.0, 0.1], [4, 6]),
        Group(1, problem, cut, (NOT_WELL_FORMED, NOT_WELL_FORMED)),
        make_group(2, [1.0, 0.1, None], [10, 10, 10]),
    ]


def test_rollout_metrics() -> None:
    assert rollout_metrics(example()) == pytest.approx(
        {
            "reward/mean": (1.0 + 0.1 + 0 + 0 + 1.0 + 0.1) / 6,
            "reward/format": 4 * 0.1 / 6,
            "reward/correct": 2 * 0.9 / 6,
            "pass/rate": 2 / 6,
            "pass/valid_format": 4 / 6,
            "pass/groups_solved": 2 / 3,
            "length/mean": 70 / 7,
            "length/p50": 10.0,
            "length/p95": np.percentile([4, 6, 10, 20, 10, 10, 10], 95),
            "length/max": 20.0,
            "length/truncated_share": 1 / 7,
            "verifier/seconds_mean": 0.5,
        }
    )
    assert rollout_metrics([]) == {}


def test_a_group_that_nobody_could_judge_is_not_unsolved() -> None:
    figures = rollout_metrics([make_group(0, [1.0, 0.1], [4, 6]), make_group(1, [None, None], [4, 6])])
    assert figures["pass/groups_solved"] == 1.0 and figures["pass/rate"] == 0.5


def test_policy_metrics() -> None:
    groups = [make_group(0, [1.0, 0.1], [2, 2], version=3), make_group(1, [1.0, None], [4, 8], version=1)]
    batch = build_batch(groups, 5, LossSettings())
    report = StepReport(
        loss=0.25,
        tokens=8,
        entropy_sum=4.0,
        clipped=2,
        log_ratios=np.log(np.array([1.0, 1.0, 3.0], np.float32)),
        mismatch_sum=0.5,
        mismatch_max=0.4,
        mismatch_tokens=5,
        grad_norm=1.5,
        learning_rate=1e-6,
        seconds=2.0,
    )
    found = policy_metrics(batch, report)
    expected = {
        "policy/entropy": 0.5,
        "policy/clip_fraction": 0.25,
        "policy/ratio_p50": 1.0,
        "policy/ratio_p99": 1.0 + 0.98 * 2.0,
        "policy/effective_sample_share": 25 / (3 * 11),
        "policy/kl": (3 - 1 - np.log(3)) / 3,
        "policy/mismatch_mean": 0.1,
        "policy/mismatch_max": 0.4,
        "age/mean": (4 * 2 + 12 * 4) / 16,
        "age/max": 4.0,
        "age/p50": 4.0,
        "age/p95": 4.0,
        "age/share_0": 0.0,
        "age/share_1": 0.0,
        "age/share_2": 0.25,
        "age/share_3": 0.0,
        "age/share_4_up": 0.75,
        "batch/reward_mean": 2.1 / 3,
        "batch/reward_std": np.std([1.0, 0.1, 1.0]),
        "batch/masked": 1.0,
        "train/loss": 0.25,
        "train/grad_norm": 1.5,
        "train/learning_rate": 1e-6,
        "train/tokens": 8.0,
        "train/seconds": 2.0,
    }
    assert {name: found[name] for name in expected} == pytest.approx(expected, rel=1e-6)
    assert found.keys() - expected.keys() == {"policy/ratio_p01"}
    nothing_comparable = policy_metrics(batch, replace(report, mismatch_tokens=0))
    assert "policy/mismatch_max" not in nothing_comparable, "no comparison is not a comparison that found nothing"


@given(ages=st.lists(st.integers(0, 12), min_size=2, max_size=6))
def test_every_token_is_in_one_share_of_the_ages(ages: list[int]) -> None:
    groups = [make_group(i, [1.0, 0.1], [3, 2], version=12 - age) for i, age in enumerate(ages)]
    found = policy_metrics(build_batch(groups, 12, LossSettings()), StepReport(tokens=1))
    shares = {name.removeprefix("age/share_"): value for name, value in found.items() if name.startswith("age/share_")}
    assert sum(shares.values()) == pytest.approx(1.0)
    assert shares.pop("4_up") == pytest.approx(sum(age >= 4 for age in ages) / len(ages))
    assert all(value == pytest.approx(ages.count(int(age)) / len(ages)) for age, value in shares.items())


def test_groups_sampled_again_are_counted_and_compared() -> None:
    groups = [make_group(0, [1.0, 0.1], [4, 6]), make_group(1, [1.0, 0.1], [1, 2]), make_group(2, [1.0, 0.1], [2, 3])]
    assert resample_metrics(groups, {0, 9}) == {"resume/groups": 1.0, "resume/length_shift": 5.0 - 2.0}
    assert resample_metrics(groups, {0, 1, 2}) == {"resume/groups": 3.0}, "nothing to compare with"
    assert resample_metrics(groups, set()) == {}


def test_ratios_that_overflow_stay_finite() -> None:
    batch = build_batch([make_group(0, [1.0, 0.1])], 0, LossSettings())
    found = policy_metrics(batch, StepReport(tokens=2, log_ratios=np.array([900.0, -900.0], np.float32)))
    assert all(np.isfinite(value) for value in found.values())


def test_a_broken_verifier_does_not_enter_the_rewards() -> None:
    with_error, without = make_group(0, [1.0, 0.1, None]), make_group(0, [1.0, 0.1])
    assert rollout_metrics([with_error])["reward/mean"] == rollout_metrics([without])["reward/mean"]
    assert not make_score(None).graded


def test_clock_by_hand() -> None:
    clock = Clock(10.0)
    clock.busy(2, 11.0)  # idle for 1 s
    clock.busy(4, 13.0)  # two for 2 s
    clock.busy(0, 14.0)  # four for 1 s
    share, mean = clock.lap(18.0)
    assert share == pytest.approx(3 / 8)
    assert mean == pytest.approx((2 * 2 + 4) / 8)
    clock.busy(1, 19.0)
    assert clock.lap(20.0) == pytest.approx((0.5, 0.5)), "a new window began at 18"
    assert clock.lap(21.0) == pytest.approx((1.0, 1.0)), "what runs goes on running"


def test_what_a_clock_skips_is_no_part_of_its_window() -> None:
    clock, young = Clock(0.0), Clock(9.0)
    clock.busy(1, 2.0)
    clock.busy(0, 3.0)
    for each in (clock, young):
        each.skip(6.0, 10.0)  # from 4 to 10
    assert clock.lap(11.0) == pytest.approx((1 / 5, 1 / 5))
    assert young.lap(11.0) == (0.0, 0.0)
    young.busy(1, 11.0)
    assert young.lap(12.0) == pytest.approx((1.0, 1.0))


@given(spans=st.lists(st.tuples(st.floats(0.01, 5), st.integers(0, 9)), min_size=1, max_size=20))
def test_clock_integrates(spans: list[tuple[float, int]]) -> None:
    clock, now, integral, busy = Clock(0.0), 0.0, 0.0, 0.0
    for span, running in spans:
        clock.busy(running, now)
        now += span
        integral += span * running
        busy += span * bool(running)
    assert clock.lap(now) == pytest.approx((busy / now, integral / now))
