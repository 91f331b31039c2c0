"""What surrounds an attempt at a run: its own local folder, and a limit to how long its roles may take to start."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from small_run import SMALL

from magistral_core import api
from magistral_core.config import load_recipe
from magistral_core.errors import InfrastructureError, InputError
from magistral_core.pipeline import roles
from magistral_core.pipeline import run as attempts
from magistral_core.pipeline.coordinator import StallError
from magistral_core.pipeline.roles import TrainerRole
from magistral_core.pipeline.run import _Run, _staging_folder
from magistral_core.pipeline.runtime import LocalRuntime
from magistral_core.records import Batch
from magistral_core.storage import CheckpointStore, CorruptCheckpointError, Lease, RunIndex, open_store
from magistral_core.storage.lease import Holder
from magistral_core.tracking import RUN_TAG, Tracker
from magistral_core.tracking.server import connect, locate


def test_runs_of_one_name_in_two_stores_do_not_share_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MAGISTRAL_CACHE", str(tmp_path / "cache"))
    a, b = (open_store(f"file:{tmp_path}/{name}") for name in "ab")
    with _staging_folder("run-001", a) as first:
        (first / "step-2").mkdir()
        with _staging_folder("run-001", b) as second:
            assert second != first
        assert (first / "step-2").is_dir()
        with _staging_folder("run-001", a) as again:  # what a killed attempt left there goes
            assert not first.exists() and list(again.iterdir()) == []


def test_an_attempt_that_ends_after_its_successor_began_takes_only_its_own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MAGISTRAL_CACHE", str(tmp_path / "cache"))
    store = open_store(f"file:{tmp_path}/store")
    with contextlib.ExitStack() as late:
        late.enter_context(_staging_folder("run-001", store))
        with _staging_folder("run-001", store) as successor:
            late.close()
            assert successor.is_dir()
    assert list((tmp_path / "cache" / "staging").iterdir()) == []


def test_runs_of_one_name_in_two_stores_do_not_take_each_others_curves(tmp_path: Path) -> None:
    """As two machines have them that share an MLflow, or one that changes its storage: both ids end in 001."""
    tracking = f"sqlite:{tmp_path}/mlflow.db"
    recipe = load_recipe("tiny", [f"tracking.uri={tracking}"])

    def tracked(store: str) -> Tracker:
        run = object.__new__(_Run)
        run._recipe, run._prepared = recipe, SimpleNamespace(problems_digest="d")  # type: ignore[assignment]
        run._handle = RunIndex(open_store(f"file:{tmp_path}/{store}")).resolve("tiny", "0" * 64)
        run._handle.begin({})
        return run._track(None)

    with tracked("a") as first:
        first.log(3, {"train/loss": 1.0})
    with tracked("b") as second:
        second.log(1, {"train/loss": 2.0})
    client = connect(locate(tracking))
    kept = client.get_run(first.run_id)
    assert kept.info.lifecycle_stage == "active" and kept.data.metrics["train/loss"] == 1.0
    assert kept.data.tags[RUN_TAG] == client.get_run(second.run_id).data.tags[RUN_TAG]
    with tracked("a") as again:  # killed before its first checkpoint, it takes its own back
        assert again.run_id not in (first.run_id, second.run_id)
    assert client.get_run(first.run_id).info.lifecycle_stage == "deleted"
    assert client.get_run(second.run_id).info.lifecycle_stage == "active"


def test_a_rank_that_does_not_see_the_checkpoint_folder_refuses_to_write_its_part_elsewhere(tmp_path: Path) -> None:
    role = object.__new__(TrainerRole)  # it is refused before anything of it is used
    with pytest.raises(InputError, match=r"step-20: not seen from .*; set MAGISTRAL_CACHE"):
        role.save(str(tmp_path / "step-20"))
    assert list(tmp_path.iterdir()) == []


def test_shared_memory_that_is_full_is_named_with_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    """The real /dev/full, which is always that."""
    role = object.__new__(TrainerRole)
    role._trainer = SimpleNamespace(rank=0, weights=lambda: iter(()), layout=dict)
    monkeypatch.setattr(roles, "stream_weight_file", lambda layout, tensors, path: write_to(path))

    def write_to(path: str) -> None:
        with open(path, "wb", buffering=0) as file:
            file.write(b"weights")

    with pytest.raises(InputError, match=r"/dev: the disk is full, no room for new weights; .*pipeline\.weights_folder; .*--shm-size"):
        role.publish("/dev/full")


def test_a_damaged_checkpoint_goes_only_where_an_older_one_is_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoints = CheckpointStore(open_store(f"file:{tmp_path}/store"), "run")
    (tmp_path / "staging").mkdir()
    (tmp_path / "staging" / "weights").write_bytes(b"whole")
    for step in (1, 2):
        checkpoints.save(step, tmp_path / "staging")
    first, second = (next((tmp_path / "store").glob(f"**/step-{step:08d}/*/weights")) for step in (1, 2))
    run = object.__new__(_Run)
    run._checkpoints = checkpoints
    monkeypatch.setattr(run, "_restore", lambda manifest: (checkpoints.download(manifest.step, tmp_path / "resume").step,))
    for path in (first, second):
        path.write_bytes(b"broke")
    with pytest.raises(CorruptCheckpointError, match="step-00000002"):
        run._restore_newest()
    assert checkpoints.steps() == [1, 2]
    first.write_bytes(b"whole")
    manifest, step = run._restore_newest()
    assert manifest.step == step == 1 and checkpoints.steps() == [1]
    first.unlink()  # a rule of the bucket's took it, say: it is no reason to train from the beginning, over the curve that is there
    with pytest.raises(CorruptCheckpointError, match="step-00000001/.* lacks weights .*; put it back, or begin anew with --fresh"):
        run._restore_newest()


def test_trainers_go_back_once_the_servers_answer_and_the_run_is_still_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, away = open_store(f"file:{tmp_path}/store"), tmp_path / "away"
    store.check()
    run = object.__new__(_Run)
    run._recipe = load_recipe("tiny", [f"tracking.uri=sqlite:{tmp_path}/mlflow.db"])
    run._checkpoints, run._lease = CheckpointStore(store, "run"), Lease(store, "run")
    monkeypatch.setattr(attempts, "_SERVERS_SECONDS", 0.01)

    async def back() -> None:
        (tmp_path / "store").rename(away)
        waiting = asyncio.create_task(run._servers_back())
        await asyncio.sleep(0.2)
        assert not waiting.done()
        away.rename(tmp_path / "store")
        await waiting

    with run._lease:
        asyncio.run(back())
        Lease(store, "run")._write()  # another machine, which had seen no heartbeat
        with pytest.raises(InfrastructureError, match="was taken over"):
            asyncio.run(back())
    monkeypatch.setattr(attempts, "PATIENCE_S", 0.1)
    (tmp_path / "store").rename(away)
    with pytest.raises(InfrastructureError, match="there is no such folder"):
        asyncio.run(run._servers_back())


def test_the_wait_for_another_machine_is_an_event(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Prefect and the terminal show it: a flow whose machine died is tried again elsewhere."""
    monkeypatch.setenv("MAGISTRAL_CACHE", str(tmp_path / "cache"))
    recipe = load_recipe("tiny", [f"storage.uri=file:{tmp_path}/store", f"tracking.uri=sqlite:{tmp_path}/mlflow.db"])
    store = open_store(f"file:{tmp_path}/store")
    store.check()
    events: list[dict[str, Any]] = []

    class Attempt:
        def __init__(self, *_: Any, **__: Any) -> None:
            events.append({"event": "start"})

        def execute(self) -> dict[str, Any]:
            return {}

    monkeypatch.setattr(attempts, "_Run", Attempt)
    handle = attempts._handle(store, recipe, fresh=False)
    holder = replace(Holder.this_process(ttl=0.2), host="another-host")
    store.put_bytes(json.dumps(asdict(holder)).encode(), f"runs/{handle.run_id}/lease.json")
    attempts.run_prepared(SimpleNamespace(recipe=recipe), on_event=events.append)  # type: ignore[arg-type]
    assert [event["event"] for event in events] == ["wait", "start"]
    assert "another-host" in events[0]["message"]


def test_a_step_of_a_run_that_another_took_over_is_not_logged(tmp_path: Path) -> None:
    store = open_store(f"file:{tmp_path}/store")
    store.check()
    logged: list[int] = []
    batch = Batch(0, (), np.zeros(0, np.float32), np.zeros(0, np.float32))
    run = object.__new__(_Run)
    run._recipe, run._on_event = load_recipe("tiny", ["tracking.samples=0"]), None
    run._writer = SimpleNamespace(check=lambda: None)  # type: ignore[assignment]
    run._tracker = SimpleNamespace(log=lambda step, metrics: logged.append(step))  # type: ignore[assignment]
    with Lease(store, "run", ttl=0.2) as run._lease:
        run.on_step(1, {}, batch)
        end = time.monotonic() + 20
        while not run._lease.lost and time.monotonic() < end:
            Lease(store, "run")._write()
            time.sleep(0.01)
        with pytest.raises(InfrastructureError, match="was taken over"):
            run.on_step(2, {}, batch)
    assert logged == [1]


def test_roles_that_never_start_end_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, writer_model: Path) -> None:
    async def never(*_arguments: object) -> None:
        await asyncio.get_running_loop().create_future()

    monkeypatch.setattr(LocalRuntime, "start", never)
    places = {"storage.uri": f"file:{tmp_path}/store", "tracking.uri": f"sqlite:{tmp_path}/mlflow.db", "model.path": writer_model}
    settings = {**SMALL, **places, "pipeline.runtime": "local", "pipeline.schedule": "sync", "pipeline.start_timeout_s": 0.2}
    with pytest.raises(StallError, match=r"not all started within 0\.2 s.*pipeline\.start_timeout_s"):
        api.run(api.load_recipe("tiny", [f"{name}={value}" for name, value in settings.items()]))
