"""Problems below an `s3://` address, on a real S3 server."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from infra.s3 import S3Server
from magistral_core.config.schema import ProblemSettings
from magistral_core.errors import InputError
from magistral_core.problems import load_problems
from magistral_core.storage import open_store

GOOD = b'{"question": "1+1?", "answer": "2"}\n'


@pytest.fixture
def bucket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    with S3Server(tmp_path / "s3", "magistral:admin", "a-secret-for-tests") as server:
        for name in ("AWS_ENDPOINT_URL", "AWS_PROFILE", "AWS_REGION", "AWS_SESSION_TOKEN"):
            monkeypatch.delenv(name, raising=False)
        for name, value in server.environment().items():
            monkeypatch.setenv(name, value)
        open_store("s3://problems").check()
        yield "s3://problems"


def test_objects_and_prefixes(bucket: str) -> None:
    store = open_store(bucket)
    store.put_bytes(GOOD * 2, "set/a.jsonl")
    store.put_bytes(GOOD, "set/deep/b.jsonl")
    store.put_bytes(b"about", "set/README.md")
    store.put_bytes(GOOD + b'{"question": "2', "cut.jsonl")
    assert [p.source for p in load_problems(ProblemSettings(path=f"{bucket}/set"))] == [
        f"{bucket}/set/a.jsonl:1",
        f"{bucket}/set/a.jsonl:2",
        f"{bucket}/set/deep/b.jsonl:1",
    ]
    assert [p.id for p in load_problems(ProblemSettings(path=f"{bucket}/set/a.jsonl"))] == ["a-1", "a-2"]
    with pytest.raises(InputError, match="s3://problems/cut.jsonl:2: the last line is cut off"):
        load_problems(ProblemSettings(path=f"{bucket}/cut.jsonl"))
    with pytest.raises(InputError, match="s3://problems/absent.jsonl: no such problem file"):
        load_problems(ProblemSettings(path=f"{bucket}/absent.jsonl"))
    with pytest.raises(InputError, match="no problem file"):
        load_problems(ProblemSettings(path=f"{bucket}/nothing"))
