"""A run from beginning to end: find or make it in storage, resume, start the roles, loop, commit, close."""

from __future__ import annotations

import asyncio
import contextlib
import glob
import hashlib
import json
import logging
import os
import secrets
import shutil
import socket
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any, Literal

from magistral_core import __version__
from magistral_core.config.schema import CodeSettings, PipelineSettings, Recipe
from magistral_core.errors import InfrastructureError, InputError, MagistralError
from magistral_core.paths import cache_folder
from magistral_core.pipeline.coordinator import Coordinator, StallError
from magistral_core.pipeline.prepare import Prepared, storage_uri, tracking_uri
from magistral_core.pipeline.runtime import LocalRuntime, Runtime
from magistral_core.pipeline.state import LOOP_FILE, MODEL_FOLDER, LoopState
from magistral_core.pipeline.supervision import TrainerError
from magistral_core.records import Batch
from magistral_core.storage import (
    PATIENCE_S,
    CheckpointWriter,
    CorruptCheckpointError,
    Lease,
    Manifest,
    ObjectStore,
    RunHandle,
    RunIndex,
    open_store,
    recipe_digest,
)
from magistral_core.tracking import KEY_TAG, RUN_TAG, Tracker

log = logging.getLogger(__name__)
_LOOPBACK = "127.0.0.1"

#: How often storage is asked for another number of generators.
_SCALE_SECONDS = 5.0
#: And whether servers that are away are back.
_SERVERS_SECONDS = 2.0
OnEvent = Callable[[dict[str, Any]], None]
#: How far a call runs.
Until = Literal["end", "stage"]
_SAMPLE_CHARACTERS = 2000
#: How long a checkpoint waits for MLflow; what it has not taken by then is kept in this file of the checkpoint.
_FLUSH_SECONDS = 15.0
_UNSENT_FILE = "unsent-metrics.json"


def run_prepared(prepared: Prepared, *, fresh: bool = False, until: Until = "end", on_event: OnEvent | None = None) -> dict[str, Any]:
    """Run a prepared recipe to its end; an unfinished run of the same recipe is resumed.

    Args:
        prepared: the recipe with its problems.
        fresh: begin anew even where an unfinished run of this recipe exists.
        until: "stage" ends with the stage of the curriculum that the run is in; the same call then runs the next one.
        on_event: called with `wait`, `start`, `step`, `checkpoint` and `end` events (dicts with a key `event`).

    Returns:
        A summary: run id, steps, weight updates, ledger, checkpoints, MLflow run; of a curriculum also its stages, and whether it is over.

    Raises:
        InputError: storage or tracking cannot be reached, the run is being written by another process, or `until` asks for the stage
            of a recipe without.
        MagistralError: the run stopped, with the cause; the same call resumes it.
    """
    recipe = prepared.recipe
    if until == "stage" and recipe.curriculum is None:
        raise InputError(f"recipe {recipe.name} has no curriculum.stages, so no stage to run; leave --until out")
    store = open_store(storage_uri(recipe))
    store.check()
    Tracker.check(tracking_uri(recipe))
    handle = _handle(store, recipe, fresh)
    on_wait = None if on_event is None else lambda line: on_event({"event": "wait", "message": line})
    with handle.lease(on_wait=on_wait) as lease, _staging_folder(handle.run_id, store) as work:
        return _Run(prepared, handle, lease, work, on_event, one_stage=until == "stage").execute()


def stages(prepared: Prepared, *, fresh: bool = False) -> list[dict[str, Any]]:
    """A row for each stage of the recipe's curriculum, as far as its unfinished run has come (`Curriculum.table`). Changes nothing.

    Raises:
        InputError: the recipe has no curriculum, storage cannot be reached, or the problems are others than the run's.
    """
    recipe, curriculum = prepared.recipe, prepared.curriculum()
    if curriculum is None:
        raise InputError(f"recipe {recipe.name} has no curriculum.stages")
    store = open_store(storage_uri(recipe))
    store.check()
    handle = _handle(store, recipe, fresh)
    damaged: CorruptCheckpointError | None = None
    for manifest in reversed(handle.checkpoints().manifests()):
        _check_problems(prepared, handle, manifest)
        with tempfile.TemporaryDirectory(prefix="magistral-stages-") as folder:
            try:
                handle.checkpoints().download(manifest.step, Path(folder), LOOP_FILE)
            except CorruptCheckpointError as error:  # the run itself goes on from the one before, as well
                damaged = damaged or error
                continue
            curriculum.restore(json.loads(Path(folder, LOOP_FILE).read_text(encoding="utf-8"))["curriculum"])
            return curriculum.table()
    if damaged is not None:
        raise damaged
    return curriculum.table()


def _handle(store: ObjectStore, recipe: Recipe, fresh: bool) -> RunHandle:
    return RunIndex(store).resolve(recipe.name, recipe_digest(what_is_learnt(recipe)), fresh=fresh)


def _check_problems(prepared: Prepared, handle: RunHandle, manifest: Manifest) -> None:
    if manifest.metadata["problems_digest"] != prepared.problems_digest:
        raise InputError(
            f"run {handle.run_id} was begun with other problems than {prepared.recipe.problems.path} holds now; "
            "give back the old file, or begin anew with --fresh"
        )


#: Settings that say where and on how much a run runs. With others it is the same run: any split gives the same gradient.
_NOT_WHAT_IS_LEARNT: dict[str, Any] = {
    "storage": True,
    "tracking": True,
    "checkpoints": True,
    "evaluation": True,
    "validation": True,
    "rewards": {"workers", "max_workers", "extra_folder"},
    "generation": {"max_num_seqs", "tensor_parallel", "kv_cache_gib", "gpu_memory_utilization", "enforce_eager"},
    "pipeline": {
        *("runtime", "ray_address", "weights_folder", "handover", "placement", "generators", "trainers", "verifiers"),
        *("stall_timeout_s", "update_timeout_s", "start_timeout_s", "max_restarts"),
    },
    "training": {"zero_stage", "token_budget", "logprob_chunk", "gradient_checkpointing", "attention", "share_prompts"},
}


def what_is_learnt(recipe: Recipe) -> dict[str, Any]:
    """The settings that make a run the same run. Where it is stored and watched does not matter, nor how many ranks train it."""
    found = recipe.model_dump(mode="json", exclude=_NOT_WHAT_IS_LEARNT)
    # Nor this limit: it is raised to go on. Its default stands in the digests of runs from before it was left out.
    found["pipeline"]["max_filtered_groups"] = PipelineSettings.model_fields["max_filtered_groups"].default
    for name in ("workers", "sandbox"):  # nor where and how many at a time programs run; as before
        found["rewards"]["code"][name] = CodeSettings.model_fields[name].default
    if recipe.curriculum is None:  # so that runs from before there were curricula go on
        del found["curriculum"]
    return found


@contextlib.contextmanager
def _staging_folder(run_id: str, store: ObjectStore) -> Iterator[Path]:
    """A local folder for checkpoints on their way; what a killed attempt left there goes first.

    Its name has the store, for a run id is unique in that only. A folder, and a local stack, are of one machine, while its cache may be
    another's as well: then its name has the machine, too. And it is this attempt's alone: one that lost its lease, and ends later than
    its successor began, takes only its own folder along.
    """
    local = store.uri.startswith("file:") or _LOOPBACK in os.environ.get("AWS_ENDPOINT_URL_S3", os.environ.get("AWS_ENDPOINT_URL", ""))
    place = f"{store.uri} {socket.gethostname() if local else ''}"
    place = hashlib.sha256(place.encode()).hexdigest()[:8]
    parent = cache_folder() / "staging"
    for left in parent.glob(f"{glob.escape(run_id)}-{place}*"):
        shutil.rmtree(left, ignore_errors=True)
    folder = parent / f"{run_id}-{place}-{secrets.token_hex(4)}"
    try:
        folder.mkdir(parents=True)
    except OSError as error:
        raise InputError(f"{folder}: cannot be written ({error.strerror}); set MAGISTRAL_CACHE to a folder with room") from error
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


class _Run:
    """One attempt at a run; the coordinator's observer."""

    def __init__(
        self, prepared: Prepared, handle: RunHandle, lease: Lease, work: Path, on_event: OnEvent | None, *, one_stage: bool
    ) -> None:
        self._prepared, self._recipe, self._handle, self._work, self._on_event = prepared, prepared.recipe, handle, work, on_event
        self._lease, self._checkpoints, self._one_stage = lease, handle.checkpoints(lease), one_stage

    def execute(self) -> dict[str, Any]:
        """Resume or begin, loop, commit."""
        self._handle.begin(self._recipe.model_dump(mode="json"))
        state = asyncio.run(self._attempts())
        summary = self._summary(state)
        if summary.get("finished", True):
            self._handle.finish(summary)
        self._emit("end", **summary)
        return summary

    async def _attempts(self) -> LoopState:
        """The loop to its end. Where trainers die it goes back to the last checkpoint with new ones, and the generators stay."""
        runtime, started = self._make_runtime(), False
        deaths, last_step = 0, -1
        try:
            while True:
                for unfinished in self._work.glob("step-*"):  # of trainers that died while they wrote it
                    shutil.rmtree(unfinished, ignore_errors=True)
                manifest, state, model_dir, folder = self._restore_newest()
                deaths, last_step = (deaths, last_step) if state.step == last_step else (0, state.step)
                try:
                    with self._observed(manifest, again=started):
                        self._resend(manifest, folder)
                        self._emit("start", **self._identity(), **self._extent(state))
                        if state.curriculum is not None:
                            self.on_stage(state.step, state.curriculum.table())
                        await self._within_limit((runtime.rewind if started else runtime.start)(model_dir, state.step, folder))
                        started = True
                        self._emit("ready")
                        stream, prompt = self._prepared.stream, self._prepared.prompt
                        coordinator = Coordinator(
                            self._recipe, runtime, stream, prompt, self, state, self._prepared.held_out, one_stage=self._one_stage
                        )
                        async with self._scaled(coordinator):
                            await coordinator.run()
                    return state
                except TrainerError as error:
                    deaths += 1
                    if not started or deaths > self._recipe.pipeline.max_restarts:
                        raise
                    self.on_restart("trainers", str(error))
                    await self._servers_back()
        finally:
            await runtime.close()

    async def _servers_back(self) -> None:
        """Wait for storage and tracking: what killed the trainers, a network or a node, may have taken those along for a while."""
        end = time.monotonic() + PATIENCE_S
        while True:
            try:
                await asyncio.to_thread(self._checkpoints.store.check, write=False)
                await asyncio.to_thread(Tracker.check, tracking_uri(self._recipe))
            except InputError as error:
                if time.monotonic() > end:
                    raise InfrastructureError(str(error)) from error
                log.warning("going back to the last checkpoint waits: %s", error)
                await asyncio.sleep(_SERVERS_SECONDS)
            else:
                await asyncio.to_thread(self._lease.check)  # another machine may have gone on meanwhile
                return

    async def _within_limit(self, starting: Coroutine[Any, Any, None]) -> None:
        limit = self._recipe.pipeline.start_timeout_s
        try:
            async with asyncio.timeout(limit) as deadline:
                await starting
        except TimeoutError as error:
            if not deadline.expired():  # another one's
                raise
            raise StallError(
                f"generators, verifiers and trainers were not all started within {limit:g} s; are there GPUs for each (`ray status`)? "
                "Run the same command again to resume, or raise pipeline.start_timeout_s"
            ) from error

    @contextlib.asynccontextmanager
    async def _scaled(self, coordinator: Coordinator) -> AsyncIterator[None]:
        """Meanwhile, follow the number of generators that storage asks for (`RunHandle.ask_for_generators`)."""
        task = asyncio.create_task(self._follow_scale(coordinator))
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def _follow_scale(self, coordinator: Coordinator) -> None:
        told = None
        while self._recipe.pipeline.runtime == "ray":
            await asyncio.sleep(_SCALE_SECONDS)
            try:
                wanted = await asyncio.to_thread(self._handle.wanted_generators)
            except MagistralError as error:  # storage is away, say: whatever needs it more will tell
                log.warning("not known how many generators are wanted: %s", error)
                continue
            if wanted is not None:
                try:
                    coordinator.scale(wanted)
                except Exception:  # a defect, and the run itself does not hang on it
                    log.exception("from here on the number of generators that is asked for is not followed; a resume follows it again")
                    return
            if wanted != told:
                self._emit("scale", generators=wanted)
            told = wanted

    @contextlib.contextmanager
    def _observed(self, manifest: Manifest | None, *, again: bool) -> Iterator[None]:
        """Tracking and uploads of one attempt. The writer closes first: its last commits still have something to tell the tracker."""
        keep = self._recipe.checkpoints.keep
        try:
            tracker = self._track(manifest)
        except InputError as error:
            if again:  # it was there when the run began
                raise InfrastructureError(str(error)) from error
            raise
        with tracker as self._tracker, CheckpointWriter(self._checkpoints, keep=keep) as self._writer:
            yield

    def _make_runtime(self) -> Runtime:
        if self._recipe.pipeline.runtime == "local":
            return LocalRuntime(self._recipe)
        from magistral_core.pipeline.runtime_ray import RayRuntime

        return RayRuntime(self._recipe)

    def _restore_newest(self) -> tuple[Manifest | None, LoopState, Path, Path | None]:
        """The newest checkpoint that is whole, and what `_restore` makes of it. Raises CorruptCheckpointError where none is."""
        damaged: list[tuple[Manifest, CorruptCheckpointError]] = []
        for manifest in reversed(self._checkpoints.manifests()):
            try:
                restored = self._restore(manifest)
            except CorruptCheckpointError as error:
                damaged.append((manifest, error))
                continue
            for newer, _ in damaged:
                self._discard_if_damaged(newer)
            return manifest, *restored
        if damaged:  # rather than from the beginning, as if there had been none
            raise damaged[0][1]
        if self._checkpoints.incomplete:
            raise CorruptCheckpointError(
                f"{self._checkpoints.incomplete[-1]}, and no other is whole; put it back, or begin anew with --fresh"
            )
        return None, *self._restore(None)

    def _discard_if_damaged(self, manifest: Manifest) -> None:
        try:
            self._checkpoints.verify(manifest.step)
        except CorruptCheckpointError as error:  # there too, and not on its way here
            log.warning("%s; the run goes on from the checkpoint before", error)
            self._checkpoints.discard(manifest)

    def _restore(self, manifest: Manifest | None) -> tuple[LoopState, Path, Path | None]:
        """State, model folder and trainer folder to begin with."""
        curriculum = self._prepared.curriculum()
        if manifest is None:
            return LoopState(curriculum=curriculum), self._prepared.model_dir, None
        _check_problems(self._prepared, self._handle, manifest)
        folder = self._work / "resume"
        shutil.rmtree(folder, ignore_errors=True)
        self._checkpoints.download(manifest.step, folder)
        stream = self._prepared.stream
        return LoopState.load(folder, lambda group_id: stream[group_id], curriculum), folder / MODEL_FOLDER, folder

    def _track(self, manifest: Manifest | None) -> Tracker:
        recipe, run_id, uri = self._recipe, self._handle.run_id, tracking_uri(self._recipe)
        experiment = recipe.tracking.experiment
        key = self._handle.key
        # Killed before its first checkpoint, a run has an MLflow run that only its tag remembers.
        earlier = manifest.metadata["mlflow_run_id"] if manifest else Tracker.find(uri, experiment, key) if key else None
        return Tracker.start(
            uri,
            experiment,
            run_id,
            params=recipe.model_dump(mode="json"),
            tags={
                RUN_TAG: run_id,
                KEY_TAG: key,
                "magistral.recipe": recipe.name,
                "magistral.version": __version__,
                "magistral.problems": self._prepared.problems_digest,
            },
            resume_run_id=earlier,
            resume_step=manifest.step if manifest else None,
        )

    def _resend(self, manifest: Manifest | None, folder: Path | None) -> None:
        """Log what MLflow had not taken when the checkpoint was made, and the checkpoints so far, of which it may not have heard."""
        for each in self._checkpoints.manifests():
            if manifest is not None and each.step <= manifest.step:
                self._tracker.log_checkpoint(each.step, each.uri)
        if folder is not None and (path := folder / _UNSENT_FILE).exists():
            self._tracker.resend(json.loads(path.read_text(encoding="utf-8")))

    def on_step(self, step: int, metrics: dict[str, float], batch: Batch) -> None:
        """Log a step (coordinator's observer)."""
        self._writer.check()
        if self._lease.lost:
            self._lease.check()
        self._tracker.log(step, metrics)
        if self._recipe.tracking.samples and step % self._recipe.tracking.samples_every == 0:
            self._tracker.log_samples(step, _sample_rows(batch, self._recipe.tracking.samples))
        self._emit("step", step=step, metrics=metrics)

    def on_validation(self, step: int, metrics: dict[str, float]) -> None:
        """Log a validation (coordinator's observer)."""
        self._tracker.log(step, metrics)
        self._emit("validation", step=step, metrics=metrics)

    def staging(self, step: int) -> Path:
        """An empty folder for a checkpoint (coordinator's observer); another one of the same step may be on its way still."""
        folder = self._work / f"step-{step}-{secrets.token_hex(4)}"
        folder.mkdir()
        return folder

    def on_checkpoint(self, step: int, folder: Path, metrics: dict[str, float]) -> None:
        """Upload a checkpoint beside training (coordinator's observer)."""

        def committed(manifest: Manifest) -> None:
            self._tracker.log_checkpoint(step, manifest.uri, metrics)
            self._emit("checkpoint", step=step, uri=manifest.uri)

        metadata = {
            "problems_digest": self._prepared.problems_digest,
            "mlflow_run_id": self._tracker.run_id,
            "trainers": self._recipe.pipeline.trainers,
            "recipe": self._recipe.model_dump(mode="json"),
        }
        # After a crash no step before a committed checkpoint may be missing from a curve: what MLflow has not taken goes with it.
        if not self._tracker.flush(_FLUSH_SECONDS):
            (folder / _UNSENT_FILE).write_text(json.dumps(self._tracker.unsent()), encoding="utf-8")
        self._writer.submit(step, folder, metadata, committed)

    def moved(self) -> int:
        """Bytes that storage has taken or given back (coordinator's observer)."""
        return self._writer.moved

    def on_restart(self, role: str, cause: str) -> None:
        """Tell of a role that died and is started again (coordinator's observer)."""
        self._emit("restart", role=role, cause=cause)

    def on_stage(self, step: int, stages: list[dict[str, Any]]) -> None:
        """Tell of the stages' beginnings and ends (coordinator's observer)."""
        self._tracker.log_dict("curriculum/stages.json", {"columns": list(stages[0]), "data": [list(row.values()) for row in stages]})
        self._emit("stage", step=step, stages=stages)

    def _emit(self, event: str, **fields: Any) -> None:
        if self._on_event is not None:
            self._on_event({"event": event, **fields})

    def _identity(self) -> dict[str, Any]:
        return {"run_id": self._handle.run_id, "mlflow_run_id": self._tracker.run_id, "mlflow_url": self._tracker.run_url}

    def _extent(self, state: LoopState) -> dict[str, int]:
        return {
            "resumed_step": state.step,
            "max_steps": self._recipe.training.max_steps,
            "problems": len(self._prepared.problems),
        }

    def _summary(self, state: LoopState) -> dict[str, Any]:
        return {
            **self._identity(),
            "steps": state.step,
            "weight_updates": state.counters.weight_updates,
            "weight_updates_in_flight": state.counters.weight_updates_in_flight,
            "completions": state.counters.completions,
            "graded": state.counters.graded,
            "pass_rate": state.counters.correct / max(state.counters.graded, 1),
            "generated_tokens": state.counters.generated_tokens,
            "trained_tokens": state.counters.trained_tokens,
            "seconds": round(state.counters.seconds, 1),
            "ledger": state.ledger.summary(),
            "checkpoints": [manifest.uri for manifest in self._checkpoints.manifests()],
            **self._stages(state),
        }

    def _stages(self, state: LoopState) -> dict[str, Any]:
        if state.curriculum is None:
            return {}
        return {"finished": state.curriculum.over, "stages": state.curriculum.table()}


def _sample_rows(batch: Batch, count: int) -> list[dict[str, Any]]:
    """Completions spread evenly over the batch, as rows for people."""
    pairs = [(group, i) for group in batch.groups for i in range(len(group.completions))]
    rows = []
    for group, i in pairs[:: max(1, len(pairs) // count)][:count]:
        completion, score = group.completions[i], group.scores[i]
        rows.append(
            {
                "group": group.id,
                "problem": group.problem.question[:_SAMPLE_CHARACTERS],
                "reference": group.problem.answer,
                "completion": _both_ends(completion.text),
                "reward": score.reward,
                "status": score.status.value,
                **{f"reward_{name}": value for name, value in score.parts.items()},
                "tokens": completion.length,
                "versions": f"{completion.versions.min()}-{completion.versions.max()}",
            }
        )
    return rows


def _both_ends(text: str) -> str:
    """A long text without its middle: a response ends in its answer."""
    half = _SAMPLE_CHARACTERS // 2
    left_out = len(text) - 2 * half
    return text if left_out <= 0 else f"{text[:half]}\n[... {left_out:,} characters ...]\n{text[-half:]}"
