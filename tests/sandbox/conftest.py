"""Sandboxes of both kinds; skipped with the reason where a machine has none."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator, Sequence

import pytest

from magistral_core.sandbox import BackEnd, Sandbox, SandboxError


@pytest.fixture(scope="session")
def skip_without() -> Callable[..., None]:
    """Skips where this machine has no such sandbox. One that leaks, or that bubblewrap itself would make, fails the test."""

    def judge(back_end: BackEnd, error: object, *user: str) -> None:
        assert "the canary could" not in str(error), error
        assert back_end is not BackEnd.BUBBLEWRAP or not _bubblewrap_works(user), error
        pytest.skip(f"no {back_end} here: {error}")

    return judge


def _bubblewrap_works(user: Sequence[str]) -> bool:
    """Asked without anything of ours, as the user that a command makes."""
    command = [*user, "bwrap", "--unshare-all", "--ro-bind", "/", "/", "true"]
    try:
        return subprocess.run(command, capture_output=True, timeout=60).returncode == 0
    except OSError:
        return False


@pytest.fixture(scope="session", params=list(BackEnd), ids=str)
def sandbox(request: pytest.FixtureRequest, skip_without: Callable[..., None]) -> Iterator[Sandbox]:
    """One of each kind; its canary has passed."""
    try:
        yield Sandbox(request.param.value)
    except SandboxError as error:
        skip_without(request.param, error)
