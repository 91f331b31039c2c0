"""RayRuntime and its generators while trainers are replaced, without a Ray: the actors are stand-ins that answer, fail or hang."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
from ray.exceptions import OutOfMemoryError, RayActorError
from simulated_runtime import recipe

from magistral_core.errors import InputError
from magistral_core.pipeline import on_ray, runtime_ray
from magistral_core.pipeline.handover import FileHandover, WeightFile
from magistral_core.pipeline.runtime_ray import GeneratorActor, RayRuntime
from magistral_core.pipeline.supervision import GeneratorError, TrainerError

Answer = Callable[[], Coroutine[Any, Any, Any]]


async def yes() -> int:
    return 0


async def dead() -> int:
    raise RayActorError


async def without_memory() -> int:
    raise OutOfMemoryError("the node was low on memory")


async def silent() -> int:
    return await asyncio.get_running_loop().create_future()


class StandIn:
    """A generator's actor: `actor.METHOD.remote(...)` is an awaitable answer."""

    def __init__(self, **answers: Answer) -> None:
        self.asked: list[str] = []
        self._answers = answers

    def __getattr__(self, method: str) -> Any:
        def remote(*_: Any) -> Coroutine[Any, Any, Any]:
            self.asked.append(method)
            return self._answers.get(method, yes)()

        return type("Method", (), {"remote": staticmethod(remote)})


class NoWeights:
    """In place of a folder for weights: none are written here."""

    path = Path("weights")

    def clear(self) -> None:
        pass


class Runtime(RayRuntime):
    """New generators are stand-ins; trainers are none of this file's business."""

    def __init__(self, actors: list[StandIn], **pipeline: Any) -> None:
        super().__init__(recipe(generators=len(actors), update_timeout_s=0.2, **pipeline))
        self._generator_actors, self._started, self._model = list(actors), set(range(len(actors))), (Path("model"), 0)
        self._handover = FileHandover(None, self)  # type: ignore[arg-type]  # of files only their names are told here
        self._folder = NoWeights()  # type: ignore[assignment]
        self.made: list[StandIn] = []
        self.asked_before: list[list[str]] = []  # of the generators, when the trainers had started
        self.stillborn = 0  # so many of the next ones die while they start

    def _new_generator(self, generator: int) -> StandIn:
        self.made.append(StandIn(start=dead if len(self.made) < self.stillborn else yes))
        return self.made[-1]

    async def _start_trainers(self, model_dir: Path, checkpoint: Path | None) -> None:
        await asyncio.sleep(0.01)
        self.asked_before = [list(actor.asked) for actor in self._generator_actors]

    async def publish(self, version: int) -> WeightFile:
        return WeightFile("weights", version, "")

    async def discard(self, weights: WeightFile) -> None:
        pass


@pytest.fixture
def killed(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    found: list[Any] = []
    monkeypatch.setattr(runtime_ray.ray, "kill", found.append)
    monkeypatch.setattr(runtime_ray.ray, "wait", lambda calls, **_: ([call.close() for call in calls], []))
    return found


@pytest.mark.parametrize(
    "answers", [{"forget": dead}, {"forget": silent}, {"update": dead}, {"update": silent}, {"update": without_memory}], ids=str
)
def test_a_generator_that_went_with_a_trainer_is_replaced_with_it(answers: dict[str, Answer], killed: list[Any]) -> None:
    well, ill = StandIn(), StandIn(**answers)
    runtime = Runtime([well, ill])
    asyncio.run(runtime.rewind(Path("model"), 6, None))
    assert killed == [ill]
    assert runtime._generator_actors == [well, *runtime.made]
    assert well.asked == ["forget", "update"]
    assert runtime.made[0].asked[0] == "start"
    assert runtime._model == (Path("model"), 6), "the new one begins with the checkpoint's weights"


@pytest.mark.parametrize(("placement", "before"), [("colocated", []), ("split", ["forget"])])
def test_on_a_shared_gpu_trainers_are_there_before_a_generator_may_start(placement: str, before: list[str], killed: list[Any]) -> None:
    """vLLM measures the GPU's free memory while it starts."""
    runtime = Runtime([StandIn()], placement=placement, trainers=1)
    asyncio.run(runtime.rewind(Path("model"), 6, None))
    assert runtime.asked_before == [before]
    assert runtime._generator_actors[0].asked == ["forget", "update"]
    assert killed == []


def test_its_replacement_may_die_as_often_as_any(killed: list[Any]) -> None:
    runtime = Runtime([StandIn(), StandIn(forget=dead)])
    limit = runtime._recipe.pipeline.max_restarts
    runtime.stillborn = limit - 1
    asyncio.run(runtime.rewind(Path("model"), 6, None))
    assert len(runtime.made) == limit
    runtime = Runtime([StandIn(), StandIn(forget=dead)])
    runtime.stillborn = limit
    with pytest.raises(GeneratorError, match="generator 1 died"):
        asyncio.run(runtime.rewind(Path("model"), 6, None))


def test_what_went_on_of_a_failed_attempt_disturbs_the_next_one_no_more(killed: list[Any]) -> None:
    """New trainers die while a generator that went with the old ones is still being started."""
    starting = StandIn(start=silent)

    class Died(Runtime):
        def _new_generator(self, generator: int) -> StandIn:
            self.made.append(starting)
            return starting

        async def _start_trainers(self, model_dir: Path, checkpoint: Path | None) -> None:
            await asyncio.sleep(0.3)
            raise TrainerError("rank 0 died")

    async def attempt() -> set[asyncio.Task[Any]]:
        with pytest.raises(TrainerError, match="rank 0 died"):
            await Died([StandIn(), StandIn(forget=dead)]).rewind(Path("model"), 6, None)
        assert starting.asked == ["start"]
        return asyncio.all_tasks() - {asyncio.current_task()}

    assert asyncio.run(attempt()) == set()


def generator_actor(engine: Any, life_seconds: float = 30.0) -> Any:
    """A mailbox before what stands in for an engine process."""
    actor: Any = object.__new__(GeneratorActor)
    actor._engine, actor._error, actor._finished, actor._tasks = engine, None, [], set()
    actor._news, actor._idle, actor._life_seconds = asyncio.Event(), asyncio.Event(), life_seconds
    return actor


@pytest.mark.parametrize(("gather", "seconds", "together"), [(0.3, (0, 0.02, 60), 2), (60, (0, 0.02, 0.04), 3), (0, (0, 0.1, 60), 1)])
def test_what_finishes_together_is_one_message_and_the_last_is_not_held_back(
    gather: float, seconds: tuple[float, ...], together: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Engine:
        tokens_made = 0

        async def generate(self, seconds: float) -> float:
            await asyncio.sleep(seconds)
            return seconds

    async def ask() -> list[float]:
        actor = generator_actor(Engine())
        await actor.submit(seconds)
        finished: list[float] = await asyncio.wait_for(actor.collect(), 30)
        return finished

    monkeypatch.setattr(runtime_ray, "_GATHER_SECONDS", gather)
    assert asyncio.run(ask()) == list(seconds[:together])


def test_a_generator_that_decodes_shows_life_and_one_that_does_not_is_silent() -> None:
    class Engine:
        tokens_made = 0

    async def decode(engine: Engine) -> None:
        while True:
            await asyncio.sleep(0.01)
            engine.tokens_made += 1

    async def ask() -> None:
        actor = generator_actor(Engine(), life_seconds=0.1)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(actor.collect(), 0.5)
        decoding = asyncio.create_task(decode(actor._engine))
        assert await asyncio.wait_for(actor.collect(), 5) == []
        actor._finished, answer = ["done"], asyncio.create_task(actor.collect())
        actor._news.set()
        assert await answer == ["done"]
        decoding.cancel()

    asyncio.run(ask())


def test_what_sigterm_does_is_the_commands_own_affair() -> None:
    """Ray has it end the process with a code of its own, and a second one break the closing off."""

    def own(*_: Any) -> None:
        """The command's."""

    before = signal.signal(signal.SIGTERM, own)
    try:
        with on_ray.own_handler():
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        assert signal.getsignal(signal.SIGTERM) is own
    finally:
        signal.signal(signal.SIGTERM, before)


@pytest.mark.parametrize("folder", ["here", "elsewhere"])
def test_a_generator_that_does_not_see_the_folder_of_weights_is_refused_before_its_engine_starts(folder: str, tmp_path: Path) -> None:
    class Engine:
        started = False

        async def start(self) -> None:
            self.started = True

    actor = generator_actor(Engine())
    actor._refusal = None
    (tmp_path / "here").mkdir()
    if folder == "here":
        asyncio.run(actor.start(str(tmp_path / folder)))
    else:
        with pytest.raises(InputError, match="elsewhere: not seen from .*; set pipeline.weights_folder to a folder that every machine"):
            asyncio.run(actor.start(str(tmp_path / folder)))
    assert actor._engine.started == (folder == "here")


def test_a_generator_that_was_being_started_is_started_anew(killed: list[Any]) -> None:
    """Its engine may not be there yet: it cannot be asked to forget."""
    half = StandIn()
    runtime = Runtime([StandIn(), half])
    runtime._started.discard(1)
    asyncio.run(runtime.rewind(Path("model"), 6, None))
    assert killed == [half]
    assert half.asked == []


def test_those_that_wait_for_room_do_not_hold_up_new_trainers(killed: list[Any]) -> None:
    runtime = Runtime([StandIn()])

    async def join() -> None:
        await asyncio.gather(*(runtime.restart(generator) for generator in (1, 2, 3)))
        runtime._started.discard(2)  # its machine was lost, say
        await runtime.rewind(Path("model"), 6, None)

    asyncio.run(join())
    assert runtime.generators == len(runtime._generator_actors) == 2
    assert killed == [runtime.made[2], runtime.made[1]]
    assert [actor.asked[-2:] for actor in runtime._generator_actors] == [["forget", "update"]] * 2


@pytest.mark.parametrize("answer", [dead, silent])
def test_those_that_joined_and_went_with_the_trainers_are_not_waited_for(answer: Answer, killed: list[Any]) -> None:
    """Their machine is gone, say, and no other has room. The number that is wanted has them join again."""
    runtime = Runtime([StandIn()])

    async def join() -> None:
        await asyncio.gather(*(runtime.restart(generator) for generator in (1, 2)))
        runtime.made[0]._answers["forget"] = answer
        await runtime.rewind(Path("model"), 6, None)

    asyncio.run(join())
    assert runtime.generators == len(runtime._generator_actors) == 1
    assert killed == [runtime.made[1], runtime.made[0]]
    assert len(runtime.made) == 2


def test_generators_are_added_and_removed_at_the_end(killed: list[Any]) -> None:
    runtime = Runtime([StandIn()])

    async def come_and_go() -> None:
        await asyncio.gather(runtime.restart(1), runtime.restart(2))
        assert runtime.generators == 3
        await runtime.remove(2)
        await runtime.restart(1)

    asyncio.run(come_and_go())
    assert runtime.generators == len(runtime._generator_actors) == 2
    first, second, third = runtime.made
    assert killed == [second, first]
    assert runtime._generator_actors[1] is third
    assert runtime._started == {0, 1}
