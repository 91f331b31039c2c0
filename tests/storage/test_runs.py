"""A command finds its run again, and a run has one writer."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from magistral_core.errors import InfrastructureError, InputError
from magistral_core.storage import Lease, ObjectStore, RunIndex, recipe_digest
from magistral_core.storage.lease import Holder

CHECKOUT = Path(__file__).resolve().parents[2]
RUN = "tiny-12345678-001"
KEY = f"runs/{RUN}/lease.json"
DIGEST = recipe_digest({"seed": 0})


def test_the_same_command_goes_on_with_its_unfinished_run(store: ObjectStore) -> None:
    index = RunIndex(store)
    first = index.resolve("tiny", DIGEST)
    assert (first.run_id, first.attempt, first.resumed) == (f"tiny-{DIGEST[:8]}-001", 1, False)
    first.begin({"seed": 0})
    assert index.resolve("tiny", DIGEST).run_id == first.run_id
    assert index.resolve("tiny", DIGEST).resumed
    assert index.resolve("tiny-2", DIGEST).attempt == 1
    assert index.resolve("tiny", recipe_digest({"seed": 1})).attempt == 1
    key = first.key
    assert key and index.resolve("tiny", DIGEST).key == key
    second = index.resolve("tiny", DIGEST, fresh=True)
    assert (second.attempt, second.resumed) == (2, False)
    second.begin({"seed": 0})
    assert second.key != key
    assert index.resolve("tiny", DIGEST).run_id == second.run_id
    second.finish({"steps": 3})
    assert second.finished
    assert index.resolve("tiny", DIGEST).attempt == 3
    assert [handle.run_id for handle in index.list()] == [first.run_id, second.run_id]


def test_the_recipe_is_written_once(store: ObjectStore) -> None:
    handle = RunIndex(store).resolve("tiny", DIGEST)
    with pytest.raises(InputError, match="never began"):
        handle.recipe()
    handle.begin({"seed": 0, "name": "é"})
    handle.begin({"seed": 1})
    assert handle.recipe() == {"seed": 0, "name": "é"}


@pytest.mark.parametrize("arrives", [True, False])
def test_an_end_whose_answer_is_lost_is_an_end(store: ObjectStore, arrives: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    run = RunIndex(store).resolve("tiny", DIGEST)
    run.begin({"seed": 0})
    put = store.put_bytes

    def lost(data: bytes, key: str) -> None:
        if arrives:
            put(data, key)
        raise InfrastructureError("no answer")

    monkeypatch.setattr(store, "put_bytes", lost)
    if arrives:
        run.finish({"steps": 3})
    else:
        with pytest.raises(InfrastructureError, match="no answer"):
            run.finish({"steps": 3})
    assert run.finished is arrives
    assert RunIndex(store).resolve("tiny", DIGEST).attempt == (2 if arrives else 1)


def test_another_number_of_generators_is_asked_for_beside_the_run(store: ObjectStore) -> None:
    handle = RunIndex(store).resolve("tiny", DIGEST)
    assert handle.wanted_generators() is None
    handle.ask_for_generators(3)
    handle.ask_for_generators(2)
    assert handle.wanted_generators() == 2


def test_a_run_is_opened_by_its_id_or_a_name_of_its_own(store: ObjectStore) -> None:
    index = RunIndex(store)
    handle = index.resolve("tiny", DIGEST)
    handle.begin({})
    assert index.open(handle.run_id).run_id == index.open("tiny").run_id == handle.run_id
    index.resolve("tiny-staged", DIGEST).begin({})
    assert index.open("tiny").run_id == index.open(f"tiny-{DIGEST[:8]}").run_id == handle.run_id, "the other has a name of its own"
    assert index.open("tiny-staged").name == "tiny-staged"
    with pytest.raises(InputError, match="no run is called tin;"):
        index.open("tin")
    index.resolve("tiny", DIGEST, fresh=True).begin({})
    with pytest.raises(InputError, match="several runs are called tiny"):
        index.open("tiny")
    with pytest.raises(InputError, match="no run is called other; there are: tiny-"):
        index.open("other")


def test_a_digest_depends_on_settings_not_on_their_order() -> None:
    assert recipe_digest({"a": 1, "b": {"c": 2, "d": 3}}) == recipe_digest({"b": {"d": 3, "c": 2}, "a": 1})
    assert recipe_digest({"a": 1}) != recipe_digest({"a": 2})


def test_a_living_process_here_is_never_overrun(store: ObjectStore) -> None:
    with Lease(store, RUN) as held:
        held.check()
        waits: list[str] = []
        with pytest.raises(InputError, match=f"{RUN} is being written by process {os.getpid()}"):
            Lease(store, RUN, on_wait=waits.append).acquire()
        assert waits == []
        held.check()
    assert not store.exists(KEY)


def test_a_lease_that_could_not_be_given_back_does_not_block_its_own_process(store: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> None:
    def away() -> Holder | None:
        raise InfrastructureError("the store is away")

    held = Lease(store, RUN)
    held.acquire()
    with monkeypatch.context() as patched:
        patched.setattr(held, "_read", away)
        with pytest.raises(InfrastructureError, match="away"):
            held.release()
    assert store.exists(KEY)
    with Lease(store, RUN) as again:
        again.check()


def test_of_two_at_the_same_moment_one_gets_it(store: ObjectStore) -> None:
    leases = [Lease(store, RUN) for _ in range(4)]
    got: list[Lease] = []
    refused: list[Exception] = []

    def compete(lease: Lease) -> None:
        try:
            lease.acquire()
            got.append(lease)
        except Exception as error:  # noqa: BLE001  (judged below, not in this thread)
            refused.append(error)

    threads = [threading.Thread(target=compete, args=(lease,)) for lease in leases]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(got) == 1
    assert [type(error) for error in refused] == [InputError] * 3
    got[0].check()
    got[0].release()


def test_a_dead_process_here_is_succeeded_at_once(store: ObjectStore) -> None:
    code = f"""
import time
from magistral_core.storage import Lease, open_store
Lease(open_store({store.uri!r}), {RUN!r}).acquire()
print("held", flush=True)
time.sleep(600)
"""
    waits: list[str] = []
    environment = {**os.environ, "PYTHONPATH": str(CHECKOUT)}
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, env=environment) as process:
        try:
            assert process.stdout
            assert process.stdout.readline() == b"held\n"
            with pytest.raises(InputError, match=f"process {process.pid}"):
                Lease(store, RUN).acquire()
        finally:
            process.send_signal(signal.SIGKILL)
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # a zombie still: its parent has not looked
        with Lease(store, RUN, on_wait=waits.append) as lease:
            lease.check()
        assert waits == []


def elsewhere(**changes: object) -> Holder:
    return replace(Holder.this_process(ttl=1.0), host="another-host", pid=1, **changes)  # type: ignore[arg-type]


def write(store: ObjectStore, holder: Holder) -> None:
    store.put_bytes(json.dumps(asdict(holder)).encode(), KEY)


def test_a_silent_holder_elsewhere_is_waited_for(store: ObjectStore) -> None:
    write(store, elsewhere())
    waits: list[str] = []
    start = time.monotonic()
    with Lease(store, RUN, on_wait=waits.append):
        assert time.monotonic() - start >= 1.0
    assert len(waits) == 1
    assert "process 1 on another-host" in waits[0]
    write(store, elsewhere(heartbeat=time.time() - 3600))
    waits.clear()
    with Lease(store, RUN, on_wait=waits.append):
        assert waits == []


def test_a_beating_holder_elsewhere_is_respected(store: ObjectStore) -> None:
    holder = replace(elsewhere(heartbeat=time.time() - 5), ttl=30.0)  # its clock is behind ours
    write(store, holder)
    refused = threading.Event()

    def beat() -> None:
        for number in itertools.count(1):
            if refused.wait(0.4):
                return
            write(store, replace(holder, heartbeat=holder.heartbeat + 0.4 * number))

    beats = threading.Thread(target=beat)
    beats.start()
    try:
        with pytest.raises(InputError, match="process 1 on another-host"):
            Lease(store, RUN, on_wait=lambda line: None).acquire()
    finally:
        refused.set()
        beats.join()


def test_a_lost_lease_is_noticed_before_a_commit(store: ObjectStore, tmp_path: Path) -> None:
    handle = RunIndex(store).resolve("tiny", DIGEST)
    lease = handle.lease(ttl=8.0)  # no heartbeat, every two seconds, comes between what is read and written here
    lease.acquire()
    (tmp_path / "staging").mkdir()
    (tmp_path / "staging" / "file").write_text("x")
    checkpoints = handle.checkpoints(lease)
    checkpoints.save(1, tmp_path / "staging")
    taken, key = json.dumps(asdict(elsewhere())).encode(), f"runs/{handle.run_id}/lease.json"
    store.put_bytes(taken, key)
    with pytest.raises(InfrastructureError, match="taken over by process 1 on another-host"):
        checkpoints.save(2, tmp_path / "staging")
    deadline = time.monotonic() + 60
    while not lease.lost:  # until a heartbeat has passed
        assert time.monotonic() < deadline
        time.sleep(0.05)
    lease.release()
    assert store.get_bytes(key) == taken
    assert checkpoints.steps() == [1]


def test_heartbeats_renew_the_lease(store: ObjectStore) -> None:
    with Lease(store, RUN, ttl=0.4):
        first = store.get_bytes(KEY)
        deadline = time.monotonic() + 60
        while store.get_bytes(KEY) == first:
            assert time.monotonic() < deadline
            time.sleep(0.05)


def test_a_lease_that_cannot_be_read_is_named(store: ObjectStore) -> None:
    store.put_bytes(b"{", KEY)
    with pytest.raises(InputError, match=f"{KEY}: not a lease"):
        Lease(store, RUN).acquire()


def test_a_full_store_does_not_end_the_heartbeats(store: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> None:
    put, full = store.put_bytes, [InputError("the disk is full")]

    def put_unless_full(data: bytes, key: str) -> None:
        if key == KEY and full:
            raise full.pop()
        put(data, key)

    with Lease(store, RUN, ttl=0.4) as lease:
        monkeypatch.setattr(store, "put_bytes", put_unless_full)
        before = store.get_bytes(KEY)
        deadline = time.monotonic() + 60
        while store.get_bytes(KEY) == before:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert not full, "a heartbeat met it, and the next one was written"
        lease.check()
