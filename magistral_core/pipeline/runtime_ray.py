"""The runtime on Ray: generators, verifiers and trainer ranks as actors, on this machine or on a cluster.

Roles are plain classes of their own rooms; an actor adds a mailbox and a process.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Awaitable, Coroutine, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import psutil
import ray
from ray.util.placement_group import PlacementGroup, placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from magistral_core.config.schema import Recipe
from magistral_core.errors import InfrastructureError, InputError, MagistralError
from magistral_core.generation.transfer import Contents
from magistral_core.paths import cache_folder
from magistral_core.pipeline.handover import FileHandover, Handover, HandoverFolder, WeightFile, handover_kind
from magistral_core.pipeline.handover_nccl import NcclHandover
from magistral_core.pipeline.on_ray import end, processes_of_ray, reply_of, start_ray
from magistral_core.pipeline.placement import Placement, Seat, check_fits, place
from magistral_core.pipeline.supervision import GeneratorError, TrainerError, VerifierError
from magistral_core.processes import THREAD_ENVIRONMENT, free_port
from magistral_core.records import Completion, Group, Microbatch, Request, Score
from magistral_core.rewards.poolsize import PoolSize
from magistral_core.training.report import StepReport

#: When one trainer rank fails, so long is waited for the news that another had died.
_DEATH_SECONDS = 5.0
#: GPUs that are there and free are reserved within a moment; others may have them.
_RESERVE_SECONDS = 60.0
#: A generator that decodes tells so when nothing was finished for so long, or for a third of `stall_timeout_s`.
_LIFE_SECONDS = 30.0
#: What finishes within this goes in one message, and its groups in one to the verifiers: a message costs a millisecond of processor time.
_GATHER_SECONDS = 0.025


class GeneratorActor:
    """A mailbox before a `GeneratorEngine`: requests go in at once, finished completions wait to be collected."""

    def __init__(self, recipe: Recipe, model_dir: str, version: int, sockets: str | None = None) -> None:
        from magistral_core.generation.engine import GeneratorEngine

        self._life_seconds = min(_LIFE_SECONDS, recipe.pipeline.stall_timeout_s / 3)
        self._refusal: MagistralError | None = None
        try:
            self._engine = GeneratorEngine(
                model_dir,
                recipe.generation,
                max_model_len=recipe.max_model_len,
                seed=recipe.seed,
                prompt=recipe.prompt,
                version=version,
                nccl=handover_kind(recipe.pipeline) == "nccl",
                sockets=sockets,
            )
        except MagistralError as error:
            self._refusal = error  # raised here it would be this actor's death, and its line lost; so `start` raises it
        self._finished: list[Completion] = []
        self._error: BaseException | None = None
        self._news = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._idle = asyncio.Event()

    async def start(self, weights_folder: str | None) -> None:
        if self._refusal is not None:
            raise self._refusal
        if weights_folder is not None:
            from magistral_core.pipeline.roles import check_seen

            check_seen(weights_folder, "pipeline.weights_folder")
        await self._engine.start()

    async def submit(self, requests: Sequence[Request]) -> None:
        for request in requests:
            task = asyncio.get_running_loop().create_task(self._generate(request))
            self._tasks.add(task)
            task.add_done_callback(self._ended)
        self._idle.clear()

    async def collect(self) -> list[Completion]:
        news = self._news
        while not news.is_set():
            seen = self._engine.tokens_made
            try:
                await asyncio.wait_for(news.wait(), self._life_seconds)
            except TimeoutError:
                if self._engine.tokens_made > seen:
                    return []  # one long sequence, say: a sign of life
        if self._tasks and self._error is None:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._idle.wait(), _GATHER_SECONDS)
        if news is not self._news:  # asked before `forget`; whoever asked has gone
            return []
        news.clear()
        if self._error is not None:
            raise self._error
        finished, self._finished = self._finished, []
        return finished

    async def forget(self) -> None:
        """Abort what is being generated and empty the prefix cache: the weights to come may bear a version that was used before."""
        news, self._news = self._news, asyncio.Event()
        news.set()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._finished = []
        await self._engine.reset_prefix_cache()

    async def update(self, weights: WeightFile) -> int:
        return (await self._engine.update_weights(weights.path, weights.version, weights.checksum)).in_flight

    async def join(self, address: str, port: int) -> None:
        await self._engine.join_transfer(address, port)

    async def receive(self, version: int, contents: Contents) -> int:
        return (await self._engine.receive_weights(version, contents)).in_flight

    async def close(self) -> None:
        await self._engine.close()

    async def _generate(self, request: Request) -> None:
        try:
            completion = await self._engine.generate(request)
        except Exception as error:  # noqa: BLE001  (whatever it is, it ends the run at the next collect)
            self._error = error
        else:
            self._finished.append(completion)
        self._news.set()

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not self._tasks:
            self._idle.set()


class VerifierActor:
    """A `Verifier` with its worker processes."""

    def __init__(self, recipe: Recipe) -> None:
        from magistral_core.rewards import Verifier

        self._refusal: MagistralError | None = None
        self._verifier = Verifier(recipe.rewards, recipe.prompt, [stage.rewards.length for stage in recipe.stages()])
        try:
            self._verifier.start()
        except MagistralError as error:
            self._refusal = error  # see GeneratorActor

    def score(self, groups: Sequence[Group]) -> list[tuple[Score, ...]]:
        if self._refusal is not None:
            raise self._refusal
        return [group.scores for group in self._verifier.score_many(groups)]

    def close(self) -> None:
        self._verifier.close()


class TrainerActor:
    """A `TrainerRole`; the group's address is known only once rank 0 has a machine."""

    def address(self) -> tuple[str, int]:
        address = ray.util.get_node_ip_address()
        return address, free_port(address)

    def start(self, recipe: Recipe, model_dir: str, checkpoint: str | None, rank: int, address: str, port: int) -> None:
        from magistral_core.pipeline.roles import TrainerRole

        self._role = TrainerRole(recipe, model_dir, checkpoint, rank=rank, world=recipe.pipeline.trainers, address=address, port=port)

    def look_for(self, path: str, setting: str) -> None:
        from magistral_core.pipeline.roles import check_seen

        check_seen(path, setting)

    def train(self, rows: Sequence[Microbatch], step: int) -> StepReport:
        return self._role.train(rows, step)

    def publish(self, path: str) -> str:
        return self._role.publish(path)

    def stage(self, version: int) -> Contents | None:
        return self._role.stage(version)

    def unstage(self, version: int) -> None:
        self._role.unstage(version)

    def join(self, generator: int, address: str, port: int, ranks: int) -> None:
        self._role.join(generator, address, port, ranks)

    def send(self, generator: int, version: int) -> None:
        self._role.send(generator, version)

    def save(self, folder: str) -> None:
        self._role.save(folder)

    def close(self) -> None:
        self._role.close()


class RayRuntime:
    """Runtime on Ray actors. See Runtime for the calls."""

    def __init__(self, recipe: Recipe) -> None:
        self._recipe = recipe
        self.generators = recipe.pipeline.generators
        self._generator_actors: list[Any] = []
        self._started: set[int] = set()  # generators whose engine runs, as far as is known
        self._trainer_actors: list[Any] = []
        self._verifiers: list[Any] = []
        self._raylet: psutil.Process | None = None
        self._reserved: Reserved | None = None
        self._handover: Handover | None = None

    async def start(self, model_dir: Path, version: int, checkpoint: Path | None) -> None:
        settings = self._recipe.pipeline
        start_ray(settings.ray_address)
        if settings.ray_address is None:
            self._raylet = next(process for process in map(psutil.Process, processes_of_ray()) if process.name() == "raylet")
        gpus = ray.cluster_resources().get("GPU", 0)
        if handover_kind(settings) == "nccl" and not gpus:
            raise InputError("pipeline.handover: nccl needs GPUs, and Ray has none; use shared_memory, or files on a cluster")
        self._folder = folder = HandoverFolder(settings.weights_folder)  # also where NCCL sends: its reaper ends Ray with us
        self._handover = self._make_handover(folder)
        if settings.ray_address is None:
            folder.reaper.watch(processes_of_ray())  # its agents would go on for a minute when we are killed
        # Shared memory goes with us, however we end; generators on other machines do not see it.
        self._sockets = None if settings.weights_folder or settings.ray_address else str(folder.path)
        self._reserved = await asyncio.to_thread(reserve, place(self._recipe)) if gpus else None
        self._model = model_dir, version
        self._generator_actors = [self._new_generator(generator) for generator in range(settings.generators)]
        self._verifiers = [self._new_verifier() for _ in range(settings.verifiers)]
        self._verifying = [0] * settings.verifiers
        if self._trainers_first:
            await self._start_trainers(model_dir, checkpoint)
        await asyncio.gather(
            *(self._start_generator(generator) for generator in range(self.generators)),
            *([] if self._trainers_first else [self._start_trainers(model_dir, checkpoint)]),
            *(reply_of(verifier.score.remote([]), "verifier", VerifierError) for verifier in self._verifiers),
        )
        if settings.ray_address is None:
            folder.reaper.watch(processes_of_ray())  # those that have come since

    @property
    def _by_files(self) -> bool:
        """Whether weights lie in a folder, which both sides must see."""
        return handover_kind(self._recipe.pipeline) != "nccl"

    @property
    def _trainers_first(self) -> bool:
        """On a shared GPU: vLLM measures what is free there, and takes what a trainer is just filling for its own."""
        return self._recipe.pipeline.placement == "colocated"

    def _make_handover(self, folder: HandoverFolder) -> Handover:
        if handover_kind(self._recipe.pipeline) == "nccl":
            return NcclHandover(self, folder, self._recipe.generation.tensor_parallel)
        return FileHandover(folder, self)

    async def restart(self, generator: int) -> int:
        if generator == self.generators:
            self._generator_actors.append(self._new_generator(generator))
            self.generators += 1
        else:
            self._started.discard(generator)
            self._way.forget(generator)
            ray.kill(self._generator_actors[generator])
            self._generator_actors[generator] = self._new_generator(generator)
        version = self._model[1]
        try:
            await self._start_generator(generator)
        except GeneratorError:
            raise
        except MagistralError as error:  # this machine lacks the model, say: elsewhere, or later, it may be otherwise
            raise GeneratorError(str(error)) from error
        return version

    async def remove(self, generator: int) -> None:
        assert generator == self.generators - 1, "numbers have no gaps"
        self.generators -= 1
        self._started.discard(generator)
        self._way.forget(generator)
        await end([self._generator_actors.pop()])

    async def rewind(self, model_dir: Path, version: int, checkpoint: Path | None) -> None:
        for actor in self._trainer_actors:
            ray.kill(actor)
        self._folder.clear()  # of weights that come again under the same numbers, or not for a long time
        # One that joined and waits for room, or went with the trainers and may find none, would keep all from going on. Numbers have no
        # gaps, so it takes those behind it along; the number that is wanted has them join again.
        joined, seconds = range(self._recipe.pipeline.generators, self.generators), self._recipe.pipeline.update_timeout_s
        asked = [asyncio.wait_for(self._forget(generator), seconds) for generator in joined]
        answers = await asyncio.gather(*asked, return_exceptions=True)
        keep = next((number for number, answer in zip(joined, answers, strict=True) if answer is not None), self.generators)
        while self.generators > keep:
            await self.remove(self.generators - 1)
        for generator in range(self.generators):
            self._way.forget(generator)
        self._model = model_dir, version
        if self._trainers_first:
            await self._start_trainers(model_dir, checkpoint)
        await _together(
            *([] if self._trainers_first else [self._start_trainers(model_dir, checkpoint)]),
            *(self._or_replaced(generator, self._forget(generator)) for generator in range(self.generators)),
        )
        weights = await self.publish(version)
        await _together(*(self._or_replaced(generator, self.update(generator, weights)) for generator in range(self.generators)))
        await self.discard(weights)

    async def _forget(self, generator: int) -> None:
        if generator not in self._started:
            raise GeneratorError(f"generator {generator} was being started")
        await self.ask_generator(generator, "forget")

    async def _or_replaced(self, generator: int, call: Awaitable[Any]) -> None:
        """Make a call on a generator while trainers are replaced. What killed those (a lost node) may have killed this one, too."""
        settings = self._recipe.pipeline
        try:
            await asyncio.wait_for(call, settings.update_timeout_s)
        except (GeneratorError, TimeoutError):
            for left in reversed(range(max(1, settings.max_restarts))):
                try:
                    await self.restart(generator)
                    return
                except GeneratorError:
                    if not left:
                        raise

    async def _start_generator(self, generator: int) -> None:
        await self.ask_generator(generator, "start", str(self._folder.path) if self._by_files else None)
        self._started.add(generator)

    def _seat(self, generator: int) -> dict[str, Any] | None:
        if self._reserved is None:
            return None
        if generator < self._recipe.pipeline.generators:
            return self._reserved.seat("generators", generator)
        return {"num_gpus": self._recipe.generation.tensor_parallel}  # it joined later, on GPUs that nobody had reserved

    def _new_generator(self, generator: int) -> Any:
        recipe, (folder, version) = self._recipe, self._model
        actor = self._actor(GeneratorActor, self._seat(generator), max_concurrency=10_000)
        return actor.remote(recipe, str(folder), version, self._sockets)

    def _new_verifier(self) -> Any:
        return self._actor(VerifierActor, max_concurrency=2 * PoolSize.of(self._recipe.rewards).largest).remote(self._recipe)

    async def _start_trainers(self, model_dir: Path, checkpoint: Path | None) -> None:
        seats = [self._reserved.seat("trainers", i) if self._reserved else None for i in range(self._recipe.pipeline.trainers)]
        # Over NCCL rank 0 sends while it trains: two calls at a time.
        calls = 1 if self._by_files else 2
        self._trainer_actors = [self._actor(TrainerActor, seat, max_concurrency=calls).remote() for seat in seats]
        address, port = await self.ask_trainer(0, "address")
        state = str(checkpoint) if checkpoint else None
        if self._recipe.pipeline.ray_address is not None:  # before hours of training: checkpoints are written below this folder
            cache_folder().mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(dir=cache_folder(), prefix="seen-from-everywhere-") as probe:
                await self.ask_trainers("look_for", probe.name, "MAGISTRAL_CACHE")
            if self._by_files:
                await self.ask_trainers("look_for", str(self._folder.path), "pipeline.weights_folder")
        await self._all_ranks(
            "start", [(self._recipe, str(model_dir), state, rank, address, port) for rank in range(len(self._trainer_actors))]
        )

    def _actor(self, cls: type, seat: dict[str, Any] | None = None, **options: Any) -> Any:
        if self._raylet is not None and (not self._raylet.is_running() or self._raylet.status() == psutil.STATUS_ZOMBIE):
            raise InfrastructureError("Ray itself ended (its raylet is gone), no role can start; run the same command again to resume")
        environment = None if self._reserved else {"env_vars": dict(THREAD_ENVIRONMENT)}
        where = seat or {"num_gpus": 0, "scheduling_strategy": "SPREAD"}
        return ray.remote(cls).options(num_cpus=0, runtime_env=environment, **where, **options)

    async def submit(self, generator: int, requests: Sequence[Request]) -> None:
        await self.ask_generator(generator, "submit", requests)

    async def collect(self, generator: int) -> list[Completion]:
        return await self.ask_generator(generator, "collect")  # type: ignore[no-any-return]

    async def score(self, groups: Sequence[Group]) -> list[Group]:
        number = min(range(len(self._verifiers)), key=self._verifying.__getitem__)
        self._verifying[number] += 1
        try:
            scores = await self._score(number, groups)
        finally:
            self._verifying[number] -= 1
        return [replace(group, scores=found) for group, found in zip(groups, scores, strict=True)]

    async def _score(self, number: int, groups: Sequence[Group]) -> list[tuple[Score, ...]]:
        for _ in range(self._recipe.pipeline.max_restarts):
            verifier = self._verifiers[number]
            try:
                return await reply_of(verifier.score.remote(groups), "verifier", VerifierError)  # type: ignore[no-any-return]
            except VerifierError:
                if verifier is self._verifiers[number]:  # the first of several calls that it took with it
                    self._verifiers[number] = self._new_verifier()
        return await reply_of(self._verifiers[number].score.remote(groups), "verifier", VerifierError)  # type: ignore[no-any-return]

    async def train(self, rows: Sequence[Sequence[Microbatch]], step: int) -> StepReport:
        return StepReport.merge(await self._all_ranks("train", [(row, step) for row in rows]))

    @property
    def _way(self) -> Handover:
        assert self._handover is not None
        return self._handover

    async def publish(self, version: int) -> WeightFile:
        return await self._way.publish(version)

    async def update(self, generator: int, weights: WeightFile) -> int:
        return await self._way.deliver(generator, weights)

    async def discard(self, weights: WeightFile) -> None:
        await self._way.discard(weights)

    async def ask_trainers(self, method: str, *arguments: Any) -> list[Any]:
        return await self._all_ranks(method, [arguments] * len(self._trainer_actors))

    async def ask_trainer(self, rank: int, method: str, *arguments: Any) -> Any:
        return await reply_of(getattr(self._trainer_actors[rank], method).remote(*arguments), f"trainer rank {rank}", TrainerError)

    async def ask_generator(self, generator: int, method: str, *arguments: Any) -> Any:
        return await reply_of(
            getattr(self._generator_actors[generator], method).remote(*arguments), f"generator {generator}", GeneratorError
        )

    async def save(self, folder: Path) -> None:
        await self._all_ranks("save", [(str(folder),)] * len(self._trainer_actors))

    async def close(self) -> None:
        await end([*self._generator_actors, *self._trainer_actors, *self._verifiers])
        self._generator_actors, self._trainer_actors, self._verifiers = [], [], []
        if self._reserved is not None:
            self._reserved.release()
            self._reserved = None
        ray.shutdown()  # of a cluster that was joined: leave it, it goes on
        if self._handover is not None:
            self._handover.close()
            self._handover = None

    async def _all_ranks(self, method: str, arguments: Sequence[tuple[Any, ...]]) -> list[Any]:
        """The answers of all ranks. Where one fails, the others may wait for it for ever: its death is looked for first."""
        calls = [getattr(actor, method).remote(*args) for actor, args in zip(self._trainer_actors, arguments, strict=True)]
        replies = [asyncio.ensure_future(reply_of(call, f"trainer rank {i}", TrainerError)) for i, call in enumerate(calls)]
        try:
            return list(await asyncio.gather(*replies))
        except InfrastructureError as error:
            await asyncio.wait(replies, timeout=_DEATH_SECONDS)
            died = [e for r in replies if r.done() and isinstance(e := r.exception(), TrainerError)]
            raise (died[0] if died else error) from error
        finally:
            for reply in replies:
                reply.cancel()


@dataclass(frozen=True)
class Reserved:
    """A placement whose groups Ray holds for us."""

    placement: Placement
    groups: tuple[PlacementGroup, ...]

    def seat(self, role: Literal["generators", "trainers"], number: int) -> dict[str, Any]:
        """Options of an actor that the recipe begins with."""
        seat: Seat = getattr(self.placement, role)[number]
        strategy = PlacementGroupSchedulingStrategy(self.groups[seat.group], placement_group_bundle_index=seat.bundle)
        return {"num_gpus": seat.gpus, "scheduling_strategy": strategy}

    def release(self) -> None:
        """Give everything back."""
        for group in self.groups:
            remove_placement_group(group)


def reserve(placement: Placement) -> Reserved:
    """Have Ray hold the GPUs of a placement. Raises InputError if there are too few, InfrastructureError if others have them."""
    check_fits(placement, [int(node["Resources"].get("GPU", 0)) for node in ray.nodes() if node["Alive"]])
    groups = tuple(placement_group([{"GPU": gpus} for gpus in group.gpus], strategy=group.strategy) for group in placement.groups)
    reserved = Reserved(placement, groups)
    if not all(group.wait(_RESERVE_SECONDS) for group in groups):
        reserved.release()
        raise InfrastructureError(
            f"Ray has the GPUs but did not hand them out within {_RESERVE_SECONDS:g} s: others hold them; end those, or wait"
        )
    return reserved


async def _together(*calls: Coroutine[Any, Any, None]) -> None:
    """All of them; where one fails the others end as well, before its error is raised. What went on would disturb the next attempt."""
    tasks = [asyncio.ensure_future(call) for call in calls]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
