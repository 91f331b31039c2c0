"""The real stack, from its first start to its second: up, used, down, up again with its data."""

import base64
import contextlib
import json
import os
import socket
import stat
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import psutil
import pytest

from infra import stack
from infra.stack import control, home, processes, services
from magistral_core.errors import InfrastructureError, InputError
from magistral_core.storage import open_store
from magistral_core.storage.objects import REPLACES_ACCOUNT


@pytest.fixture(scope="module")
def stack_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    patch = pytest.MonkeyPatch()
    for name in [name for name in os.environ if name.startswith(("PREFECT_", "MLFLOW_", "AWS_", "MAGISTRAL_"))]:
        patch.delenv(name)
    folder = tmp_path_factory.mktemp("stack")
    patch.setenv("MAGISTRAL_HOME", str(folder))
    try:
        yield folder
    finally:
        stack.down()
        patch.undo()


def pids(status: dict[str, Any]) -> dict[str, int]:
    return {name: service["pid"] for name, service in status["services"].items()}


def ask(url: str, body: object = None) -> Any:
    for _ in range(20):
        try:
            with urllib.request.urlopen(_request(url, body), timeout=20) as answer:
                return json.loads(answer.read() or b"null")
        except urllib.error.HTTPError as error:
            if error.code != 503:  # Prefect's database is being written to
                raise
            time.sleep(1)
    raise AssertionError(f"{url} stays busy")


def _request(url: str, body: object) -> urllib.request.Request:
    return urllib.request.Request(url, None if body is None else json.dumps(body).encode(), {"Content-Type": "application/json"})


def _days_ago(days: int) -> str:
    return (datetime.now(UTC) - timedelta(days=days)).isoformat()


@pytest.mark.timeout(600)
def test_life_of_the_stack(stack_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # A usual port that is taken, whoever has it: another is found.
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            taken.bind(("127.0.0.1", 4200))
            taken.listen()
        except OSError:
            pass
        said: list[str] = []
        status = stack.up(said.append)
    assert status["up"] and all(service["healthy"] for service in status["services"].values())
    assert status["services"]["prefect"]["url"] != "http://127.0.0.1:4200"
    assert [line.split()[1] for line in said[:4]] == ["prefect", "mlflow", "s3", "worker"]
    assert stat.S_IMODE((stack_home / "secrets.json").stat().st_mode) == 0o600

    # Loopback only.
    leaders = [psutil.Process(pid) for pid in pids(status).values()]
    family = [process for leader in leaders for process in (leader, *leader.children(recursive=True))]
    listening = {
        address.laddr.ip for process in family for address in process.net_connections("tcp") if address.status == psutil.CONN_LISTEN
    }
    assert listening == {"127.0.0.1"}

    # Servers give way to what trains; the worker, whose children train, does not.
    nice = {name: psutil.Process(pid).nice() for name, pid in pids(status).items()}
    assert nice["worker"] == psutil.Process().nice() < min(nice["prefect"], nice["mlflow"], nice["s3"])

    # Again: nothing is started, nothing restarted.
    said.clear()
    assert pids(stack.up(said.append)) == pids(status) and not said

    # A deployment that somebody deleted comes back; what somebody switched off stays so.
    api = stack.environment()["PREFECT_API_URL"]
    evaluate = next(item for item in ask(f"{api}/deployments/filter", {}) if item["name"] == "evaluate")
    services.fetch(f"{api}/deployments/{evaluate['id']}", method="DELETE")
    off = {item["name"]: item for item in ask(f"{api}/deployments/filter", {}) if item["name"] in ("nightly", "demo")}
    services.fetch(f"{api}/deployments/{off['demo']['id']}/pause_deployment", {})
    night = off["nightly"]["schedules"][0]
    services.fetch(f"{api}/deployments/{off['nightly']['id']}/schedules/{night['id']}", {"active": False}, "PATCH")
    stack.up(said.append)
    assert said == ["applying the deployments"]

    # Deployments with a form, one of them on a schedule.
    deployments = {item["name"]: item for item in ask(f"{api}/deployments/filter", {})}
    assert deployments.keys() == {"train", "evaluate", "demo", "curate-math", "curate-code", "grade-difficulty", "nightly"}
    assert deployments["nightly"]["schedules"][0]["schedule"]["cron"] == "30 3 * * *"
    assert [item["active"] for item in deployments["nightly"]["schedules"]] == [False]
    assert {name for name, item in deployments.items() if item["paused"]} == {"demo"}
    night = deployments["nightly"]["schedules"][0]
    services.fetch(f"{api}/deployments/{deployments['nightly']['id']}/schedules/{night['id']}", {"active": True}, "PATCH")
    assert {item["work_pool_name"] for item in deployments.values()} == {"magistral"}
    form = deployments["train"]["parameter_openapi_schema"]["definitions"]
    assert set(form["RecipeName"]["enum"]) >= {"tiny", "gsm8k-0.5b"}
    assert form["TrainForm"]["properties"]["overrides"]["title"] == "Settings to change"
    with pytest.raises(urllib.error.HTTPError, match="409"):
        ask(f"{api}/deployments/{deployments['train']['id']}/create_flow_run", {"parameters": {"training": {"recipe": "nope"}}})

    # A run in progress is known, one that waits or has ended is not.
    started = {"parameters": {}, "state": {"type": "RUNNING"}, "name": "in-progress"}
    assert services.running_flow(api) == ""
    run = ask(f"{api}/deployments/{deployments['train']['id']}/create_flow_run", started)
    assert services.running_flow(api) == "in-progress"
    ask(f"{api}/flow_runs/{run['id']}/set_state", {"state": {"type": "CANCELLED"}, "force": True})
    assert services.running_flow(api) == ""
    services.fetch(f"{api}/flow_runs/{run['id']}", method="DELETE")
    assert services.running_flow("http://127.0.0.1:9/api")  # nobody answers there

    # Something to remember.
    for name, value in stack.environment().items():
        monkeypatch.setenv(name, value)
    store = open_store("s3://magistral/kept")
    store.check()
    store.put_bytes(b"still here", "note")
    mlflow = status["services"]["mlflow"]["url"]
    ask(f"{mlflow}/api/2.0/mlflow/experiments/create", {"name": "kept"})

    # A shell that took over the stack's variables still means the local stack.
    assert all(service["external"] is None for service in stack.status()["services"].values())

    # Nights that passed while nothing ran: no worker, and three runs that a schedule asked for.
    psutil.Process(pids(status)["worker"]).kill()
    nights = {"start_time": _days_ago(3), "end_time": _days_ago(0)}
    ask(f"{api}/deployments/{deployments['nightly']['id']}/schedule", nights)
    late = {"flow_runs": {"expected_start_time": {"before_": _days_ago(0)}}}
    assert len(ask(f"{api}/flow_runs/filter", late)) == 3

    assert "database is locked" not in home.log_file("prefect").read_text()

    assert stack.down() == ["prefect", "mlflow", "s3"]
    assert not [process for process in family if _lives(process)]
    assert not stack.status()["up"] and stack.down() == []

    again = stack.up()
    assert {name: service["url"] for name, service in again["services"].items()} == {
        name: service["url"] for name, service in status["services"].items()
    }
    assert open_store("s3://magistral/kept").get_bytes("note") == b"still here"
    assert "kept" in {item["name"] for item in ask(f"{mlflow}/api/2.0/mlflow/experiments/search?max_results=10")["experiments"]}
    assert len(ask(f"{api}/deployments/filter", {})) == len(deployments)
    assert ask(f"{api}/flow_runs/filter", late) == []  # they don't all start now


def test_secrets_are_made_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MAGISTRAL_HOME", str(tmp_path))
    first = home.read_secrets()
    assert home.read_secrets() == first and len(first["secret_key"]) >= 32
    (tmp_path / "secrets.json").write_text("{")
    with pytest.raises(InputError, match="secrets.json"):
        home.read_secrets()


def test_damaged_state_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MAGISTRAL_HOME", str(tmp_path))
    (tmp_path / "stack.json").write_text('{"running": ')
    with pytest.raises(InputError, match=r"stack\.json"):
        stack.status()


def test_a_server_that_ends_at_once_is_named_with_its_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MAGISTRAL_HOME", str(tmp_path))
    home.make_home()
    state = home.State()
    code = "print('the reason'); raise SystemExit(1)"
    control._ensure(state, "mlflow", ["python3", "-c", code], {}, 0, lambda _line: None)
    with pytest.raises(InfrastructureError, match=r"mlflow ended while starting \(the reason\); see .*mlflow\.log"):
        control._wait(state, {"mlflow": lambda: False})


def test_a_folder_whose_stack_runs_on_another_machine_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MAGISTRAL_HOME", str(tmp_path))
    state = home.State({"mlflow": home.Running(1, 0.0, 5000, "")}, host="login-node")
    state.write()
    for command in (control.up, control.down):
        with pytest.raises(InputError, match="its stack runs on login-node, .*MAGISTRAL_HOME"):
            command()
    state.running.clear()
    state.write()
    assert control.down() == []


def test_credentials_go_with_requests_and_stay_out_of_messages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PREFECT_API_KEY", raising=False)
    monkeypatch.setenv("PREFECT_API_AUTH_STRING", "admin:pw")
    assert services.prefect_headers() == {"Authorization": "Basic " + base64.b64encode(b"admin:pw").decode()}
    monkeypatch.setenv("PREFECT_API_KEY", "key")
    assert services.prefect_headers() == {"Authorization": "Bearer key"}
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://me:secret@mlflow.example")
    with pytest.raises(InputError, match="MLFLOW_TRACKING_URI: no name or password in it") as error:
        control._check_external(home.State())
    assert "secret" not in str(error.value)


def test_a_worker_with_a_run_in_progress_is_not_ended_for_another_shells_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MAGISTRAL_HOME", str(tmp_path))
    home.make_home()
    state, said = home.State(), list[str]()
    sleep = ["python3", "-c", "import time; time.sleep(600)"]

    def ensure(setting: str, work: str) -> int:
        control._ensure(state, "worker", sleep, {"SETTING": setting}, 0, said.append, lambda _process: work)
        return state.running["worker"].pid

    try:
        first = ensure("a", "")
        said.clear()
        assert ensure("b", "wise-owl") == first
        assert len(said) == 1 and said[0].startswith("worker keeps the environment that it was started with, for it runs wise-owl;")
        second = ensure("b", "")
        assert second != first
        monkeypatch.setenv("MAGISTRAL_CACHE", str(tmp_path / "cache"))
        third = ensure("b", "")
        assert third != second, "a flow run finds its files by it"
        monkeypatch.setenv("SOMETHING_ELSE", "x")
        assert ensure("b", "") == third
    finally:
        processes.end(list(state.running.values()))


def test_what_a_dead_worker_had_started_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MAGISTRAL_HOME", str(tmp_path))
    home.make_home()
    state, said = home.State(), list[str]()
    worker = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'import time; time.sleep(600)'])"
    command = [sys.executable, "-c", worker]
    try:
        control._ensure(state, "worker", command, {}, 0, said.append)
        first = psutil.Process(state.running["worker"].pid)
        assert _until(lambda: first.children())
        [flow] = first.children()
        first.kill()
        first.wait()
        monkeypatch.setattr(control, "running_flow", lambda api: "wise-owl")
        control._ensure(state, "worker", command, {}, 0, said.append)
        assert said[1] == "the worker died; wise-owl, which it had started, goes on"
        assert flow.is_running() and state.running["worker"].pid != first.pid
        monkeypatch.setattr(control, "running_flow", lambda api: "")
        second = psutil.Process(state.running["worker"].pid)
        assert _until(lambda: second.children())
        [idle] = second.children()
        second.kill()
        second.wait()
        control._ensure(state, "worker", command, {}, 0, said.append)
        assert _until(lambda: not _lives(idle)), "nothing is in progress, so what is left is ended"
        assert processes.end(list(state.running.values())) == [] and _until(lambda: not _lives(flow))
    finally:
        processes.end(list(state.running.values()))


def _lives(process: psutil.Process) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _until(condition: Callable[[], object]) -> bool:
    deadline = time.monotonic() + 20
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.05)
    return bool(condition())


def test_credentials_go_only_to_their_own_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFECT_API_KEY", "prefect-secret")
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "me")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "mlflow-secret")
    with _recording() as (url, seen):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", url)
        monkeypatch.setenv("PREFECT_API_URL", f"{url}/api")
        for service in services.SERVICES[:2]:
            assert control._fault(service) == ""
    assert seen == {"/api/health": "Bearer prefect-secret", "/health": "Basic " + base64.b64encode(b"me:mlflow-secret").decode()}


def test_an_address_without_a_scheme_is_refused_by_the_variable_s_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFECT_API_URL", "myserver/api")
    with pytest.raises(InputError, match="PREFECT_API_URL"):
        control._check_external(home.State())


@contextlib.contextmanager
def _recording() -> Iterator[tuple[str, dict[str, str]]]:
    """A server that says yes to everything, and what credentials it was sent by path."""
    seen: dict[str, str] = {}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            seen[self.path] = self.headers.get("Authorization", "")
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", seen
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.mark.parametrize("variable", ["PREFECT_API_URL", "MLFLOW_TRACKING_URI", "AWS_ENDPOINT_URL", "MAGISTRAL_STORAGE_URI"])
def test_a_production_endpoint_replaces_the_local_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
    monkeypatch.setenv("MAGISTRAL_HOME", str(tmp_path))
    for service in services.SERVICES:
        for name in service.variables:
            monkeypatch.delenv(name, raising=False)
    home.make_home()
    state = home.State(ports={"prefect": 4300, "mlflow": 5100, "s3": 9100})
    state.write()
    replaced = next(service for service in services.SERVICES if variable in service.variables)
    monkeypatch.setenv(variable, "https://production.example/x")
    assert [service.name for service in services.SERVICES if services.external(service, state)] == [replaced.name]
    overlay = stack.environment()
    assert variable not in overlay
    assert ("AWS_ACCESS_KEY_ID" in overlay) == (replaced.name != "s3")
    assert ("MAGISTRAL_STORAGE_URI" in overlay) == (variable != "MAGISTRAL_STORAGE_URI")


def test_an_account_that_the_stack_stands_in_for_is_noted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MAGISTRAL_HOME", str(tmp_path))
    for name in ("AWS_PROFILE", "AWS_ACCESS_KEY_ID", *(name for service in services.SERVICES for name in service.variables)):
        monkeypatch.delenv(name, raising=False)
    home.make_home()
    home.State(ports={"s3": 9100}).write()
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    ours = stack.environment()["AWS_ACCESS_KEY_ID"]
    assert REPLACES_ACCOUNT not in stack.environment()
    (tmp_path / "credentials").write_text("[default]\n")
    assert REPLACES_ACCOUNT in stack.environment()
    (tmp_path / "credentials").unlink()
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", ours)
    assert REPLACES_ACCOUNT not in stack.environment()
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "somebody")
    assert stack.environment()[REPLACES_ACCOUNT] == "magistral"
    monkeypatch.setenv("MAGISTRAL_STORAGE_URI", "s3://bucket")
    assert REPLACES_ACCOUNT not in stack.environment()
