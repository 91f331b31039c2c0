"""What Swift reads before it starts: one device, three rings of it, and a configuration file for each of four servers.

A ring says which partition lies on which device, and which port serves that device. With one device and one replica the
assignment is always the same, so rings are written afresh at each start with the ports found free then; what must
never change once data exists is the partition power and the hash suffix.
"""

from __future__ import annotations

import base64
import errno
import os
import re
import secrets
import uuid
from pathlib import Path

from magistral_core.errors import InputError

HOST = "127.0.0.1"
SERVERS = ("account", "container", "object", "proxy")
DEVICE = "disk"
#: 2**4 partitions: folders, not capacity. Fixed for the life of the data.
PART_POWER = 4
#: Requests between the servers wait this long, so that a busy laptop does not turn into lost listings.
NODE_TIMEOUT_S = 60
CHUNK = 1 << 20
#: Left free on the disk, so that the listings (SQLite) can still be written when objects no longer fit.
RESERVE_BYTES = 32 << 20
#: Swift keeps an object's metadata in extended attributes, in pieces below what ext4 stores.
_XATTR_BYTES = 2048

_COMMON = """\
[DEFAULT]
bind_ip = {host}
bind_port = {port}
workers = 0
swift_dir = {conf}
devices = {devices}
mount_check = false
log_level = WARNING
log_name = {name}
fallocate_reserve = {reserve}
client_timeout = 120
conn_timeout = 5
node_timeout = {node_timeout}
"""

_OBJECT = """
[pipeline:main]
pipeline = object-server

[app:object-server]
use = egg:swift#object
disk_chunk_size = {chunk}
network_chunk_size = {chunk}
container_update_timeout = {node_timeout}

[object-updater]
concurrency = 1
updater_workers = 1
"""

_PLAIN = """
[pipeline:main]
pipeline = {name}-server

[app:{name}-server]
use = egg:swift#{name}
"""

# `copy` stands after s3api and tempauth: before them, copies are silently wrong.
_PROXY = """
[pipeline:main]
pipeline = catch_errors gatekeeper healthcheck full_disk listing_formats bulk
    s3api tempauth copy slo dlo versioned_writes symlink proxy-server

[filter:catch_errors]
use = egg:swift#catch_errors
[filter:gatekeeper]
use = egg:swift#gatekeeper
[filter:healthcheck]
use = egg:swift#healthcheck
[filter:full_disk]
paste.filter_factory = infra.s3.full_disk:filter_factory
folder = {devices}
keep_free = {reserve}
[filter:listing_formats]
use = egg:swift#listing_formats
[filter:bulk]
use = egg:swift#bulk
[filter:s3api]
use = egg:swift#s3api
max_upload_part_num = 10000
[filter:tempauth]
use = egg:swift#tempauth
user64_{account64}_{user64} = {secret} .admin
[filter:copy]
use = egg:swift#copy
[filter:slo]
use = egg:swift#slo
max_manifest_segments = 10000
[filter:dlo]
use = egg:swift#dlo
[filter:versioned_writes]
use = egg:swift#versioned_writes
[filter:symlink]
use = egg:swift#symlink

[app:proxy-server]
use = egg:swift#proxy
account_autocreate = true
object_chunk_size = {chunk}
client_chunk_size = {chunk}
recoverable_node_timeout = {node_timeout}
# One device: there is no other to turn to, so errors must never suppress it.
error_suppression_limit = 1000000000
error_suppression_interval = 0
"""


def check_credentials(access_key: str, secret_key: str) -> None:
    """Raise InputError unless the keys can stand in Swift's configuration: ACCOUNT:user, and a plain secret."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*:[A-Za-z0-9][A-Za-z0-9._-]*", access_key):
        raise InputError(f"S3 access key {access_key!r}: this server wants ACCOUNT:user of letters, digits, dot, dash and underscore")
    if not re.fullmatch(r"[A-Za-z0-9._=+/-]{8,}", secret_key):
        raise InputError("S3 secret key: this server wants at least 8 letters, digits or . _ = + / -")


def prepare(folder: Path, ports: dict[str, int], access_key: str, secret_key: str) -> dict[str, Path]:
    """Create folders, `swift.conf`, rings and configuration files; returns the configuration file of each server.

    Raises:
        InputError: the folder cannot be written, or its file system has no extended attributes.
    """
    check_credentials(access_key, secret_key)
    conf, device = folder / "conf", folder / "devices" / DEVICE
    try:
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o700)  # the configuration holds the secret, the devices hold the data
        conf.mkdir(exist_ok=True)
        device.mkdir(parents=True, exist_ok=True)
        _check_xattrs(device)
        _write_hash_suffix(conf / "swift.conf", device)
        for name in ("account", "container", "object"):
            _write_ring(conf / f"{name}.ring.gz", ports[name])
        account, user = access_key.split(":")
        values = {
            "host": HOST,
            "conf": conf,
            "devices": device.parent,
            "reserve": RESERVE_BYTES,
            "node_timeout": NODE_TIMEOUT_S,
            "chunk": CHUNK,
            "account64": _base64(account),
            "user64": _base64(user),
            "secret": secret_key,
        }
        files = {}
        for name in SERVERS:
            text = _COMMON + {"object": _OBJECT, "proxy": _PROXY}.get(name, _PLAIN)
            files[name] = conf / f"{name}.conf"
            _write_private(files[name], text.format(name=name, port=ports[name], **values))
        return files
    except OSError as error:
        raise InputError(f"{folder}: the S3 server cannot keep its data here ({error.strerror}); give it another folder") from error


def _base64(text: str) -> str:
    return base64.b64encode(text.encode()).decode().rstrip("=")  # Swift pads it again


def _check_xattrs(device: Path) -> None:
    probe = device / f".probe-{uuid.uuid4().hex}"
    probe.touch()
    try:
        os.setxattr(probe, "user.swift.probe", b"x" * _XATTR_BYTES)
    except OSError as error:
        if error.errno not in (errno.ENOTSUP, errno.EPERM, errno.E2BIG):
            raise
        raise InputError(
            f"{device}: its file system keeps no extended attributes, which the S3 server needs; use a folder on ext4, xfs or btrfs"
        ) from error
    finally:
        probe.unlink()


def _write_hash_suffix(path: Path, device: Path) -> None:
    """Write the secret that places objects into folders: once, for without it the data cannot be found again."""
    if path.exists():
        return
    if any(device.iterdir()):
        raise InputError(f"{path}: missing, but {device} holds data that cannot be read without it; restore the file or empty the folder")
    text = f"[swift-hash]\nswift_hash_path_suffix = {secrets.token_hex(16)}\n\n[storage-policy:0]\nname = one\ndefault = yes\n"
    _write_private(path, text)


def _write_private(path: Path, text: str) -> None:
    partial = path.with_suffix(".partial")
    with open(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


def _write_ring(path: Path, port: int) -> None:
    from swift.common.ring import RingBuilder

    builder = RingBuilder(PART_POWER, replicas=1, min_part_hours=0)
    builder.add_dev({"id": 0, "region": 1, "zone": 1, "ip": HOST, "port": port, "device": DEVICE, "weight": 1.0, "meta": ""})
    builder.rebalance(seed="0")
    partial = path.with_suffix(".partial")
    builder.get_ring().save(str(partial))
    partial.replace(path)
