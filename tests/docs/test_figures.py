"""The script that makes README's table and curve."""

import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "docs" / "figures.py"
PNG = b"\x89PNG"


@pytest.fixture(scope="module")
def figures() -> ModuleType:
    spec = importlib.util.spec_from_file_location("figures", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def demo(seed: int, after: float, shuffled: bool = False) -> dict[str, Any]:
    """What `magistral demo --json` prints, as far as the table reads it."""
    levels = {"1": {"pass_at_1": after}, "2": {"pass_at_1": after / 2}}
    return {
        "seed": seed,
        "rewards_shuffled": shuffled,
        **{name: {"before": 0.25, "after": after} for name in ("pass_at_1", "pass_at_1_valid", "maj_at_8", "valid_format")},
        "by_level": {"before": levels, "after": levels},
        "wall_seconds": 401.6,
        "weight_updates": 110,
        "weight_updates_in_flight": 108,
    }


def test_table(figures: ModuleType) -> None:
    lines = figures.table([demo(0, 0.25, shuffled=True), demo(2, 0.9), demo(1, 0.8)]).splitlines()
    assert [line.split("|")[1].strip() for line in lines] == ["seed", "---", "1", "2", "0, rewards shuffled"]
    assert "0.25 -> 0.90" in lines[3] and "0.90 0.45" in lines[3] and "110 (108)" in lines[3] and lines[3].endswith("| 402 |")
    assert len({line.count("|") for line in lines}) == 1


def test_a_measure_that_does_not_exist_is_a_dash(figures: ModuleType) -> None:
    result = demo(0, 0.5)
    result["pass_at_1_valid"]["before"] = None  # no valid answer at all
    assert "- -> 0.50" in figures.table([result])


def test_table_takes_its_place(figures: ModuleType, tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    start, end = "<!-- demo-table:start -->", "<!-- demo-table:end -->"
    page.write_text(f"before\n{start}\nold\n{end}\nafter\n")
    figures.put_table("| new |\n", page)
    assert page.read_text() == f"before\n{start}\n| new |\n{end}\nafter\n"
    page.write_text("no place")
    with pytest.raises(SystemExit, match="no place for demo-table"):
        figures.put_table("", page)


@pytest.mark.slow
@pytest.mark.parametrize("seeds", [1, 3])
def test_curve(figures: ModuleType, tmp_path: Path, seeds: int) -> None:
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    experiment = client.create_experiment("e")
    runs = [client.create_run(experiment).info.run_id for _ in range(seeds)]
    for seed, run in enumerate(runs):
        client.log_param(run, "seed", seed)
        client.log_param(run, "name", "tiny")
        for name in ("reward/mean", "pass/rate", "pass/valid_format", "policy/entropy", "length/mean"):
            for step in range(1, 4):
                client.log_metric(run, name, step / 4 + seed / 100, step=step)
    figures.curve(client, runs, tmp_path / "curve.png")
    assert (tmp_path / "curve.png").read_bytes().startswith(PNG)
