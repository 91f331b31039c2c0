"""Train a recipe: the core's run as a child process, followed into Prefect's progress, logs, links and table."""

from __future__ import annotations

import json
import time
import uuid
from pathlib import Path
from typing import Any

import yaml
from prefect import get_run_logger, task
from prefect.artifacts import create_link_artifact, create_progress_artifact, create_table_artifact, update_progress_artifact
from prefect.client.schemas.objects import State, TaskRun
from prefect.runtime import flow_run, task_run

from magistral_core.config import Recipe
from magistral_core.errors import InfrastructureError, InputError, MagistralError
from tasks.artifacts import checkpoints_table, publish_stages
from tasks.child import run_command, showing, work_folder
from tasks.events import EventFile

#: A bar of hours needs no more, and each update is a request.
_UPDATE_S = 5.0
#: A step's line in the log so often; every step is in MLflow.
_LOG_STEPS = 10


def broken_not_wrong(_task: Any, run: TaskRun, state: State) -> bool:
    """Retry what broke (a server, a killed process); input that is wrong stays wrong.

    A server that cannot be reached is bad input to a first attempt, and an outage to those that follow.
    """
    try:
        state.result()
    except InfrastructureError:
        return True
    except InputError as error:
        return run.run_count > 1 and "cannot be reached" in str(error)
    except Exception:  # noqa: BLE001, S110  (any other failure is final)
        pass
    return False


@task(
    name="train",
    retries=2,
    retry_delay_seconds=[10, 120],
    retry_condition_fn=broken_not_wrong,
    persist_result=True,
    result_serializer="json",
)
def train_recipe(recipe: dict[str, Any], flow_run_id: str, fresh: bool = False, until: str = "end") -> dict[str, Any]:
    """Run a recipe to its end. A second attempt resumes from the last checkpoint; where the last stage has ended, there is none.

    Args:
        recipe: all settings, as `Recipe.model_dump(mode="json")` gives them.
        flow_run_id: names the folder of logs.
        fresh: begin anew where an unfinished run of the recipe exists; an attempt after one that began resumes that one.
        until: "stage" ends with the stage of the curriculum that the run is in.

    Returns:
        The core's summary of the run.
    """
    attempt = task_run.get_run_count() or 1
    folder = work_folder(flow_run_id)
    # Below the outermost flow run: a subflow that is tried again is another run.
    root = work_folder(flow_run.root_flow_run_id or flow_run_id)
    begun, ended = (root / f"{what}-{recipe['name']}" for what in ("begun", "ended"))
    if ended.exists():
        get_run_logger().info("the last stage was trained before; nothing is trained again")
        return json.loads(ended.read_text())  # type: ignore[no-any-return]
    name = f"train-{uuid.uuid4().hex[:6]}"
    settings = folder / f"{name}.yaml"
    settings.write_text(yaml.safe_dump(recipe, sort_keys=False))
    log, events = folder / f"{name}.log", folder / f"{name}.jsonl"
    get_run_logger().info("attempt %d; the run's own log: %s", attempt, log)
    follower = _Follower(events, Recipe.model_validate(recipe).training.max_steps, begun)
    arguments = ["run", str(settings), "--direct", "--events", str(events), "--until", until]
    try:
        run_command([*arguments, "--fresh"] if fresh and not begun.exists() else arguments, log, on_poll=follower.poll)
    except MagistralError as error:
        if not follower.ended:
            raise
        get_run_logger().warning("the training had ended and is stored; after that, %s", error)  # a retry would train all of it again
    summary = follower.finish()
    if until == "stage" and summary["finished"]:  # what comes after may be cancelled and tried again, and the core would begin anew
        written = ended.with_suffix(".tmp")
        written.write_text(json.dumps(summary))
        written.replace(ended)
    return summary


class _Follower:
    """Turns events into what Prefect shows."""

    def __init__(self, events: Path, max_steps: int, begun: Path) -> None:
        self._events, self._begun = EventFile(events), begun
        self._max_steps = max_steps
        self._log = get_run_logger()
        self._progress: Any = None
        with showing(self._log):
            self._progress = create_progress_artifact(progress=0.0, key="training", description=f"Optimiser steps of {max_steps}")
        self._shown = 0.0
        self._step = 0
        self._last_update = time.monotonic()
        self._summary: dict[str, Any] | None = None

    def poll(self) -> None:
        """Show what is new."""
        for event in self._events.read():
            handler = getattr(self, f"_on_{event['event']}", None)
            if handler is not None:  # other events are for terminals
                handler(event)
        percent = self._percent
        if percent != self._shown and time.monotonic() - self._last_update > _UPDATE_S:
            self._show(percent)

    def finish(self) -> dict[str, Any]:
        """The summary of the ended run, with its table and links."""
        if self._summary is None:
            raise InfrastructureError("training ended without saying how")
        summary = self._summary
        self._show(100.0 if summary.get("finished", True) else self._percent)
        ledger = summary["ledger"]
        rows = [("optimiser steps", summary["steps"]), ("weight updates", summary["weight_updates"])]
        rows += [("of these with sequences in flight", summary["weight_updates_in_flight"]), ("seconds", summary["seconds"])]
        rows += [(f"groups {state}", count) for state, count in ledger.items() if isinstance(count, int)]
        with showing(self._log):
            create_table_artifact(
                [{"": name, "value": value} for name, value in rows], key="training-results", description="The run in figures"
            )
            create_table_artifact(checkpoints_table(summary["checkpoints"]), key="checkpoints", description="Checkpoints in storage")
        return summary

    @property
    def ended(self) -> bool:
        """Whether the run has told its summary, which is the last that it does."""
        return self._summary is not None

    @property
    def _percent(self) -> float:
        return 100.0 * self._step / self._max_steps

    def _show(self, percent: float) -> None:
        if self._progress is not None:
            with showing(self._log):
                update_progress_artifact(self._progress, progress=percent)
        self._shown, self._last_update = percent, time.monotonic()

    def _on_start(self, event: dict[str, Any]) -> None:
        self._begun.touch()
        self._step = event["resumed_step"] or 0
        self._log.info("run %s, step %d of %d; MLflow: %s", event["run_id"], self._step, event["max_steps"], event["mlflow_url"])
        if str(event["mlflow_url"]).startswith("http"):
            with showing(self._log):
                create_link_artifact(
                    event["mlflow_url"], link_text="Curves in MLflow", key="mlflow", description="The run's metrics and samples"
                )

    def _on_step(self, event: dict[str, Any]) -> None:
        self._step = event["step"]
        if self._step % _LOG_STEPS == 0 or self._step == self._max_steps:
            figures = {
                name: event["metrics"][name] for name in ("reward/mean", "pass/rate", "pass/valid_format") if name in event["metrics"]
            }
            self._log.info(
                "step %d of %d %s", self._step, self._max_steps, " ".join(f"{name} {value:.3f}" for name, value in figures.items())
            )

    def _on_stage(self, event: dict[str, Any]) -> None:
        with showing(self._log):
            publish_stages(event["stages"])

    def _on_validation(self, event: dict[str, Any]) -> None:
        figures = {name: value for name, value in event["metrics"].items() if name in ("validation/pass_rate", "validation/reward_mean")}
        self._log.info(
            "validation of step %d %s",
            event["metrics"]["validation/step"],
            " ".join(f"{name.removeprefix('validation/')} {value:.3f}" for name, value in figures.items()),
        )

    def _on_wait(self, event: dict[str, Any]) -> None:
        self._log.info("waiting: %s", event["message"])

    def _on_checkpoint(self, event: dict[str, Any]) -> None:
        self._log.info("checkpoint of step %d: %s", event["step"], event["uri"])

    def _on_end(self, event: dict[str, Any]) -> None:
        self._summary = {name: value for name, value in event.items() if name != "event"}
