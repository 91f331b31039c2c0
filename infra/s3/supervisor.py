"""The foreground process of the S3 server: binds the ports, forks the four Swift servers, ends with the first that ends.

    bind sockets -> write configuration -> fork account, container, object, proxy -> ready line on stdout -> wait

A child dies with this process, however that ends (parent-death signal), and this process ends when any child does: a
server with a part missing would answer with errors instead of data.
"""

from __future__ import annotations

import ctypes
import fcntl
import json
import logging
import os
import signal
import socket
import sys
import time
import traceback
from pathlib import Path
from typing import IO, NoReturn

from infra.s3.layout import DEVICE, HOST, SERVERS, prepare
from infra.s3.probe import healthy
from magistral_core.errors import InfrastructureError, InputError

READY_TIMEOUT_S = 60.0
_PR_SET_PDEATHSIG = 1


def serve(folder: Path, access_key: str, secret_key: str, port: int | None = None, parent: int | None = None) -> None:
    """Serve until SIGTERM or SIGINT; prints `{"endpoint": ..., "pid": ...}` on stdout once requests are answered.

    Args:
        folder: where the data lives; made if missing. One server a folder.
        access_key, secret_key: the only account, `ACCOUNT:user` and its secret. Another account sees other buckets.
        port: of the S3 endpoint; None for a free one.
        parent: end when the process that started this one does; its process id.

    Raises:
        InputError: the folder or the port cannot be used. InfrastructureError: a server ended or never answered.
    """
    die_with_parent(parent)
    folder = folder.resolve()
    lock = _lock(folder)
    sockets = {name: _listen(port if name == "proxy" else None) for name in SERVERS}
    ports = {name: bound.getsockname()[1] for name, bound in sockets.items()}
    configurations = prepare(folder, ports, access_key, secret_key)
    _preload()
    children: dict[int, str] = {}
    try:
        for name in SERVERS:
            children[_fork_server(name, configurations[name], sockets)] = name
        for bound in sockets.values():
            bound.close()  # else connections would still be accepted, and never answered, after a child ended
        signal.signal(signal.SIGTERM, _stop)
        endpoint = f"http://{HOST}:{ports['proxy']}"
        _wait_ready(endpoint, children)
        if any((folder / "devices" / DEVICE).glob("async_pending*/*/*")):
            _fork_updater(configurations["object"])
        print(json.dumps({"endpoint": endpoint, "pid": os.getpid()}), flush=True)
        _wait(children)
    except KeyboardInterrupt:
        pass
    finally:
        _end(children)
        lock.close()


def die_with_parent(parent: int | None) -> None:
    """Have the kernel end this process with its parent; ends at once if the parent is gone already."""
    if parent is None:
        return
    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0):
        raise InfrastructureError(f"prctl: {os.strerror(ctypes.get_errno())}")
    if os.getppid() != parent:
        os._exit(0)


def _lock(folder: Path) -> IO[str]:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = open(folder / "lock", "a+")  # noqa: SIM115 - held for the life of the process
    except OSError as error:
        raise InputError(f"{folder}: the S3 server cannot keep its data here ({error.strerror}); give it another folder") from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        lock.seek(0)
        raise InputError(f"{folder}: an S3 server already runs here (process {lock.read().strip() or 'unknown'}); end it first") from error
    lock.truncate(0)
    lock.write(str(os.getpid()))
    lock.flush()
    return lock


def _listen(port: int | None) -> socket.socket:
    bound = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    bound.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    try:
        bound.bind((HOST, port or 0))
        bound.listen(1024)
    except (OSError, OverflowError) as error:
        raise InputError(f"S3 server: port {port} on {HOST} cannot be used ({error}); choose another") from error
    return bound


def _preload() -> None:
    """Import what the children need once, before forking: they start sooner and share the memory."""
    import swift.account.server
    import swift.common.middleware.s3api.s3api
    import swift.container.server
    import swift.obj.server
    import swift.obj.updater
    import swift.proxy.server  # noqa: F401


def _fork_server(name: str, configuration: Path, sockets: dict[str, socket.socket]) -> int:
    parent = os.getpid()
    pid = os.fork()
    if pid:
        return pid
    try:
        die_with_parent(parent)
        for other, bound in sockets.items():
            if other != name:
                bound.close()
        _run_server(name, configuration, sockets[name])
    except BaseException:  # noqa: BLE001 - a forked child must never return into the supervisor's code
        traceback.print_exc()
    finally:
        os._exit(1)


def _run_server(name: str, configuration: Path, bound: socket.socket) -> None:
    from eventlet.greenio import GreenSocket  # type: ignore[import-untyped]
    from swift.common import wsgi
    from swift.obj.server import global_conf_callback

    _green()
    extra = {"global_conf_callback": global_conf_callback} if name == "object" else {}
    conf, logger, global_conf, _ = wsgi.check_config(str(configuration), f"{name}-server", verbose=True, **extra)
    wsgi.run_server(conf, logger, GreenSocket(bound), global_conf=global_conf)


def _fork_updater(configuration: Path) -> None:
    """Write the listings that a killed container server missed; runs once, beside the servers."""
    parent = os.getpid()
    if os.fork():
        return
    try:
        die_with_parent(parent)
        from swift.common.utils import readconf
        from swift.common.wsgi import set_swift_dir
        from swift.obj.updater import ObjectUpdater

        _green()
        conf = readconf(str(configuration), "object-updater", log_name="updater")
        set_swift_dir(conf["swift_dir"])
        ObjectUpdater(conf).run_once()
    except BaseException:  # noqa: BLE001 - as above
        traceback.print_exc()
    finally:
        os._exit(0)


def _green() -> None:
    """Make this process cooperative (Swift runs on eventlet), and have it log to stderr.

    Swift would log to syslog, and to UDP port 514 where there is none. While eventlet looks for locks to replace it
    stumbles over one of its own objects and prints a traceback that means nothing: no lock is held by it.
    """
    from swift.common.utils import logs, monkey_patch

    kept, logging.lastResort = logging.lastResort, logging.NullHandler()  # type: ignore[assignment]
    monkey_patch()
    logging.lastResort = kept
    logs.ThreadSafeSysLogHandler = lambda **_: logging.NullHandler()


def _wait_ready(endpoint: str, children: dict[int, str]) -> None:
    deadline = time.monotonic() + READY_TIMEOUT_S
    while not healthy(endpoint):
        _raise_if_ended(children, os.WNOHANG)
        if time.monotonic() > deadline:
            raise InfrastructureError(f"S3 server: no answer at {endpoint} within {READY_TIMEOUT_S:.0f} s")
        time.sleep(0.05)


def _wait(children: dict[int, str]) -> NoReturn:
    while True:
        _raise_if_ended(children, 0)


def _raise_if_ended(children: dict[int, str], flags: int) -> None:
    pid, status = os.waitpid(-1, flags)
    if pid in children:
        name = children.pop(pid)
        raise InfrastructureError(f"S3 server: its {name} server ended (status {os.waitstatus_to_exitcode(status)}); the log says why")


def _stop(signum: int, frame: object) -> NoReturn:
    raise KeyboardInterrupt


def _end(children: dict[int, str]) -> None:
    """Kill: everything acknowledged is on disk already, so there is nothing to wait for."""
    for pid in children:
        os.kill(pid, signal.SIGKILL)
    for pid in children:
        os.waitpid(pid, 0)
    sys.stdout.flush()
