"""Checkpoints commit last, are verified, and outlive whatever happens to their writer."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from infra.s3 import S3Server
from magistral_core.errors import InfrastructureError, InputError
from magistral_core.storage import CheckpointStore, CheckpointWriter, CorruptCheckpointError, ObjectStore, StoreUnreachableError, open_store
from magistral_core.storage import writer as writer_module

CHECKOUT = Path(__file__).resolve().parents[2]


def make_folder(root: Path, step: int) -> Path:
    folder = root / f"staging-{step}"
    (folder / "model").mkdir(parents=True, exist_ok=True)
    (folder / "model" / "weights").write_bytes(f"weights of {step}".encode() * 100)
    (folder / "state.json").write_text(json.dumps({"step": step}))
    return folder


@pytest.fixture
def checkpoints(store: ObjectStore) -> CheckpointStore:
    return CheckpointStore(store, "run-00000000-001")


def put_raw(checkpoints: CheckpointStore, name: str, data: bytes) -> None:
    checkpoints.store.put_bytes(data, f"runs/{checkpoints.run_id}/checkpoints/{name}")


def test_a_checkpoint_comes_back_as_it_was(checkpoints: CheckpointStore, tmp_path: Path) -> None:
    assert checkpoints.latest() is None
    saved = checkpoints.save(25, make_folder(tmp_path, 25), {"ledger": [1, 2]})
    assert saved.uri.startswith(f"{checkpoints.store.uri}/runs/run-00000000-001/checkpoints/step-00000025/001-")
    assert [file.path for file in saved.files] == ["model/weights", "state.json"]
    assert checkpoints.latest() == saved
    assert checkpoints.steps() == [25]
    assert checkpoints.download(25, tmp_path / "all") == saved
    assert (tmp_path / "all" / "model" / "weights").read_bytes() == b"weights of 25" * 100
    checkpoints.download(25, tmp_path / "part", subset="model/")
    assert [path.name for path in (tmp_path / "part").iterdir()] == ["model"]
    assert checkpoints.verify(25) == saved
    again, step = CheckpointStore.from_uri(saved.uri)
    assert again.get(step) == saved


def test_a_uri_that_names_a_copy_gives_no_other(checkpoints: CheckpointStore, tmp_path: Path) -> None:
    first = checkpoints.save(25, make_folder(tmp_path, 25))
    second = checkpoints.save(25, make_folder(tmp_path, 25))
    other = checkpoints.save(30, make_folder(tmp_path, 30))
    named, step = CheckpointStore.from_uri(first.uri)
    assert named.download(step, tmp_path / "fetched") == first
    assert named.get(30) == other
    for uri in (second.uri, first.uri.rstrip("/").rpartition("/")[0]):
        again, step = CheckpointStore.from_uri(uri)
        assert again.get(step) == second
    checkpoints.discard(first)
    with pytest.raises(InputError, match=f"{first.attempt}.*: no such copy of the checkpoint; that of step 25 is .*{second.attempt}"):
        named.download(25, tmp_path / "fetched")


def test_without_a_valid_manifest_it_does_not_exist(checkpoints: CheckpointStore, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    valid = checkpoints.save(10, make_folder(tmp_path, 10))
    lost = checkpoints.save(20, make_folder(tmp_path, 20))
    checkpoints.store.delete([f"runs/{checkpoints.run_id}/checkpoints/step-00000020/{lost.attempt}/state.json"])
    put_raw(checkpoints, "step-00000030/001-aaaaaa/model/weights", b"half an upload")
    put_raw(checkpoints, "step-00000040/001-aaaaaa/manifest.json", b'{"format": 1, "ru')
    put_raw(checkpoints, "step-00000050/001-aaaaaa/manifest.json", b'{"format": 99}')
    escaping = {"path": "../../x", "size": 1, "sha256": ""}
    fields = {"format": 1, "run_id": checkpoints.run_id, "step": 60, "attempt": "001-aaaaaa", "metadata": {}, "created": ""}
    put_raw(checkpoints, "step-00000060/001-aaaaaa/manifest.json", json.dumps({**fields, "files": [escaping]}).encode())
    put_raw(checkpoints, "step-00000070/001-aaaaaa/manifest.json", json.dumps({**fields, "files": []}).encode())
    put_raw(checkpoints, "notes.txt", b"of somebody else")
    with caplog.at_level(logging.WARNING):
        assert checkpoints.latest() == valid
    for part in (
        "20/",
        "state.json or has it in another size",
        "30/",
        "no manifest",
        "40/",
        "another format",
        "outside it",
        "another checkpoint",
    ):
        assert part in caplog.text
    with pytest.raises(InputError, match=r"no checkpoint of step 20; there are: 10"):
        checkpoints.download(20, tmp_path / "x")


def test_a_second_save_never_touches_the_first(checkpoints: CheckpointStore, tmp_path: Path) -> None:
    first = checkpoints.save(10, make_folder(tmp_path, 10))
    before = dict(checkpoints.store.list(""))
    (make_folder(tmp_path, 10) / "state.json").write_text("replayed")
    second = checkpoints.save(10, tmp_path / "staging-10")
    assert before.items() <= dict(checkpoints.store.list("")).items()
    assert second.attempt > first.attempt
    assert checkpoints.manifests() == [second]
    assert checkpoints.prune(keep=3) == []
    assert first.attempt not in str(checkpoints.store.list(""))
    assert checkpoints.verify(10) == second


def test_damage_is_found_and_nothing_old_goes_before_the_newest_is_whole(checkpoints: CheckpointStore, tmp_path: Path) -> None:
    for step in (10, 20, 30):
        newest = checkpoints.save(step, make_folder(tmp_path, step))
    name = f"step-00000030/{newest.attempt}/model/weights"
    put_raw(checkpoints, name, b"Weights of 30" * 100)  # the same size
    for attempt in (
        lambda: checkpoints.verify(30),
        lambda: checkpoints.download(30, tmp_path / "all"),
        lambda: checkpoints.prune(keep=1),
    ):
        with pytest.raises(CorruptCheckpointError, match=r"model/weights: damaged, SHA-256 .* use another step"):
            attempt()
    assert not (tmp_path / "all" / "model" / "weights").exists()
    assert checkpoints.steps() == [10, 20, 30]
    put_raw(checkpoints, name, b"weights of 30" * 100)
    assert checkpoints.prune(keep=2) == [10]
    assert checkpoints.steps() == [20, 30]


def test_prune_takes_dead_leftovers_but_no_upload_in_progress(checkpoints: CheckpointStore, tmp_path: Path) -> None:
    put_raw(checkpoints, "step-00000005/001-aaaaaa/x", b"left by a dead attempt")
    put_raw(checkpoints, "notes.txt", b"of somebody else")
    checkpoints.save(10, make_folder(tmp_path, 10))
    put_raw(checkpoints, "step-00000015/001-aaaaaa/x", b"on its way")
    assert checkpoints.prune(keep=1) == []
    keys = [key.split("/checkpoints/")[1] for key, _ in checkpoints.store.list("")]
    assert "notes.txt" in keys
    assert "step-00000015/001-aaaaaa/x" in keys
    assert "step-00000005/001-aaaaaa/x" not in keys
    with pytest.raises(InputError, match="at least one"):
        checkpoints.prune(0)


@given(st.lists(st.tuples(st.sampled_from(["save", "broken", "prune"]), st.integers(0, 4), st.integers(1, 3)), max_size=12))
@settings(deadline=None, max_examples=25)
def test_any_order_of_saves_failures_and_prunes_keeps_the_newest(actions: list[tuple[str, int, int]]) -> None:
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        checkpoints = CheckpointStore(open_store(f"file:{root / 'objects'}"), "r-00000000-001")
        model: dict[int, str] = {}
        for count, (action, step, keep) in enumerate(actions):
            folder = make_folder(root, step)
            (folder / "state.json").write_text(str(count))
            if action == "save":
                checkpoints.save(step, folder)
                model[step] = str(count)
            elif action == "broken":
                put_raw(checkpoints, f"step-{step:08d}/{count:03d}-ffffff/x", b"")
            else:
                gone = checkpoints.prune(keep)
                assert gone == sorted(model)[:-keep]
                model = dict(sorted(model.items())[-keep:])
        assert checkpoints.steps() == sorted(model)
        for step, content in model.items():
            checkpoints.download(step, root / "out")
            assert (root / "out" / "state.json").read_text() == content


def test_a_guard_that_refuses_prevents_the_commit(store: ObjectStore, tmp_path: Path) -> None:
    def taken_over() -> None:
        raise InfrastructureError("run taken over")

    checkpoints = CheckpointStore(store, "run-00000000-001", guard=taken_over)
    with pytest.raises(InfrastructureError, match="taken over"):
        checkpoints.save(1, make_folder(tmp_path, 1))
    assert checkpoints.steps() == []


@pytest.mark.parametrize("uri", ["file:/x", "s3://b/runs/r/checkpoints", "s3://b/runs/r/checkpoints/step-x"])
def test_a_uri_that_names_no_checkpoint(uri: str) -> None:
    with pytest.raises(InputError, match="not a checkpoint"):
        CheckpointStore.from_uri(uri)


class GatedStore:
    """A real store whose uploads wait until they are let through."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store
        self.gate = threading.Event()

    def put_file(self, path: Path, key: str, *count: Any) -> None:
        assert self.gate.wait(20)
        self._store.put_file(path, key, *count)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)


def test_uploads_run_beside_training(store: ObjectStore, tmp_path: Path) -> None:
    gated = GatedStore(store)
    checkpoints = CheckpointStore(gated, "run-00000000-001")
    committed: list[int] = []
    with CheckpointWriter(checkpoints, keep=2) as writer:
        folders = [make_folder(tmp_path, step) for step in (1, 2, 3)]
        for step in (1, 2):
            writer.submit(step, folders[step - 1], {"step": step}, lambda manifest: committed.append(manifest.step))
        assert committed == []
        assert checkpoints.steps() == []
        gated.gate.set()
        writer.submit(3, folders[2], None, lambda manifest: committed.append(manifest.step))
        writer.wait()
        assert committed == [1, 2, 3]
        assert checkpoints.steps() == [2, 3]
        assert not any(folder.exists() for folder in folders)
    with pytest.raises(InfrastructureError, match="closed"):
        writer.submit(4, make_folder(tmp_path, 4))


class AwayStore(GatedStore):
    """A real store that does not answer while its gate is closed."""

    def __init__(self, store: ObjectStore) -> None:
        super().__init__(store)
        self.refused = 0

    def put_file(self, path: Path, key: str, *count: Any) -> None:
        if not self.gate.is_set():
            self.refused += 1
            raise StoreUnreachableError(f"{key}: nobody answers")
        self._store.put_file(path, key, *count)


def test_a_store_that_is_away_is_waited_for(store: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer_module, "_PAUSE_S", 0.01)
    away = AwayStore(store)
    checkpoints = CheckpointStore(away, "run-00000000-001")
    with CheckpointWriter(checkpoints, keep=1) as writer:
        writer.submit(1, make_folder(tmp_path, 1))
        deadline = time.monotonic() + 20
        while away.refused < 8 and time.monotonic() < deadline:
            time.sleep(0.01)
        assert checkpoints.steps() == []
        away.gate.set()
        writer.wait()
    assert away.refused >= 8, "a save was tried again"
    assert checkpoints.steps() == [1]


def test_patience_with_a_store_has_an_end(store: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer_module, "_PAUSE_S", 0.01)
    checkpoints = CheckpointStore(AwayStore(store), "run-00000000-001")
    impatient = CheckpointWriter(checkpoints, patience_s=0.05)
    impatient.submit(1, make_folder(tmp_path, 1))
    with pytest.raises(StoreUnreachableError, match="nobody answers"):
        impatient.close()
    # A run that ends for another reason does not wait for a store that is away.

    def interrupted() -> None:
        with CheckpointWriter(checkpoints) as writer:
            writer.submit(1, make_folder(tmp_path, 1))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        interrupted()


def test_patience_begins_with_an_outage_and_not_with_a_long_upload(
    store: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer_module, "_PAUSE_S", 0.01)
    away = AwayStore(store)
    long, put = [True, True, True], away.put_file

    def put_file(path: Path, key: str, count: Any = lambda size: None) -> None:
        if long:
            long.pop()
            time.sleep(0.3)
            count(1)
            raise StoreUnreachableError(f"{key}: the connection broke")
        put(path, key, count)

    away.gate.set()
    monkeypatch.setattr(away, "put_file", put_file)
    checkpoints = CheckpointStore(away, "run-00000000-001")
    with CheckpointWriter(checkpoints, patience_s=0.2) as writer:
        writer.submit(1, make_folder(tmp_path, 1))
    assert checkpoints.steps() == [1]
    monkeypatch.setattr(writer_module, "_OUTAGES", 2)
    long.extend([True] * 30)
    writer = CheckpointWriter(checkpoints, patience_s=0.2)
    writer.submit(2, make_folder(tmp_path, 2))
    with pytest.raises(StoreUnreachableError, match="the connection broke"):
        writer.close()
    assert long, "one that breaks again and again is given up"


def test_a_checkpoint_that_is_pruned_while_they_are_listed_is_none(
    store: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoints = CheckpointStore(store, "run-00000000-001")
    for step in (1, 2):
        checkpoints.save(step, make_folder(tmp_path, step))
    listed = store.list

    def pruned_after(prefix: str) -> Any:
        found = listed(prefix)
        store.delete([key for key, _ in found if "step-00000001" in key])
        return found

    monkeypatch.setattr(store, "list", pruned_after)
    assert checkpoints.steps() == [2]


def test_a_failed_upload_is_raised_by_every_later_call_and_keeps_its_folder(store: ObjectStore, tmp_path: Path) -> None:
    checkpoints = CheckpointStore(store, "run-00000000-001")
    writer = CheckpointWriter(checkpoints, keep=1)
    good, bad, late = (make_folder(tmp_path, step) for step in (1, 2, 3))
    writer.submit(1, good)
    writer.wait()

    def fail(manifest: object) -> None:
        raise ZeroDivisionError("a caller's own fault")

    writer.submit(2, bad, None, fail)
    with pytest.raises(InfrastructureError, match=r"checkpoint of step 2: not saved \(ZeroDivisionError: a caller's own fault\)"):
        writer.wait()
    for call in (lambda: writer.submit(3, late), writer.wait, writer.close):
        with pytest.raises(InfrastructureError, match="step 2"):
            call()
    assert bad.exists()
    assert 1 in checkpoints.steps()


def test_a_full_disk_loses_nothing(tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    if (
        os.geteuid()
        or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "none", small], capture_output=True, check=False).returncode
    ):
        pytest.skip("mounting a small file system needs root and the right to mount")
    try:
        checkpoints = CheckpointStore(open_store(f"file:{small}"), "run-00000000-001")
        first = checkpoints.save(1, make_folder(tmp_path, 1))
        folder = make_folder(tmp_path, 2)
        (folder / "optimiser").write_bytes(b"x" * 3_000_000)
        writer = CheckpointWriter(checkpoints, keep=1)
        writer.submit(2, folder)
        with pytest.raises(InputError, match=f"{small}: the disk is full, no room for .*optimiser .3,000,000 bytes needed") as caught:
            writer.close()
        assert caught.value.exit_code == 2
        assert "\n" not in str(caught.value)
        assert checkpoints.latest() == first
        assert checkpoints.verify(1) == first
        assert (folder / "optimiser").stat().st_size == 3_000_000
    finally:
        subprocess.run(["umount", "-l", small], check=True)


def test_kill_nine_in_the_middle_of_an_upload_leaves_the_last_checkpoint(s3_environment: S3Server, tmp_path: Path) -> None:
    folder = make_folder(tmp_path, 2)
    for number in range(60):
        (folder / f"part-{number:03d}").write_bytes(os.urandom(100_000))
    code = f"""
import time
from pathlib import Path
from magistral_core.storage import CheckpointStore, CheckpointWriter, open_store
store = open_store("s3://bucket/killed")
store.check()
writer = CheckpointWriter(CheckpointStore(store, "run-00000000-001"), keep=1)
writer.submit(1, Path({str(make_folder(tmp_path, 1))!r}))
writer.wait()
put_file = store.put_file
store.put_file = lambda *arguments: time.sleep(0.2) or put_file(*arguments)  # so that the kill comes in the middle
writer.submit(2, Path({str(folder)!r}))
print("uploading", flush=True)
writer.wait()
print("too late", flush=True)
"""
    environment = {**os.environ, "PYTHONPATH": str(CHECKOUT)}
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, env=environment)
    try:
        assert process.stdout
        assert process.stdout.readline() == b"uploading\n"
        store = open_store("s3://bucket/killed")
        deadline = time.monotonic() + 20
        while not store.list("runs/run-00000000-001/checkpoints/step-00000002/"):
            assert time.monotonic() < deadline
    finally:
        process.send_signal(signal.SIGKILL)
    assert process.communicate()[0] == b""
    checkpoints = CheckpointStore(store, "run-00000000-001")
    assert checkpoints.steps() == [1]
    assert checkpoints.verify(1)
    replayed = checkpoints.save(2, make_folder(tmp_path, 2))
    assert replayed.attempt.startswith("002-")
    assert checkpoints.prune(keep=1) == [1]
    assert {key.split("/")[4] for key, _ in store.list("runs/")} == {replayed.attempt}
