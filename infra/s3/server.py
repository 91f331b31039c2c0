"""Start and end the S3 server from Python, as a process of its own."""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from infra.s3.layout import check_credentials
from infra.s3.probe import healthy
from infra.s3.supervisor import READY_TIMEOUT_S
from magistral_core.errors import InfrastructureError, InputError

_CHECKOUT = Path(__file__).resolve().parents[2]
_END_TIMEOUT_S = 10.0


class S3Server:
    """One S3 server over one folder; data survives `stop`, `kill -9` and restarts.

    Args:
        folder: where the data lives.
        access_key: `ACCOUNT:user`, as in `magistral:admin`.
        secret_key: its secret.
        port: of the endpoint; None for a free one at each start.
        die_with_parent: the server ends when the *thread* that called `start` does, however that ends. False leaves it
            running, in a session of its own.
    """

    def __init__(
        self, folder: str | Path, access_key: str, secret_key: str, port: int | None = None, *, die_with_parent: bool = True
    ) -> None:
        check_credentials(access_key, secret_key)
        self.folder = Path(folder).resolve()
        self.access_key = access_key
        self.secret_key = secret_key
        self._port = port
        self._die_with_parent = die_with_parent
        self._process: subprocess.Popen[str] | None = None
        self._endpoint = ""

    @property
    def endpoint(self) -> str:
        """`http://127.0.0.1:PORT`, once started."""
        return self._endpoint

    @property
    def pid(self) -> int | None:
        """Process id of the supervisor, the one process to end."""
        return self._process.pid if self._process else None

    @property
    def log(self) -> Path:
        """The log of all its processes: warnings and errors."""
        return self.folder / "s3.log"

    def environment(self) -> dict[str, str]:
        """The usual variables that point any S3 client at this server."""
        return {
            "AWS_ENDPOINT_URL_S3": self.endpoint,
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_DEFAULT_REGION": "us-east-1",
        }

    def start(self) -> Self:
        """Start and wait until requests are answered (about 2 s). Raises InputError or InfrastructureError."""
        command = [sys.executable, "-m", "infra.s3", "serve", "--dir", str(self.folder)]
        if self._port is not None:
            command += ["--port", str(self._port)]
        if self._die_with_parent:
            command += ["--parent", str(os.getpid())]
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(filter(None, [str(_CHECKOUT), os.environ.get("PYTHONPATH", "")])),
            "MAGISTRAL_S3_ACCESS_KEY": self.access_key,
            "MAGISTRAL_S3_SECRET_KEY": self.secret_key,
        }
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with open(self.log, "a") as log:
                self._process = subprocess.Popen(
                    command,
                    env=environment,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=log,
                    text=True,
                    start_new_session=not self._die_with_parent,
                )
        except OSError as error:
            raise InputError(
                f"{self.folder}: the S3 server cannot keep its data here ({error.strerror}); give it another folder"
            ) from error
        self._endpoint = self._read_ready_line(self._process)
        return self

    def stop(self) -> None:
        """End the server and all its processes."""
        process, self._process = self._process, None
        if process is None:
            return
        process.terminate()
        try:
            process.wait(_END_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if process.stdout:
            process.stdout.close()

    def healthy(self) -> bool:
        """Whether it answers now."""
        return bool(self._endpoint) and healthy(self._endpoint)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()

    def _read_ready_line(self, process: subprocess.Popen[str]) -> str:
        assert process.stdout is not None
        start = time.monotonic()
        readable, _, _ = select.select([process.stdout], [], [], READY_TIMEOUT_S + 30)
        line = process.stdout.readline() if readable else ""
        if line:
            return str(json.loads(line)["endpoint"])
        self.stop()
        last = self.log.read_text(errors="replace").strip().rsplit("\n", 1)[-1]
        kind = InputError if process.returncode == InputError.exit_code else InfrastructureError
        raise kind(last or f"S3 server over {self.folder}: no answer after {time.monotonic() - start:.0f} s")
