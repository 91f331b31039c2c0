"""A run through Prefect as its command sees it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from prefect.states import Scheduled

from magistral_core.cli import deployed
from magistral_core.errors import InfrastructureError


def test_a_run_that_no_worker_takes_is_cancelled_so_that_none_takes_it_later(monkeypatch: pytest.MonkeyPatch) -> None:
    states: list[Any] = []

    class Client:
        def read_flow_run(self, _run: str) -> Any:
            return SimpleNamespace(state=Scheduled())

        def set_flow_run_state(self, _run: str, state: Any, force: bool) -> None:
            assert force
            states.append(state)

    monkeypatch.setattr(deployed, "_PICKED_UP_S", 0.0)
    with pytest.raises(InfrastructureError, match="no worker took the run of train"):
        deployed._follow(Client(), "run", SimpleNamespace(show=lambda: None), "train")
    assert [state.is_cancelled() for state in states] == [True]


def test_a_long_run_is_looked_at_more_rarely() -> None:
    pauses = [deployed._pause(elapsed) for elapsed in (0.0, 30.0, 60.0, 90.0, 150.0, 86_400.0)]
    assert pauses == [1.0, 1.0, 2.0, 3.0, 5.0, 5.0]
