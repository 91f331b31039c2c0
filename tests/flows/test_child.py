"""Commands as child processes of a flow run: their errors, their end, and that they never outlive it."""

import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
from prefect.states import Failed

from magistral_core.errors import InfrastructureError, InputError
from tasks.child import run_command, showing
from tasks.events import EventFile
from tasks.training import broken_not_wrong

# Trains for minutes, in two further processes.
ENDLESS = ["prepare", "tiny", "--set", "model.tiny.sft_steps=5000", "--set", "model.tiny.sft_batch=2"]


@pytest.fixture(autouse=True)
def own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MAGISTRAL_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("MAGISTRAL_CACHE", str(tmp_path / "cache"))


def test_bad_input_is_passed_on(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"^unknown recipe 'nope'"):
        run_command(["prepare", "nope"], tmp_path / "log")


@pytest.mark.parametrize(
    ("error", "attempts"),
    [
        (InfrastructureError("generator 0 died"), [True, True]),
        (InputError("storage.uri s3://b: the S3 server at x cannot be reached (refused)"), [False, True]),
        (InputError("unknown recipe 'nope'"), [False, False]),
        (ValueError("a bug"), [False, False]),
    ],
)
def test_what_is_tried_again(error: Exception, attempts: list[bool]) -> None:
    tried = [broken_not_wrong(None, SimpleNamespace(run_count=number), Failed(data=error)) for number in (1, 2)]
    assert tried == attempts


def test_output_and_log_are_kept_apart(tmp_path: Path) -> None:
    run_command(["stack", "down"], tmp_path / "log", tmp_path / "out")
    assert (tmp_path / "out").read_text() == "nothing was running\n"
    assert (tmp_path / "log").read_text() == ""


def test_event_file_waits_for_whole_lines(tmp_path: Path) -> None:
    path = tmp_path / "events"
    events = EventFile(path)
    assert events.read() == []
    path.write_text('{"event": "a"}\n{"eve')
    assert events.read() == [{"event": "a"}]
    with path.open("a") as file:
        file.write('nt": "b"}\n')
    assert events.read() == [{"event": "b"}]
    assert events.read() == []


def family(pid: int) -> list[psutil.Process]:
    parent = psutil.Process(pid)
    return [parent, *parent.children(recursive=True)]


def wait_for(condition, seconds: float = 120.0):
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    return value


def gone(processes: list[psutil.Process]) -> bool:
    return not any(lives(process) for process in processes)


def lives(process: psutil.Process) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


SCRIPT = "import sys; from pathlib import Path; from tasks.child import run_command; run_command({arguments}, Path('log'))"


@pytest.mark.faults
@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGKILL])
def test_nothing_outlives_the_flow(tmp_path: Path, signum: int) -> None:
    """SIGINT raises in the flow's process, as a cancellation does; SIGKILL leaves it no time for anything."""
    environment = {**os.environ, "PYTHONPATH": str(Path.cwd())}
    flow = subprocess.Popen(
        [sys.executable, "-c", SCRIPT.format(arguments=ENDLESS)], cwd=tmp_path, env=environment, stderr=subprocess.DEVNULL
    )
    try:
        members = wait_for(lambda: len(found := family(flow.pid)) >= 4 and found)  # flow, command, two ranks
        time.sleep(1)
        members = family(flow.pid)
        flow.send_signal(signum)
        flow.wait(30)
        wait_for(lambda: gone(members), 30)
    finally:
        flow.kill()
        flow.wait()


@pytest.mark.faults
def test_a_killed_command_is_infrastructure(tmp_path: Path) -> None:
    pids: list[int] = []
    of_other_tests = {child.pid for child in psutil.Process().children()}

    def kill() -> None:
        children = [child for child in psutil.Process().children() if child.pid not in of_other_tests]
        if children and not pids:
            pids.append(children[0].pid)
            children[0].kill()

    with pytest.raises(InfrastructureError, match="ended by SIGKILL"):
        run_command(ENDLESS, tmp_path / "log", on_poll=kill)
    assert pids


def test_what_cannot_be_shown_is_said_and_ends_nothing(caplog: pytest.LogCaptureFixture) -> None:
    with showing(logging.getLogger("flow")):
        raise ConnectionError("Prefect is\naway")
    assert "not shown in Prefect: Prefect is away" in caplog.text
