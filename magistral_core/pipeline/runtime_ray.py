"""The runtime on Ray: generators, verifiers and trainer ranks as actors, on this machine or on a cluster.

The only file that knows Ray. Roles are plain classes of their own rooms; an actor adds a mailbox and a process. Ray reports
nothing to its makers, and a Ray started here listens on loopback only.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Awaitable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from magistral_core.config.schema import Recipe
from magistral_core.errors import InfrastructureError, MagistralError
from magistral_core.pipeline.handover import HandoverFolder, WeightFile
from magistral_core.pipeline.supervision import GeneratorError, RoleError, TrainerError, VerifierError
from magistral_core.processes import THREAD_ENVIRONMENT, free_port
from magistral_core.records import Completion, Group, Microbatch, Request
from magistral_core.training.report import StepReport

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_worker_niceness", "0")  # Ray's own 15 starves actors beside anything else on the cores
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")

import psutil
import ray
from ray.exceptions import RayActorError, RayError, RayTaskError

T = TypeVar("T")
_OBJECT_STORE_BYTES = 256 * 2**20
_CLOSE_SECONDS = 10.0
#: When one trainer rank fails, so long is waited for the news that another had died.
_DEATH_SECONDS = 5.0
_LOCAL = "127.0.0.1"


class GeneratorActor:
    """A mailbox before a `GeneratorEngine`: requests go in at once, finished completions wait to be collected."""

    def __init__(self, recipe: Recipe, model_dir: str, version: int) -> None:
        from magistral_core.generation.engine import GeneratorEngine

        self._engine = GeneratorEngine(
            model_dir, recipe.generation, max_model_len=recipe.max_model_len, seed=recipe.seed, prompt=recipe.prompt, version=version
        )
        self._finished: list[Completion] = []
        self._error: BaseException | None = None
        self._news = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        await self._engine.start()

    async def submit(self, requests: Sequence[Request]) -> None:
        for request in requests:
            task = asyncio.get_running_loop().create_task(self._generate(request))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def collect(self) -> list[Completion]:
        news = self._news
        await news.wait()
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


class VerifierActor:
    """A `Verifier` with its worker processes."""

    def __init__(self, recipe: Recipe) -> None:
        from magistral_core.rewards import Verifier

        self._verifier = Verifier(recipe.rewards, recipe.prompt)
        self._verifier.start()

    def score(self, groups: Sequence[Group]) -> list[Group]:
        return self._verifier.score_many(list(groups))

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

    def train(self, rows: Sequence[Microbatch], step: int) -> StepReport:
        return self._role.train(rows, step)

    def publish(self, path: str) -> str:
        return self._role.publish(path)

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
        self._verifier: Any = None
        self._folder: HandoverFolder | None = None

    async def start(self, model_dir: Path, version: int, checkpoint: Path | None) -> None:
        settings = self._recipe.pipeline
        _start_ray(settings.ray_address)
        self._folder = HandoverFolder(settings.weights_folder)
        self._gpus = _gpus_per_role(self._recipe, int(ray.cluster_resources().get("GPU", 0)))
        self._model = model_dir, version
        self._generator_actors = [self._new_generator() for _ in range(settings.generators)]
        self._verifier = self._new_verifier()
        await asyncio.gather(
            *(self._start_generator(generator) for generator in range(self.generators)),
            self._start_trainers(model_dir, checkpoint),
            _reply(self._verifier.score.remote([]), "verifier", VerifierError),
        )
        if settings.ray_address is None:
            self._folder.reaper.watch(_processes_of_ray())  # its agents would go on for a minute when we are killed

    async def restart(self, generator: int) -> int:
        if generator == self.generators:
            self._generator_actors.append(self._new_generator())
            self.generators += 1
        else:
            self._started.discard(generator)
            ray.kill(self._generator_actors[generator])
            self._generator_actors[generator] = self._new_generator()
        version = self._model[1]
        await self._start_generator(generator)
        return version

    async def remove(self, generator: int) -> None:
        assert generator == self.generators - 1, "numbers have no gaps"
        self.generators -= 1
        self._started.discard(generator)
        await _end([self._generator_actors.pop()])

    async def rewind(self, model_dir: Path, version: int, checkpoint: Path | None) -> None:
        for actor in self._trainer_actors:
            ray.kill(actor)
        self._model = model_dir, version
        await asyncio.gather(
            self._start_trainers(model_dir, checkpoint),
            *(self._or_replaced(generator, self._forget(generator)) for generator in range(self.generators)),
        )
        weights = await self.publish(version)
        await asyncio.gather(*(self._or_replaced(generator, self.update(generator, weights)) for generator in range(self.generators)))
        await self.discard(weights)

    async def _forget(self, generator: int) -> None:
        if generator not in self._started:
            raise GeneratorError(f"generator {generator} was being started")
        await _reply(self._generator_actors[generator].forget.remote(), f"generator {generator}", GeneratorError)

    async def _or_replaced(self, generator: int, call: Awaitable[Any]) -> None:
        """Make a call on a generator while trainers are replaced. What killed those (a lost node) may have killed this one, too."""
        try:
            await asyncio.wait_for(call, self._recipe.pipeline.update_timeout_s)
        except (GeneratorError, TimeoutError):
            await self.restart(generator)

    async def _start_generator(self, generator: int) -> None:
        await _reply(self._generator_actors[generator].start.remote(), f"generator {generator}", GeneratorError)
        self._started.add(generator)

    def _new_generator(self) -> Any:
        recipe, (folder, version) = self._recipe, self._model
        gpu = self._gpus * recipe.generation.tensor_parallel
        return self._actor(GeneratorActor, gpu, max_concurrency=10_000).remote(recipe, str(folder), version)

    def _new_verifier(self) -> Any:
        return self._actor(VerifierActor, max_concurrency=2 * self._recipe.rewards.workers).remote(self._recipe)

    async def _start_trainers(self, model_dir: Path, checkpoint: Path | None) -> None:
        self._trainer_actors = [self._actor(TrainerActor, self._gpus).remote() for _ in range(self._recipe.pipeline.trainers)]
        address, port = await _reply(self._trainer_actors[0].address.remote(), "trainer rank 0", TrainerError)
        state = str(checkpoint) if checkpoint else None
        await self._all_ranks(
            "start", [(self._recipe, str(model_dir), state, rank, address, port) for rank in range(len(self._trainer_actors))]
        )

    def _actor(self, cls: type, gpu: float = 0.0, **options: Any) -> Any:
        environment = None if self._gpus else {"env_vars": dict(THREAD_ENVIRONMENT)}
        return ray.remote(cls).options(num_cpus=0, num_gpus=gpu, runtime_env=environment, scheduling_strategy="SPREAD", **options)

    async def submit(self, generator: int, requests: Sequence[Request]) -> None:
        await _reply(self._generator_actors[generator].submit.remote(requests), f"generator {generator}", GeneratorError)

    async def collect(self, generator: int) -> list[Completion]:
        return await _reply(self._generator_actors[generator].collect.remote(), f"generator {generator}", GeneratorError)  # type: ignore[no-any-return]

    async def score(self, groups: Sequence[Group]) -> list[Group]:
        for _ in range(self._recipe.pipeline.max_restarts):
            verifier = self._verifier
            try:
                return await _reply(verifier.score.remote(groups), "verifier", VerifierError)  # type: ignore[no-any-return]
            except VerifierError:
                if verifier is self._verifier:  # the first of several calls that it took with it
                    self._verifier = self._new_verifier()
        return await _reply(self._verifier.score.remote(groups), "verifier", VerifierError)  # type: ignore[no-any-return]

    async def train(self, rows: Sequence[Sequence[Microbatch]], step: int) -> StepReport:
        return StepReport.merge(await self._all_ranks("train", [(row, step) for row in rows]))

    async def publish(self, version: int) -> WeightFile:
        assert self._folder is not None
        path = str(self._folder.file(version))
        checksums = await self._all_ranks("publish", [(path,)] * len(self._trainer_actors))
        return WeightFile(path, version, checksums[0])

    async def update(self, generator: int, weights: WeightFile) -> int:
        return await _reply(self._generator_actors[generator].update.remote(weights), f"generator {generator}", GeneratorError)  # type: ignore[no-any-return]

    async def discard(self, weights: WeightFile) -> None:
        assert self._folder is not None
        self._folder.remove(weights)

    async def save(self, folder: Path) -> None:
        await self._all_ranks("save", [(str(folder),)] * len(self._trainer_actors))

    async def close(self) -> None:
        await _end([role for role in (*self._generator_actors, *self._trainer_actors, self._verifier) if role is not None])
        self._generator_actors, self._trainer_actors, self._verifier = [], [], None
        if self._recipe.pipeline.ray_address is None:
            ray.shutdown()
        if self._folder is not None:
            self._folder.close()
            self._folder = None

    async def _all_ranks(self, method: str, arguments: Sequence[tuple[Any, ...]]) -> list[Any]:
        """The answers of all ranks. Where one fails, the others may wait for it for ever: its death is looked for first."""
        calls = [getattr(actor, method).remote(*args) for actor, args in zip(self._trainer_actors, arguments, strict=True)]
        replies = [asyncio.ensure_future(_reply(call, f"trainer rank {i}", TrainerError)) for i, call in enumerate(calls)]
        try:
            return list(await asyncio.gather(*replies))
        except InfrastructureError as error:
            await asyncio.wait(replies, timeout=_DEATH_SECONDS)
            died = [e for r in replies if r.done() and isinstance(e := r.exception(), TrainerError)]
            raise (died[0] if died else error) from error
        finally:
            for reply in replies:
                reply.cancel()


async def _end(actors: Sequence[Any]) -> None:
    """Let actors close in order, within a limit, and end them."""
    closing = [actor.close.remote() for actor in actors]
    if closing:
        await asyncio.to_thread(ray.wait, closing, num_returns=len(closing), timeout=_CLOSE_SECONDS)
    for actor in actors:
        ray.kill(actor)


def _start_ray(address: str | None) -> None:
    if address is not None:
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
        return
    ray.init(
        address="local",  # never a cluster that some variable names
        include_dashboard=False,
        log_to_driver=False,  # vLLM and DeepSpeed are chatty; what matters comes back as an error
        logging_level=logging.ERROR,
        object_store_memory=_OBJECT_STORE_BYTES,
        _node_ip_address=_LOCAL,
    )


def _processes_of_ray() -> list[int]:
    """What Ray started here: children that run from its package, with their descendants."""
    package = str(Path(ray.__file__).parent)
    heads = [child for child in psutil.Process().children() if any(word.startswith(package) for word in child.cmdline())]
    return [process.pid for head in heads for process in (head, *head.children(recursive=True))]


def _gpus_per_role(recipe: Recipe, gpus: int) -> float:
    """GPUs of one trainer rank, and of one tensor-parallel rank of a generator."""
    if not gpus:
        return 0.0
    wanted = recipe.pipeline.trainers + recipe.pipeline.generators * recipe.generation.tensor_parallel
    if recipe.pipeline.placement == "colocated":
        return 0.5
    if wanted > gpus:
        raise InfrastructureError(f"the recipe places {wanted} roles on {gpus} GPUs; set pipeline.placement=colocated or use fewer roles")
    return 1.0


def _log_folder() -> str:
    node = ray._private.worker.global_worker.node
    return f"{node.get_session_dir_path()}/logs" if node else "Ray's session folder"


async def _reply(call: Awaitable[T], who: str, death: type[RoleError]) -> T:
    """Wait for an actor's answer; an error becomes one line that names the role, a dead actor (or a generator's dead engine) `death`."""
    try:
        return await call
    except RayTaskError as error:
        cause = error.cause
        if isinstance(cause, InfrastructureError) and death is GeneratorError:
            raise death(f"{who}: {cause}") from error
        if isinstance(cause, MagistralError):
            raise type(cause)(f"{who}: {cause}") from error
        raise InfrastructureError(f"{who} failed: {type(cause).__name__}: {cause}") from error
    except RayActorError as error:
        why = " ".join(str(error).split())[:200]
        raise death(f"{who} died ({why}); its log is under {_log_folder()}; run the same command again to resume") from error
    except RayError as error:
        raise InfrastructureError(f"{who}: {error}") from error
