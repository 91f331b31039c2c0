"""Engines of the sampler as Ray actors, on the machines of a running cluster: grading, and whatever else samples much.

    Sampler --requests--> RayEngines --step()--> EngineActor 0: LocalEngine --> completions (in order of finishing) --> Sampler
                                     --step()--> EngineActor 1: LocalEngine -->

An actor gets its next requests with each call, and a call lasts until something is finished, but half a second at least: what the way
there and back costs is lost in that. Connecting and errors are in `on_ray`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from magistral_core.config.schema import GenerationSettings
from magistral_core.errors import InfrastructureError, InputError
from magistral_core.generation.tokens import Sampling
from magistral_core.pipeline.on_ray import reply_of, start_ray
from magistral_core.pipeline.supervision import GeneratorError
from magistral_core.processes import THREAD_ENVIRONMENT
from magistral_core.records import Completion, Request

#: Least time of a call that decodes.
_CALL_SECONDS = 0.5
#: Requests given to an actor beyond what it decodes at once.
_AHEAD = 1.25

Asked = tuple[Request, Sampling]


class EngineActor:
    """A `LocalEngine` in a process of its own."""

    def start(self, model_path: str, generation: GenerationSettings, arguments: dict[str, Any]) -> None:
        """Load the model. Apart from the constructor, so that what is wrong comes back as it is."""
        from magistral_core.generation.engine import LocalEngine

        self._engine = LocalEngine(model_path, generation, **arguments)

    def step(self, new: Sequence[Asked]) -> list[Completion]:
        """Take requests and decode until some are finished; returns those."""
        for request, sampling in new:
            self._engine.add(request, sampling)
        finished: list[Completion] = []
        until = time.monotonic() + _CALL_SECONDS
        while self._engine.running and (not finished or time.monotonic() < until):
            finished += self._engine.step()
        return finished


class RayEngines:
    """Engines on a Ray cluster; see `generation.sampler.Engines`.

    Args:
        address: of the cluster, as `ray start` prints it; `auto` for the one that this machine belongs to.
        engines: how many. Each takes `generation.tensor_parallel` GPUs of one machine where the cluster has GPUs.
        model_path: a folder that every machine sees under this path.
        generation: settings.
        arguments: further arguments of `LocalEngine`.

    Raises:
        InputError: no cluster there, too few GPUs, or the model cannot be used.
        InfrastructureError: an engine did not start.
    """

    def __init__(
        self, address: str, engines: int, model_path: str | Path, generation: GenerationSettings, arguments: dict[str, Any]
    ) -> None:
        start_ray(address, "sampling.ray_address")
        self._capacity = int(generation.max_num_seqs * _AHEAD)
        self._actors: list[Any] = []
        try:
            seats = _seats(engines, generation.tensor_parallel)
            self._actors = [ray.remote(EngineActor).options(num_cpus=0, **options).remote() for options in seats]
            starting = [actor.start.remote(str(model_path), generation, arguments) for actor in self._actors]
            for number, call in enumerate(starting):
                _wait_for(call, number)
        except BaseException:
            self.close()
            raise

    def stream(self, requests: Iterable[Asked]) -> Iterator[Completion]:
        source = iter(requests)
        pending = [0] * len(self._actors)
        calls: dict[Any, int] = {}
        while True:
            for number, new in self._share_out(source, pending, busy=set(calls.values())).items():
                calls[self._actors[number].step.remote(new)] = number
            if not calls:
                return
            [call], _ = ray.wait(list(calls))
            number = calls.pop(call)
            finished = _wait_for(call, number)
            pending[number] -= len(finished)
            yield from finished

    def close(self) -> None:
        for actor in self._actors:
            ray.kill(actor)
        self._actors = []
        ray.shutdown()

    def _share_out(self, source: Iterator[Asked], pending: list[int], busy: set[int]) -> dict[int, list[Asked]]:
        """What each idle actor gets: requests to the emptiest until all are full or none is left; nothing if it has more to decode."""
        shares: dict[int, list[Asked]] = {number: [] for number in range(len(pending)) if number not in busy}
        while shares:
            number = min(shares, key=pending.__getitem__)
            request = next(source, None) if pending[number] < self._capacity else None
            if request is None:
                break
            shares[number].append(request)
            pending[number] += 1
        return {number: new for number, new in shares.items() if pending[number]}


def _seats(engines: int, gpus: int) -> list[dict[str, Any]]:
    """Options of each actor. Raises InputError where a cluster with GPUs has too few."""
    nodes = [node for node in ray.nodes() if node["Alive"]]
    room = [int(node["Resources"].get("GPU", 0)) // gpus for node in nodes]
    if not any("GPU" in node["Resources"] for node in nodes):
        # Ray spreads by what actors take, and without a GPU they take nothing: they would all sit on one machine.
        turns = [NodeAffinitySchedulingStrategy(node["NodeID"], soft=True) for node in nodes]
        environment = {"env_vars": dict(THREAD_ENVIRONMENT)}
        return [{"num_gpus": 0, "runtime_env": environment, "scheduling_strategy": turns[number % len(turns)]} for number in range(engines)]
    if sum(room) < engines:
        raise InputError(
            f"sampling.engines ({engines}): the cluster has GPUs for {sum(room)}, at {gpus} an engine (generation.tensor_parallel)"
        )
    return [{"num_gpus": gpus, "scheduling_strategy": "SPREAD"}] * engines


def _wait_for(call: Awaitable[Any], number: int) -> Any:
    """An actor's answer; errors as everywhere else, a dead actor as a broken service."""

    async def answer() -> Any:
        return await reply_of(call, f"engine {number}", GeneratorError)

    try:
        return asyncio.run(answer())
    except GeneratorError as error:
        raise InfrastructureError(str(error)) from error
