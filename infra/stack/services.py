"""The four services of the stack: how each is started, where it answers, and what replaces it."""

from __future__ import annotations

import base64
import http.client
import json
import os
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from infra.s3.probe import healthy as s3_healthy
from infra.stack.home import State, home, read_secrets, secrets_file

CHECKOUT = Path(__file__).resolve().parents[2]
HOST = "127.0.0.1"
POOL = "magistral"
BUCKET = "s3://magistral"
_PROBE_S = 3.0
#: What Prefect's server looks for every five seconds by default, all day: a third of what it takes of a core while nothing happens.
_SELDOM = {
    "PREFECT_SERVER_SERVICES_LATE_RUNS_LOOP_SECONDS": "15",
    "PREFECT_SERVER_SERVICES_SCHEDULER_RECENT_DEPLOYMENTS_LOOP_SECONDS": "15",
    "PREFECT_SERVER_SERVICES_PAUSE_EXPIRATIONS_LOOP_SECONDS": "30",
    "PREFECT_SERVER_SERVICES_CLEANUP_RECONCILER_LOOP_SECONDS": "30",
    "PREFECT_SERVER_EVENTS_PROACTIVE_GRANULARITY": "PT30S",
}
#: Prefect's answer while another process writes to its SQLite database.
_BUSY, _BUSY_TRIES = 503, 6


@dataclass(frozen=True)
class Service:
    """One server.

    Attributes:
        variables: any of these names a production endpoint that replaces it; the first is the one we set.
        port: the usual one; another is found where it is taken.
        command: of the process, given its port.
        url: for people, given its port.
    """

    name: str
    variables: tuple[str, ...]
    port: int
    command: Callable[[int], list[str]]
    url: Callable[[int], str]
    answers: Callable[[str], bool]


def _prefect(port: int) -> list[str]:
    return [
        sys.executable,
        "-m",
        "infra.stack.prefect_server",
        "server",
        "start",
        "--host",
        HOST,
        "--port",
        str(port),
        "--analytics-off",
        "--log-level",
        "WARNING",
    ]


def _mlflow(port: int) -> list[str]:
    folder = home() / "mlflow"
    folder.mkdir(exist_ok=True)
    return [
        *(sys.executable, "-m", "mlflow", "server", "--host", HOST, "--port", str(port), "--workers", "1"),
        *("--backend-store-uri", f"sqlite:///{folder}/mlflow.db", "--artifacts-destination", str(folder / "artifacts")),
    ]


def _s3(port: int) -> list[str]:
    return [sys.executable, "-m", "infra.s3", "serve", "--dir", str(home() / "s3"), "--port", str(port), "--secrets", str(secrets_file())]


def _http(port: int) -> str:
    return f"http://{HOST}:{port}"


SERVICES = (
    Service("prefect", ("PREFECT_API_URL",), 4200, _prefect, _http, lambda url: fetch(f"{url}/api/health") is not None),
    Service("mlflow", ("MLFLOW_TRACKING_URI",), 5000, _mlflow, _http, lambda url: fetch(f"{url}/health", headers={}) is not None),
    Service("s3", ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "MAGISTRAL_STORAGE_URI"), 9000, _s3, _http, s3_healthy),
)


def settings() -> dict[str, str]:
    """What every process of the stack and every client of it is told besides the addresses."""
    folder = home()
    return {
        "MAGISTRAL_HOME": str(folder),
        "PREFECT_HOME": str(folder / "prefect"),
        "PREFECT_LOCAL_STORAGE_PATH": str(folder / "prefect" / "storage"),
        "PREFECT_SERVER_UI_API_URL": "/api",  # the UI asks the port that served it, whichever that is
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
        "PREFECT_SERVER_DATABASE_TIMEOUT": "60",  # a training run leaves SQLite little of two cores
        "PREFECT_WORKER_QUERY_SECONDS": "5",  # the server works 30 ms for each query
        "PREFECT_WORKER_CANCELLATION_POLL_SECONDS": "5",
        **_SELDOM,
        "DO_NOT_TRACK": "1",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "RAY_USAGE_STATS_ENABLED": "0",
        "OMP_NUM_THREADS": "1",
        "OMP_WAIT_POLICY": "passive",
    }


def addresses(service: Service, port: int) -> dict[str, str]:
    """The variables that point clients at one of our own servers."""
    url = service.url(port)
    if service.name == "prefect":
        return {"PREFECT_API_URL": f"{url}/api"}
    if service.name == "mlflow":
        return {"MLFLOW_TRACKING_URI": url}
    keys = read_secrets()
    return {
        "AWS_ENDPOINT_URL_S3": url,
        "AWS_ACCESS_KEY_ID": keys["access_key"],
        "AWS_SECRET_ACCESS_KEY": keys["secret_key"],
        "AWS_DEFAULT_REGION": "us-east-1",
        "MAGISTRAL_STORAGE_URI": BUCKET,
    }


def external(service: Service, state: State) -> str | None:
    """The variable that names another server in place of ours, if one does.

    Variables that hold our own addresses (a shell that took over `environment()`) do not count.
    """
    port = state.ports.get(service.name)
    ours = {service.url(port), service.url(port) + "/api"} if port else set()
    if service.name == "s3" and port and any(os.environ.get(name) in ours for name in service.variables[:2]):
        return None
    for name in service.variables:
        value = os.environ.get(name, "")
        if value and value.rstrip("/") not in ours:
            return name
    return None


def environment() -> dict[str, str]:
    """Variables to lay over `os.environ`, so that Prefect, MLflow and S3 clients find the stack as it was last started.

    What the environment replaces by a production endpoint is left alone.
    """
    from magistral_core.storage.objects import REPLACES_ACCOUNT

    state = State.read()
    found = settings()
    for service in SERVICES:
        if external(service, state) is None and service.name in state.ports:
            found |= addresses(service, state.ports[service.name])
    if "AWS_ACCESS_KEY_ID" in found and _has_account(found["AWS_ACCESS_KEY_ID"]):
        found[REPLACES_ACCOUNT] = BUCKET.removeprefix("s3://")
    if external(SERVICES[2], state) is not None and not os.environ.get("MAGISTRAL_STORAGE_URI"):
        found["MAGISTRAL_STORAGE_URI"] = BUCKET  # another server, the usual bucket
    return found


def _has_account(ours: str) -> bool:
    """Whether the environment names an S3 account other than the stack's."""
    file = Path(os.environ.get("AWS_SHARED_CREDENTIALS_FILE") or "~/.aws/credentials").expanduser()
    return bool(os.environ.get("AWS_PROFILE")) or os.environ.get("AWS_ACCESS_KEY_ID", ours) != ours or file.is_file()


def worker_command() -> list[str]:
    """The process worker, which starts a process for every flow run."""
    return [sys.executable, "-m", "prefect", "worker", "start", "--pool", POOL, "--type", "process", "--name", "local"]


def worker_online(api: str) -> bool:
    """Whether our worker has reported to the server lately."""
    answer = fetch(f"{api}/work_pools/{POOL}/workers/filter", {})
    return answer is not None and any(worker["name"] == "local" and worker["status"] == "ONLINE" for worker in json.loads(answer))


def deployed(api: str) -> dict[str, dict[str, Any]]:
    """The deployments to our pool that the server has, by name."""
    answer = fetch(f"{api}/deployments/filter", {"work_pools": {"name": {"any_": [POOL]}}})
    return {str(deployment["name"]): deployment for deployment in json.loads(answer or b"[]")}


def pause_again(api: str, before: Mapping[str, Mapping[str, Any]]) -> None:
    """Applying prefect.yaml switches on what a person had switched off, in the UI say: deployments, and schedules. Off with them again."""
    for name, deployment in deployed(api).items():
        was, here = before.get(name, {}), f"{api}/deployments/{deployment['id']}"
        off = {schedule["slug"] for schedule in was.get("schedules", ()) if not schedule["active"]}
        for schedule in deployment["schedules"]:
            if schedule["slug"] in off:
                fetch(f"{here}/schedules/{schedule['id']}", {"active": False}, "PATCH")
        if was.get("paused"):
            fetch(f"{here}/pause_deployment", {})


def running_flow(api: str) -> str:
    """The name of a flow run of our pool that is in progress; empty if there is none. Without an answer there may well be one."""
    asked = {
        "flow_runs": {"state": {"type": {"any_": ["RUNNING", "PENDING"]}}},
        "work_pools": {"name": {"any_": [POOL]}},
        "limit": 1,
    }
    answer = fetch(f"{api}/flow_runs/filter", asked)
    if answer is None:
        return "what its Prefect server, which does not answer, gave it"
    return next((str(run["name"]) for run in json.loads(answer)), "")


def drop_missed(api: str) -> None:
    """Forget what a schedule asked for while the stack was down: all of it would start at once, beside the work at hand.

    Runs that a person asked for stay.
    """
    late = {"state": {"type": {"any_": ["SCHEDULED"]}}, "expected_start_time": {"before_": datetime.now(UTC).isoformat()}}
    for run in json.loads(fetch(f"{api}/flow_runs/filter", {"flow_runs": late}) or b"[]"):
        if run["auto_scheduled"]:
            fetch(f"{api}/flow_runs/{run['id']}", method="DELETE")


def prefect_headers() -> dict[str, str]:
    """Prefect's credentials from the environment: a key, or `user:password` of a server with basic authentication."""
    if key := os.environ.get("PREFECT_API_KEY"):
        return {"Authorization": f"Bearer {key}"}
    return _basic(os.environ.get("PREFECT_API_AUTH_STRING", ""))


def mlflow_headers() -> dict[str, str]:
    """MLflow's credentials from the environment."""
    if token := os.environ.get("MLFLOW_TRACKING_TOKEN"):
        return {"Authorization": f"Bearer {token}"}
    name, password = (os.environ.get(f"MLFLOW_TRACKING_{part}", "") for part in ("USERNAME", "PASSWORD"))
    return _basic(f"{name}:{password}" if name else "")


def _basic(credentials: str) -> dict[str, str]:
    return {"Authorization": "Basic " + base64.b64encode(credentials.encode()).decode()} if credentials else {}


def fetch(
    url: str, body: Mapping[str, object] | None = None, method: str | None = None, headers: Mapping[str, str] | None = None
) -> bytes | None:
    """The body of a successful answer within a few seconds, else None. Without `headers` Prefect's credentials are sent along."""
    sent = {"Content-Type": "application/json", **(prefect_headers() if headers is None else headers)}
    content = None if body is None else json.dumps(body).encode()
    for _ in range(_BUSY_TRIES):
        try:
            request = urllib.request.Request(url, content, sent, method=method)  # noqa: S310
            with urllib.request.urlopen(request, timeout=_PROBE_S) as answer:  # noqa: S310
                return answer.read()
        except urllib.error.HTTPError as error:
            if error.code != _BUSY:
                return None
            time.sleep(_PROBE_S / _BUSY_TRIES)
        except (OSError, ValueError, http.client.HTTPException):
            return None
    return None
