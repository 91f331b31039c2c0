"""One real S3 server for the tests of storage, and a store of each kind."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from infra.s3 import S3Server
from magistral_core.storage.objects import ObjectStore, open_store


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with S3Server(tmp_path_factory.mktemp("s3"), "magistral:admin", "a-secret-for-tests") as server:
        yield server


@pytest.fixture
def s3_environment(s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> S3Server:
    for name in ("AWS_ENDPOINT_URL", "AWS_PROFILE", "AWS_REGION", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    for name, value in s3_server.environment().items():
        monkeypatch.setenv(name, value)
    return s3_server


@pytest.fixture(params=["file", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> ObjectStore:
    """A checked, empty store of each kind."""
    if request.param == "file":
        opened = open_store(f"file:{tmp_path / 'objects'}")
    else:
        request.getfixturevalue("s3_environment")
        opened = open_store(f"s3://bucket/{tmp_path.name}")
    opened.check()
    return opened
