"""Small real runs, one after the other, in a process of their own: `python small_run.py JSON`. Prints each event as a line of JSON.

The argument holds `root` (a folder), `set` (settings by their path) and `runs`. Each run has a `name` (the same name, the same
checkpoints), more settings under `set`, and perhaps `wait`, to read a line of input first, or `kill_at_step`: after that step the
process kills itself, once the checkpoint before it is committed. With `whole` it is `api.run` with its storage and tracking, and the
events are its own.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import sys
import threading
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from magistral_core import api
from magistral_core.pipeline.coordinator import Coordinator
from magistral_core.pipeline.prepare import Prepared
from magistral_core.pipeline.runtime import LocalRuntime, Runtime
from magistral_core.pipeline.state import MODEL_FOLDER, LoopState
from magistral_core.records import Batch
from magistral_core.storage import CheckpointStore, CheckpointWriter, open_store

#: Level-1 sums, 8 groups of 4 a batch, float32: seconds on a CPU.
SMALL = {
    "problems.levels": "[1]",
    "problems.count": 500,
    "prompt.max_tokens": 64,
    "generation.max_tokens": 48,
    "generation.kv_cache_gib": 0.125,
    "generation.max_num_seqs": 32,
    "rewards.length": "{l_max: 48, l_cache: 24}",
    "pipeline.group_size": 4,
    "pipeline.n_async": 32,
    "pipeline.n_batch": 32,
    "pipeline.n_minibatch": 32,
    "pipeline.queue": 64,
    "pipeline.max_open": 64,
    "training.max_steps": 4,
    "training.learning_rate": 2e-4,
    "training.token_budget": 1024,
    "checkpoints.every": 2,
}


def tell(event: str, **fields: Any) -> None:
    # One write, for more than one thread tells.
    sys.stdout.write(json.dumps({"event": event, "time": time.time(), **fields}, default=float) + "\n")
    sys.stdout.flush()


class Observer:
    """Tells of steps and keeps checkpoints, as a run does."""

    def __init__(self, folder: Path, writer: CheckpointWriter, kill_at: int | None) -> None:
        self._folder, self._writer, self._kill_at = folder, writer, kill_at
        self._committed = threading.Event()

    def on_step(self, step: int, metrics: dict[str, float], batch: Batch) -> None:
        tell("step", step=step, metrics=metrics, groups=[group.id for group in batch.groups])
        if step == self._kill_at:
            assert self._committed.wait(60), "no checkpoint to resume from"
            os.kill(os.getpid(), signal.SIGKILL)

    def staging(self, step: int) -> Path:
        folder = self._folder / f"staging-{step}"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        return folder

    def on_checkpoint(self, step: int, folder: Path, metrics: dict[str, float]) -> None:
        self._writer.submit(step, folder, {}, lambda manifest: self._committed.set())

    def moved(self) -> int:
        return 0

    def on_restart(self, role: str, cause: str) -> None:
        tell("restart", role=role, cause=cause)

    def on_validation(self, step: int, metrics: dict[str, float]) -> None:
        tell("validation", step=step, metrics=metrics)

    def on_stage(self, step: int, stages: list[dict[str, Any]]) -> None:
        tell("stage", step=step, stages=stages)


async def run(prepared: Prepared, folder: Path, kill_at: int | None) -> None:
    """From the newest checkpoint in the folder, or from the beginning, to the last step."""
    checkpoints = CheckpointStore(open_store(f"file:{folder}/store"), "run")
    manifest = checkpoints.latest()
    curriculum = prepared.curriculum()
    state, model, resume = LoopState(curriculum=curriculum), prepared.model_dir, None
    if manifest is not None:
        resume = folder / "resume"
        checkpoints.download(manifest.step, resume)
        state, model = LoopState.load(resume, prepared.stream.__getitem__, curriculum), resume / MODEL_FOLDER
    runtime = make_runtime(prepared)
    with CheckpointWriter(checkpoints) as writer:
        try:
            await runtime.start(model, state.step, resume)
            tell("ready", step=state.step)
            observer = Observer(folder, writer, kill_at)
            await Coordinator(prepared.recipe, runtime, prepared.stream, prepared.prompt, observer, state, prepared.held_out).run()
        finally:
            await runtime.close()
    tell("closed", counters=asdict(state.counters), ledger=state.ledger.summary())


def make_runtime(prepared: Prepared) -> Runtime:
    if prepared.recipe.pipeline.runtime == "local":
        return LocalRuntime(prepared.recipe)
    from magistral_core.pipeline.runtime_ray import RayRuntime

    return RayRuntime(prepared.recipe)


def main() -> None:
    job = json.loads(sys.argv[1])
    prepared: Prepared | None = None
    for one in job["runs"]:
        changes = {**SMALL, **job["set"], **one.get("set", {})}
        recipe = api.load_recipe("tiny", [f"{key}={value}" for key, value in changes.items()])
        prepared = replace(prepared, recipe=recipe) if prepared and recipe.validation is None else api.prepare(recipe)
        if one.get("wait"):
            sys.stdin.readline()
        if one.get("whole"):
            api.run(recipe, on_event=lambda event: tell(**event))
            continue
        asyncio.run(run(prepared, Path(job["root"]) / one["name"], one.get("kill_at_step")))
    sys.stdin.read()  # so that what is left of the runs can be looked at


if __name__ == "__main__":
    main()
