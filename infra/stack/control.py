"""Start, end and describe the local stack.

up:   prefect --+--> worker --> deployments
      mlflow  --+   (each is waited for; what runs already and is unchanged is left as it is)
      s3      --+
"""

from __future__ import annotations

import hashlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import psutil
import yaml

from infra.stack import processes
from infra.stack.home import State, home, locked, log_file, make_home, read_secrets
from infra.stack.services import (
    CHECKOUT,
    HOST,
    POOL,
    SERVICES,
    Service,
    deployed,
    drop_missed,
    environment,
    external,
    fetch,
    mlflow_headers,
    pause_again,
    running_flow,
    settings,
    worker_command,
    worker_online,
)
from magistral_core.errors import InfrastructureError, InputError
from magistral_core.tracking.server import holds_credentials

#: A first start on two busy cores took Prefect 24 s.
_START_S = 300.0
_DEPLOY_S = 300.0
_POLL_S = 0.2


def up(on_progress: Callable[[str], None] | None = None) -> dict[str, Any]:
    """Start what does not run yet; returns what `status` does.

    Args:
        on_progress: called with one line for each thing started.

    Raises:
        InputError: a production endpoint does not answer. InfrastructureError: a server did not start; names its log.
    """
    say = on_progress or (lambda _line: None)
    make_home()
    with locked():
        state = State.read()
        _check_host(state)
        _check_external(state)
        for service in SERVICES:
            if external(service, state) is None:
                port = _port(service, state)
                _ensure(state, service.name, service.command(port), settings(), port, say)
        _wait(state, {service.name: _answering(service, state) for service in SERVICES if service.name in state.running})
        api = _api()
        if external(SERVICES[0], state) is None and not ("worker" in state.running and processes.find(state.running["worker"])):
            drop_missed(api)
        _ensure(state, "worker", worker_command(), environment(), 0, say, _work_of_worker)
        _wait(state, {"worker": lambda: fetch(f"{api}/work_pools/{POOL}") is not None})
        _deploy(state, api, say)
        _wait(state, {"worker": lambda: worker_online(api)})
    return status()


def down() -> list[str]:
    """End everything that `up` started; data stay. Returns the names of what ran.

    Raises:
        InfrastructureError: a process would not end, even by SIGKILL.
    """
    with locked():
        state = State.read()
        _check_host(state)
        names = [name for name, running in state.running.items() if processes.find(running)]
        worker = state.running.pop("worker", None)  # first, while its server can still record what becomes of its runs
        left = processes.end([worker] if worker else [])
        left += processes.end(state.running.values())
        if left:
            raise InfrastructureError(f"stack: processes {', '.join(map(str, left))} did not end; see {home() / 'logs'}")
        state.running.clear()
        state.write()
    return names


def status() -> dict[str, Any]:
    """Every service's address, process and health; `up` is true when all are well."""
    state = State.read()
    services: dict[str, dict[str, Any]] = {}
    for service in SERVICES:
        variable = external(service, state)
        if variable is not None:
            services[service.name] = {
                "url": os.environ[variable],
                "healthy": not _fault(service),
                "pid": None,
                "external": variable,
                "log": None,
            }
            continue
        running = state.running.get(service.name)
        alive = running is not None and processes.find(running) is not None
        url = service.url(running.port) if running and alive else None
        healthy = url is not None and service.answers(url)
        pid = running.pid if running and alive else None
        services[service.name] = {"url": url, "healthy": healthy, "pid": pid, "external": None, "log": str(log_file(service.name))}
    worker = state.running.get("worker")
    alive = worker is not None and processes.find(worker) is not None
    healthy = alive and worker_online(_api())
    services["worker"] = {
        "url": None,
        "healthy": healthy,
        "pid": worker.pid if worker and alive else None,
        "external": None,
        "log": str(log_file("worker")),
    }
    return {"up": all(item["healthy"] for item in services.values()), "home": str(home()), "services": services}


def _work_of_worker(worker: psutil.Process) -> str:
    """The name of a flow run that a worker has in hand, asked of the server that it works for; empty if there is none."""
    return running_flow(worker.environ().get("PREFECT_API_URL", ""))


def _ensure(
    state: State,
    name: str,
    command: list[str],
    overlay: dict[str, str],
    port: int,
    say: Callable[[str], None],
    busy_with: Callable[[psutil.Process], str] = lambda _process: "",
) -> None:
    more = _inherited() if name == "worker" else sorted(read_secrets().items()) if name == "s3" else []
    digest = hashlib.sha256(repr((command, sorted(overlay.items()), more)).encode()).hexdigest()[:16]
    running = state.running.get(name)
    if running is not None:
        if processes.find(running) and running.digest == digest:
            return
        if (process := processes.find(running)) and (work := busy_with(process)):  # it would end with its process
            say(
                f"{name} keeps the environment that it was started with, for it runs {work}; "
                "for the new one, stack up once that is done, or stack down first"
            )
            return
        if name == "worker" and processes.find(running) is None and processes.left(running) and (work := running_flow(_api())):
            say(f"the worker died; {work}, which it had started, goes on")
            state.running[f"worker-{running.pid}"] = running  # `down` ends it
        else:
            processes.end([running])  # settings changed, or its leader died and left others behind
    say(f"starting {name}" + (f" on port {port}" if port else ""))
    # On a machine that trains, an engine waited for its core where a server had just woken. What the worker starts must not give way.
    gives_way = name != "worker"
    state.running[name] = processes.spawn(command, {**os.environ, **overlay}, log_file(name), CHECKOUT, port, digest, gives_way=gives_way)
    if port:
        state.ports[name] = port
    state.write()  # at once: a start that is cut short can still be ended


_PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "ALL_PROXY")


def _inherited() -> list[tuple[str, str]]:
    """The caller's variables that decide where flow runs find their servers and their files, and by what right."""
    overlaid = environment()
    names = (
        *("PREFECT_API_KEY", "PREFECT_API_AUTH_STRING", "MAGISTRAL_CACHE", "CUDA_VISIBLE_DEVICES", "PYTHONPATH", "LD_LIBRARY_PATH"),
        *("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN"),
        *("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE"),
        *(name for service in SERVICES for name in service.variables),
        *(name for name in os.environ if name.startswith(("AWS_", "HF_", "NCCL_")) or name.upper() in _PROXIES),
    )
    return sorted((name, os.environ[name]) for name in set(names) if name in os.environ and name not in overlaid)


def _port(service: Service, state: State) -> int:
    """The running one's port; else the port of last time or the usual one, if free; else any free one."""
    running = state.running.get(service.name)
    if running is not None and processes.find(running):
        return running.port
    for port in (state.ports.get(service.name), service.port):
        if port and _free(port):
            return port
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def _free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True


def _answering(service: Service, state: State) -> Callable[[], bool]:
    url = service.url(state.running[service.name].port)
    return lambda: service.answers(url)


def _wait(state: State, conditions: dict[str, Callable[[], bool]]) -> None:
    """Wait until every service answers; one that ended, or takes too long, is an error that names its log."""
    deadline = time.monotonic() + _START_S
    waiting = dict(conditions)
    while waiting:
        for name, condition in list(waiting.items()):
            log = log_file(name)
            if processes.find(state.running[name]) is None:
                raise InfrastructureError(f"stack: {name} ended while starting ({processes.last_line(log)}); see {log}")
            if condition():
                del waiting[name]
            elif time.monotonic() > deadline:
                raise InfrastructureError(f"stack: {name} did not answer within {_START_S:.0f} s; see {log}")
        time.sleep(_POLL_S)


def _deploy(state: State, api: str, say: Callable[[str], None]) -> None:
    """Apply prefect.yaml, unless the same was applied to the same server before and is there still."""
    digest = hashlib.sha256(f"{api} {CHECKOUT} {sys.executable}".encode())
    for file in sorted(
        [CHECKOUT / "prefect.yaml", *CHECKOUT.glob("flows/*.py"), *CHECKOUT.glob("tasks/*.py"), *(CHECKOUT / "recipes").rglob("*.yaml")]
    ):
        digest.update(file.read_bytes())
    before = deployed(api)
    if state.deployed == digest.hexdigest() and _deployments() <= before.keys():
        return
    say("applying the deployments")
    log = log_file("deploy")
    command = [sys.executable, "-m", "prefect", "--no-prompt", "deploy", "--all"]
    with log.open("wb") as output:
        try:
            code = subprocess.run(
                command,
                cwd=CHECKOUT,
                env={**os.environ, **environment()},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                timeout=_DEPLOY_S,
            ).returncode
        except subprocess.TimeoutExpired as error:
            raise InfrastructureError(f"stack: applying the deployments took more than {_DEPLOY_S:.0f} s; see {log}") from error
    if code:
        raise InfrastructureError(f"stack: the deployments were not applied ({processes.last_line(log)}); see {log}")
    pause_again(api, before)
    state.deployed = digest.hexdigest()
    state.write()


def _deployments() -> set[str]:
    """The names of the deployments that prefect.yaml has."""
    return {deployment["name"] for deployment in yaml.safe_load((CHECKOUT / "prefect.yaml").read_text())["deployments"]}


def _api() -> str:
    """Prefect's API, ours or the environment's; empty before the first start."""
    return (environment().get("PREFECT_API_URL") or os.environ.get("PREFECT_API_URL", "")).rstrip("/")


def _check_host(state: State) -> None:
    """Raises InputError where another machine, which sees the same folder, has the stack: process ids and ports are its own."""
    here = socket.gethostname()
    if state.running and state.host != here and not any(map(processes.find, state.running.values())):  # a name may change, too
        raise InputError(
            f"{home()}: its stack runs on {state.host}, this is {here}; end it there (magistral stack down), or set MAGISTRAL_HOME to "
            f"another folder here; if that machine is gone, remove {home() / 'stack.json'}"
        )
    state.host = here


def _check_external(state: State) -> None:
    for service in SERVICES:
        variable = external(service, state)
        if variable is not None and holds_credentials(os.environ[variable]):  # not shown, for the password
            raise InputError(f"{service.name}: {variable}: no name or password in it; they have variables, see docs/operations.md")
        if variable is not None and (fault := _fault(service)):
            raise InputError(f"{service.name}: {variable}={os.environ[variable]} {fault}, or unset {variable} for a local one")


def _fault(service: Service) -> str:
    """What is wrong with the server that the environment names, and the mend; empty if it answers."""
    silent = "does not answer; start that server"
    if service.name == "prefect":
        return "" if fetch(os.environ["PREFECT_API_URL"].rstrip("/") + "/health") is not None else silent
    if service.name == "mlflow":
        uri = os.environ["MLFLOW_TRACKING_URI"].rstrip("/")
        return "" if not uri.startswith("http") or fetch(f"{uri}/health", headers=mlflow_headers()) is not None else silent
    from magistral_core.storage import open_store

    try:
        open_store(os.environ.get("MAGISTRAL_STORAGE_URI") or environment()["MAGISTRAL_STORAGE_URI"]).check()
    except (InputError, InfrastructureError) as error:
        return f"cannot be used: {error}"
    return ""
