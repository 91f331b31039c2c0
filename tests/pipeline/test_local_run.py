"""The loop on real engines in one process: exact resume, and two engines that agree."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest
from marked_processes import program
from mlflow import MlflowClient

from magistral_core.storage import RunIndex, open_store

#: Metrics that tell of time, not of the run.
_TIMES = ("busy/", "speed/", "train/seconds", "verifier/seconds")
Steps = dict[int, dict[str, Any]]


def steps_of(events: list[dict[str, Any]]) -> Steps:
    """By step: the groups that were trained and every metric but times."""
    found: Steps = {}
    for event in events:
        if event["event"] == "step":
            assert event["step"] not in found
            metrics = {name: value for name, value in event["metrics"].items() if not name.startswith(_TIMES)}
            found[event["step"]] = {"groups": event["groups"], **metrics}
    return found


@pytest.fixture(scope="module")
def runs(writer_model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[dict[str, Any]]]:
    """Events of five runs: killed after step 3, the same resumed, one undisturbed, one on fixed weights, one with validations."""
    root = tmp_path_factory.mktemp("runs")
    settings = {"model.path": str(writer_model), "pipeline.runtime": "local", "pipeline.schedule": "sync"}
    fixed = {"training.learning_rate": 0, "training.max_steps": 3}
    killed = [{"name": "disturbed", "kill_at_step": 3}]
    held_out = "{path: tiny, split: heldout, levels: [1], count: 20}"
    validated = {"name": "validated", "set": {"validation": f"{{problems: {held_out}, every: 2, samples: 2}}"}}
    others = [{"name": "undisturbed"}, {"name": "fixed", "set": fixed}, validated, {"name": "disturbed", "wait": True}]
    with (
        program({"root": str(root), "set": settings, "runs": killed}, root / "killed.log") as first,
        program({"root": str(root), "set": settings, "runs": others}, root / "others.log") as second,
    ):
        found = {"killed": list(first.events())}
        assert first.end() == -signal.SIGKILL, first.log.read_text()[-4000:]
        assert first.left_after(5) == []
        found |= {name: second.until("closed") for name in ("undisturbed", "fixed", "validated")}
        second.go_on()
        found["resumed"] = second.until("closed")
        assert second.left_after(5) == [], "the runs are closed, the program is not"
        assert second.end() == 0
    return found


def test_killed_and_resumed_is_undisturbed_to_the_bit(runs: dict[str, list[dict[str, Any]]]) -> None:
    killed, resumed, undisturbed = (steps_of(runs[name]) for name in ("killed", "resumed", "undisturbed"))
    assert sorted(killed) == [1, 2, 3]
    assert sorted(resumed) == [3, 4], "the checkpoint of step 2 is the last before the kill"
    assert sorted(undisturbed) == [1, 2, 3, 4]
    for step, expected in undisturbed.items():
        for attempt in (killed, resumed):
            if step in attempt:
                assert attempt[step] == expected, f"step {step}"
    losses = [undisturbed[step]["train/loss"] for step in undisturbed]
    assert len(set(losses)) == 4
    assert all(undisturbed[step]["train/grad_norm"] > 0 for step in undisturbed)
    assert runs["resumed"][-1]["ledger"] == runs["undisturbed"][-1]["ledger"]


def test_validations_change_nothing_that_is_learnt_to_the_bit(runs: dict[str, list[dict[str, Any]]]) -> None:
    assert steps_of(runs["validated"]) == steps_of(runs["undisturbed"])
    validations = [event for event in runs["validated"] if event["event"] == "validation"]
    assert [event["step"] for event in validations] == [1, 3, 4]
    assert [event["metrics"]["validation/step"] for event in validations] == [0, 2, 4]
    assert all(event["metrics"]["validation/graded_share"] == 1 for event in validations)
    assert len({event["metrics"]["validation/reward_mean"] for event in validations}) > 1, "the weights have changed"


def test_a_run_whose_newest_checkpoint_is_damaged_goes_on_from_the_one_before(writer_model: Path, tmp_path: Path) -> None:
    places = {"storage.uri": f"file:{tmp_path}/store", "tracking.uri": f"sqlite:{tmp_path}/mlflow.db"}
    validation = "{problems: {path: tiny, split: heldout, levels: [1], count: 8}, every: 3}"
    small = {"model.path": str(writer_model), "checkpoints.every": 1, "training.max_steps": 8, "validation": validation}
    schedule = {"pipeline.runtime": "local", "pipeline.schedule": "sync"}
    job = {"root": str(tmp_path), "set": {**small, **schedule, **places}, "runs": [{"name": "whole", "whole": True}]}
    store = open_store(places["storage.uri"])
    with program(job, tmp_path / "first.log") as first:
        for event in first.events():
            if event["event"] == "checkpoint" and event["step"] == 2:
                break
        first.process.kill()
        first.process.wait()
    [handle] = RunIndex(store).list()
    *_, before, newest = handle.checkpoints().manifests()
    file = next(file for file in newest.files if file.path.endswith(".safetensors"))
    path = tmp_path / "store" / "runs" / handle.run_id / "checkpoints" / f"step-{newest.step:08d}" / newest.attempt / file.path
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with program(job, tmp_path / "second.log") as second:
        events = second.until("end")
        second.go_on()
        assert second.end() == 0
    assert next(event for event in events if event["event"] == "start")["resumed_step"] == before.step
    assert [event["step"] for event in events if event["event"] == "step"] == list(range(before.step + 1, 9))
    assert "damaged" in (tmp_path / "second.log").read_text()
    assert handle.finished and handle.checkpoints().verify(8).step == 8
    client = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    points = client.get_metric_history(events[-1]["mlflow_run_id"], "validation/step")
    assert [(point.step, point.value) for point in points] == [(1, 0), (4, 3), (7, 6), (8, 8)]


def test_generator_and_trainer_agree_on_fixed_weights(runs: dict[str, list[dict[str, Any]]]) -> None:
    """In float32, over every token of a run whose weights do not change, and as well where they do."""
    for name in ("fixed", "undisturbed"):
        steps = steps_of(runs[name])
        assert all(0 < metrics["policy/mismatch_max"] < 1e-4 for metrics in steps.values())
        assert all(metrics["policy/ratio_p99"] == pytest.approx(1.0, abs=1e-4) for metrics in steps.values())
    assert len(steps_of(runs["fixed"])) == 3


def test_synchronous_updates_are_all_acknowledged(runs: dict[str, list[dict[str, Any]]]) -> None:
    counters = runs["undisturbed"][-1]["counters"]
    assert counters["weight_updates"] == 4
    assert counters["weight_updates_in_flight"] == 0
    assert counters["completions"] >= 4 * 32
