"""The same steps with and without Prefect, MLflow and Ray, once they run; start-up is stated apart.

with      `magistral run`: a Prefect deployment of the local stack, its flow following the run's events, metrics and samples to the MLflow
          server, every role a Ray actor
without   the same coordinator, vLLM's engine in its own process as before, the trainer and the verifier in the coordinator's; nothing else,
          and the stack's processes are stopped (SIGSTOP) meanwhile

The schedule is synchronous, so that both do the same work in the same order: the tiny recipe, the same base model and seeds, a learning
rate that changes nothing. Compared is the time a generated token, over the steps after the first few. What the three cost goes by the
completion, what a step costs by the parameters as well; so a second model, which says the same with more neurons, stands beside the first.
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
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import psutil
import yaml

from benchmarks.common import Headline, Options, Result, in_child
from magistral_core.errors import InfrastructureError, InputError

SUMMARY = "the same steps with and without Prefect, MLflow and Ray together, start-up apart"

_SIDES = ("with", "without")
#: Neurons of a layer, by million parameters of the model; None: as the tiny recipe has them. Those that are added have no effect.
_NEURONS = {0.8: None, 10.0: 6400}
#: Steps of the larger model are as much longer.
_FEWER = 4
_SERVICES_OF_OTHERS = ("PREFECT_", "MLFLOW_", "AWS_", "MAGISTRAL_")


@dataclass(frozen=True)
class Settings:
    """Million parameters of the models; runs of each side; optimiser steps of a run that count, after some that do not; completions of a
    step and their most tokens. The larger model takes a quarter of the steps.
    """

    millions: tuple[float, ...] = tuple(_NEURONS)
    repetitions: int = 2
    steps: int = 8
    settle: int = 2
    completions: int = 128
    tokens: int = 48


def run(options: Options) -> Result:
    """See the module."""
    settings = options.over(Settings(repetitions=5, steps=20, settle=4, completions=256) if options.full else Settings())
    if unknown := set(settings.millions) - set(_NEURONS):
        raise InputError(f"bench overhead: millions={min(unknown):g}: there are models of {', '.join(f'{size:g}' for size in _NEURONS)}")
    repetitions: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="overhead-") as folder, _stack(Path(folder) / "home") as (environment, pids):
        bench = _Bench(settings, Path(folder), environment, pids)
        for size in settings.millions:
            model = bench.make_model(size)
            for number in range(settings.repetitions):
                sides = list(_SIDES)[:: -1 if number % 2 else 1]
                repetitions.append({"million parameters": size, **{side: bench.measure(side, number, size, model) for side in sides}})
    over = {size: [_over(item) for item in repetitions if item["million parameters"] == size] for size in settings.millions}
    worst = max(statistics.median(shares) for shares in over.values())
    return Result(
        Headline("Prefect, MLflow and Ray over the bare steps, worst model", worst, "%", higher_is_better=False),
        asdict(settings),
        [_row(size, side, repetitions, over[size]) for size in settings.millions for side in _SIDES],
        [{"million parameters": item["million parameters"], "side": side, **item[side]} for item in repetitions for side in _SIDES],
        [f"{size:g}M parameters, pair by pair: {', '.join(f'{share:+.1f}%' for share in shares)}." for size, shares in over.items()],
    )


def _over(item: dict[str, Any]) -> float:
    return float(100 * (item["with"]["us_a_token"] / item["without"]["us_a_token"] - 1))


def _row(size: float, side: str, repetitions: list[dict[str, Any]], over: list[float]) -> dict[str, Any]:
    mine = [item[side] for item in repetitions if item["million parameters"] == size]
    return {
        "million parameters": size,
        "side": side,
        "step (s)": statistics.median(item["step_s"] for item in mine),
        "of which training (s)": statistics.median(item["training_s"] for item in mine),
        "time a generated token (us)": statistics.median(item["us_a_token"] for item in mine),
        "over the bare steps (%)": statistics.median(over) if side == "with" else 0.0,
        "before and after the steps (s)": statistics.median(item["around_s"] for item in mine),
    }


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


@dataclass(frozen=True)
class _Bench:
    settings: Settings
    folder: Path
    environment: dict[str, str]
    pids: list[int]

    def make_model(self, size: float) -> str:
        """What all runs of a size begin from."""
        return in_child(  # type: ignore[no-any-return]
            "benchmarks.overhead:make_model",
            environment=self.environment,
            recipe=_recipe("base", self.settings),
            neurons=_NEURONS[size],
            folder=str(self.folder / f"{size:g}M"),
        )["folder"]

    def measure(self, side: str, number: int, size: float, model: str) -> dict[str, Any]:
        """One run of a side."""
        fewer = _FEWER if _NEURONS[size] else 1
        settings = replace(self.settings, steps=max(1, self.settings.steps // fewer), settle=max(1, self.settings.settle // fewer))
        recipe = _recipe(f"overhead-{size:g}-{side}-{number}".replace(".", "-"), settings)
        recipe["model"] |= {"path": model}
        began = time.time()
        if side == "without":
            with _stopped(self.pids):
                steps = in_child("benchmarks.overhead:bare", environment=self.environment, recipe=recipe)["steps"]
        else:
            file = self.folder / f"{recipe['name']}.yaml"
            file.write_text(yaml.safe_dump(recipe))
            _magistral(self.environment, "run", str(file))
            steps = _events(Path(self.environment["MAGISTRAL_HOME"]), began)
        wall = time.time() - began
        counted = [step for step in steps if step["step"] > settings.settle]
        seconds = sum(step["seconds"] for step in counted)
        return {
            "step_s": statistics.median(step["seconds"] for step in counted),
            "training_s": statistics.median(step["training"] for step in counted),
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
    tokens = metrics["speed/generated_tokens_per_s"] * seconds
    return {"step": step, "seconds": seconds, "training": metrics["busy/trainers"] * seconds, "tokens": tokens}


def _recipe(name: str, settings: Settings) -> dict[str, Any]:
    """The tiny recipe on a base model of little learning. A reward of a response's bytes keeps groups from being dropped."""
    from magistral_core import api

    n = settings.completions
    recipe = api.load_recipe("tiny").model_dump(mode="json")
    recipe["name"] = name
    recipe["model"]["tiny"] |= {"sft_steps": 150, "sft_batch": 12}
    recipe["problems"] |= {"levels": [1]}
    recipe["rewards"] |= {"extra": ["benchmarks.overhead:spread"], "extra_folder": str(Path(__file__).parents[1]), "length": None}
    recipe["generation"] |= {"max_tokens": settings.tokens}
    recipe["pipeline"] |= {"schedule": "sync", "n_async": n, "n_batch": n, "n_minibatch": n, "max_open": 2 * n}
    recipe["training"] |= {"max_steps": settings.settle + settings.steps, "learning_rate": 1e-9}
    recipe["checkpoints"] |= {"every": 1_000_000}
    return recipe


def make_model(recipe: dict[str, Any], neurons: int | None, folder: str) -> dict[str, Any]:
    """In a process of its own: the recipe's base model; in `folder`, if any, with so many neurons a layer: those added do nothing."""
    from magistral_core import api
    from magistral_core.config import Recipe

    base = api.model_folder(Recipe.model_validate(recipe))
    if neurons is None:
        return {"folder": str(base)}
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    config = AutoConfig.from_pretrained(base)
    config.intermediate_size = neurons
    wide = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    weights = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32).state_dict()
    with torch.no_grad():
        for name, parameter in wide.state_dict().items():
            parameter.zero_()[tuple(map(slice, weights[name].shape))] = weights[name]
    wide.save_pretrained(folder)
    AutoTokenizer.from_pretrained(base).save_pretrained(folder)
    return {"folder": folder}


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

        def moved(self) -> int:
            return 0

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
