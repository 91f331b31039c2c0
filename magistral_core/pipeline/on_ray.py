"""What the files that know Ray share: to start or join one, which processes it is, and its errors in our words.

Ray reports nothing to its makers, and a Ray started here listens on loopback only.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import threading
from collections.abc import Awaitable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from magistral_core.errors import InfrastructureError, InputError, MagistralError
from magistral_core.pipeline.supervision import GeneratorError, RoleError

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_worker_niceness", "0")  # Ray's own 15 starves actors beside anything else on the cores
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
os.environ.setdefault("RAY_num_workers_soft_limit", "0")  # actors have an environment of their own: no process kept ready fits
os.environ.setdefault("RAY_enable_metrics_collection", "0")  # of Ray's own metrics: nothing here shows them, and they cost each process

import psutil
import ray
from ray.exceptions import NodeDiedError, ObjectLostError, OutOfMemoryError, RayActorError, RayError, RayTaskError

T = TypeVar("T")
_OBJECT_STORE_BYTES = 256 * 2**20
_CLOSE_SECONDS = 10.0
#: A cluster that is there accepts a connection within this.
_CONNECT_SECONDS = 5.0
_LOCAL = "127.0.0.1"


async def end(actors: Sequence[Any]) -> None:
    """Let actors close in order, within a limit, and end them."""
    closing = [actor.close.remote() for actor in actors]
    if closing:
        await asyncio.to_thread(ray.wait, closing, num_returns=len(closing), timeout=_CLOSE_SECONDS)
    for actor in actors:
        ray.kill(actor)


def start_ray(address: str | None, setting: str = "pipeline.ray_address") -> None:
    """Join a running cluster, or start a Ray of our own on this machine. Raises InputError, naming `setting`, without such a cluster."""
    if address is not None:
        host, colon, port = address.rpartition(":")
        try:
            if colon and port.isdecimal() and "://" not in address:  # Ray itself would try for 40 seconds, and then end this process
                socket.create_connection((host.strip("[]"), int(port)), _CONNECT_SECONDS).close()
            with own_handler():
                ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
        except (OSError, OverflowError) as error:
            # By these words a flow's second attempt tells a head that is away for a while from bad input.
            raise InputError(f"{setting} {address}: the Ray cluster cannot be reached there; start one with `ray start --head`") from error
        except RuntimeError as error:  # another version of Ray or of Python
            raise InputError(f"{setting} {address}: Ray cannot join that cluster ({' '.join(str(error).split())[:300]})") from error
        return
    with own_handler():
        ray.init(
            address="local",  # never a cluster that some variable names
            include_dashboard=False,
            log_to_driver=False,  # vLLM and DeepSpeed are chatty; what matters comes back as an error
            logging_level=logging.ERROR,
            object_store_memory=_OBJECT_STORE_BYTES,
            _node_ip_address=_LOCAL,
        )
    # It looks into all logs ten times a second, for a driver that wants to hear of them.
    ray._private.worker.global_worker.node.kill_log_monitor(check_alive=False)


@contextmanager
def own_handler() -> Iterator[None]:
    """Ray puts a handler of its own in the place of SIGTERM's: another exit code, and a second signal would break the closing off."""
    kept = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if kept is not None and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, kept)


def processes_of_ray() -> list[int]:
    """What Ray started here: children that run from its package, with their descendants.

    Not Python's resource trackers, which end by themselves: they remove what killed processes leave in shared memory.
    """
    package = str(Path(ray.__file__).parent)
    heads = [child for child in psutil.Process().children() if any(word.startswith(package) for word in child.cmdline())]
    found = [process for head in heads for process in (head, *head.children(recursive=True))]
    return [process.pid for process in found if not _tracks_resources(process)]


def _tracks_resources(process: psutil.Process) -> bool:
    try:
        return any("multiprocessing.resource_tracker" in word for word in process.cmdline())
    except psutil.Error:  # it has just ended
        return False


def _log_folder() -> str:
    node = ray._private.worker.global_worker.node
    return f"{node.get_session_dir_path()}/logs" if node else "Ray's session folder"


async def reply_of(call: Awaitable[T], who: str, death: type[RoleError]) -> T:
    """Wait for an actor's answer; an error becomes one line that names the role, a dead actor (or a generator's dead engine) `death`."""
    try:
        return await call
    except RayTaskError as error:
        cause = error.cause
        if isinstance(cause, InfrastructureError) and death is GeneratorError:
            raise death(f"{who}: {cause}; its log is under {_log_folder()}") from error
        if isinstance(cause, MagistralError):
            raise type(cause)(f"{who}: {cause}") from error
        raise InfrastructureError(f"{who} failed: {type(cause).__name__}: {cause}") from error
    # The last two: an answer that went with its node, and a process that Ray ended because its node had no memory left.
    except (RayActorError, NodeDiedError, ObjectLostError, OutOfMemoryError) as error:
        why = " ".join(str(error).split())[:200]
        raise death(f"{who} died ({why}); its log is under {_log_folder()}; run the same command again to resume") from error
    except RayError as error:
        raise InfrastructureError(f"{who}: {error}") from error
