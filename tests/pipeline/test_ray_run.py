"""The loop on real engines in processes of their own, through Ray: it trains, and leaves nothing behind however it ends."""

from __future__ import annotations

import contextlib
import os
import signal
import sqlite3
from pathlib import Path
from typing import Any

import psutil
import pytest
from marked_processes import Program, describe, program

from magistral_core.storage import RunIndex, open_store

RAY = {
    "pipeline.runtime": "ray",
    "pipeline.schedule": "async",
    "pipeline.trainers": 2,
    "training.max_steps": 6,
    "training.zero_stage": 1,
    "checkpoints.every": 100,
    "pipeline.update_timeout_s": 300,
}


def job(writer_model: Path, root: Path, **changes: Any) -> dict[str, Any]:
    return {"root": str(root), "set": {**RAY, "model.path": str(writer_model), **changes}, "runs": [{"name": "ray"}]}


def test_an_asynchronous_run_with_two_trainer_ranks(writer_model: Path, tmp_path: Path) -> None:
    validation = "{problems: {path: tiny, split: heldout, levels: [1], count: 20}, every: 2, samples: 2}"
    with program(job(writer_model, tmp_path, validation=validation), tmp_path / "log") as run:
        events = run.until("ready")
        names = " ".join(describe(process) for process in run.family())
        assert "EngineCore" in names
        assert names.count("ray::TrainerActor") == 2
        [folder] = run.weight_folders()
        assert folder.is_dir()
        events += run.until("closed")
        left = run.left_after(10)
        assert left == [], "after close() nothing runs but the program"
        assert not folder.exists()
        assert run.end() == 0
    steps = [event["metrics"] for event in events if event["event"] == "step"]
    assert len(steps) == 6
    counters, ledger = events[-1]["counters"], events[-1]["ledger"]
    assert counters["weight_updates"] == 6
    assert counters["weight_updates_in_flight"] >= 3
    assert ledger["submitted"] == ledger["trained"] + ledger["filtered"] + ledger["failed"] + ledger["in_flight"]
    assert ledger["trained"] == 6 * 8
    assert ledger["failed"] == 0
    assert max(metrics["age/max"] for metrics in steps) >= 1
    compared = [metrics["policy/mismatch_max"] for metrics in steps if "policy/mismatch_max" in metrics]
    assert compared
    assert max(compared) < 1e-4
    validations = [event for event in events if event["event"] == "validation"]
    begun = [(event["step"], event["metrics"]["validation/step"]) for event in validations]
    assert begun[0][1] == 0 and begun[-1] == (6, 6) and begun == sorted(set(begun))
    assert all(event["metrics"]["validation/graded_share"] == 1 for event in validations)


def sigkill(process: psutil.Process) -> None:
    os.kill(process.pid, signal.SIGKILL)


def ready(writer_model: Path, root: Path) -> dict[str, Any]:
    """A run that would go on for long."""
    return job(writer_model, root, **{"training.max_steps": 10_000})


def one(run: Program, name: str) -> psutil.Process:
    return next(process for process in run.family() if name in describe(process))


@pytest.mark.faults
def test_a_killed_coordinator_leaves_nothing(writer_model: Path, tmp_path: Path) -> None:
    with program(ready(writer_model, tmp_path), tmp_path / "log") as run:
        run.until("step")
        [folder] = run.weight_folders()
        assert len(run.family()) > 8
        run.process.kill()
        run.process.wait()
        assert run.left_after(10) == []
        assert not folder.exists()


def whole(writer_model: Path, root: Path, **changes: Any) -> dict[str, Any]:
    """A run with storage and tracking, of two generators and two trainer ranks."""
    places = {"storage.uri": f"file:{root}/store", "tracking.uri": f"sqlite:{root}/mlflow.db"}
    usual = {"pipeline.generators": 2, "training.max_steps": 14, "training.learning_rate": 1e-6, "checkpoints.every": 3}
    return {**job(writer_model, root, **{**places, **usual, **changes}), "runs": [{"name": "whole", "whole": True}]}


def logged_steps(database: Path, run_id: str) -> list[int]:
    """Steps of the loss as MLflow has them."""
    with contextlib.closing(sqlite3.connect(database)) as connection:
        rows = connection.execute("SELECT step FROM metrics WHERE key = 'train/loss' AND run_uuid = ? ORDER BY step", (run_id,))
        return [step for (step,) in rows]


@pytest.mark.faults
def test_a_generator_that_is_killed_within_a_validation_costs_no_answer(writer_model: Path, tmp_path: Path) -> None:
    validation = "{problems: {path: tiny, split: heldout, levels: [1], count: 30}, every: 1, samples: 2}"
    with program(whole(writer_model, tmp_path, validation=validation), tmp_path / "log") as run:
        events = run.until("step")
        sigkill(one(run, "EngineCore"))  # about four steps go by before all answers of the first validation are in
        events += run.until("end")
        run.go_on()
        assert run.end() == 0
    assert [event["role"] for event in events if event["event"] == "restart"]
    validations = [event["metrics"] for event in events if event["event"] == "validation"]
    assert validations[0]["validation/step"] == 0 and validations[-1]["validation/step"] == 14
    assert all(metrics["validation/graded_share"] == 1 for metrics in validations)
    ledger = events[-1]["ledger"]
    assert ledger["submitted"] == ledger["trained"] + ledger["filtered"] + ledger["failed"] + ledger["in_flight"]


@pytest.mark.faults
def test_generators_join_and_leave(writer_model: Path, tmp_path: Path) -> None:
    """One generator, then two, then one again; asked for in storage, as `magistral scale` does."""
    changes = {"pipeline.generators": 1, "pipeline.trainers": 1, "training.max_steps": 10_000, "pipeline.stall_timeout_s": 120}
    with program(whole(writer_model, tmp_path, **changes), tmp_path / "log") as run:
        events = run.until("checkpoint")
        [handle] = RunIndex(open_store(f"file:{tmp_path}/store")).list()
        for wanted in (2, 1):
            handle.ask_for_generators(wanted)
            for event in run.events():
                events.append(event)
                if event["event"] == "step" and event["metrics"]["generators/healthy"] == wanted and engines(run) == wanted:
                    break
        events += run.until("step")
        assert engines(run) == 1
        run.process.send_signal(signal.SIGINT)
        list(run.events())
        run.process.wait(60)
        assert run.left_after(10) == []
    assert [event["generators"] for event in events if event["event"] == "scale"] == [2, 1]
    assert [event for event in events if event["event"] == "restart"] == []
    steps = [event["step"] for event in events if event["event"] == "step"]
    assert steps == list(range(1, len(steps) + 1))
    assert logged_steps(tmp_path / "mlflow.db", events[0]["mlflow_run_id"])[: len(steps) - 1] == steps[:-1]


def engines(run: Program) -> int:
    return sum("EngineCore" in describe(process) for process in run.family())


@pytest.mark.faults
def test_without_ray_itself_a_run_ends_and_leaves_nothing(writer_model: Path, tmp_path: Path) -> None:
    with program(ready(writer_model, tmp_path), tmp_path / "log") as run:
        run.until("step")
        [folder] = run.weight_folders()
        sigkill(one(run, "raylet"))
        list(run.events())
        assert run.process.wait(60) != 0
        assert run.left_after(10) == []
        assert not folder.exists()


@pytest.mark.faults
def test_a_terminated_run_closes_its_roles(writer_model: Path, tmp_path: Path) -> None:
    """Ctrl-C, as a person ends a run."""
    with program(ready(writer_model, tmp_path), tmp_path / "log") as run:
        run.until("step")
        [folder] = run.weight_folders()
        run.process.send_signal(signal.SIGINT)
        list(run.events())
        run.process.wait(60)
        assert run.left_after(10) == []
        assert not folder.exists()
