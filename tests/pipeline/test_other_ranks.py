"""A run that was begun with two trainer ranks and one generator goes on with one rank and two generators, by the same command."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from marked_processes import program
from test_ray_run import logged_steps, whole


def job(writer_model: Path, root: Path, stage: int, generators: int, trainers: int) -> dict[str, Any]:
    described = whole(writer_model, root)
    numbers = {"pipeline.generators": generators, "pipeline.trainers": trainers, "training.zero_stage": stage}
    return {**described, "set": {**described["set"], **numbers}}


@pytest.mark.faults
@pytest.mark.parametrize("stage", [1, 3])
def test_a_killed_run_goes_on_with_other_numbers(stage: int, writer_model: Path, tmp_path: Path) -> None:
    first = job(writer_model, tmp_path, stage, generators=1, trainers=2)
    with program(first, tmp_path / "first.log") as run:
        events = run.until("checkpoint")
        run.process.kill()
        run.process.wait()
        assert run.left_after(10) == []
    begun = next(event for event in events if event["event"] == "start")
    second = job(writer_model, tmp_path, stage, generators=2, trainers=1)
    with program(second, tmp_path / "second.log") as run:
        events = run.until("end")
        assert run.end() == 0
    resumed, end = next(event for event in events if event["event"] == "start"), events[-1]
    assert resumed["run_id"] == begun["run_id"]
    assert resumed["resumed_step"] >= 3
    ledger = end["ledger"]
    assert ledger["submitted"] == ledger["trained"] + ledger["filtered"] + ledger["failed"] + ledger["in_flight"]
    assert ledger["trained"] == 14 * 8, "none twice, none left out"
    assert logged_steps(tmp_path / "mlflow.db", end["mlflow_run_id"]) == list(range(1, 15))
