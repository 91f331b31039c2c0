"""The same steps with and without Prefect, MLflow and Ray, once they run; start-up is stated apart.

with      `magistral run`: a Prefect deployment of the local stack, its flow following the run's events, metrics and samples to the MLflow
          server, every role a Ray actor
without   the same coordinator, vLLM's engine in its own process as before, the trainer and the verifier in the coordinator's; nothing else,
          and the stack's processes are stopped (SIGSTOP) meanwhile

The schedule is synchronous, so that both do the same work in the same order: the tiny recipe, the same base model and seeds, a learning
rate that changes nothing. Compared is the time a generated token, over the steps after the first few. Model and batch are small: with
larger steps the share only falls.
"""

from __future__ import annotations

import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil
import yaml

from benchmarks.common import Headline, Options, Result, in_child
from magistral_core.errors import InfrastructureError

SUMMARY = "the same steps with and without Prefect, MLflow and Ray together, start-up apart"

_SIDES = ("with", "without")
_SERVICES_OF_OTHERS = ("PREFECT_", "MLFLOW_", "AWS_", "MAGISTRAL_")


@dataclass(frozen=True)
class Settings:
    """Runs of each side; optimiser steps of a run that count, after some that do not; completions of a step and their most tokens."""

    repetitions: int = 2
    steps: int = 8
    settle: int = 2
    completions: int = 128
    tokens: int = 48


def run(options: Options) -> Result:
    """See the module."""
    settings = options.over(Settings(repetitions=5, steps=20, settle=4, completions=256) if options.full else Settings())
    repetitions = []
    with tempfile.TemporaryDirectory(prefix="overhead-") as folder, _stack(Path(folder) / "home") as (environment, pids):
        in_child("benchmarks.overhead:make_base_model", environment=environment, recipe=_recipe("base", settings))
        for number in range(settings.repetitions):
            sides = list(_SIDES)[:: -1 if number % 2 else 1]
            measured = {side: _side(side, number, Path(folder), settings, environment, pids) for side in sides}
            repetitions.append(measured)
    over = [100 * (item["with"]["us_a_token"] / item["without"]["us_a_token"] - 1) for item in repetitions]
    table = [
        {
            "side": side,
            **{
                title: statistics.median(item[side][name] for item in repetitions)
                for title, name in (
                    ("step (s)", "step_s"),
                    ("time a generated token (us)", "us_a_token"),
                    ("before and after the steps (s)", "around_s"),
                )
            },
        }
        for side in _SIDES
    ]
    return Result(
        Headline("Prefect, MLflow and Ray over the bare steps", statistics.median(over), "%", higher_is_better=False),
        asdict(settings),
        table,
        [{"side": side, **values} for item in repetitions for side, values in item.items()],
        [f"Pair by pair: {', '.join(f'{share:+.1f}%' for share in over)}."],
    )


@contextlib.contextmanager
def _stack(home: Path) -> Iterator[tuple[dict[str, str], list[int]]]:
    """A local stack of its own; its environment, and the processes it consists of."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(_SERVICES_OF_OTHERS)}
    environment = {**clean, "MAGISTRAL_HOME": str(home), "MAGISTRAL_CACHE": str(home / "cache"), "OMP_NUM_THREADS": "1"}
    try:
        status = json.loads(_magistral(environment, "stack", "up", "--json"))
        yield environment, [service["pid"] for service in status["services"].values() if service["pid"]]
    finally:
        _magistral(environment, "stack", "down")


def _magistral(environment: dict[str, str], *arguments: str) -> str:
    done = subprocess.run([sys.executable, "-m", "magistral_core.cli", *arguments], env=environment, capture_output=True, text=True)
    if done.returncode != 0:
        raise InfrastructureError(f"magistral {' '.join(arguments[:2])}: {done.stderr.strip()[-1500:]}")
    return done.stdout


def _side(side: str, number: int, folder: Path, settings: Settings, environment: dict[str, str], pids: list[int]) -> Any:
    recipe = _recipe(f"overhead-{side}-{number}", settings)
    began = time.time()
    if side == "without":
        with _stopped(pids):
            steps = in_child("benchmarks.overhead:bare", environment=environment, recipe=recipe)["steps"]
    else:
        file = folder / f"{recipe['name']}.yaml"
        file.write_text(yaml.safe_dump(recipe))
        _magistral(environment, "run", str(file))
        steps = _events(Path(environment["MAGISTRAL_HOME"]), began)
    wall = time.time() - began
    counted = [step for step in steps if step["step"] > settings.settle]
    seconds = sum(step["seconds"] for step in counted)
    return {
        "step_s": statistics.median(step["seconds"] for step in counted),
        "us_a_token": 1e6 * seconds / sum(step["tokens"] for step in counted),
        "around_s": wall - sum(step["seconds"] for step in steps),
        "steps": [step["seconds"] for step in counted],
    }


@contextlib.contextmanager
def _stopped(pids: list[int]) -> Iterator[None]:
    """Processes, and all below them, take no time meanwhile."""
    processes = [process for pid in pids for process in (psutil.Process(pid), *psutil.Process(pid).children(recursive=True))]
    for process in processes:
        process.suspend()
    try:
        yield
    finally:
        for process in processes:
            process.resume()


def _events(home: Path, since: float) -> list[dict[str, Any]]:
    """The steps of the newest flow run."""
    file = max((home / "flow-runs").rglob("train-*.jsonl"), key=lambda path: path.stat().st_mtime)
    if file.stat().st_mtime < since:
        raise InfrastructureError(f"{file}: no run has written since this one was started")
    events = [json.loads(line) for line in file.read_text().splitlines()]
    return [_step(event["step"], event["metrics"]) for event in events if event["event"] == "step"]


def _step(step: int, metrics: dict[str, float]) -> dict[str, Any]:
    seconds = metrics["speed/step_seconds"]
    return {"step": step, "seconds": seconds, "tokens": metrics["speed/generated_tokens_per_s"] * seconds}


def _recipe(name: str, settings: Settings) -> dict[str, Any]:
    """The tiny recipe on a base model of little learning. A reward of a response's bytes keeps groups from being dropped."""
    from magistral_core import api

    n = settings.completions
    recipe = api.load_recipe("tiny").model_dump(mode="json")
    recipe["name"] = name
    recipe["model"]["tiny"] |= {"sft_steps": 150, "sft_batch": 12}
    recipe["problems"] |= {"levels": [1]}
    recipe["rewards"] |= {"extra": ["benchmarks.overhead:spread"], "length": None}
    recipe["generation"] |= {"max_tokens": settings.tokens}
    recipe["pipeline"] |= {"schedule": "sync", "n_async": n, "n_batch": n, "n_minibatch": n, "max_open": 2 * n}
    recipe["training"] |= {"max_steps": settings.settle + settings.steps, "learning_rate": 1e-9}
    recipe["checkpoints"] |= {"every": 1_000_000}
    return recipe


def make_base_model(recipe: dict[str, Any]) -> dict[str, Any]:
    """In a process of its own: what all runs begin from, into the cache."""
    from magistral_core import api
    from magistral_core.config import Recipe

    return {"folder": str(api.model_folder(Recipe.model_validate(recipe)))}


def bare(recipe: dict[str, Any]) -> dict[str, Any]:
    """In a process of its own: the run without Prefect, MLflow and Ray; how long each step took, and its tokens."""
    import asyncio
    import shutil

    from magistral_core import api
    from magistral_core.config import Recipe
    from magistral_core.pipeline.coordinator import Coordinator
    from magistral_core.pipeline.state import LoopState

    prepared = api.prepare(Recipe.model_validate(recipe))
    steps: list[dict[str, Any]] = []

    class Observer:
        def on_step(self, step: int, metrics: dict[str, float], batch: object) -> None:
            steps.append(_step(step, metrics))

        def staging(self, step: int) -> Path:
            return Path(tempfile.mkdtemp(prefix="overhead-"))

        def on_checkpoint(self, step: int, folder: Path, metrics: dict[str, float]) -> None:
            shutil.rmtree(folder)

        def on_restart(self, role: str, cause: str) -> None:
            raise InfrastructureError(f"{role}: {cause}")

        def on_stage(self, step: int, stages: list[dict[str, Any]]) -> None:
            raise NotImplementedError("a benchmark has no curriculum")

    async def loop() -> None:
        runtime = _plain_runtime(prepared.recipe)
        try:
            await runtime.start(prepared.model_dir, 0, None)
            await Coordinator(prepared.recipe, runtime, prepared.stream, prepared.prompt, Observer(), LoopState()).run()
        finally:
            await runtime.close()

    asyncio.run(loop())
    return {"steps": steps}


def _plain_runtime(recipe: Any) -> Any:
    """The roles that the actors hold, called directly: a `LocalRuntime` whose engine is the asynchronous one, in its own process."""
    import asyncio

    from magistral_core.pipeline.handover import HandoverFolder, WeightFile
    from magistral_core.pipeline.roles import TrainerRole
    from magistral_core.pipeline.runtime import LocalRuntime
    from magistral_core.pipeline.runtime_ray import GeneratorActor
    from magistral_core.processes import free_port
    from magistral_core.rewards import Verifier

    class PlainRuntime(LocalRuntime):
        async def start(self, model_dir: Path, version: int, checkpoint: Path | None) -> None:
            self._folder = HandoverFolder()
            self._verifier = Verifier(recipe.rewards, recipe.prompt)
            self._verifier.start()
            self._trainer = TrainerRole(recipe, str(model_dir), None, port=free_port())
            self._generator = GeneratorActor(recipe, str(model_dir), version)
            await self._generator.start()

        async def submit(self, generator: int, requests: Any) -> None:
            await self._generator.submit(requests)

        async def collect(self, generator: int) -> Any:
            return await self._generator.collect()

        async def score(self, groups: Any) -> Any:
            return await asyncio.to_thread(self._verifier.score_many, list(groups))

        async def update(self, generator: int, weights: WeightFile) -> int:
            return await self._generator.update(weights)

        async def close(self) -> None:
            await self._generator.close()
            await super().close()

    return PlainRuntime(recipe)


def spread(*, problem: object, response: str, thoughts: str, answer: str, length: int) -> float:
    """A user's reward function: the share of even bytes, different for nearly every response."""
    content = response.encode()
    return sum(byte % 2 == 0 for byte in content) / max(1, len(content))
