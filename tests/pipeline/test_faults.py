"""What a fault costs, by who is struck and what the run was doing: all 30 cells, on the whole run code in virtual time.

Real: the coordinator, its attempts, admission, ledger, supervision, checkpoints and their writer, the lease, and MLflow with its outbox,
replay and database. Simulated: the roles, that a store or a server does not answer, and what time it is. Real kills are in `tests/faults/`.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import virtual_time
from botocore.exceptions import EndpointConnectionError
from simulated_runtime import PROBLEMS, SimulatedRuntime, World, recipe, render
from test_coordinator import skewed, some_of_all
from virtual_threads import Clock

from magistral_core.pipeline import run as run_module
from magistral_core.pipeline.prepare import Prepared
from magistral_core.pipeline.run import run_prepared
from magistral_core.storage import checkpoints, lease, writer
from magistral_core.storage.files import FileStore
from magistral_core.storage.s3 import S3Store
from magistral_core.tracking import outbox, tracker

ROLES = ("generator", "verifier", "trainer", "coordinator", "s3", "mlflow")
#: The call in whose midst a state is struck.
STATES = {"generating": "generate", "verifying": "score", "training": "train", "handover": "update", "uploading": "upload"}
STEPS, EVERY = 12, 3
OUTAGE_S, UPLOAD_S = 60.0, 3.0


class Strike:
    """Strikes one role the first time that the run is in a state, after some steps."""

    def __init__(self, role: str, state: str, world: Surroundings) -> None:
        self.role, self._call, self._world, self.struck = role, STATES[state], world, False

    def __call__(self, call: str, runtime: SimulatedRuntime) -> None:
        if self.struck or call != self._call or len(runtime.trained) < EVERY + 1:
            return
        self.struck = True
        if self.role == "generator":
            runtime.kill(1)
        elif self.role == "verifier":
            runtime.kill_verifiers()
        elif self.role == "trainer":
            runtime.kill_trainers()
        elif self.role == "coordinator":
            self._world.die()
        else:
            self._world.away[self.role] = self._world.clock.now + OUTAGE_S


class Surroundings:
    """Storage and MLflow as one attempt after the other sees them: away for a while, and deaf to the dead."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.away = {"s3": 0.0, "mlflow": 0.0}
        self.attempt = 0
        self.dead = -1
        self.runtimes: list[Runtime] = []
        self.upload: Callable[[], None] = lambda: None

    def die(self) -> None:
        """The nearest to SIGKILL within one process: nothing that the attempt does from here on reaches anybody."""
        self.dead = self.attempt
        self.runtimes[-1].coordinator.cancel()

    def lost(self, attempt: int, service: str) -> bool:
        """Whether a call of that attempt to a service comes to nothing."""
        return attempt <= self.dead or self.clock.now < self.away[service]


class Store(FileStore):
    """A folder that is away at times, with the errors of S3; uploads take their time."""

    def __init__(self, root: Path, world: Surroundings) -> None:
        super().__init__(root)
        self._world, self._attempt = world, world.attempt

    def _reach(self, key: str) -> None:
        if self._world.lost(self._attempt, "s3"):
            with S3Store._explain(self, key):  # type: ignore[arg-type]
                raise EndpointConnectionError(endpoint_url="s3.simulated")

    def put_file(self, path: Path, key: str, *count: Any) -> None:
        self._reach(key)
        self._world.clock.sleep(UPLOAD_S / 2)
        self._world.upload()
        self._world.clock.sleep(UPLOAD_S / 2)
        self._reach(key)
        super().put_file(path, key, *count)

    def put_bytes(self, data: bytes, key: str) -> None:
        self._reach(key)
        super().put_bytes(data, key)

    def read(self, key: str) -> Iterator[bytes]:
        self._reach(key)
        yield from super().read(key)

    def list(self, prefix: str) -> Any:
        self._reach(prefix)
        return super().list(prefix)

    def folders(self, prefix: str) -> Any:
        self._reach(prefix)
        return super().folders(prefix)

    def delete(self, keys: Any) -> None:
        keys = list(keys)
        # A dead holder's lease is free at once; here its process id lives on, so that it has to go.
        if not all(key.endswith("lease.json") for key in keys):
            self._reach("")
        super().delete(keys)


class Client:
    """MLflow's own client, whose calls are lost at times."""

    def __init__(self, client: Any, world: Surroundings) -> None:
        self._client, self._world, self._attempt = client, world, world.attempt

    def __getattr__(self, name: str) -> Any:
        return partial(self._call, getattr(self._client, name))

    def _call(self, method: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        from mlflow.exceptions import MlflowException

        if self._world.lost(self._attempt, "mlflow"):
            raise MlflowException("API request failed: connection refused")
        return method(*args, **kwargs)


class Runtime(SimulatedRuntime):
    """Started by the run as real ones are."""

    def __init__(self, asked: Any, world: World) -> None:
        self._asked, self._as_asked = asked, world
        self.losses: dict[int, float] = {}

    async def start(self, model_dir: Path, version: int, checkpoint: Path | None) -> None:
        super().__init__(self._asked, self._as_asked, version)
        task = asyncio.current_task()
        assert task is not None
        self.coordinator = task

    async def train(self, rows: Any, step: int) -> Any:
        report = await super().train(rows, step)
        self.losses[step + 1] = report.loss
        return report

    async def save(self, folder: Path) -> None:
        await super().save(folder)
        (folder / "hf").mkdir()
        (folder / "hf" / "weights").write_text("weights")


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One MLflow database for all cells: making it takes seconds."""
    return tmp_path_factory.mktemp("tracking") / "mlflow.db"


@pytest.fixture
def surroundings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Surroundings:
    """Virtual time for the loop and for every thread of the run; storage and MLflow that can be away."""
    clock = Clock()
    world = Surroundings(clock)
    for module in (outbox, lease, writer):
        for name in ("threading", "time", "queue"):
            if hasattr(module, name):
                monkeypatch.setattr(module, name, getattr(clock, name))
    monkeypatch.setattr(checkpoints, "_in_parallel", lambda work, items: [work(item) for item in items])
    connect = tracker.connect
    monkeypatch.setattr(tracker, "connect", lambda place: Client(connect(place), world))
    monkeypatch.setattr(run_module, "open_store", lambda uri: Store(tmp_path / "store", world))
    monkeypatch.setattr(run_module.asyncio, "run", partial(virtual_time.run, clock=clock))
    monkeypatch.setenv("MAGISTRAL_CACHE", str(tmp_path / "cache"))
    return world


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("role", ROLES)
def test_every_fault_in_every_state(
    role: str, state: str, surroundings: Surroundings, database: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    strike = Strike(role, state, surroundings)
    asked = recipe(max_steps=STEPS, every=EVERY)
    asked = asked.model_copy(
        update={
            "storage": asked.storage.model_copy(update={"uri": "s3://simulated"}),
            "tracking": asked.tracking.model_copy(update={"uri": f"sqlite:{database}", "experiment": f"{role} {state}"}),
        }
    )
    prepared = Prepared(asked, tmp_path / "model", PROBLEMS, {problem.id: render(problem) for problem in PROBLEMS}, 0)
    runtimes = surroundings.runtimes

    def make_runtime(self: Any) -> Runtime:
        runtimes.append(Runtime(asked, World(score=some_of_all, length=skewed, within=strike)))
        return runtimes[-1]

    def upload() -> None:
        if runtimes:
            strike("upload", runtimes[-1])

    monkeypatch.setattr(run_module._Run, "_make_runtime", make_runtime)
    surroundings.upload = upload
    events: list[dict[str, Any]] = []
    stopped: BaseException | None = None

    def attempt() -> dict[str, Any]:
        surroundings.attempt += 1
        return run_prepared(prepared, on_event=events.append)

    try:
        summary = attempt()
    except asyncio.CancelledError as error:
        stopped = error
        assert runtimes[-1].closed
        surroundings.clock.now = max(surroundings.clock.now, *surroundings.away.values())
        summary = attempt()
    assert strike.struck, "the run was never in this state"
    if role == "coordinator":
        assert isinstance(stopped, asyncio.CancelledError)
    else:
        assert stopped is None, "the run was to go on"

    starts = [event["resumed_step"] for event in events if event["event"] == "start"]
    restarts = [event["role"] for event in events if event["event"] == "restart"]
    assert restarts == {"generator": ["generator 1"], "trainer": ["trainers"]}.get(role, [])
    assert len(starts) == (2 if role == "trainer" or stopped else 1)
    assert starts[-1] % EVERY == 0
    assert len(runtimes) == (2 if stopped else 1), "generators stay"
    if (role, state) == ("verifier", "verifying"):
        assert runtimes[0].rescored

    ledger = summary["ledger"]
    assert summary["steps"] == STEPS
    assert ledger["submitted"] == ledger["trained"] + ledger["filtered"] + ledger["failed"] + ledger["in_flight"]
    # What the final weights were made of: each step once, each group once, and no group of the stream passed over but for a reason.
    trained, losses = [], {}
    for runtime in runtimes:
        keep = starts[-1] if runtime is not runtimes[-1] else STEPS
        trained += [(step, sorted({key[0] for key in keys})) for _, step, keys in runtime.trained if step < keep]
        losses |= {step: loss for step, loss in runtime.losses.items() if step <= keep}
    assert [step for step, _ in trained] == list(range(STEPS))
    groups = Counter(group for _, batch in trained for group in batch)
    assert set(groups.values()) == {1}, "a group was trained twice"
    assert len(groups) == ledger["trained"] == STEPS * 4
    settled = ledger["submitted"] - ledger["in_flight"]
    with_signal = {group for group in range(ledger["submitted"]) if has_signal(group)}
    assert groups.keys() <= with_signal
    assert len(with_signal - groups.keys()) <= ledger["in_flight"], "a group was skipped"
    assert settled == len(groups) + ledger["filtered"] + ledger["failed"]
    assert curve(database, summary["mlflow_run_id"]) == [(step, pytest.approx(losses[step])) for step in range(1, STEPS + 1)]


def has_signal(group_id: int) -> bool:
    """Whether a group's rewards differ."""
    return len({some_of_all(group_id, index).reward for index in range(4)}) > 1


def curve(database: Path, run_id: str) -> list[tuple[int, float]]:
    """The losses that MLflow shows."""
    with closing(sqlite3.connect(database)) as connection:
        query = "SELECT step, value FROM metrics WHERE key = 'train/loss' AND run_uuid = ? ORDER BY step"
        return list(connection.execute(query, (run_id,)))
