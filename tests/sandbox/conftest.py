"""Sandboxes of both kinds; skipped with the reason where a machine has none."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from magistral_core.sandbox import BackEnd, Sandbox, SandboxError


@pytest.fixture(scope="session", params=list(BackEnd), ids=str)
def sandbox(request: pytest.FixtureRequest) -> Iterator[Sandbox]:
    """One of each kind; its canary has passed."""
    try:
        yield Sandbox(request.param.value)
    except SandboxError as error:
        if "the canary could" in str(error):  # it leaks: that is no reason to skip
            raise
        pytest.skip(f"no {request.param} here: {error}")
