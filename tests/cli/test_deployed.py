"""A run through Prefect as its command sees it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from prefect.client import orchestration
from prefect.exceptions import PrefectHTTPStatusError
from prefect.states import Scheduled

from magistral_core.cli import deployed
from magistral_core.errors import InfrastructureError, InputError


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


@pytest.mark.parametrize(
    ("answer", "error", "words"),
    [
        (409, InputError, "refused the parameters of train/x"),
        (403, InfrastructureError, "did not start train/x .403: no right"),
        (503, InfrastructureError, "did not start train/x .503"),
        (None, InfrastructureError, "does not answer .*no route"),
    ],
)
def test_who_is_at_fault_when_a_run_does_not_start(
    answer: int | None, error: type[Exception], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def respond(request: httpx.Request) -> httpx.Response:
        if answer is None:
            raise httpx.ConnectError("no route")
        return httpx.Response(answer, text="no right", request=request)

    class Client:
        api_url = "http://prefect/api"

        def __enter__(self) -> Client:
            return self

        def __exit__(self, *_: object) -> None:
            pass

        def read_deployment_by_name(self, _name: str) -> Any:
            with httpx.Client(transport=httpx.MockTransport(respond)) as client:
                try:
                    client.get(self.api_url).raise_for_status()
                except httpx.HTTPStatusError as refusal:
                    raise PrefectHTTPStatusError.from_httpx_error(refusal) from refusal

    monkeypatch.setattr(orchestration, "get_client", lambda **_: Client())
    with pytest.raises(error, match=words):
        deployed.run_deployed("train/x", {})


def test_a_long_run_is_looked_at_more_rarely() -> None:
    pauses = [deployed._pause(elapsed) for elapsed in (0.0, 30.0, 60.0, 90.0, 150.0, 86_400.0)]
    assert pauses == [1.0, 1.0, 2.0, 3.0, 5.0, 5.0]
