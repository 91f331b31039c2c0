"""A whole runtime in memory: generators that take time in proportion to length, verifiers, trainers and weights, all on one clock.

Roles can be killed (`kill`, `kill_trainers`, `kill_verifiers`) and are then replaced as real ones are.

It implements `Runtime` and checks its caller: a request answered twice, a sequence trained twice or before it was verified, or a
generator brought to a version that was never published is an AssertionError.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
from collections.abc import Callable, Coroutine, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from magistral_core.config.schema import Recipe
from magistral_core.pipeline.coordinator import Coordinator
from magistral_core.pipeline.curriculum import Curriculum
from magistral_core.pipeline.handover import WeightFile
from magistral_core.pipeline.state import LoopState
from magistral_core.pipeline.supervision import GeneratorError, RoleError, TrainerError
from magistral_core.problems import ProblemStream
from magistral_core.records import Batch, Completion, FinishReason, Group, Microbatch, Problem, Prompt, Request, Score, ScoreStatus
from magistral_core.training.report import StepReport

Key = tuple[int, int]
PROBLEMS = tuple(Problem(id=f"p{i}", question=f"question {i}", answer=str(i), level=1 + i % 4) for i in range(97))


def uniform(group_id: int, index: int) -> float:
    """A number in [0, 1) that belongs to a completion."""
    return float(np.random.default_rng((7, group_id % 2**40, index)).random())  # negative: of a validation


def mixed(group_id: int, index: int) -> Score:
    """Right or wrong, whatever the length; the first two completions of a group differ, so that no group is filtered."""
    right = index % 2 == 0 if index < 2 else uniform(group_id, index + 1000) < 0.5
    return Score(1.0 if right else 0.1, ScoreStatus.CORRECT if right else ScoreStatus.WRONG, {"format": 0.1, "correct": 0.9 * right})


@dataclass
class World:
    """How the simulated roles behave. Times are virtual seconds; infinity, or no length: it never happens."""

    length: Callable[[int, int], int | None] = lambda group, index: 5 + int(20 * uniform(group, index))
    score: Callable[[int, int], Score] = mixed
    generators: int = 2
    token_seconds: float = 0.1
    verify_seconds: Callable[[Sequence[int]], float] = lambda groups: 0.3
    train_seconds: float = 0.5
    update_seconds: Callable[[int, int], float] = lambda generator, version: 0.2
    submit_seconds: Callable[[int], float] = lambda generator: 0.0
    restart_seconds: float = 5.0
    life_seconds: float = float("inf")  # a generator that has finished nothing shows life so often, while it decodes
    raises: dict[str, BaseException] = field(default_factory=dict)  # by the call's name
    within: Callable[[str, SimulatedRuntime], None] = lambda call, runtime: None  # called in the midst of a call


class SimulatedRuntime:
    """See the module. Everything that happened is kept, with its time."""

    def __init__(self, recipe: Recipe, world: World, version: int = 0) -> None:
        self.generators = world.generators
        self._world, self._group_size = world, recipe.pipeline.group_size
        self._samples = recipe.validation.samples if recipe.validation else 0
        self.versions = [version] * world.generators
        self.published = {version}
        self.weights: set[int] = set()
        self.submitted: list[tuple[float, Key]] = []
        self.requests: dict[Key, Request] = {}
        self.generated: dict[Key, int] = {}
        self.verified: set[int] = set()
        self.trained: list[tuple[float, int, list[Key]]] = []
        self.training: list[tuple[float, float]] = []
        self.updates: list[tuple[float, float, int, int]] = []  # begin, end, generator, version
        self.scoring: list[tuple[float, float]] = []
        self.closed = False
        self._swaps: list[list[tuple[float, int]]] = [[(-1.0, version)] for _ in range(world.generators)]
        self._running: list[set[asyncio.Task[None]]] = [set() for _ in range(world.generators)]
        self._finished: list[list[Completion]] = [[] for _ in range(world.generators)]
        self._news = [asyncio.Event() for _ in range(world.generators)]
        self._died = [asyncio.Event() for _ in range(world.generators)]
        self._owed = [version] * world.generators  # weights that a new generator must have taken before it works
        self._hosted: dict[Key, int] = {}
        self._initial = version
        self._trainers_died: asyncio.Event = asyncio.Event()
        self.restarts: list[tuple[float, float, int]] = []  # begin, end, generator
        self.rewinds: list[tuple[float, int]] = []  # time, version
        self.removed: list[tuple[float, int]] = []  # time, generator
        self.rescored = 0
        self._verifiers = 0  # incarnation
        self._broken: BaseException | None = None
        self.hosts: dict[int, set[int]] = {}

    async def start(self, model_dir: Path, version: int, checkpoint: Path | None) -> None:
        raise NotImplementedError("made at its version")

    def kill(self, generator: int) -> None:
        """End a generator: what it holds is gone, and every call on it fails."""
        for task in self._running[generator]:
            task.cancel()
        for finished in self._finished[generator]:
            del self.generated[finished.group_id, finished.index]
        for key in [key for key, host in self._hosted.items() if host == generator]:
            del self._hosted[key]
        self._finished[generator] = []
        self._died[generator].set()

    def kill_trainers(self) -> None:
        """End the trainers: their calls fail."""
        self._trainers_died.set()

    def kill_verifiers(self) -> None:
        """End the verifiers: what they hold is scored again by new ones, as RayRuntime does."""
        self._verifiers += 1

    async def remove(self, generator: int) -> None:
        assert generator == self.generators - 1
        held = self._running[generator] or self._finished[generator]
        assert not held or self._died[generator].is_set(), "it was to finish what it holds"
        self.generators -= 1
        self.removed.append((self.now, generator))
        self.kill(generator)

    def _add(self) -> None:
        """One more generator, or the place of one that has gone."""
        if self.generators == len(self.versions):
            for kept, empty in ((self._swaps, []), (self._running, set()), (self._finished, [])):
                kept.append(empty)  # type: ignore[attr-defined]
            self._news.append(asyncio.Event())
            self._died.append(asyncio.Event())
            self.versions.append(self._initial)
            self._owed.append(self._initial)
        self.generators += 1

    async def restart(self, generator: int) -> int:
        begun = self.now
        if generator == self.generators:
            self._add()
        if not self._died[generator].is_set():
            self.kill(generator)
        removed = len(self.removed)
        await asyncio.sleep(self._world.restart_seconds)
        self._fail("restart")
        if any(gone == generator for _, gone in self.removed[removed:]):
            raise GeneratorError(f"generator {generator} was ended while it started")
        self._died[generator] = asyncio.Event()
        self._news[generator] = asyncio.Event()
        self.versions[generator] = self._initial
        self._swaps[generator] = [(self.now, self._initial)]
        self._owed[generator] = max(self.published)
        self.restarts.append((begun, self.now, generator))
        return self._initial

    async def rewind(self, model_dir: Path, version: int, checkpoint: Path | None) -> None:
        for generator in range(self.generators):
            if not self._died[generator].is_set():
                self.kill(generator)
                self._died[generator] = asyncio.Event()
                self._news[generator] = asyncio.Event()
                self.versions[generator] = self._owed[generator] = version
                self._swaps[generator] = [(self.now, version)]
        await asyncio.sleep(self._world.restart_seconds)
        self._trainers_died = asyncio.Event()
        self._initial = version
        self.trained = [batch for batch in self.trained if batch[1] < version]
        self.verified.clear()
        self.generated.clear()
        self._hosted.clear()
        self.published, self.weights = {version}, set()
        self.rewinds.append((self.now, version))

    async def submit(self, generator: int, requests: Sequence[Request]) -> None:
        self._fail("submit")
        assert self.versions[generator] >= self._owed[generator], "work for a generator with old weights"
        await self._alive(generator, _pass(self._world.submit_seconds(generator)))
        for request in requests:
            key = (request.group_id, request.index)
            assert key not in self._hosted, f"{key} was submitted twice"
            assert key not in self.requests or self.requests[key].seed == request.seed
            self._hosted[key] = generator
            self.requests[key] = request
            self.submitted.append((self.now, key))
            self.hosts.setdefault(request.group_id, set()).add(generator)
            task = asyncio.create_task(self._generate(generator, request))
            self._running[generator].add(task)
            task.add_done_callback(functools.partial(self._generated, generator))

    async def collect(self, generator: int) -> list[Completion]:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(
                self._alive(generator, self._news[generator].wait()),
                None if self._world.life_seconds == float("inf") else self._world.life_seconds,
            )
        self._fail("collect")
        if self._broken is not None:
            raise self._broken
        self._news[generator].clear()
        finished, self._finished[generator] = self._finished[generator], []
        return finished

    async def score(self, groups: Sequence[Group]) -> list[Group]:
        begun = self.now
        incarnation = -1
        while incarnation != self._verifiers:
            self.rescored += incarnation >= 0
            incarnation = self._verifiers
            await self._midway("score", self._world.verify_seconds([group.id for group in groups]))
        self._fail("score")
        self.scoring.append((begun, self.now))
        for group in groups:
            size = self._group_size if group.id >= 0 else self._samples
            assert [completion.index for completion in group.completions] == list(range(size))
            assert group.id not in self.verified
            self.verified.add(group.id)
        return [replace(group, scores=tuple(self._world.score(group.id, i) for i in range(len(group.completions)))) for group in groups]

    async def train(self, rows: Sequence[Sequence[Microbatch]], step: int) -> StepReport:
        begun = self.now
        await self._with_trainers(self._midway("train", self._world.train_seconds))
        self._fail("train")
        keys = [key for rank in rows for row in rank for key in trained_keys(row)]
        known = {key for _, _, batch in self.trained for key in batch}
        assert len(set(keys)) == len(keys) and not known & set(keys), "a completion was trained twice"
        self.trained.append((self.now, step, keys))
        self.training.append((begun, self.now))
        tokens = sum(int(row.mask.sum()) for rank in rows for row in rank)
        ratios = np.zeros(tokens, np.float32)
        return StepReport(loss=_loss(rows), tokens=tokens, log_ratios=ratios, grad_norm=1.0, seconds=self.now - begun)

    async def publish(self, version: int) -> WeightFile:
        self._fail("publish")
        await self._with_trainers(_pass(0.0))
        assert version not in self.published
        self.published.add(version)
        self.weights.add(version)
        return WeightFile(f"weights/{version}", version, f"{version:016x}")

    async def update(self, generator: int, weights: WeightFile) -> int:
        begun = self.now
        await self._alive(generator, self._midway("update", self._world.update_seconds(generator, weights.version)))
        self._fail("update")
        assert weights.version in self.weights, "these weights were taken away too early"
        assert weights.version > self.versions[generator], "an older version came after a newer one"
        self.versions[generator] = weights.version
        self._swaps[generator].append((self.now, weights.version))
        self.updates.append((begun, self.now, generator, weights.version))
        return len(self._running[generator])

    async def discard(self, weights: WeightFile) -> None:
        self.weights.remove(weights.version)

    async def save(self, folder: Path) -> None:
        self._fail("save")
        await self._with_trainers(self._midway("save", 0.4))

    async def close(self) -> None:
        tasks = [task for running in self._running for task in running]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self.closed = True

    @property
    def now(self) -> float:
        return asyncio.get_running_loop().time()

    @property
    def trained_keys(self) -> list[Key]:
        """What was trained, in order."""
        return [key for _, _, batch in self.trained for key in batch]

    async def _generate(self, generator: int, request: Request) -> None:
        length = self._world.length(request.group_id, request.index)
        if length is None:
            await asyncio.get_running_loop().create_future()
        begun, seconds = self.now, self._world.token_seconds
        await self._midway("generate", length * seconds)
        times, versions = zip(*self._swaps[generator], strict=True)
        made = begun + seconds * np.arange(1, length + 1)
        versions = np.array(versions)[np.searchsorted(times, made, side="right") - 1]
        key = (request.group_id, request.index)
        assert key not in self.generated
        self.generated[key] = length
        self._finished[generator].append(completion(key, request.prompt.token_ids, versions))
        self._news[generator].set()

    def _generated(self, generator: int, task: asyncio.Task[None]) -> None:
        """A check that failed while a completion was made is raised where somebody waits for it."""
        self._running[generator].discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._broken = error
            self._news[generator].set()

    async def _alive(self, generator: int, work: Coroutine[Any, Any, Any]) -> None:
        await _unless(self._died[generator], work, GeneratorError(f"generator {generator} died"))

    async def _with_trainers(self, work: Coroutine[Any, Any, Any]) -> None:
        await _unless(self._trainers_died, work, TrainerError("trainer rank 0 died"))

    async def _midway(self, call: str, seconds: float) -> None:
        """Take time, and let the world strike in the middle of it."""
        if seconds == float("inf"):
            await _pass(seconds)
        await asyncio.sleep(seconds / 2)
        self._world.within(call, self)
        await asyncio.sleep(seconds / 2)

    def _fail(self, call: str) -> None:
        if call in self._world.raises:
            raise self._world.raises[call]


def completion(key: Key, prompt_ids: np.ndarray, versions: np.ndarray) -> Completion:
    """A completion whose tokens spell out which one it is."""
    tokens = np.tile(np.array(key, np.int32), len(versions))[: max(len(versions), 2)]
    return Completion(
        key[0],
        key[1],
        np.asarray(prompt_ids, np.int32),
        tokens,
        np.full(len(tokens), -0.5, np.float32),
        np.resize(versions, len(tokens)).astype(np.int32),
        f"answer {key}",
        FinishReason.STOP,
    )


def trained_keys(row: Microbatch) -> list[Key]:
    """Which completions a packed row holds, read from its tokens."""
    edges = np.cumsum(row.seq_lens)[:-1]
    segments = zip(np.split(row.token_ids, edges), np.split(row.mask, edges), strict=True)
    made = [tokens[mask] for tokens, mask in segments if mask.any()]
    return [(int(tokens[0]), int(tokens[1])) for tokens in made]


def _loss(rows: Iterable[Iterable[Microbatch]]) -> float:
    """Any number that depends on everything the trainers were given."""
    return float(sum((row.weights * row.advantages * row.token_ids).sum() for rank in rows for row in rank))


async def _unless(died: asyncio.Event, work: Coroutine[Any, Any, Any], error: RoleError) -> None:
    """Do the work unless the role dies first."""
    death, task = asyncio.ensure_future(died.wait()), asyncio.ensure_future(work)
    try:
        await asyncio.wait((death, task), return_when=asyncio.FIRST_COMPLETED)
        if died.is_set():
            raise error
    finally:
        for waiter in (death, task):
            waiter.cancel()
        await asyncio.gather(death, task, return_exceptions=True)


async def _pass(seconds: float) -> None:
    await asyncio.get_running_loop().create_future() if seconds == float("inf") else await asyncio.sleep(seconds)


def render(problem: Problem) -> Prompt:
    """A prompt of fixed length."""
    return Prompt(np.array([1, 2, int(problem.answer)], np.int32))


@dataclass
class Watcher:
    """The coordinator's observer: keeps every batch and metric, and saves checkpoints to folders."""

    root: Path
    batches: list[Batch] = field(default_factory=list)
    metrics: list[dict[str, float]] = field(default_factory=list)
    checkpoints: list[tuple[int, Path]] = field(default_factory=list)
    after_step: Callable[[int], None] = lambda step: None
    restarts: list[tuple[str, str]] = field(default_factory=list)
    stages: list[tuple[int, list[dict[str, Any]]]] = field(default_factory=list)
    validations: list[tuple[int, dict[str, float]]] = field(default_factory=list)

    def on_step(self, step: int, metrics: dict[str, float], batch: Batch) -> None:
        self.batches.append(batch)
        self.metrics.append(metrics)
        self.after_step(step)

    def staging(self, step: int) -> Path:
        folder = self.root / f"step-{step}"
        folder.mkdir(parents=True)
        return folder

    def on_checkpoint(self, step: int, folder: Path, metrics: dict[str, float]) -> None:
        self.checkpoints.append((step, folder))

    def moved(self) -> int:
        return 0

    def on_restart(self, role: str, cause: str) -> None:
        self.restarts.append((role, cause))

    def on_validation(self, step: int, metrics: dict[str, float]) -> None:
        self.validations.append((step, metrics))

    def on_stage(self, step: int, stages: list[dict[str, Any]]) -> None:
        self.stages.append((step, stages))


@dataclass
class Simulation:
    """One attempt at a run: `await run()`."""

    recipe: Recipe
    world: World
    root: Path
    state: LoopState = field(default_factory=LoopState)
    one_stage: bool = False

    def __post_init__(self) -> None:
        if self.recipe.curriculum is not None and self.state.curriculum is None:
            self.state.curriculum = Curriculum(self.recipe, PROBLEMS)
        self.stream = ProblemStream(PROBLEMS, self.recipe.seed)
        self.watcher = Watcher(self.root)
        self.make_runtime = SimulatedRuntime

    async def run(self) -> Simulation:
        self.runtime = self.make_runtime(self.recipe, self.world, self.state.step)
        validation = self.recipe.validation
        held_out = [(problem, render(problem)) for problem in PROBLEMS[: validation.problems.limit]] if validation else []
        coordinator = Coordinator(
            self.recipe, self.runtime, self.stream, render, self.watcher, self.state, held_out, one_stage=self.one_stage
        )
        try:
            await coordinator.run()
        finally:
            await self.runtime.close()
        return self


def recipe(
    *, max_steps: int = 6, every: int = 1000, seed: int = 0, trainers: int = 1, validation: dict[str, Any] | None = None, **pipeline: Any
) -> Recipe:
    """A recipe of small numbers: groups of 4, 16 completions generated, 16 a batch."""
    settings = {"group_size": 4, "n_async": 16, "n_batch": 16, "n_minibatch": 16, "queue": 32, "max_open": 48, "stall_timeout_s": 300.0}
    return Recipe.model_validate(
        {
            "seed": seed,
            "prompt": {"max_tokens": 64},
            "generation": {"max_tokens": 1024},
            "pipeline": {**settings, "trainers": trainers, "generators": 2, **pipeline},
            "training": {"max_steps": max_steps, "token_budget": 2048},
            "checkpoints": {"every": every},
            "validation": validation,
        }
    )
