"""A curriculum on real engines in one process: killed in one stage, it goes on into the next to the bit."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest
from marked_processes import program
from test_local_run import steps_of

#: The second stage's completions are cut earlier, penalised earlier (so that rewards still differ where they have become short), and
#: trained in smaller steps.
STAGES = [
    {"levels": [1, 1], "steps": 3},
    {"levels": [2, 2], "max_tokens": 40, "l_max": 40, "l_cache": 38, "n_batch": 16, "n_minibatch": 16, "n_async": 16},
]
SETTINGS = {
    "pipeline.runtime": "local",
    "pipeline.schedule": "sync",
    "problems.levels": [1, 2],
    "training.max_steps": 5,
    "curriculum.stages": STAGES,
    "curriculum.retire_after": 1,
}


pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module")
def runs(writer_model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[dict[str, Any]]]:
    """Events of a run that was killed after the last step of its first stage, of the same resumed, and of an undisturbed one."""
    root = tmp_path_factory.mktemp("staged")
    settings = {**SETTINGS, "model.path": str(writer_model)}
    job = {"root": str(root), "set": settings, "runs": [{"name": "disturbed", "kill_at_step": 3}]}
    with program(job, root / "killed.log") as killed:
        found = {"killed": list(killed.events())}
        assert killed.end() == -signal.SIGKILL, killed.log.read_text()[-4000:]
    job = {"root": str(root), "set": settings, "runs": [{"name": "disturbed"}, {"name": "undisturbed"}]}
    with program(job, root / "others.log") as others:
        found |= {name: others.until("closed") for name in ("resumed", "undisturbed")}
        others.go_on()
        assert others.end() == 0
    return found


def test_killed_in_one_stage_and_resumed_into_the_next_is_undisturbed_to_the_bit(runs: dict[str, list[dict[str, Any]]]) -> None:
    attempts = [steps_of(runs[name]) for name in ("killed", "resumed")]
    undisturbed = steps_of(runs["undisturbed"])
    assert [sorted(attempt) for attempt in attempts] == [[1, 2, 3], [3, 4, 5]], "killed before the checkpoint of the stage's end"
    assert sorted(undisturbed) == [1, 2, 3, 4, 5]
    for attempt in attempts:
        assert all(metrics == undisturbed[step] for step, metrics in attempt.items())
    assert runs["resumed"][-1]["ledger"] == runs["undisturbed"][-1]["ledger"]


def test_each_stage_has_its_own_lengths_and_sizes(runs: dict[str, list[dict[str, Any]]]) -> None:
    steps = steps_of(runs["undisturbed"])
    assert [steps[step]["curriculum/stage"] for step in sorted(steps)] == [1.0] * 3 + [2.0] * 2
    assert [len(steps[step]["groups"]) for step in sorted(steps)] == [8] * 3 + [4] * 2
    assert max(steps[step]["length/max"] for step in (1, 2, 3)) == 48
    assert all(steps[step]["length/max"] <= 40 for step in (4, 5))
    switch, end = [event for event in runs["undisturbed"] if event["event"] == "stage"]
    assert (switch["step"], [row["state"] for row in switch["stages"]]) == (3, ["ended", "now"])
    assert [row["ended_by"] for row in end["stages"]] == ["steps", "max_steps"]
