"""Objects in both stores: what is written is read, what fails leaves the old object, errors say what to do."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from boto3.exceptions import RetriesExceededError
from botocore.exceptions import ClientError
from botocore.stub import Stubber
from hypothesis import given, settings
from hypothesis import strategies as st

from infra.s3 import S3Server
from magistral_core.errors import InfrastructureError, InputError
from magistral_core.storage import s3
from magistral_core.storage.objects import (
    REPLACES_ACCOUNT,
    MissingObjectError,
    ObjectStore,
    StoreUnreachableError,
    explain_full_disk,
    open_store,
)
from magistral_core.tracking import Tracker

CHECKOUT = Path(__file__).resolve().parents[2]


def test_an_object_is_read_as_it_was_written(store: ObjectStore, tmp_path: Path) -> None:
    data = os.urandom((2 << 20) + 5)
    (tmp_path / "file").write_bytes(data)
    store.put_file(tmp_path / "file", "a/b/file")
    store.put_bytes(b"", "a/empty")
    store.put_bytes(b"first", "a/small")
    store.put_bytes(b"second", "a/small")
    assert store.get_bytes("a/b/file") == data
    assert b"".join(store.read("a/b/file")) == data
    assert store.get_bytes("a/small") == b"second"
    assert store.list("a/") == [("a/b/file", len(data)), ("a/empty", 0), ("a/small", 6)]
    assert store.list("a/sm") == [("a/small", 6)]
    assert store.folders("") == ["a"]
    assert store.folders("a/") == ["b"]
    assert store.folders("none/") == []
    store.get_file("a/b/file", tmp_path / "new" / "copy")
    assert (tmp_path / "new" / "copy").read_bytes() == data
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["copy"]
    assert store.exists("a/small")
    store.delete(["a/small", "a/empty", "never/was"])
    assert not store.exists("a/small")
    assert [key for key, _ in store.list("")] == ["a/b/file"]


def test_an_absent_object_is_named(store: ObjectStore, tmp_path: Path) -> None:
    for read in (
        lambda: store.get_bytes("no/such"),
        lambda: store.get_file("no/such", tmp_path / "x"),
        lambda: list(store.read("no/such")),
    ):
        with pytest.raises(MissingObjectError, match=f"{store.uri}/no/such: no such object"):
            read()
    assert not (tmp_path / "x").exists()


def test_a_large_file_goes_up_in_parts(s3_environment: S3Server, tmp_path: Path) -> None:
    store = open_store("s3://bucket/large")
    store.check()
    data = os.urandom(1 << 20) * 65  # one part is 64 MiB
    (tmp_path / "file").write_bytes(data)
    store.put_file(tmp_path / "file", "file")
    assert store.list("") == [("file", len(data))]
    store.get_file("file", tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == data
    store.delete(["file"])


@pytest.mark.parametrize("key", ["", "/a", "a/", "../a", "a//b", "a/./b"])
def test_a_key_cannot_leave_its_store(tmp_path: Path, key: str) -> None:
    with pytest.raises(ValueError, match="not an object key"):
        open_store(f"file:{tmp_path}").put_bytes(b"", key)


keys = st.lists(
    st.text("ab.-_ é", min_size=1, max_size=4).filter(lambda part: part not in {".", "..", ".partial"}), min_size=1, max_size=3
).map("/".join)


@given(st.lists(st.tuples(st.booleans(), keys, st.binary(max_size=20)), max_size=12))
@settings(deadline=None, max_examples=40)
def test_a_folder_behaves_like_a_mapping(steps: list[tuple[bool, str, bytes]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        store = open_store(f"file:{folder}")
        model: dict[str, bytes] = {}
        for put, key, data in steps:
            # A file cannot be a folder too, as an object in S3 could: such pairs are no part of the promise.
            if any(key.startswith(f"{other}/") or other.startswith(f"{key}/") for other in model):
                continue
            if put:
                store.put_bytes(data, key)
                model[key] = data
            else:
                store.delete([key])
                model.pop(key, None)
        assert dict(store.list("")) == {key: len(data) for key, data in model.items()}
        assert all(store.get_bytes(key) == data for key, data in model.items())
        assert store.folders("") == sorted({key.split("/")[0] for key in model if "/" in key})


@pytest.mark.parametrize("uri", ["", "bucket/x", "s3:bucket", "s3://", "file:", "file://host/x", "http://x"])
def test_a_wrong_uri_is_refused(uri: str) -> None:
    with pytest.raises(InputError, match="s3://bucket/prefix or file:DIR"):
        open_store(uri)


def test_an_unreachable_server_is_one_clear_line_within_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as taken:  # bound, never listening: connections are refused
        taken.bind(("127.0.0.1", 0))
        endpoint = f"http://127.0.0.1:{taken.getsockname()[1]}"
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", endpoint)
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "a:b")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "c")
        start = time.monotonic()
        with pytest.raises(
            InputError, match=f"s3://bucket/x: the S3 server at {endpoint} cannot be reached.*set AWS_ENDPOINT_URL_S3"
        ) as caught:
            open_store("s3://bucket/x").check()
        assert time.monotonic() - start < 5
        assert "\n" not in str(caught.value)


def test_a_silent_server_is_given_up_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as silent:  # accepts, never answers
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", f"http://127.0.0.1:{silent.getsockname()[1]}")
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "a:b")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "c")
        start = time.monotonic()
        with pytest.raises(InputError, match="cannot be reached"):
            open_store("s3://bucket/x").check()
        assert time.monotonic() - start < 15


class Unavailable(BaseHTTPRequestHandler):
    """A proxy before a server that is away."""

    def answer(self) -> None:
        self.send_response(503)
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_GET = do_HEAD = do_PUT = do_POST = answer  # noqa: N815

    def log_message(self, *_: Any) -> None:
        pass


def test_a_proxy_before_a_server_that_is_away_is_told_as_such(monkeypatch: pytest.MonkeyPatch) -> None:
    """A retry goes by these words: later, it may be there again."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "a:b")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "c")
    with HTTPServer(("127.0.0.1", 0), Unavailable) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            monkeypatch.setenv("AWS_ENDPOINT_URL_S3", f"http://127.0.0.1:{server.server_port}")
            for write in (True, False):
                with pytest.raises(InputError, match="cannot be reached.*503"):
                    open_store("s3://bucket/x").check(write=write)
            with pytest.raises(InputError, match="the MLflow server cannot be reached.*503"):
                Tracker.check(f"http://127.0.0.1:{server.server_port}")
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.parametrize(("code", "away"), [("SlowDown", True), ("InternalError", True), ("AccessDenied", False)])
def test_what_a_busy_server_did_not_delete_is_tried_again(
    s3_environment: S3Server, monkeypatch: pytest.MonkeyPatch, code: str, away: bool
) -> None:
    store = open_store("s3://bucket/busy")
    with Stubber(store._client) as stub:  # type: ignore[attr-defined]
        stub.add_response("delete_objects", {"Errors": [{"Key": "a", "Code": code}]})
        with pytest.raises(InfrastructureError, match=f"not deleted \\({code}\\)") as caught:
            store.delete(["a"])
    assert isinstance(caught.value, StoreUnreachableError) is away


def test_wrong_and_absent_credentials_are_named(s3_environment: S3Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "a-wrong-secret")
    with pytest.raises(InputError, match="refused the credentials .*check AWS_ACCESS_KEY_ID"):
        open_store("s3://bucket/x").check()
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    with pytest.raises(InputError, match="no S3 credentials; set AWS_ACCESS_KEY_ID"):
        open_store("s3://bucket/x").check()


def test_rights_to_a_folder_of_a_bucket_are_enough(s3_environment: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """The embedded server knows no such policies; AWS answers a HeadBucket so, which names no folder."""
    open_store("s3://bucket/x").check()
    refused = ClientError({"Error": {"Code": "403"}, "ResponseMetadata": {"HTTPStatusCode": 403}}, "HeadBucket")
    made = s3.S3Store._make_client

    def client_of_a_folder(store: s3.S3Store, *args: Any, **named: Any) -> Any:
        client = made(store, *args, **named)
        monkeypatch.setattr(client, "head_bucket", Mock(side_effect=refused))
        return client

    monkeypatch.setattr(s3.S3Store, "_make_client", client_of_a_folder)
    open_store("s3://bucket/x").check()


def test_a_missing_bucket_is_not_made_where_the_stack_stands_in_for_an_account(
    s3_environment: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(REPLACES_ACCOUNT, "magistral")
    for write in (True, False):
        with pytest.raises(InputError, match="no bucket my-company; the local stack .*MAGISTRAL_STORAGE_URI=s3://my-company"):
            open_store("s3://my-company/runs").check(write=write)
    monkeypatch.delenv(REPLACES_ACCOUNT)
    open_store("s3://my-company/runs").check()
    monkeypatch.setenv(REPLACES_ACCOUNT, "stack")
    open_store("s3://my-company/runs").check()  # it is there now
    open_store("s3://stack/runs").check()  # the stack's own is made


def test_looking_needs_no_right_to_write_and_makes_nothing(
    s3_environment: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(InputError, match="there is no such folder"):
        open_store(f"file:{tmp_path / 'typo'}").check(write=False)
    assert not (tmp_path / "typo").exists()
    with pytest.raises(InputError, match="there is no bucket typo$"):
        open_store("s3://typo/x").check(write=False)
    with pytest.raises(InputError, match="there is no bucket typo$"):
        open_store("s3://typo/x").list("")
    store = open_store("s3://bucket/x")
    store.check()
    monkeypatch.setattr(s3.S3Store, "_make_client", _without_writing(s3.S3Store._make_client))
    open_store("s3://bucket/x").check(write=False)
    with pytest.raises(InputError, match="refused the credentials"):
        open_store("s3://bucket/x").check()


def _without_writing(made: Callable[..., Any]) -> Callable[..., Any]:
    """Clients of an account that may only read: the embedded server knows no such policies."""

    def client(*args: Any, **named: Any) -> Any:
        reader = made(*args, **named)
        refused = ClientError({"Error": {"Code": "AccessDenied"}, "ResponseMetadata": {"HTTPStatusCode": 403}}, "PutObject")
        reader.put_object = Mock(side_effect=refused)
        return reader

    return client


def test_a_bucket_that_cannot_be_made_is_named(s3_environment: S3Server) -> None:
    with pytest.raises(InputError, match="s3://B_: the S3 server refused .*InvalidBucketName"):
        open_store("s3://B_").check()


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be written"):
        open_store(f"file:{tmp_path / 'file' / 'below'}").check()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A real file system of 1 MiB."""
    folder = tmp_path / "small"
    folder.mkdir()
    if (
        os.geteuid()
        or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "none", folder], capture_output=True, check=False).returncode
    ):
        pytest.skip("mounting a small file system needs root and the right to mount")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


def test_a_full_disk_leaves_the_old_object_and_says_what_to_do(small_disk: Path, tmp_path: Path) -> None:
    store = open_store(f"file:{small_disk}")
    store.put_bytes(b"x" * 300_000, "kept")
    (tmp_path / "large").write_bytes(b"y" * 2_000_000)
    with pytest.raises(
        InputError, match=f"{small_disk}: the disk is full, no room for kept .2,000,000 bytes needed, .* free.; free some space"
    ):
        store.put_file(tmp_path / "large", "kept")
    with pytest.raises(InputError, match="the disk is full"):
        store.put_bytes(b"z" * 2_000_000, "new/one")
    assert store.list("") == [("kept", 300_000)]
    assert store.get_bytes("kept") == b"x" * 300_000
    assert not list((small_disk / ".partial").iterdir())


def test_a_full_disk_while_reading_an_object(small_disk: Path, store: ObjectStore) -> None:
    store.put_bytes(b"y" * 2_000_000, "large")
    with pytest.raises(InputError, match=f"{small_disk}: the disk is full, no room for large"):
        store.get_file("large", small_disk / "copy")
    assert not list(small_disk.iterdir())


def test_local_staging_on_a_full_disk_is_explained(small_disk: Path) -> None:
    with pytest.raises(InputError, match="no room for the weights"), explain_full_disk(small_disk, what="the weights"):
        (small_disk / "weights").write_bytes(b"x" * 2_000_000)
    # torch.save raises a RuntimeError without an error number when its disk is full.
    with pytest.raises(InputError, match="no room for a checkpoint"), explain_full_disk(small_disk, needed=2_000_000):
        raise RuntimeError("unexpected position")
    with pytest.raises(RuntimeError, match="another reason"), explain_full_disk(Path.cwd()):
        raise RuntimeError("another reason")


def test_a_full_disk_of_the_s3_server(small_disk: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    subprocess.run(["mount", "-o", "remount,size=64m", small_disk], check=True)
    with S3Server(small_disk, "magistral:admin", "a-secret-for-tests") as server:
        for name, value in server.environment().items():
            monkeypatch.setenv(name, value)
        store = open_store("s3://bucket/x")
        store.check()
        store.put_bytes(b"x" * 1_000_000, "kept")
        (tmp_path / "large").write_bytes(b"y" * 50_000_000)
        with pytest.raises(InputError, match="s3://bucket/x: the disk is full, no room for large"):
            store.put_file(tmp_path / "large", "large")
        assert store.list("") == [("kept", 1_000_000)]
        assert store.get_bytes("kept") == b"x" * 1_000_000


def test_a_server_that_ends_midway_is_an_infrastructure_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with S3Server(tmp_path, "magistral:admin", "a-secret-for-tests") as server:
        for name, value in server.environment().items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr("magistral_core.storage.s3._RETRIES", 2)
        store = open_store("s3://bucket/x")
        store.check()
        server.stop()
        with pytest.raises(InfrastructureError, match="s3://bucket/x/key: S3 failed"):
            store.put_bytes(b"", "key")


def test_a_killed_writer_leaves_no_half_object(tmp_path: Path) -> None:
    source = tmp_path / "large"
    with open(source, "wb") as file:
        file.truncate(8 << 30)  # sparse: copying it takes longer than the kill below
    code = f"""
from magistral_core.storage.objects import open_store
from pathlib import Path
store = open_store({f"file:{tmp_path / 'objects'}"!r})
store.put_bytes(b"old", "key")
print("ready", flush=True)
store.put_file(Path({str(source)!r}), "key")
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, cwd=CHECKOUT) as writer:
        try:
            assert writer.stdout
            assert writer.stdout.readline() == b"ready\n"
            deadline = time.monotonic() + 20
            while not list((tmp_path / "objects" / ".partial").iterdir()):
                assert time.monotonic() < deadline
                time.sleep(0.001)
        finally:
            writer.send_signal(signal.SIGKILL)
    assert writer.returncode == -signal.SIGKILL
    store = open_store(f"file:{tmp_path / 'objects'}")
    assert store.get_bytes("key") == b"old"
    assert store.list("") == [("key", 3)]
    assert len(list((tmp_path / "objects" / ".partial").iterdir())) == 1
    os.utime(next((tmp_path / "objects" / ".partial").iterdir()), (0, 0))
    store.check()
    assert not list((tmp_path / "objects" / ".partial").iterdir())


def test_a_download_that_breaks_again_and_again_is_a_store_that_is_away(
    s3_environment: S3Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    store = open_store("s3://magistral/broken")
    store.check()
    store.put_bytes(b"x", "a")

    def breaks(*_arguments: object, **_settings: object) -> None:
        raise RetriesExceededError(OSError("reset"))

    monkeypatch.setattr(store._client, "download_file", breaks)  # type: ignore[attr-defined]
    with pytest.raises(StoreUnreachableError, match="broken/a: S3 failed"):
        store.get_file("a", tmp_path / "a")


def test_parts_that_a_killed_writer_left_are_aborted(s3_environment: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    store = open_store("s3://magistral/half")
    store.check()
    client: Any = store._client  # type: ignore[attr-defined]
    for key in ("half/runs/r/a", "half/other", "runs/of-another-prefix"):
        begun = client.create_multipart_upload(Bucket="magistral", Key=key)
        client.upload_part(Bucket="magistral", Key=key, UploadId=begun["UploadId"], PartNumber=1, Body=b"x")

    def left() -> list[str]:
        return sorted(upload["Key"] for upload in client.list_multipart_uploads(Bucket="magistral").get("Uploads", []))

    store.check()
    assert left() == ["half/other", "half/runs/r/a", "runs/of-another-prefix"], "they may still be written"
    monkeypatch.setattr(s3, "_STALE", timedelta(minutes=-1))  # the server tells whole seconds, perhaps the next one
    store.check()
    assert left() == ["half/other", "runs/of-another-prefix"]
