"""Runs that are struck, seen from outside: start them, start again what they lost, and hold what must hold afterwards."""

from __future__ import annotations

import json
import queue
import signal
import sqlite3
import tempfile
import threading
import time
from collections.abc import Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
from marked_processes import ROOT, Program, program
from mlflow_server import MlflowServer

from infra.s3 import S3Server
from magistral_core.storage import CheckpointStore

STRUCK_RUN = Path(__file__).with_name("struck_run.py")
_LOOK_S = 3.0
#: How long a run's processes, and then its ports, may take to go. A process that ends gives up its memory, by which it is known, before
#: its sockets.
_LEFT_S = 10.0
Event = dict[str, Any]


class Servers:
    """S3 and MLflow, each with a file that holds its process id while it serves."""

    def __init__(self, root: Path, s3: S3Server, mlflow: MlflowServer) -> None:
        self.s3, self.mlflow = s3, mlflow
        self.files = {"s3": root / "s3.pid", "mlflow": root / "mlflow.pid"}

    def start(self, name: str) -> None:
        """Start one, whatever is left of the one before."""
        if name == "s3":
            self.s3.stop()
            self.s3.start()
            pid = self.s3.pid
        else:
            self.mlflow.kill()
            self.mlflow.start()
            pid = self.mlflow.pid
        self.files[name].write_text(str(pid))

    def stop(self) -> None:
        """End both."""
        self.s3.stop()
        self.mlflow.kill()


@dataclass
class Played:
    """What came of a run, over all its attempts.

    Attributes:
        events: in order, of all attempts.
        left: command lines of processes, ports and files that were there after an attempt had ended.
    """

    role: str
    database: Path
    events: list[Event] = field(default_factory=list)
    left: list[str] = field(default_factory=list)

    @property
    def end(self) -> Event:
        """Its summary."""
        assert self.events[-1]["event"] == "end"
        return self.events[-1]

    def of(self, kind: str) -> list[Event]:
        """Events of one kind."""
        return [event for event in self.events if event["event"] == kind]

    def lineage(self) -> dict[int, Event]:
        """By step, how it was trained in the end: steps after the checkpoint of a resumed attempt are taken again."""
        found: dict[int, Event] = {}
        for event in self.events:
            if event["event"] == "start":
                found = {step: trained for step, trained in found.items() if step <= event["resumed_step"]}
            elif event["event"] == "trained":
                assert event["step"] not in found
                found[event["step"]] = event
        return found

    def losses(self) -> list[float]:
        """The loss of each step as it was taken in the end, to the last bit."""
        found = {event["step"]: event["metrics"]["train/loss"] for event in self.of("step")}  # a step taken again comes later
        return [found[step] for step in sorted(found)]

    def check(self) -> None:
        """It came to its end, lost nothing, trained nothing twice, and left nothing behind."""
        end, steps = self.end, self.lineage()
        ledger = end["ledger"]
        assert sorted(steps) == list(range(1, end["steps"] + 1))
        groups = [group for step in steps.values() for group in step["groups"]]
        assert len(groups) == len(set(groups)) == ledger["trained"], "a group was trained twice"
        assert ledger["failed"] == 0
        assert ledger["submitted"] == ledger["trained"] + ledger["filtered"] + ledger["failed"] + ledger["in_flight"]
        # Verifying goes on while the last checkpoint is written: which groups were open then, only its own ledger tells.
        kept = _ledger_of(end["checkpoints"][-1])
        in_flight = {int(group) for group in kept["open"]}
        assert not in_flight & set(groups)
        assert in_flight | set(groups) <= set(range(kept["submitted"]))
        dropped = set(range(kept["submitted"])) - in_flight - set(groups)
        assert len(dropped) == sum(kept["filtered"].values()), "a group was lost"
        assert _logged_steps(self.database, end["mlflow_run_id"]) == list(range(1, end["steps"] + 1))
        assert self.left == []

    def cell(self, state: str) -> tuple[str, float, str]:
        """Outcome, seconds until it had recovered, and what was lost, of the strike in a state; AssertionError if it did not recover."""
        [at] = [i for i, event in enumerate(self.events) if event["event"] == "struck" and event["state"] == state]
        strike = self.events[at]
        after = []
        for event in self.events[at + 1 :]:
            if event["event"] == "struck":
                break
            after.append(event)
        restarts = [event["role"].split()[0] for event in after if event["event"] == "restart"]
        starts = [event["resumed_step"] for event in after if event["event"] == "start"]
        assert restarts == {"generator": ["generator"], "trainer": ["trainers"]}.get(self.role, [])
        assert len(starts) == (self.role in ("trainer", "coordinator"))
        # A generator's death is noticed later than a trainer's step may end, which counts it among the healthy still.
        known = next(i for i, event in enumerate(after) if event["event"] == "restart") if self.role == "generator" else 0
        recovered = next(event["time"] for event in after[known:] if _recovered(event, self.role, strike["step"]))
        again = f"{strike['step'] - starts[0]} steps taken again" if starts else ""
        # A new coordinator counts its own.
        anew = 0 if self.role == "coordinator" else max(event["anew"] for event in after if event["event"] == "trained") - strike["anew"]
        lost = ", ".join(filter(None, (again, f"{anew} completions begun anew" if anew else ""))) or "nothing"
        assert lost == "nothing" or self.role in ("generator", "trainer", "coordinator")
        outcome = "resumed by the same command" if self.role == "coordinator" else "went on"
        return outcome, recovered - strike["time"], lost


def _recovered(event: Event, role: str, step: int) -> bool:
    if role == "s3":
        return event["event"] == "checkpoint"
    if role == "mlflow":  # which a checkpoint that was on its way already may not need any more
        return event["event"] == "checkpoint" and event["step"] > step
    if role == "generator":
        return event["event"] == "step" and event["metrics"]["generators/healthy"] == 2
    return event["event"] == "step" and event["step"] > step


def play(
    role: str,
    strikes: Sequence[dict[str, str]],
    settings: dict[str, Any],
    root: Path,
    servers: Servers,
    outage: float,
) -> Played:
    """A run to its end. Where the coordinator is struck, the same command is given again after each strike."""
    played = Played(role, servers.mlflow.database)
    asked = {"storage.uri": f"s3://faults/{root.name}", "tracking.uri": servers.mlflow.uri, **settings}
    files = {name: str(file) for name, file in servers.files.items()}
    attempts = [[strike] for strike in strikes] + [[]] if role == "coordinator" else [list(strikes)]
    for number, planned in enumerate(attempts):
        job = {"set": asked, "strikes": planned, "servers": files}
        environment = {**servers.s3.environment(), "MAGISTRAL_CACHE": str(root / "cache"), "PYTHONPATH": f"{Path(__file__).parent}:{ROOT}"}
        with program(job, root / f"log-{number}", STRUCK_RUN, environment) as run:
            ports, files_mapped = _follow(run, played.events, servers, outage)
            last = played.events[-1]["event"]
            assert last == ("struck" if role == "coordinator" and planned else "end"), f"after {last}: {run.log.read_text()[-4000:]}"
            played.left += run.left_after(_LEFT_S)
            if last == "struck":
                assert run.process.wait(10) == -signal.SIGKILL
            else:
                assert run.end() == 0
            played.left += [str(file) for file in files_mapped if file.exists()]
            played.left += _listening_after(_LEFT_S, ports)
    assert len(played.of("struck")) == len(strikes), "the run ended before it was struck everywhere"
    return played


def _follow(run: Program, events: list[Event], servers: Servers, outage: float) -> tuple[set[int], set[Path]]:
    """Collect events until the run ends or is killed; start servers again. Returns the ports and files of its processes."""
    inbox: queue.Queue[Event | None] = queue.Queue()

    def read() -> None:
        try:
            for event in run.events():
                inbox.put(event)
        finally:
            inbox.put(None)

    threading.Thread(target=read, daemon=True).start()
    ports: set[int] = set()
    files: set[Path] = set()
    back: dict[str, float] = {}
    looked = time.monotonic()
    ended = False
    while not ended or back:
        with suppress(queue.Empty):
            event = inbox.get(timeout=0.2)
            ended = ended or event is None or event["event"] == "end"
            if event is not None:
                events.append(event)
                if event["event"] == "struck" and event["role"] in servers.files:
                    back[event["role"]] = time.monotonic() + outage
        for name in [name for name, due in back.items() if time.monotonic() >= due]:
            servers.start(name)
            del back[name]
        if time.monotonic() - looked > _LOOK_S:
            ports |= run.ports()
            files |= run.shared_memory()
            looked = time.monotonic()
    return ports, files


def _listening_after(seconds: float, ports: set[int]) -> list[str]:
    """Which of some TCP ports still have a listener after so long, and who it is."""
    deadline = time.monotonic() + seconds
    while True:
        links = [link for link in psutil.net_connections("tcp") if link.status == psutil.CONN_LISTEN and link.laddr.port in ports]
        if not links or time.monotonic() > deadline:
            return [f"port {link.laddr.port} of process {link.pid}" for link in links]
        time.sleep(0.2)


def _ledger_of(checkpoint: str) -> dict[str, Any]:
    """The ledger as a checkpoint has it."""
    store, step = CheckpointStore.from_uri(checkpoint)
    with tempfile.TemporaryDirectory() as folder:
        store.download(step, Path(folder), "loop.json")
        ledger: dict[str, Any] = json.loads(Path(folder, "loop.json").read_text())["ledger"]
        return ledger


def _logged_steps(database: Path, run_id: str) -> list[int]:
    """Steps of the loss as MLflow has them."""
    with closing(sqlite3.connect(database)) as connection:
        rows = connection.execute("SELECT step FROM metrics WHERE key = 'train/loss' AND run_uuid = ? ORDER BY step", (run_id,))
        return [step for (step,) in rows]
