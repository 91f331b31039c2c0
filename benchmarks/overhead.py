"""The same steps with and without Prefect, MLflow and Ray, once they run; start-up is stated apart.

with      `magistral run`: a Prefect deployment of the local stack, its flow following the run's events, metrics and samples to the MLflow
          server, every role a Ray actor
without   the same coordinator, vLLM's engine in its own process as before, the trainer and the verifier in the coordinator's; nothing else

Both are started, and then run in turn, a few optimiser steps each; the side whose turn it is not is stopped (SIGSTOP), of the first the
whole stack. A step in which a side stood still does not count. The schedule is synchronous, so that both do the same work in the same
order: the tiny recipe, the same base model and seeds, a learning rate that changes nothing. Compared is the time a generated token. Two
processes that do the same differ for as long as they live, by more than is to be measured; so both sides are started anew several times.
What the three cost goes by the completion, what a step costs by the parameters as well; so a second model, which says the same with more
neurons, stands beside the first.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import psutil
import yaml

from benchmarks.common import Headline, Options, Result, in_child, in_turn
from benchmarks.sides import RAY_ENVIRONMENT, Side, Steps, cpu_seconds, cpu_seconds_since, signal_all, tree
from magistral_core.errors import InfrastructureError, InputError
from tasks.events import EventFile

SUMMARY = "the same steps with and without Prefect, MLflow and Ray together, start-up apart"

_SIDES = ("with", "without")
#: Neurons of a layer, by million parameters of the model; None: as the tiny recipe has them. Those that are added have no effect.
_NEURONS = {0.8: None, 10.0: 6400}
#: The larger model, whose steps are longer, takes so many times fewer of them a turn, and as many times fewer turns.
_FEWER = 4
_SERVICES_OF_OTHERS = ("PREFECT_", "MLFLOW_", "AWS_", "MAGISTRAL_")
#: Optimiser steps that a run through the stack has left when all turns are over: how many it took beside them is not known beforehand.
_SPARE = 4
#: A run that has not taken its first step by then, or does not end, has failed. Its own limits are shorter.
_LIMIT_S = 600.0
_POLL_S = 0.02


@dataclass(frozen=True)
class Settings:
    """Million parameters of the models; how often both sides are started; pairs of turns of each start; optimiser steps of a turn that
    count; those before the first turn; completions of a step and their most tokens. The larger model takes a quarter of the steps, and of
    the turns, but two.
    """

    millions: tuple[float, ...] = tuple(_NEURONS)
    starts: int = 1
    repetitions: int = 8
    steps: int = 8
    settle: int = 2
    completions: int = 128
    tokens: int = 48


def run(options: Options) -> Result:
    """See the module."""
    settings = options.over(Settings(starts=5, repetitions=4, settle=4, completions=256) if options.full else Settings())
    if unknown := set(settings.millions) - set(_NEURONS):
        raise InputError(f"bench overhead: millions={min(unknown):g}: there are models of {', '.join(f'{size:g}' for size in _NEURONS)}")
    with tempfile.TemporaryDirectory(prefix="overhead-") as folder, _stack(Path(folder) / "home") as (environment, services):
        measured = {size: _measure(size, settings, Path(folder), environment, services) for size in settings.millions}
    over = {size: [start.over for start in starts] for size, starts in measured.items()}
    worst = max(statistics.median(shares) for shares in over.values())
    return Result(
        Headline("Prefect, MLflow and Ray over the bare steps, worst model", worst, "%", higher_is_better=False),
        asdict(settings),
        [_row(size, side, starts, over[size]) for size, starts in measured.items() for side in _SIDES],
        [
            {"million parameters": size, "side": side, "start_s": start.first_step_s[side], "turns": list(map(asdict, start.turns[side]))}
            for size, starts in measured.items()
            for start in starts
            for side in _SIDES
        ],
        [f"{size:g}M parameters, start by start: {', '.join(f'{share:+.1f}%' for share in shares)}." for size, shares in over.items()],
    )


@dataclass(frozen=True)
class _Turn:
    """Of one side: its steps, and microseconds a generated token: by the clock, and of processors, of the whole stack for `with`."""

    steps: list[dict[str, float]]
    us_a_token: float
    cpu_us_a_token: float


@dataclass(frozen=True)
class _Start:
    """Both sides, started once: what the three cost, in percent; the turns; seconds until the first step was done."""

    over: float
    turns: dict[str, list[_Turn]]
    first_step_s: dict[str, float]


def _measure(size: float, settings: Settings, folder: Path, environment: dict[str, str], services: list[int]) -> list[_Start]:
    model = _model(size, settings, folder, environment)
    return [
        _start(size, f"overhead-{size:g}-{number}".replace(".", "-"), model, settings, folder, environment, services)
        for number in range(settings.starts)
    ]


def _start(
    size: float, name: str, model: str, settings: Settings, folder: Path, environment: dict[str, str], services: list[int]
) -> _Start:
    fewer = _FEWER if _NEURONS[size] else 1
    repetitions, steps, settle = (max(1, count // fewer) for count in (settings.repetitions, settings.steps, settings.settle))
    repetitions = max(repetitions, min(2, settings.repetitions))  # either side goes first once

    def recipe(side: str, limit: int) -> dict[str, Any]:
        named = _recipe(f"{name}-{side}", settings)
        return {**named, "model": {**named["model"], "path": model}, "training": {**named["training"], "max_steps": limit}}

    turns: dict[str, list[_Turn]] = {side: [] for side in _SIDES}
    with contextlib.ExitStack() as stack:
        limit = settle + 1 + repetitions * (steps + 1) + _SPARE
        through = stack.enter_context(_ThroughStack(recipe("with", limit), folder, environment, services))
        began = time.monotonic()
        bare_side = stack.enter_context(Side("benchmarks.overhead:bare", {"recipe": recipe("without", 1_000_000)}, environment))
        bare_side.advance(1)
        first_step_s = {"with": through.start_s, "without": time.monotonic() - began}
        advance: dict[str, Callable[[int], Steps]] = {"with": through.advance, "without": bare_side.advance}

        def turn(side: str) -> float:
            done = advance[side](steps + 1)
            each = [_step(line["metrics"]) for line in done.lines]
            counted, cpu_s = each[1:], sum(done.cpu_seconds.values())  # the first stood still while the other side ran
            per_token = 1e6 * _total(counted, "seconds") / _total(counted, "tokens")
            turns[side].append(_Turn(counted, per_token, 1e6 * cpu_s / _total(each, "tokens")))
            return per_token

        for side in _SIDES:
            advance[side](settle)
        pairs = in_turn(lambda: turn("with"), lambda: turn("without"), repetitions)
    return _Start(100 * (pairs.ratio - 1), turns, first_step_s)


def _row(size: float, side: str, starts: list[_Start], over: list[float]) -> dict[str, Any]:
    turns = [turn for start in starts for turn in start.turns[side]]
    steps = [step for turn in turns for step in turn.steps]
    return {
        "million parameters": size,
        "side": side,
        "step (s)": statistics.median(step["seconds"] for step in steps),
        "of which training (s)": statistics.median(step["training"] for step in steps),
        "time a generated token (us)": statistics.median(turn.us_a_token for turn in turns),
        "of processors (us)": statistics.median(turn.cpu_us_a_token for turn in turns),
        "over the bare steps (%)": statistics.median(over) if side == "with" else 0.0,
        "until the first step is done (s)": statistics.median(start.first_step_s[side] for start in starts),
    }


@contextlib.contextmanager
def _stack(home: Path) -> Iterator[tuple[dict[str, str], list[int]]]:
    """A local stack of its own; its environment, and the processes it consists of."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(_SERVICES_OF_OTHERS)}
    environment = {**clean, **RAY_ENVIRONMENT, "MAGISTRAL_HOME": str(home), "MAGISTRAL_CACHE": str(home / "cache")}
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


class _ThroughStack:
    """`magistral run` of a recipe as a side: like `Side`, but what stands still between the turns is the whole stack with it."""

    def __init__(self, recipe: dict[str, Any], folder: Path, environment: dict[str, str], services: list[int]) -> None:
        file = folder / f"{recipe['name']}.yaml"
        file.write_text(yaml.safe_dump(recipe))
        self._home, self._services = Path(environment["MAGISTRAL_HOME"]), services
        self._log = (folder / f"{recipe['name']}.log").open("w+")
        earlier = set(self._event_files())
        began = time.monotonic()
        self._command = subprocess.Popen(
            [sys.executable, "-m", "magistral_core.cli", "run", str(file)], env=environment, stdout=self._log, stderr=self._log
        )
        try:
            while not (new := set(self._event_files()) - earlier):
                self._wait(began)
            self._events = EventFile(new.pop())
            while not self._steps():
                self._wait(began)
        except BaseException:
            self._command.kill()
            raise
        self.start_s = time.monotonic() - began
        self._signal(signal.SIGSTOP)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Let the run come to its end; where something failed before, end it."""
        self._signal(signal.SIGCONT)
        try:
            if error is None and self._command.wait(_LIMIT_S) != 0:
                raise InfrastructureError(f"the run through the stack failed: {self._said()}")
        finally:
            self._command.kill()
            self._command.wait()
            self._log.close()

    def advance(self, steps: int) -> Steps:
        """Run for so many optimiser steps, then stand still; their events."""
        self._steps()  # done before the last turn's stop had reached them
        before = cpu_seconds(self._processes())
        began = time.monotonic()
        self._signal(signal.SIGCONT)
        lines = self._steps()
        while len(lines) < steps:
            self._wait(began)
            lines += self._steps()
        seconds = time.monotonic() - began
        self._signal(signal.SIGSTOP)
        return Steps(seconds, tuple(lines[:steps]), cpu_seconds_since(before, self._processes()))

    def _event_files(self) -> Iterator[Path]:
        return (self._home / "flow-runs").rglob("train-*.jsonl")

    def _steps(self) -> list[dict[str, Any]]:
        return [event for event in self._events.read() if event["event"] == "step"]

    def _wait(self, began: float) -> None:
        if self._command.poll() is not None or time.monotonic() - began > _LIMIT_S:
            raise InfrastructureError(f"the run through the stack took no step: {self._said()}")
        time.sleep(_POLL_S)

    def _said(self) -> str:
        self._log.seek(0)
        return self._log.read().strip()[-1500:]

    def _signal(self, signum: int) -> None:
        signal_all(self._processes(), signum)

    def _processes(self) -> list[psutil.Process]:
        return tree(*self._services, self._command.pid)


def _step(metrics: dict[str, float]) -> dict[str, float]:
    seconds = metrics["speed/step_seconds"]
    tokens = metrics["speed/generated_tokens_per_s"] * seconds
    return {"seconds": seconds, "training": metrics["busy/trainers"] * seconds, "tokens": tokens}


def _total(steps: list[dict[str, float]], name: str) -> float:
    return sum(step[name] for step in steps)


def _model(size: float, settings: Settings, folder: Path, environment: dict[str, str]) -> str:
    """What both sides begin from."""
    return in_child(  # type: ignore[no-any-return]
        "benchmarks.overhead:make_model",
        environment=environment,
        recipe=_recipe("base", settings),
        neurons=_NEURONS[size],
        folder=str(folder / f"{size:g}M"),
    )["folder"]


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
    recipe["pipeline"] |= {"stall_timeout_s": 86_400.0, "update_timeout_s": 86_400.0}  # clocks go on while a side stands still
    recipe["training"] |= {"learning_rate": 1e-9}
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


def bare(*, emit: Callable[..., None], recipe: dict[str, Any]) -> None:
    """The run without Prefect, MLflow and Ray, until this process is ended (see `sides.Side`)."""
    from benchmarks.ours import loop

    asyncio.run(loop(emit, recipe, _plain_runtime))


def _plain_runtime(recipe: Any) -> Any:
    """The roles that the actors hold, called directly: a `LocalRuntime` whose engine is the asynchronous one, in its own process."""
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
            await self._generator.start(None)

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
