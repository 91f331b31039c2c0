"""Run a Prefect deployment and follow it: its logs on stderr, its result or its error here."""

from __future__ import annotations

import re
import sys
import time
from dataclasses import dataclass
from typing import Any

from magistral_core.cli.common import note
from magistral_core.errors import InfrastructureError, InputError, MagistralError

#: Prefect is asked this often at first; then a pause is that share of the time that has passed. Each time costs it three requests, on the
#: cores that a run on a laptop needs itself.
_POLL_S, _SLOW_POLL_S = 1.0, 5.0
_SHARE = 1 / 30
#: A run that no worker takes within this time never will be.
_PICKED_UP_S = 120.0
_LOG_PAGE = 200
#: What Prefect says of every run.
_NOISE = (
    "Running 1 deployment pull",
    "Executing deployment step",
    "Deployment step",
    "All deployment steps",
    "Finished in state Completed",
)
_ERROR = re.compile(r"\b(InputError|InfrastructureError|MagistralError): (.*)", re.DOTALL)
#: Answers that say that the request itself was wrong.
_BAD_PARAMETERS = frozenset({400, 409, 422})
_KINDS = {kind.__name__: kind for kind in (InputError, InfrastructureError, MagistralError)}


@dataclass(frozen=True)
class Finished:
    """A completed flow run: what it returned, and its page in the UI."""

    value: dict[str, Any]
    url: str


def run_deployed(name: str, parameters: dict[str, Any]) -> Finished:
    """Run a deployment to its end. Ctrl-C cancels it.

    Args:
        name: `flow/deployment`.
        parameters: of the flow.

    Raises:
        InputError, InfrastructureError, MagistralError: what the flow raised, that no worker took it, or that Prefect is away.
    """
    import httpx
    from prefect.client.orchestration import get_client
    from prefect.exceptions import ObjectNotFound, PrefectHTTPStatusError
    from prefect.states import Cancelling
    from prefect.utilities.urls import url_for

    with get_client(sync_client=True) as client:
        ui = str(client.api_url).rstrip("/").removesuffix("/api")
        try:
            deployment = client.read_deployment_by_name(name)
            run = client.create_flow_run_from_deployment(deployment.id, parameters=parameters)
        except ObjectNotFound as error:
            raise InfrastructureError(f"Prefect at {ui} has no deployment {name}; run magistral stack up") from error
        except PrefectHTTPStatusError as error:
            said = f"{error.response.status_code}: {error.response.text[:500]}"
            if error.response.status_code in _BAD_PARAMETERS:
                raise InputError(f"Prefect refused the parameters of {name} ({said})") from error
            raise InfrastructureError(f"Prefect at {ui} did not start {name} ({said})") from error
        except httpx.HTTPError as error:
            raise InfrastructureError(f"Prefect at {ui} does not answer ({str(error) or type(error).__name__})") from error
        # Prefect Cloud's pages have another host than its API.
        url = (url_for("flow-run", obj_id=run.id) if "/api/accounts/" in ui else None) or f"{ui}/runs/flow-run/{run.id}"
        note(f"Prefect run: {url}")
        logs = _Logs(client, run.id)
        try:
            state = _follow(client, run.id, logs, name)
        except (KeyboardInterrupt, SystemExit):
            client.set_flow_run_state(run.id, Cancelling(), force=False)
            note("cancelled; the run resumes when the same command is given again")
            raise
        except httpx.HTTPError as error:
            raise InfrastructureError(
                f"Prefect at {ui} does not answer ({error}); the run goes on without this command, see {url}"
            ) from error
    if not state.is_completed():
        raise _failure(name, state, url)
    value = state.result()
    return Finished(value, url)


def _follow(client: Any, run_id: Any, logs: _Logs, name: str) -> Any:
    from prefect.states import Cancelled

    began = time.monotonic()
    while True:
        state = client.read_flow_run(run_id).state
        logs.show()
        if state.is_final():
            time.sleep(_POLL_S)  # the last lines arrive a moment later
            logs.show()
            return state
        if state.is_scheduled() and time.monotonic() - began > _PICKED_UP_S:
            client.set_flow_run_state(run_id, Cancelled(), force=True)  # or a worker would start it later, beside the next one
            raise InfrastructureError(f"no worker took the run of {name} within {_PICKED_UP_S:.0f} s; see magistral stack status")
        time.sleep(_pause(time.monotonic() - began))


def _pause(elapsed: float) -> float:
    """Seconds until a run that was begun so long ago is looked at again."""
    return min(_SLOW_POLL_S, max(_POLL_S, elapsed * _SHARE))


def _failure(name: str, state: Any, url: str) -> MagistralError:
    match = _ERROR.search(state.message or "")
    if match:
        return _KINDS[match[1]](match[2])
    if state.is_cancelled() or state.is_cancelling():
        return MagistralError(f"the run of {name} was cancelled; the same command resumes it")
    return MagistralError(f"the run of {name} ended as {state.name}: {' '.join((state.message or '').split())[:300]}; see {url}")


class _Logs:
    """New log lines of a flow run and its subflows."""

    def __init__(self, client: Any, run_id: Any) -> None:
        self._client, self._run_id, self._offset = client, run_id, 0
        self._seen: set[Any] = set()

    def show(self) -> None:
        """Print what came since."""
        from prefect.client.schemas.filters import (
            FlowRunFilter,
            FlowRunFilterParentFlowRunId,
            LogFilter,
            LogFilterFlowRunId,
        )
        from prefect.client.schemas.sorting import LogSort

        children = self._client.read_flow_runs(
            flow_run_filter=FlowRunFilter(parent_flow_run_id=FlowRunFilterParentFlowRunId(any_=[self._run_id]))
        )
        runs = [self._run_id, *(child.id for child in children)]
        # Lines of several processes can arrive out of order, so the last page is read again.
        start = max(0, len(self._seen) - _LOG_PAGE // 2)
        page = self._client.read_logs(
            LogFilter(flow_run_id=LogFilterFlowRunId(any_=runs)), sort=LogSort.TIMESTAMP_ASC, limit=_LOG_PAGE, offset=start
        )
        for line in page:
            if line.id not in self._seen:
                self._seen.add(line.id)
                if line.name in {"prefect.flow_runs", "prefect.task_runs"} and not line.message.startswith(_NOISE):
                    # The traceback stays in Prefect, and in the log of the flow run.
                    message = line.message.partition("Traceback (most recent call last)")[0].rstrip()
                    if message:
                        note(f"{line.timestamp.astimezone():%H:%M:%S}  {message}" if sys.stderr.isatty() else message)
