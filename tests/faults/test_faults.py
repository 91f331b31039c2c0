"""Who is struck in which state, and what it costs: real engines and servers, real SIGKILL. Cells are named role-state."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from played import Played, Servers, play
from results import ROLES, STATES, Results

#: S3 and MLflow are away for so long: a minute in the whole matrix, less where it is only to be seen that a run goes on.
MINUTE_S, MOMENT_S = 60.0, 10.0
_COMMON = {
    "pipeline.runtime": "ray",
    "pipeline.schedule": "async",
    "pipeline.update_timeout_s": 120,
    "training.learning_rate": 1e-6,
    "training.zero_stage": 1,
    "checkpoints.every": 3,
    "rewards.extra": "[slow_verdict:slowly]",
}
_OF_ROLE: dict[str, dict[str, Any]] = {"generator": {"pipeline.generators": 2}, "trainer": {"pipeline.trainers": 2}}
#: Steps that a run has for five strikes: one generator goes on while the other starts, and training without MLflow; the rest is soon done.
_STEPS = {"generator": 600, "mlflow": 150}


def struck(role: str, strikes: list[dict[str, str]], steps: int, outage: float, root: Path, servers: Servers, model: Path) -> Played:
    settings = {**_COMMON, **_OF_ROLE.get(role, {}), "model.path": str(model), "training.max_steps": steps}
    return play(role, [{"role": role, **strike} for strike in strikes], settings, root, servers, outage)


@pytest.fixture(scope="module")
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, servers: Servers, writer_model: Path) -> Played:
    """A run that is struck in one role, once in each state. Engines and actors of generators take turns."""
    role = request.param
    strikes = [{"state": state} for state in STATES]
    if role == "generator":
        strikes = [{**strike, "name": ("VLLM::EngineCore", "ray::GeneratorActor")[i % 2]} for i, strike in enumerate(strikes)]
    return struck(role, strikes, _STEPS.get(role, 60), MINUTE_S, tmp_path_factory.mktemp(role), servers, writer_model)


@pytest.mark.faults
@pytest.mark.matrix
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("run", ROLES, indirect=True, scope="module")
def test_every_strike_in_every_state(run: Played, state: str, results: Results) -> None:
    cell = run.cell(state)
    run.check()
    results.outage = MINUTE_S
    results.rows[run.role, state] = cell


@pytest.mark.faults
@pytest.mark.parametrize(
    ("role", "strikes"),
    [
        ("generator", [{"state": "handover", "name": "VLLM::EngineCore"}]),
        ("verifier", [{"state": "verifying"}, {"state": "training", "name": "ray::VerifierActor"}]),
        ("trainer", [{"state": "training"}]),
        ("coordinator", [{"state": "uploading"}]),
        ("s3", [{"state": "uploading"}]),
        ("mlflow", [{"state": "generating"}]),
    ],
    ids=ROLES,
)
def test_one_strike_a_role(role: str, strikes: list[dict[str, str]], tmp_path: Path, servers: Servers, writer_model: Path) -> None:
    played = struck(role, strikes, 80 if role == "generator" else 20, MOMENT_S, tmp_path, servers, writer_model)
    for strike in strikes:
        played.cell(strike["state"])
    played.check()


@pytest.mark.faults
@pytest.mark.matrix
def test_killed_in_every_state_a_synchronous_run_is_undisturbed_to_the_bit(
    tmp_path_factory: pytest.TempPathFactory, servers: Servers, writer_model: Path
) -> None:
    settings = {**_COMMON, "pipeline.runtime": "local", "pipeline.schedule": "sync", "training.learning_rate": 1e-5}
    settings |= {"model.path": str(writer_model), "training.max_steps": 24}
    strikes = [{"role": "coordinator", "state": state} for state in STATES]
    disturbed = play("coordinator", strikes, settings, tmp_path_factory.mktemp("disturbed"), servers, 0.0)
    undisturbed = play("coordinator", [], settings, tmp_path_factory.mktemp("undisturbed"), servers, 0.0)
    disturbed.check()
    undisturbed.check()
    assert disturbed.losses() == undisturbed.losses()
    assert len(set(undisturbed.losses())) == 24
    assert disturbed.end["ledger"] == {**undisturbed.end["ledger"], "resampled": disturbed.end["ledger"]["resampled"]}
