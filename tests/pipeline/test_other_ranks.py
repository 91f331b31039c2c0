"""A run that was begun with two trainer ranks and one generator goes on with one rank and two generators, by the same command."""

from __future__ import annotations

from pathlib import Path

import pytest
from marked_processes import program
from test_ray_run import logged_steps, whole


@pytest.mark.faults
@pytest.mark.parametrize("stage", [1, 3])
def test_a_killed_run_goes_on_with_other_numbers(stage: int, writer_model: Path, tmp_path: Path) -> None:
    places = {"training.zero_stage": stage}
    with program(whole(writer_model, tmp_path, **places, **{"pipeline.generators": 1}), tmp_path / "first.log") as run:
        events = run.until("checkpoint")
        run.process.kill()
        run.process.wait()
        assert run.left_after(10) == []
    begun = next(event for event in events if event["event"] == "start")
    job = whole(writer_model, tmp_path, **places, **{"pipeline.generators": 2, "pipeline.trainers": 1})
    with program(job, tmp_path / "second.log") as run:
        events = run.until("end")
        assert run.end() == 0
    resumed, end = next(event for event in events if event["event"] == "start"), events[-1]
    assert resumed["run_id"] == begun["run_id"]
    assert resumed["resumed_step"] >= 3
    ledger = end["ledger"]
    assert ledger["submitted"] == ledger["trained"] + ledger["filtered"] + ledger["failed"] + ledger["in_flight"]
    assert ledger["trained"] == 14 * 8, "none twice, none left out"
    assert logged_steps(tmp_path / "mlflow.db", end["mlflow_run_id"]) == list(range(1, 15))
