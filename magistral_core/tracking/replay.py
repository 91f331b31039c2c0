"""A resumed run in MLflow: steps that will be done again must not appear twice in a curve.

MLflow cannot delete single points. So when the earlier run has points after the step that training resumes from, a new
run takes its place: everything up to that step is copied, the earlier one is tagged with its successor and deleted
(MLflow keeps deleted runs in a bin). Without such points the same run goes on.

    A (points to 30) --resume from 25--> B = copy of A up to 25; A deleted, superseded_by B
    resume from 25 again, still knowing A: A's successor is B, and B is treated the same way
"""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from magistral_core.tracking.outbox import BATCH
from magistral_core.tracking.server import mlflow_error

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import LoggedModel, Metric, Run

SUPERSEDED_BY = "magistral.superseded_by"
COPY_OF = "magistral.copy_of"
TABLES_TAG = "mlflow.loggedArtifacts"
#: The UI lists tables from a tag of at most 8,000 characters; the newest are listed.
TABLES_LISTED = 100
STEP_OF_MODEL = "magistral.step"
_STEP_IN_NAME = re.compile(r"step-(\d+)")
_PARAMS_AT_ONCE = 100


def living_successor(client: MlflowClient, run_id: str) -> Run | None:
    """The run itself, or the one that took its place; None if it is gone without a successor."""
    seen = set()
    while run_id not in seen:
        seen.add(run_id)
        try:
            run = client.get_run(run_id)
        except mlflow_error() as error:
            if getattr(error, "error_code", None) == "RESOURCE_DOES_NOT_EXIST":
                return None
            raise
        if run.info.lifecycle_stage == "active":
            return run
        run_id = run.data.tags.get(SUPERSEDED_BY, run_id)
    return None


def has_points_after(client: MlflowClient, run: Run, step: int) -> bool:
    """Whether any metric has a point at a later step."""
    return any(point.step > step for point in _points(client, run))


def supersede(client: MlflowClient, run: Run, step: int) -> Run:
    """Copy a run up to a step, inclusive, and delete it; the copy is returned.

    Killed half-way, the earlier run is still there and the unfinished copy is deleted by the next call.
    """
    old = run.info.run_id
    for stray in _copies(client, run):
        client.delete_run(stray.info.run_id)
    tags = {key: value for key, value in run.data.tags.items() if key not in (SUPERSEDED_BY, COPY_OF, TABLES_TAG)}
    new = client.create_run(run.info.experiment_id, start_time=run.info.start_time, tags={**tags, COPY_OF: old}, run_name=run.info.run_name)
    new_id = new.info.run_id
    params = _params(run)
    for start in range(0, len(params), _PARAMS_AT_ONCE):
        client.log_batch(new_id, params=params[start : start + _PARAMS_AT_ONCE], synchronous=True)
    points = [point for point in _points(client, run) if point.step <= step]
    for start in range(0, len(points), BATCH):
        client.log_batch(new_id, metrics=points[start : start + BATCH], synchronous=True)
    tables = _copy_artifacts(client, old, new_id, step)
    if tables:
        client.set_tag(new_id, TABLES_TAG, json.dumps([{"path": path, "type": "table"} for path in tables[-TABLES_LISTED:]]))
    _move_models(client, run, new_id, step)
    client.set_tag(old, SUPERSEDED_BY, new_id)
    client.set_terminated(old, "KILLED")
    client.delete_run(old)
    return client.get_run(new_id)


def _points(client: MlflowClient, run: Run) -> Iterator[Metric]:
    for key in run.data.metrics:
        yield from client.get_metric_history(run.info.run_id, key)


def _params(run: Run) -> list[Any]:
    from mlflow.entities import Param

    return [Param(key, value) for key, value in run.data.params.items()]


def _copies(client: MlflowClient, run: Run) -> list[Run]:
    return list(client.search_runs([run.info.experiment_id], f"tags.`{COPY_OF}` = '{run.info.run_id}'"))


def _copy_artifacts(client: MlflowClient, old: str, new: str, step: int) -> list[str]:
    """Copy every artifact but those named after a later step; returns the tables of samples among them."""
    tables = []
    with tempfile.TemporaryDirectory() as folder:
        for path in _artifacts(client, old):
            named = _STEP_IN_NAME.search(path)
            if named and int(named[1]) > step:
                continue
            local = client.download_artifacts(old, path, folder)
            client.log_artifact(new, local, str(Path(path).parent) if "/" in path else None)
            if path.startswith("samples/"):
                tables.append(path)
    return sorted(tables)


def _artifacts(client: MlflowClient, run_id: str, folder: str | None = None) -> Iterator[str]:
    for item in client.list_artifacts(run_id, folder):
        if item.is_dir:
            yield from _artifacts(client, run_id, item.path)
        else:
            yield item.path


def _move_models(client: MlflowClient, run: Run, new: str, step: int) -> None:
    """Show the checkpoints up to the step at the new run; those of later steps are deleted with their steps."""
    from mlflow.entities import LoggedModelOutput

    for model in _models(client, run):
        if model.source_run_id != run.info.run_id and model.model_id not in outputs_of(run):
            continue
        at = int(model.tags[STEP_OF_MODEL])
        if at > step:
            client.delete_logged_model(model.model_id)
        else:
            client.log_outputs(new, [LoggedModelOutput(model.model_id, at)])


def _models(client: MlflowClient, run: Run) -> Iterator[LoggedModel]:
    token = None
    while True:
        page = client.search_logged_models([run.info.experiment_id], f"tags.`{STEP_OF_MODEL}` != ''", page_token=token)
        yield from page
        token = page.token
        if not token:
            return


def outputs_of(run: Run) -> set[str]:
    """Ids of the models that are shown at a run."""
    return {output.model_id for output in run.outputs.model_outputs} if run.outputs else set()
