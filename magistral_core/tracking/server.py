"""Reaching MLflow: which URIs there are, a client that is quiet and quick to fail, a check with one clear line."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from magistral_core.errors import InputError
from magistral_core.tracking.outbox import RefusedError

if TYPE_CHECKING:
    from mlflow import MlflowClient

_CHECK_TIMEOUT_S = 5
_SERVER_FAILED = 500
#: Error codes that trying again does not cure.
_REFUSALS = {
    "BAD_REQUEST",
    "INVALID_PARAMETER_VALUE",
    "INVALID_STATE",
    "PERMISSION_DENIED",
    "RESOURCE_DOES_NOT_EXIST",
    "UNAUTHENTICATED",
    "ENDPOINT_NOT_FOUND",
}
_SETTINGS = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    # The outbox has patience of its own: one request shall not hold it for minutes.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
}


@dataclass(frozen=True, slots=True)
class Place:
    """Where MLflow is: the URI that it takes, the URI of its UI, and, without a server, the folder for artifacts."""

    given: str
    uri: str
    ui: str = ""
    artifacts: Path | None = None


def locate(uri: str) -> Place:
    """Understand `http(s)://HOST...`, `sqlite:FILE` and `sqlite:///FILE`. Raises InputError for anything else."""
    if uri.startswith(("http://", "https://")):
        if holds_credentials(uri):  # it would stand in every checkpoint, log and parameter
            raise InputError("tracking.uri: no name and password in it; set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD")
        return Place(uri, uri.rstrip("/"), uri.rstrip("/"))
    if uri.startswith("sqlite:"):
        rest = uri.removeprefix("sqlite:")
        file = rest.removeprefix("///") if rest.startswith("///") else rest
        if file:
            path = Path(file).expanduser().resolve()
            return Place(uri, f"sqlite:///{path}", artifacts=path.with_name(f"{path.stem}-artifacts"))
    raise InputError(f"tracking.uri {uri!r}: not an MLflow URI; write http://HOST:PORT or sqlite:FILE")


def holds_credentials(url: str) -> bool:
    """Whether a URL has a name, and perhaps a password, before its host."""
    return "@" in url.partition("://")[2].partition("/")[0]


def connect(place: Place) -> MlflowClient:
    """A client of this place alone; MLflow's own global URI is left as it is."""
    for name, value in _SETTINGS.items():
        os.environ.setdefault(name, value)
    from mlflow import MlflowClient

    # With sqlite, MLflow first makes its tables (3 s), and tells about each.
    logging.getLogger("alembic").setLevel(logging.WARNING)
    return MlflowClient(place.uri)


def check(place: Place) -> None:
    """Make sure that MLflow answers. Raises InputError within seconds if not."""
    if place.artifacts is not None:
        folder = place.artifacts.parent
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"tracking.uri {place.given}: {folder} cannot be made ({error.strerror}); choose another file") from error
        if not os.access(folder, os.W_OK):
            raise InputError(f"tracking.uri {place.given}: {folder} cannot be written; choose another file")
    else:
        _check_http(place)
    from sqlalchemy.exc import SQLAlchemyError

    client = None
    try:
        client = connect(place)
        client.search_experiments(max_results=1)
    except (mlflow_error(), SQLAlchemyError) as error:
        what = "is not an MLflow database" if place.artifacts else "does not answer as an MLflow server does"
        raise InputError(f"tracking.uri {place.given}: {what} ({_brief(error)}); check tracking.uri or MLFLOW_TRACKING_URI") from error


def mlflow_error() -> type[Exception]:
    """MLflow's exception class."""
    from mlflow.exceptions import MlflowException

    return MlflowException


def refusal(error: Exception) -> RefusedError | None:
    """The error to stop with, if MLflow refused for good; None if trying again may help."""
    code = getattr(error, "error_code", None)
    return RefusedError(f"MLflow refused ({code}): {_brief(error)}") if code in _REFUSALS else None


def _check_http(place: Place) -> None:
    import requests

    try:
        answer = requests.get(f"{place.uri}/health", timeout=_CHECK_TIMEOUT_S)
        if answer.status_code >= _SERVER_FAILED:  # a proxy before a server that is away; of others the client says more
            raise requests.HTTPError(f"it answers {answer.status_code}")
    except requests.RequestException as error:
        raise InputError(
            f"tracking.uri {place.given}: the MLflow server cannot be reached ({_reason(error)}); "
            "start it (magistral stack up), or set tracking.uri or MLFLOW_TRACKING_URI"
        ) from error


def _reason(error: Any) -> str:
    inner = error.args[0] if error.args else error
    return str(getattr(inner, "reason", inner)).rpartition(": ")[2][:200]


def _brief(error: BaseException) -> str:
    return " ".join(str(error).split())[:200]
