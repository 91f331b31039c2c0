"""The comparisons with TRL and of the schedules: from what was measured to the table, and both sides at work for a few steps."""

from __future__ import annotations

import contextlib
import importlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import psutil
import pytest

from benchmarks import load, trl
from benchmarks.common import Options
from benchmarks.sides import RAY_ENVIRONMENT, Side
from benchmarks.synthetic import Lengths, recipe
from magistral_core.errors import InputError


def cell(skew: float, ours: list[float], theirs: list[float]) -> dict[str, Any]:
    profile = {"ours": {"trainer ms": 6.0, "engine ms": 3.0, "generator ms": 0.5, "main ms": 0.5}, "trl": {"main ms": 40.0}}
    precision = {"ours": "float32", "trl": "bfloat16"}
    sides = {"layout": [1, 2], "precision": precision, "ours": ours, "trl": theirs, "profile": profile}
    return {"size": "1M", "mean": 32, "skew": skew, "batch": 64, **sides}


def learning(seconds: float | None, *rewards: float) -> dict[str, Any]:
    return {"seconds": seconds, "curve": [[10.0 * step, reward, 256] for step, reward in enumerate(rewards)]}


def journal(path: Path, found: dict[str, Any], repetitions: int) -> str:
    entries = [{"key": key, "repetitions": repetitions, "seconds": 1.0, "found": value} for key, value in found.items()]
    path.write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    return str(path)


def test_every_cell_is_in_the_table_and_the_headline_is_their_geometric_mean(tmp_path: Path) -> None:
    done = {
        "cell/1M/32/1": cell(1.0, [30.0, 20.0, 40.0], [10.0, 10.0, 10.0]),
        "cell/1M/32/5": cell(5.0, [120.0, 110.0, 120.0], [10.0, 10.0, 10.0]),
    }
    sides = [(learning(40.0, 0.5, 0.7, 0.7, 0.8), learning(100.0 + n, *[0.7] * 5)) for n in range(2)]
    sides.append((learning(50.0, *[0.7] * 5), learning(None, 0.1, 0.6, 0.65, 0.7, 0.1)))
    rewards = {f"to reward/0.7/{n}": {"reward": 0.7, "seed": n, "ours": ours, "trl": theirs} for n, (ours, theirs) in enumerate(sides)}
    settings = {"sizes": "1M", "repetitions": "3", "reward_repetitions": "3", "journal": journal(tmp_path / "j", done | rewards, 3)}
    result = load("trl")(Options(settings=settings))
    assert [row["ratio"] for row in result.table] == [3.0, 12.0]
    assert result.headline.value == pytest.approx(6.0)
    assert [row["trainers ms"] for row in result.table] == [6.0, 6.0]
    assert [row["generators + ranks"] for row in result.table] == ["1 + 2", "1 + 2"]
    text = " ".join(result.remarks)
    assert "1M/32/1. The trainers take 60 to 60%" in text  # the cell below the goal, with what its time goes into
    assert "1M/32/5" not in text
    assert "40 s and 4 steps, TRL 101 s and 5 steps, 2.52x (medians of 3 seeds; seed by seed 2.50, 2.52, 18.00; starts and" in text
    assert [row["pair by pair"] for row in result.table] == ["2 to 4", "11 to 12"]
    assert "Seed 2: TRL did not reach a mean reward of 0.7 within 900 s (5 steps, 0.65 at best); it is counted with that time." in text


def test_the_mean_over_the_faster_of_trls_two_ways_to_sample_is_told_beside_the_headline(tmp_path: Path) -> None:
    kept = {
        "cell/1M/32/1": cell(1.0, [30.0, 20.0, 40.0], [10.0, 10.0, 10.0]) | {"continuous": []},  # slower in the warm-up
        "cell/1M/32/5": cell(5.0, [120.0, 110.0, 130.0], [10.0, 10.0, 10.0]) | {"continuous": [40.0, 40.0, 40.0]},
        "cell/10M/32/1": cell(1.0, [480.0, 480.0, 480.0], [10.0, 10.0, 10.0]) | {"size": "10M"},  # of before it was tried
    }
    settings = {"sizes": "1M,10M", "repetitions": "3", "kept_only": "true", "journal": journal(tmp_path / "j", kept, 3)}
    result = load("trl")(Options(settings=settings))
    assert result.headline.value == pytest.approx(12.0)  # as TRL comes
    assert [row["TRL, continuous (completions/s)"] for row in result.table] == [None, 40.0, None]
    text = " ".join(result.remarks)
    assert "tried in 2 of 3 cells, and faster in the warm-up of 1; ours over it there: 1M/32/5 3x. " in text
    assert "Against the faster of the two in each cell tried the geometric mean is 3.00x; against the default 6.00x there." in text


def test_a_part_of_the_grid_can_be_stated_without_measuring(tmp_path: Path) -> None:
    done = {"cell/1M/32/5": cell(5.0, [120.0, 110.0, 120.0], [10.0, 10.0, 10.0])}
    settings = {"kept_only": "true", "journal": journal(tmp_path / "j", done, 5)}
    result = load("trl")(Options(full=True, settings=settings))
    assert [(row["parameters"], row["mean tokens"], row["skew"]) for row in result.table] == [("1M", 32, "5")]
    assert result.headline.value == pytest.approx(12.0)
    with pytest.raises(InputError, match="kept_only: the journal holds no cell"):
        load("trl")(Options(settings=settings | {"repetitions": "6"}))


def test_of_several_sides_the_fastest_stays_and_the_others_end() -> None:
    seconds = {"slow": 0.3, "fast": 0.02}
    with contextlib.ExitStack() as stack:
        sides = {name: stack.enter_context(Side("tests.benchmarks.toy_side:count", {"seconds": s})) for name, s in seconds.items()}
        name, side, took = trl._fastest(sides, 1, 2)
        assert name == "fast"
        assert took["slow"] > took["fast"]
        assert len(side.advance(2).lines) == 2
        assert not psutil.pid_exists(sides["slow"].pid)


def test_a_reward_is_the_mean_over_completions_not_over_steps() -> None:
    """A step before which one group was verified says little, and one before which none was says nothing."""
    assert trl._recent([(0.0, 0.5, 512)]) is None
    assert trl._recent([(0.0, 0.1, 512), (1.0, 0.5, 752), (2.0, 1.0, 16), (3.0, 1.0, 0)]) == pytest.approx((0.5 * 752 + 16) / 768)


def test_a_size_that_does_not_exist_is_refused() -> None:
    with pytest.raises(InputError, match="sizes=7M: there are models of 0.1M, 1M, 10M, 50M"):
        load("trl")(Options(settings={"sizes": "1M,7M"}))


def test_the_published_grid_is_the_one_that_was_fixed_beforehand() -> None:
    grid = trl.PUBLISHED
    assert (grid.sizes, grid.means, grid.skews) == (("1M", "10M", "50M"), (32, 256), (1.0, 5.0))
    assert grid.repetitions >= 5
    assert grid.reward_repetitions >= 5


def test_schedules_are_compared_pair_by_pair(tmp_path: Path) -> None:
    busy = {"trainer ms": 8.0, "engine ms": 7.0, "generator ms": 1.0, "busy/generators": 0.99, "busy/occupancy": 0.9, "busy/trainers": 0.8}
    rates = {"async": [100.0, 60.0], "sync, a core a role": [50.0, 30.0], "sync, both cores": [80.0, 40.0]}
    cost = {"size": "1M", "sequences": 128, "passes": 1}
    found = {"ratio": "1", **cost, "rates": rates, "busy": {"async": {**busy, "age/mean": 1.5}}}
    module = importlib.import_module("benchmarks.async")
    result = module.run(Options(settings={"journal": journal(tmp_path / "j", {"1": found}, 2)}))
    (row,) = result.table
    assert (row["cost ratio"], row["over sync, a core a role"], row["over sync, both cores"]) == (1.0, 2.0, 1.375)
    assert result.headline.value == 2.0


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_both_sides_generate_and_train_the_same_tokens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("trl")
    lengths = Lengths(16, 2.0, 16, 8)
    data = recipe("0.1M", lengths)
    plan = {"recipe": data, "lengths": asdict(lengths)}
    with Side("benchmarks.ours:train", {**plan, "roles_pinned": True}, RAY_ENVIRONMENT) as side:
        ours = side.advance(2).lines + side.advance(2).lines  # stopped in between, Ray and all
    monkeypatch.setenv("OMP_WAIT_POLICY", "passive")  # as the command sets it for engines; it would slow TRL's threads down
    theirs = []
    for continuous in (False, True):
        with trl._trl("0.1M", lengths, "float32", trl.Settings(rows=8), str(tmp_path), continuous=continuous) as side:
            theirs += side.advance(2).lines
            assert "OMP_WAIT_POLICY" not in psutil.Process(side.pid).environ()
    assert {line["tokens"] for line in theirs} == {lengths.of_batch(0).sum()}
    assert sum(line["tokens"] for line in ours) == pytest.approx(4 * lengths.of_batch(0).sum(), rel=0.5)  # whole groups, in another order
    assert all(0.4 < line["reward"] < 0.8 for line in theirs)  # 0.1 for the format, and the share of even bytes
    assert all(0.4 < line["metrics"]["reward/mean"] < 0.8 for line in ours)
