"""The embedded S3 server: a real one, over a temporary folder."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import psutil
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError

from infra.s3 import S3Server
from infra.s3.layout import prepare
from magistral_core.errors import InputError

ACCESS, SECRET = "magistral:admin", "a-secret-for-tests"
CHECKOUT = Path(__file__).resolve().parents[2]


def client(server: S3Server, secret: str = SECRET) -> Any:
    return boto3.client(
        "s3",
        endpoint_url=server.endpoint,
        aws_access_key_id=ACCESS,
        aws_secret_access_key=secret,
        region_name="us-east-1",
        config=Config(s3={"addressing_style": "path"}, retries={"max_attempts": 1}),
    )


def family(server: S3Server) -> list[psutil.Process]:
    assert server.pid
    supervisor = psutil.Process(server.pid)
    return [supervisor, *supervisor.children(recursive=True)]


def all_end(processes: list[psutil.Process]) -> bool:
    return not psutil.wait_procs(processes, timeout=10)[1]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with S3Server(tmp_path_factory.mktemp("s3"), ACCESS, SECRET) as running:
        client(running).create_bucket(Bucket="bucket")
        yield running


def test_objects_multipart_listing_and_batch_delete(server: S3Server) -> None:
    s3 = client(server)
    s3.put_object(Bucket="bucket", Key="a/one", Body=b"1")
    upload = s3.create_multipart_upload(Bucket="bucket", Key="a/parts")["UploadId"]
    pieces = [os.urandom(5 << 20), b"end"]
    parts = []
    for number, piece in enumerate(pieces, 1):
        tag = s3.upload_part(Bucket="bucket", Key="a/parts", UploadId=upload, PartNumber=number, Body=piece)["ETag"]
        parts.append({"PartNumber": number, "ETag": tag})
    s3.complete_multipart_upload(Bucket="bucket", Key="a/parts", UploadId=upload, MultipartUpload={"Parts": parts})
    assert s3.get_object(Bucket="bucket", Key="a/parts")["Body"].read() == b"".join(pieces)
    listed = s3.list_objects_v2(Bucket="bucket", Prefix="a/")["Contents"]
    assert [(item["Key"], item["Size"]) for item in listed] == [("a/one", 1), ("a/parts", (5 << 20) + 3)]
    gone = s3.delete_objects(Bucket="bucket", Delete={"Objects": [{"Key": "a/one"}, {"Key": "a/parts"}]})
    assert "Errors" not in gone
    assert "Contents" not in s3.list_objects_v2(Bucket="bucket", Prefix="a/")


def test_a_wrong_secret_and_a_wrong_checksum_are_refused(server: S3Server) -> None:
    with pytest.raises(ClientError, match="SignatureDoesNotMatch"):
        client(server, "another-secret").list_buckets()
    with pytest.raises(ClientError, match="BadDigest|XAmzContentChecksumMismatch|did not match|InvalidRequest"):
        client(server).put_object(Bucket="bucket", Key="damaged", Body=b"abc", ChecksumCRC32="AAAAAA==")
    with pytest.raises(ClientError, match="NoSuchKey"):
        client(server).get_object(Bucket="bucket", Key="damaged")


def test_every_process_listens_on_loopback_only(server: S3Server) -> None:
    listening = [c for process in family(server) for c in process.net_connections("tcp") if c.status == psutil.CONN_LISTEN]
    assert len({c.laddr.port for c in listening}) == 4
    assert {c.laddr.ip for c in listening} == {"127.0.0.1"}


def test_a_second_server_over_the_same_folder_is_refused(server: S3Server) -> None:
    with pytest.raises(InputError, match="already runs here"):
        S3Server(server.folder, ACCESS, SECRET).start()
    assert server.healthy()


def test_a_taken_port_is_refused(server: S3Server, tmp_path: Path) -> None:
    port = int(server.endpoint.rsplit(":", 1)[1])
    with pytest.raises(InputError, match=f"port {port} .* choose another"):
        S3Server(tmp_path, ACCESS, SECRET, port=port).start()


@pytest.mark.parametrize(("access", "secret"), [("admin", SECRET), ("a:b", "short"), ("a:b", "with a space in it"), ("a:b:c", SECRET)])
def test_credentials_that_swift_cannot_hold_are_refused(tmp_path: Path, access: str, secret: str) -> None:
    with pytest.raises(InputError, match="key"):
        S3Server(tmp_path, access, secret)


def test_data_without_its_hash_suffix_is_not_served(tmp_path: Path) -> None:
    ports = {"account": 1, "container": 2, "object": 3, "proxy": 4}
    prepare(tmp_path, ports, ACCESS, SECRET)
    (tmp_path / "devices" / "disk" / "objects").mkdir()
    (tmp_path / "conf" / "swift.conf").unlink()
    with pytest.raises(InputError, match="swift.conf: missing"):
        prepare(tmp_path, ports, ACCESS, SECRET)


def test_killed_in_any_way_nothing_survives_and_no_data_is_lost(tmp_path: Path) -> None:
    """kill -9 of the supervisor takes the children along; kill -9 of a child ends all; both leave every object readable,
    and a listing that the killed container server missed is written at the next start."""
    with S3Server(tmp_path, ACCESS, SECRET) as first:
        s3 = client(first)
        s3.create_bucket(Bucket="bucket")
        s3.put_object(Bucket="bucket", Key="kept", Body=b"value", Metadata={"note": "x"})
        upload = s3.create_multipart_upload(Bucket="bucket", Key="open")["UploadId"]
        processes = family(first)
        assert len(processes) == 5
        os.kill(processes[0].pid, signal.SIGKILL)
        assert all_end(processes)
    _put_without_listing(tmp_path, lambda: S3Server(tmp_path, ACCESS, SECRET))
    with S3Server(tmp_path, ACCESS, SECRET) as third:
        s3 = client(third)
        found = s3.get_object(Bucket="bucket", Key="kept")
        assert found["Body"].read() == b"value"
        assert found["Metadata"] == {"note": "x"}
        assert [item["UploadId"] for item in s3.list_multipart_uploads(Bucket="bucket")["Uploads"]] == [upload]
        deadline = time.monotonic() + 20
        while [item["Key"] for item in s3.list_objects_v2(Bucket="bucket")["Contents"]] != ["kept", "late"]:
            assert time.monotonic() < deadline, "the missed listing was never written"
            time.sleep(0.2)
        assert s3.get_object(Bucket="bucket", Key="late")["Body"].read() == b"here"


def _put_without_listing(folder: Path, make: Any) -> None:
    """Write an object straight into the object server while its listing cannot be written, then kill a child."""
    from swift.common import direct_client, utils
    from swift.common.ring import Ring

    with make() as server:
        conf = folder / "conf"
        utils.set_swift_dir(str(conf))
        account = "AUTH_magistral"
        partition, nodes = Ring(str(conf), ring_name="object").get_nodes(account, "bucket", "late")
        container_partition, _ = Ring(str(conf), ring_name="container").get_nodes(account, "bucket")
        unreachable = {"X-Container-Host": "127.0.0.1:1", "X-Container-Partition": str(container_partition), "X-Container-Device": "disk"}
        headers = {**unreachable, "X-Timestamp": utils.Timestamp.now().internal, "Content-Type": "text/plain"}
        direct_client.direct_put_object(nodes[0], partition, account, "bucket", "late", b"here", content_length=4, headers=headers)
        assert [item["Key"] for item in client(server).list_objects_v2(Bucket="bucket")["Contents"]] == ["kept"]
        processes = family(server)
        os.kill(processes[-1].pid, signal.SIGKILL)
        assert all_end(processes)
        assert "server ended" in server.log.read_text()


def test_the_server_ends_with_the_process_that_started_it(tmp_path: Path) -> None:
    code = f"""
import sys, time
from infra.s3 import S3Server
server = S3Server({str(tmp_path)!r}, {ACCESS!r}, {SECRET!r}).start()
print(server.pid, flush=True)
time.sleep(600)
"""
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, cwd=CHECKOUT)
    try:
        assert parent.stdout
        supervisor = psutil.Process(int(parent.stdout.readline()))
        processes = [supervisor, *supervisor.children()]
        assert len(processes) == 5
    finally:
        parent.kill()
        parent.wait()
    assert all_end(processes)


def test_secrets_from_a_file_that_others_can_read_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "secrets.json"
    path.write_text('{"access_key": "a:b", "secret_key": "12345678"}')
    path.chmod(0o644)
    command = [sys.executable, "-m", "infra.s3", "serve", "--dir", str(tmp_path / "s3"), "--secrets", str(path)]
    done = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr == f"{path}: others can read the secret; chmod 600 it\n"
