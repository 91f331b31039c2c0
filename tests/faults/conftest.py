"""Real servers for all fault runs, and where their results are written."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

# importmode=importlib adds no folder
sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1] / "pipeline"))
sys.path.insert(0, str(Path(__file__).parents[1] / "tracking"))

import pytest
from mlflow_server import MlflowServer
from played import Servers
from random_writer import make_model
from results import Results

from infra.s3 import S3Server
from magistral_core.processes import free_port
from magistral_core.tracking import Tracker


@pytest.fixture(scope="session")
def writer_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose completions earn varied rewards."""
    return make_model(tmp_path_factory.mktemp("writer"))


@pytest.fixture(scope="session")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    """S3 and MLflow, started; both can be killed and started again."""
    root = tmp_path_factory.mktemp("servers")
    (root / "mlflow").mkdir()
    mlflow = MlflowServer(root / "mlflow")
    Tracker.check(f"sqlite:{mlflow.database}")  # makes the tables
    made = Servers(root, S3Server(root / "s3", "magistral:admin", "a-secret-for-tests", free_port()), mlflow)
    with pytest.MonkeyPatch.context() as environment:
        for name in ("AWS_ENDPOINT_URL", "AWS_PROFILE", "AWS_REGION", "AWS_SESSION_TOKEN"):
            environment.delenv(name, raising=False)
        try:
            made.start("s3")
            made.start("mlflow")
            for name, value in made.s3.environment().items():
                environment.setenv(name, value)
            yield made
        finally:
            made.stop()


@pytest.fixture(scope="session")
def results() -> Iterator[Results]:
    """The cells that were struck; written down when all of them were."""
    found = Results()
    yield found
    found.write()
