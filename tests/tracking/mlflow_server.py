"""A real MLflow server in a process of its own, over one folder."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import requests

from magistral_core.pipeline.reaper import Reaper

START_TIMEOUT_S = 300  # about 10 s on an idle machine


class MlflowServer:
    """`start`, `kill`, and `start` again at the same port: what it stored is still there."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.database = folder / "mlflow.db"
        self._process: subprocess.Popen[bytes] | None = None
        self._reaper: Reaper | None = None
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self._port = free.getsockname()[1]
        self.uri = f"http://127.0.0.1:{self._port}"

    @property
    def pid(self) -> int:
        """Leader of its process group."""
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Start, and wait until it answers."""
        command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self._port), "--workers", "1"]
        command += ["--backend-store-uri", f"sqlite:///{self.database}", "--artifacts-destination", str(self.folder / "artifacts")]
        environment = {**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
        log = self.folder / "server.log"
        with log.open("a") as out:
            self._process = subprocess.Popen(command, env=environment, cwd=self.folder, stdout=out, stderr=out, start_new_session=True)
        deadline = time.monotonic() + START_TIMEOUT_S
        while not self._answers():
            assert self._process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.2)
        # It has a session of its own: what ends the tests, by a signal to their group say, would leave it.
        self._reaper = Reaper(self.folder / "nothing")
        self._reaper.watch([self.pid, *(child.pid for child in psutil.Process(self.pid).children(recursive=True))])

    def kill(self) -> None:
        """End it with all its processes, whether it runs or was killed already."""
        if self._process is None:
            return
        with contextlib.suppress(ProcessLookupError):  # all of it is gone
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        if self._reaper is not None:
            self._reaper.close()
        self._process = None

    def _answers(self) -> bool:
        try:
            return requests.get(f"{self.uri}/health", timeout=2).ok
        except requests.RequestException:
            return False
