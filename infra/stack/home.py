"""Where the local stack keeps its state: `~/.magistral`, or MAGISTRAL_HOME.

secrets.json  the S3 account, made on first start, readable by its owner only
stack.json    which processes run, on which ports; the ports are kept for the next start
stack.lock    held while the stack is started or ended
logs/         one file a service
prefect/  mlflow/  s3/   data; `down` leaves them
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import secrets
import socket
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

from magistral_core.errors import InputError

ACCESS_KEY = "magistral:admin"


def home() -> Path:
    """The folder of the state."""
    return Path(os.environ.get("MAGISTRAL_HOME") or Path.home() / ".magistral").expanduser().absolute()


def make_home() -> Path:
    """The same, made if missing. Raises InputError where that cannot be."""
    folder = home()
    try:
        (folder / "logs").mkdir(parents=True, exist_ok=True)
        folder.chmod(0o700)
    except OSError as error:
        raise InputError(f"{folder}: cannot be used as the stack's folder ({error.strerror}); set MAGISTRAL_HOME to another one") from error
    return folder


def log_file(name: str) -> Path:
    """The log of a service."""
    return home() / "logs" / f"{name}.log"


def secrets_file() -> Path:
    """JSON with `access_key` and `secret_key`, mode 0600; made on first use and then kept."""
    path = make_home() / "secrets.json"
    if not path.exists():
        # Written under another name first: a start that is killed here leaves no half-written secret behind.
        partial = path.with_suffix(f".{os.getpid()}.tmp")
        with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
            json.dump({"access_key": ACCESS_KEY, "secret_key": secrets.token_urlsafe(32)}, file)
        partial.rename(path)
    return path


def read_secrets() -> dict[str, str]:
    """The S3 account. Raises InputError if the file is damaged."""
    path = secrets_file()
    try:
        keys = json.loads(path.read_text())
        return {"access_key": str(keys["access_key"]), "secret_key": str(keys["secret_key"])}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{path}: not a JSON file with access_key and secret_key; give back the old one, or remove it for a new account"
        ) from error


@dataclass(frozen=True)
class Running:
    """A process that the stack started; pid and start time together name it for good."""

    pid: int
    started: float
    port: int
    digest: str


@dataclass
class State:
    """What is known of the last start."""

    running: dict[str, Running] = field(default_factory=dict)
    ports: dict[str, int] = field(default_factory=dict)
    deployed: str = ""
    host: str = field(default_factory=socket.gethostname)

    @classmethod
    def read(cls) -> State:
        """The recorded state; an empty one before the first start. Raises InputError if the file is damaged."""
        path = home() / "stack.json"
        try:
            data = json.loads(path.read_text())
            running = {name: Running(**item) for name, item in data["running"].items()}
            return cls(running, dict(data["ports"]), str(data["deployed"]), str(data.get("host") or socket.gethostname()))
        except FileNotFoundError:
            return cls()
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise InputError(f"{path}: unreadable ({error}); end the stack's processes by hand, then remove the file") from error

    def write(self) -> None:
        """Record it, at once or not at all."""
        path = make_home() / "stack.json"
        partial = path.with_suffix(".tmp")
        partial.write_text(json.dumps(asdict(self), indent=1))
        partial.replace(path)


@contextlib.contextmanager
def locked() -> Iterator[None]:
    """One start or end at a time; waits for another's."""
    with (make_home() / "stack.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
