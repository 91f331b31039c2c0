"""What a run tells MLflow. Every method that is called inside the training loop returns at once."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self

from magistral_core.errors import InfrastructureError, InputError, MagistralError
from magistral_core.tracking import replay
from magistral_core.tracking.outbox import Outbox, Point
from magistral_core.tracking.server import Place, check, connect, locate, mlflow_error, refusal

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from mlflow import MlflowClient

log = logging.getLogger(__name__)

#: Tag with the id of the run in storage, by which an MLflow run is found again.
RUN_TAG = "magistral.run"
KEY_TAG = "magistral.key"
CHECKPOINT_URI = "checkpoint_uri"
#: How long `finish` waits for an MLflow that is away.
FINISH_TIMEOUT_S = 300.0
_PARAMS_AT_ONCE = 100
_LONGEST_PARAM = 6000


def flatten(settings: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Nested settings as MLflow parameters: dotted names, values as text, sequences as JSON."""
    flat: dict[str, str] = {}
    for key, value in settings.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{name}.")
        else:
            flat[name] = json.dumps(value, ensure_ascii=False) if isinstance(value, (list, tuple)) else str(value)
    return flat


class Tracker:
    """One MLflow run. Made by `start`; ended by `finish`, or by leaving a `with` block."""

    def __init__(self, client: MlflowClient, place: Place, experiment_id: str, run_id: str) -> None:
        self._client = client
        self._place = place
        self._experiment_id = experiment_id
        self._run_id = run_id
        self._finished = False
        self._outbox = Outbox(self._send)

    @staticmethod
    def check(uri: str) -> None:
        """Make sure that MLflow answers at `http(s)://...` or `sqlite:FILE`. Raises InputError within seconds if not."""
        check(locate(uri))

    @staticmethod
    def find(uri: str, experiment: str, key: str) -> str | None:
        """The newest MLflow run with the tag `magistral.key` = `key`, or None.

        For a run that was killed before its first checkpoint could remember its MLflow run. An id is no key: two stores have the same.
        """
        with _explained(uri):
            client = connect(locate(uri))
            found = client.get_experiment_by_name(experiment)
            if found is None:
                return None
            runs = client.search_runs([found.experiment_id], f"tags.`{KEY_TAG}` = '{key}'", order_by=["attributes.start_time DESC"])
            whole = [item for item in runs if not _unfinished_copy(client, item)]
            return whole[0].info.run_id if whole else None

    @classmethod
    def start(
        cls,
        uri: str,
        experiment: str,
        run_name: str,
        params: Mapping[str, Any] | None = None,
        tags: Mapping[str, str] | None = None,
        resume_run_id: str | None = None,
        resume_step: int | None = None,
    ) -> Tracker:
        """Begin a run, or go on with one.

        Args:
            uri: `http(s)://...` or `sqlite:FILE`; artifacts then lie beside the file.
            experiment: made if missing.
            run_name, params, tags: of a new run; `params` is nested or flat.
            resume_run_id: the MLflow run to go on with, or one that it replaced; without one, or if it is gone, a new run
                begins.
            resume_step: the last step whose metrics stay. If the earlier run has later points, a copy without them takes
                its place (see `replay`), and `run_id` is a new one. None: no step was completed, all points go.

        Raises:
            InputError: not reachable, or the experiment was deleted.
        """
        place = locate(uri)
        check(place)
        with _explained(uri):
            client = connect(place)
            experiment_id = _experiment(client, place, experiment)
            run = replay.living_successor(client, resume_run_id) if resume_run_id else None
            if run is not None:
                last = -1 if resume_step is None else resume_step
                if replay.has_points_after(client, run, last):
                    run = replay.supersede(client, run, last)
                client.update_run(run.info.run_id, status="RUNNING")
                return cls(client, place, run.info.experiment_id, run.info.run_id)
            run = client.create_run(experiment_id, tags=dict(tags or {}), run_name=run_name)
            _log_params(client, run.info.run_id, flatten(params or {}))
            return cls(client, place, experiment_id, run.info.run_id)

    @property
    def run_id(self) -> str:
        """MLflow's id of the run; belongs into every checkpoint."""
        return self._run_id

    @property
    def run_url(self) -> str:
        """The run's page in the UI; empty without a server."""
        return f"{self._place.ui}/#/experiments/{self._experiment_id}/runs/{self._run_id}" if self._place.ui else ""

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Metrics of a step, named `group/name`. Never waits; sent in batches, at the latest after some seconds (`outbox.FLUSH_S`).

        An MLflow that is away is waited for in the background for half an hour.

        Raises:
            MagistralError: something logged earlier was refused, or MLflow has been away for too long.
        """
        now = time.time_ns() // 1_000_000
        self._outbox.put([Point(key, float(value), now, step) for key, value in metrics.items()])

    def log_samples(self, step: int, rows: Sequence[Mapping[str, Any]]) -> None:
        """Sample completions as a table, `samples/step-00000010.json`, which the UI shows. Rows may differ in their columns."""
        columns = list(dict.fromkeys(key for row in rows for key in row))
        table = {"columns": columns, "data": [[_plain(row.get(column)) for column in columns] for row in rows]}
        path = f"samples/step-{step:08d}.json"
        text = json.dumps(table, ensure_ascii=False)

        def upload() -> None:
            self._upload(path, text.encode())
            tag = json.loads(self._client.get_run(self._run_id).data.tags.get(replay.TABLES_TAG, "[]"))
            entry = {"path": path, "type": "table"}
            tag = [*(item for item in tag if item != entry), entry][-replay.TABLES_LISTED :]
            self._client.set_tag(self._run_id, replay.TABLES_TAG, json.dumps(tag))

        self._call(upload)

    def log_checkpoint(self, step: int, uri: str, metrics: Mapping[str, float] | None = None) -> None:
        """A committed checkpoint as a logged model `step-N` with its URI and the metrics that belong to it.

        In the run's own curves these metrics are called `checkpoint/...`: `log` may have sent the same names for the same step.
        """
        now = time.time_ns() // 1_000_000
        values = {f"checkpoint/{key}": float(value) for key, value in (metrics or {}).items()}
        self._call(lambda: self._log_model(step, uri, values, now))

    def log_figure(self, name: str, figure: Figure) -> None:
        """A matplotlib figure as an image; `name` is a path as in `plots/curve.png`. Drawn now, sent later."""
        drawn = io.BytesIO()
        figure.savefig(drawn, format=Path(name).suffix.lstrip(".") or "png", bbox_inches="tight")
        self._call(lambda: self._upload(name, drawn.getvalue()))

    def log_dict(self, name: str, content: Mapping[str, Any]) -> None:
        """A JSON artifact; `name` is a path as in `ledger.json`."""
        text = json.dumps(content, indent=1, ensure_ascii=False, default=str)
        self._call(lambda: self._upload(name, text.encode()))

    def log_file(self, name: str, path: Path) -> None:
        """A file as an artifact under `name`, a path as in `data/kept.jsonl`; it must stay until `flush`."""
        folder, _, last = name.rpartition("/")
        if path.name != last:
            raise ValueError(f"an artifact keeps its file's name: {path.name}, not {last}")
        self._call(lambda: self._client.log_artifact(self._run_id, str(path), folder or None))

    def log_dataset(self, name: str, digest: str, source: str, rows: int, context: str) -> None:
        """A data set that the run read or made (MLflow shows it beside the run).

        Args:
            name: of the data set.
            digest: its version.
            source: where it lies.
            rows: how many problems.
            context: what the run did with it, such as `curation-input`.
        """

        def send() -> None:
            from mlflow.entities import Dataset, DatasetInput, InputTag
            from mlflow.utils.mlflow_tags import MLFLOW_DATASET_CONTEXT

            # MLflow takes digests of at most 36 characters.
            data = Dataset(name, digest[:36], "local", json.dumps({"uri": source}), profile=json.dumps({"num_rows": rows}))
            self._client.log_inputs(self._run_id, [DatasetInput(data, [InputTag(MLFLOW_DATASET_CONTEXT, context)])])

        self._call(send)

    def set_tags(self, tags: Mapping[str, str]) -> None:
        """Set tags of the run."""
        copied = dict(tags)
        self._call(lambda: [self._client.set_tag(self._run_id, key, value) for key, value in copied.items()])

    def flush(self, timeout_s: float = 60.0) -> bool:
        """Wait until all that was logged is in MLflow; False if that took too long. Raises like `log`.

        Call it before a checkpoint commits, and keep what `unsent` gives with it: then no step before that checkpoint can be missing from
        a curve after a crash.
        """
        return self._outbox.flush(timeout_s)

    def unsent(self) -> list[list[Any]]:
        """What metrics are not in MLflow yet, or not known to be, as JSON values for `resend`."""
        return [[point.key, point.value, point.time_ms, point.step] for point in self._outbox.unsent()]

    def resend(self, points: Sequence[Sequence[Any]]) -> None:
        """Log what `unsent` gave an earlier process; what did arrive is not stored twice."""
        self._outbox.put([Point(*point) for point in points])

    def finish(self, status: Literal["FINISHED", "FAILED", "KILLED"] = "FINISHED", timeout_s: float = FINISH_TIMEOUT_S) -> None:
        """Send everything and end the run. Raises InfrastructureError with the number of values that could not be sent."""
        if self._finished:
            return
        self._finished = True
        self._outbox.close(timeout_s)
        with _explained(self._place.given):
            self._client.set_terminated(self._run_id, status)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if error is None:
            self.finish()
            return
        try:  # the error on its way out is the one to show
            self.finish("FAILED", timeout_s=20)
        except MagistralError as second:
            if second is not error:
                log.error("%s", second)

    def _call(self, call: Callable[[], object]) -> None:
        def guarded() -> None:
            try:
                call()
            except mlflow_error() as error:
                raise refusal(error) or error from error

        self._outbox.put([guarded])

    def _send(self, points: Sequence[Point]) -> None:
        from mlflow.entities import Metric

        metrics = [Metric(point.key, point.value, point.time_ms, point.step) for point in points]
        try:
            self._client.log_batch(self._run_id, metrics=metrics, synchronous=True)
        except mlflow_error() as error:
            raise refusal(error) or error from error

    def _upload(self, name: str, data: bytes) -> None:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, Path(name).name)
            path.write_bytes(data)
            self._client.log_artifact(self._run_id, str(path), str(Path(name).parent) if "/" in name else None)

    def _log_model(self, step: int, uri: str, metrics: Mapping[str, float], time_ms: int) -> None:
        from mlflow.entities import LoggedModelOutput, Metric
        from mlflow.utils.mlflow_tags import MLFLOW_MODEL_IS_EXTERNAL

        name = f"step-{step}"
        # Repeatable: an earlier try may have got further than its answer.
        narrow = f" AND params.{CHECKPOINT_URI} = '{uri}'" if "'" not in uri else ""  # MLflow's filters cannot quote one
        found = self._client.search_logged_models([self._experiment_id], f"name = '{name}'{narrow}")
        known = replay.outputs_of(self._client.get_run(self._run_id))  # those that a run whose place this one took had logged, too
        own = (
            item
            for item in found
            if item.params.get(CHECKPOINT_URI) == uri and (item.source_run_id == self._run_id or item.model_id in known)
        )
        model = next(own, None) or self._client.create_logged_model(
            self._experiment_id,
            name=name,
            source_run_id=self._run_id,
            tags={MLFLOW_MODEL_IS_EXTERNAL: "true", replay.STEP_OF_MODEL: str(step), CHECKPOINT_URI: uri},
            params={CHECKPOINT_URI: uri, "step": str(step)},
            model_type="checkpoint",
        )
        self._client.finalize_logged_model(model.model_id, "READY")
        try:
            self._client.log_outputs(self._run_id, [LoggedModelOutput(model.model_id, step)])
        except mlflow_error():
            # A second time is refused; the first may have been heard and its answer lost, even by the client, which repeats too.
            if model.model_id not in replay.outputs_of(self._client.get_run(self._run_id)):
                raise
        points = [Metric(key, value, time_ms, step, model_id=model.model_id) for key, value in metrics.items()]
        if points:
            self._client.log_batch(self._run_id, metrics=points, synchronous=True)


@contextlib.contextmanager
def _explained(uri: str) -> Iterator[None]:
    """Turn MLflow's errors into one line: InputError if it refused, InfrastructureError if it failed."""
    try:
        yield
    except MagistralError:
        raise
    except Exception as error:
        if not isinstance(error, mlflow_error()):
            raise
        refused = refusal(error)
        if refused:
            raise InputError(f"tracking.uri {uri}: {refused}") from error
        raise InfrastructureError(f"tracking.uri {uri}: MLflow failed ({' '.join(str(error).split())[:300]})") from error


def _experiment(client: MlflowClient, place: Place, name: str) -> str:
    found = client.get_experiment_by_name(name)
    if found is None:
        try:
            return client.create_experiment(name, artifact_location=str(place.artifacts) if place.artifacts else None)
        except mlflow_error() as error:
            if getattr(error, "error_code", None) != "RESOURCE_ALREADY_EXISTS":
                raise
            found = client.get_experiment_by_name(name)  # somebody was faster
    if found is None or found.lifecycle_stage != "active":
        raise InputError(f"tracking.experiment {name!r}: was deleted in MLflow; restore it there, or choose another name")
    return found.experiment_id


def _log_params(client: MlflowClient, run_id: str, flat: Mapping[str, str]) -> None:
    from mlflow.entities import Param

    params = [Param(key, value[:_LONGEST_PARAM]) for key, value in flat.items()]
    for start in range(0, len(params), _PARAMS_AT_ONCE):
        client.log_batch(run_id, params=params[start : start + _PARAMS_AT_ONCE], synchronous=True)


def _unfinished_copy(client: MlflowClient, run: Any) -> bool:
    """Whether a run is a copy whose making was interrupted: what it copies is still there."""
    original = run.data.tags.get(replay.COPY_OF)
    try:
        return bool(original) and client.get_run(original).info.lifecycle_stage == "active"
    except mlflow_error() as error:
        if getattr(error, "error_code", None) == "RESOURCE_DOES_NOT_EXIST":  # deleted for good (`mlflow gc`), so it was done with
            return False
        raise


def _plain(value: Any) -> Any:
    return value if isinstance(value, (str, int, float, bool, type(None))) else str(value)
