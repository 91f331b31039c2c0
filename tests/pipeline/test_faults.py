"""What a death costs, by who dies and what the run was doing: the whole run code (storage, tracking, attempts) on simulated roles."""

from __future__ import annotations

import asyncio
import sqlite3
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import virtual_time
from simulated_runtime import PROBLEMS, SimulatedRuntime, World, recipe, render

from magistral_core.pipeline import run as run_module
from magistral_core.pipeline.prepare import Prepared
from magistral_core.pipeline.run import run_prepared

STATES = {"generating": "generate", "verifying": "score", "training": "train", "handing over weights": "update", "saving": "save"}
STEPS = 12


class Strike:
    """Kills one role the first time that the run is in a state, after some steps."""

    def __init__(self, role: str, call: str) -> None:
        self._role, self._call, self.struck = role, call, False

    def __call__(self, call: str, runtime: SimulatedRuntime) -> None:
        if self.struck or call != self._call or len(runtime.trained) < 4:
            return
        self.struck = True
        if self._role == "generator":
            runtime.kill(1)
        elif self._role == "verifiers":
            runtime.kill_verifiers()
        elif self._role == "trainer":
            runtime.kill_trainers()
        else:  # the nearest to SIGKILL within one process
            assert isinstance(runtime, Runtime)
            runtime.coordinator.cancel()


class Runtime(SimulatedRuntime):
    """Started by the run as real ones are."""

    def __init__(self, asked: Any, world: World) -> None:
        self._asked, self._as_asked = asked, world

    async def start(self, model_dir: Path, version: int, checkpoint: Path | None) -> None:
        super().__init__(self._asked, self._as_asked, version)
        task = asyncio.current_task()
        assert task is not None
        self.coordinator = task

    async def save(self, folder: Path) -> None:
        await super().save(folder)
        (folder / "hf").mkdir()
        (folder / "hf" / "weights").write_text("weights")


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One MLflow database for all cells: making it takes seconds."""
    return tmp_path_factory.mktemp("tracking") / "mlflow.db"


@pytest.fixture
def runtimes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[list[Runtime]]:
    """The runtimes that runs make, over worlds that the test sets; virtual time in place of asyncio's."""
    made: list[Runtime] = []
    monkeypatch.setenv("MAGISTRAL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(run_module.asyncio, "run", virtual_time.run)
    return made


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("role", ["generator", "verifiers", "trainer", "coordinator"])
def test_every_death_in_every_state(
    role: str, state: str, runtimes: list[Runtime], database: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    strike = Strike(role, STATES[state])
    asked = recipe(max_steps=STEPS, every=3)
    asked = asked.model_copy(
        update={
            "storage": asked.storage.model_copy(update={"uri": f"file:{tmp_path}/store"}),
            "tracking": asked.tracking.model_copy(update={"uri": f"sqlite:{database}"}),
        }
    )
    prepared = Prepared(asked, tmp_path / "model", PROBLEMS, {problem.id: render(problem) for problem in PROBLEMS}, 0)

    def make_runtime(self: Any) -> Runtime:
        runtimes.append(Runtime(asked, World(within=strike)))
        return runtimes[-1]

    monkeypatch.setattr(run_module._Run, "_make_runtime", make_runtime)
    events: list[dict[str, Any]] = []
    trained: list[list[int]] = []

    def attempt() -> dict[str, Any]:
        return run_prepared(prepared, on_event=events.append)

    if role == "coordinator":
        with pytest.raises(asyncio.CancelledError):
            attempt()
        assert runtimes[-1].closed
    summary = attempt()
    assert strike.struck, "the run was never in this state"

    starts = [event["resumed_step"] for event in events if event["event"] == "start"]
    restarts = [event["role"] for event in events if event["event"] == "restart"]
    assert restarts == {"generator": ["generator 1"], "trainer": ["trainers"]}.get(role, [])
    assert len(starts) == (2 if role in ("trainer", "coordinator") else 1)
    assert starts[-1] % 3 == 0
    assert len(runtimes) == (2 if role == "coordinator" else 1), "generators stay"
    if role == "verifiers":
        assert runtimes[0].rescored or state != "verifying"

    ledger = summary["ledger"]
    assert summary["steps"] == STEPS
    assert ledger["submitted"] == ledger["trained"] + ledger["filtered"] + ledger["failed"] + ledger["in_flight"]
    assert ledger["failed"] == 0
    # What the final weights were made of: each group once, and every group that was settled before it.
    for runtime in runtimes:
        keep = starts[-1] if runtime is not runtimes[-1] else STEPS
        trained += [sorted({key[0] for key in keys}) for _, step, keys in runtime.trained if step < keep]
    groups = Counter(group for batch in trained for group in batch)
    assert len(trained) == STEPS
    assert set(groups.values()) == {1}
    assert len(groups) == ledger["trained"] == STEPS * 4
    with closing(sqlite3.connect(database)) as connection:
        query = "SELECT step FROM metrics WHERE key = 'train/loss' AND run_uuid = ? ORDER BY step"
        steps = [step for (step,) in connection.execute(query, (summary["mlflow_run_id"],))]
    assert steps == list(range(1, STEPS + 1))
