"""The demo through its deployment, in small: what the command prints, what Prefect, MLflow and S3 then hold; cancelled and killed runs."""

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

# An hour's demo of seconds: a base model that has learnt little, and few, small steps.
SMALL = {
    "model.tiny.sft_steps": 150,
    "model.tiny.sft_batch": 12,
    "problems.levels": [1],
    "training.max_steps": 3,
    "pipeline.n_async": 64,
    "pipeline.n_batch": 64,
    "pipeline.n_minibatch": 64,
    "evaluation.problems": 24,
    "evaluation.engines": 1,
}
SETS = [part for name, value in SMALL.items() for part in ("--set", f"{name}={value}")]


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    home = tmp_path_factory.mktemp("home")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "MLFLOW_", "AWS_", "MAGISTRAL_"))}
    environment = {**kept, "MAGISTRAL_HOME": str(home), "MAGISTRAL_CACHE": str(home / "cache")}
    try:
        yield environment
    finally:
        subprocess.run([sys.executable, "-m", "magistral_core.cli", "stack", "down"], env=environment, check=True, timeout=120)


def magistral(environment: dict[str, str], *arguments: str, timeout: float = 900) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "magistral_core.cli", *arguments], env=environment, capture_output=True, text=True, timeout=timeout
    )


def ask(url: str, body: object = None) -> Any:
    request = urllib.request.Request(url, None if body is None else json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=30) as answer:
        return json.load(answer)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_demo(environment: dict[str, str]) -> None:
    done = magistral(environment, "demo", "--json", "--seed", "3", *SETS)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    for name in ("pass_at_1", "maj_at_8", "valid_format"):
        assert result[name].keys() == {"before", "after"} and all(0 <= value <= 1 for value in result[name].values())
    assert result["weight_updates"] == 3 and 0 <= result["weight_updates_in_flight"] <= 3
    ledger = result["ledger"]
    assert ledger["submitted"] == ledger["trained"] + ledger["filtered"] + ledger["failed"] + ledger["in_flight"]
    assert ledger["trained"] == 3 * 4

    # Prefect: a deployment's run, completed, with its artifacts.
    ui, _, run_id = result["prefect_run_url"].partition("/runs/flow-run/")
    run = ask(f"{ui}/api/flow_runs/{run_id}")
    assert run["state_type"] == "COMPLETED" and run["deployment_id"] and run["parameters"]["demonstration"]["seed"] == 3
    artifacts = {item["key"]: item for item in ask(f"{ui}/api/artifacts/filter", {})}
    assert {"training", "results", "summary", "mlflow", "checkpoints", "evaluation"} <= artifacts.keys()
    assert plain(artifacts["training"]["data"]) == 100.0
    assert [row["level"] for row in plain(artifacts["results"]["data"])] == ["all", "1", "2", "3", "4"]
    assert result["mlflow_run_url"] in artifacts["mlflow"]["data"]

    # MLflow: the run, finished, one value a step.
    mlflow, _, path = result["mlflow_run_url"].partition("/#/experiments/")
    mlflow_run = path.partition("/runs/")[2]
    assert ask(f"{mlflow}/api/2.0/mlflow/runs/get?run_id={mlflow_run}")["run"]["info"]["status"] == "FINISHED"
    history = ask(f"{mlflow}/api/2.0/mlflow/metrics/get-history?run_id={mlflow_run}&metric_key=reward/mean")["metrics"]
    assert [point["step"] for point in history] == [1, 2, 3]

    # S3: the checkpoints, whole; and a model that loads.
    listed = json.loads(magistral(environment, "checkpoints", "list", "--json").stdout)["runs"]
    assert [item["uri"] for run in listed for item in run["checkpoints"]] == result["checkpoints"]
    assert magistral(environment, "checkpoints", "verify", result["checkpoints"][-1]).returncode == 0


def plain(data: Any) -> Any:
    """What an artifact holds; Prefect gives some as JSON in text."""
    return json.loads(data) if isinstance(data, str) else data


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_bad_input_comes_back_through_prefect(environment: dict[str, str], tmp_path: Path) -> None:
    broken = tmp_path / "broken.jsonl"
    broken.write_text('{"question": "1+1?", "answer": "2"}\nnot JSON\n')
    done = magistral(environment, "run", "tiny", *SETS, "--set", f"problems.path={broken}")
    assert done.returncode == 2
    assert done.stderr.strip().splitlines()[-1].startswith(f"magistral: {broken}:2")
    assert "Traceback" not in done.stderr


def lives(process: psutil.Process) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def flow_family(home: str) -> list[psutil.Process]:
    """The flow run's process, the command that it runs, and all below."""
    for process in psutil.process_iter():
        try:
            command = process.cmdline()
            if "magistral_core.cli" in command and any(part.startswith(f"{home}/flow-runs") for part in command):
                return [process.parent(), process, *process.children(recursive=True)]
        except psutil.Error:
            continue
    return []


@pytest.mark.faults
@pytest.mark.timeout(900)
@pytest.mark.parametrize("how", ["cancelled", "killed"])
def test_no_process_outlives_its_flow(environment: dict[str, str], how: str) -> None:
    endless = ["--set", "model.tiny.sft_steps=5000", "--set", "model.tiny.sft_batch=2"]
    command = [sys.executable, "-m", "magistral_core.cli", "run", "tiny", *SETS, *endless]
    with subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as client:
        try:
            deadline = time.monotonic() + 300
            while len(family := flow_family(environment["MAGISTRAL_HOME"])) < 4:  # with the ranks that train the base model
                assert time.monotonic() < deadline and client.poll() is None
                time.sleep(0.5)
            if how == "cancelled":
                client.send_signal(signal.SIGINT)
            else:
                family[0].kill()
            deadline = time.monotonic() + 90
            while alive := [process for process in family if lives(process)]:
                assert time.monotonic() < deadline, alive
                time.sleep(0.2)
            said = client.communicate(timeout=180)[1]
        finally:
            client.kill()
    assert client.returncode == (130 if how == "cancelled" else 1)
    assert ("the same command" if how == "cancelled" else "Crashed") in said.splitlines()[-2 if how == "cancelled" else -1]
