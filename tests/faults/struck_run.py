"""A whole run that is struck from within: `python struck_run.py JSON`. Prints each event as a line of JSON.

The argument holds `set` (settings by their path), `strikes` (each a `role`, a `state`, and perhaps the `name` of its process) and
`servers` (files with the process ids of S3 and MLflow). The run is `api.run` with its own storage, tracking and engines. Its runtime and
its uploads only say in which state it is; half-way through one the victim is killed with SIGKILL. The next strike is due when the run has
recovered: a checkpoint and two steps later, with all generators healthy and the servers back. While a struck generator is away, or nothing
but generation is to be under way, each step takes a second longer: a run of few and fast steps would end before.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import statistics
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "pipeline"))

import psutil
from marked_processes import describe
from small_run import SMALL, tell

from magistral_core import api
from magistral_core.pipeline import run as run_module
from magistral_core.pipeline.runtime import LocalRuntime, Runtime
from magistral_core.records import Batch
from magistral_core.storage.s3 import S3Store

_ZYGOTE = "magistral_core.rewards.zygote"
_NAMES = {"generator": "VLLM::EngineCore", "trainer": "ray::TrainerActor"}
#: What a step takes longer then.
_SLOWED_S = 1.0


class Strikes:
    """What is still to be struck, and in which states the run is now."""

    def __init__(self, planned: Sequence[dict[str, str]], servers: dict[str, str], generators: int) -> None:
        self._planned, self._generators = deque(planned), generators
        self._servers = {name: Path(file) for name, file in servers.items()}
        self._under_way: Counter[str] = Counter()
        self._seconds: dict[str, deque[float]] = {}
        self._victim: psutil.Process | None = None
        self._lock = threading.Lock()
        self._steps, self._step, self._committed = 0, 0, False
        self._begun: set[tuple[int, int]] = set()
        self._held: set[tuple[int, int]] = set()
        self._noticed = False
        self.away = False
        self.anew = 0

    @property
    def role(self) -> str | None:
        """Who is struck next."""
        return self._planned[0]["role"] if self._planned else None

    def awaits(self, state: str) -> bool:
        """Whether the next strike comes as soon as the run is in a state."""
        return self._victim is not None and self._planned[0]["state"] == state

    def on_event(self, event: dict[str, Any]) -> None:
        """Follow the run; choose the next victim once it has recovered."""
        tell(**event)
        if event["event"] == "start":
            self._held.clear()
        elif event["event"] == "restart":
            self._noticed = True
        elif event["event"] == "checkpoint":
            self._committed = True
        elif event["event"] == "step":
            with self._lock:  # a strike may come midway
                self._steps, self._step = self._steps + 1, event["step"]
                healthy = event["metrics"]["generators/healthy"] == self._generators
                self.away = self.away and not (healthy and self._noticed)
                complete = healthy and not self.away and all(file.exists() for file in self._servers.values())
                recovered = complete and self._committed and self._steps >= 2
                if recovered and self._planned and self._victim is None:
                    self._victim = self._find(**self._planned[0])

    def submitted(self, keys: set[tuple[int, int]]) -> None:
        """Completions are begun: count those that had been begun before."""
        self.anew += len(keys & self._begun)
        self._begun |= keys
        self._held |= keys

    def finished(self, keys: set[tuple[int, int]]) -> None:
        """Completions have left the generators."""
        self._held -= keys

    @contextlib.contextmanager
    def within(self, state: str) -> Iterator[None]:
        """The run is in a state; if its turn has come it is struck half-way through."""
        with self._lock:
            seconds = self._seconds.setdefault(state, deque(maxlen=9))
            due = self.awaits(state)
            self._under_way[state] += 1
        timer = threading.Timer(statistics.median(seconds) / 2 if seconds else 0.0, self._strike, (state,))
        if due:
            timer.start()
        began = time.monotonic()
        try:
            yield
        finally:
            timer.cancel()
            with self._lock:
                self._under_way[state] -= 1
                seconds.append(time.monotonic() - began)

    def _strike(self, state: str) -> None:
        with self._lock:
            if self._victim is None or not self._under_way[state]:
                return
            # Generation goes on beside everything else: it is struck where nothing else is under way.
            others = any(count for name, count in self._under_way.items() if name not in (state, "waiting"))
            if state == "generating" and (others or not self._held):
                return
            victim, self._victim = self._victim, None
            if not victim.is_running():
                return
            self._steps, self._committed, self._noticed = 0, False, False
            role = self._planned.popleft()["role"]
            self.away = role == "generator"
            tell("struck", role=role, state=state, process=describe(victim), step=self._step, anew=self.anew)
            if role in self._servers:
                self._servers[role].unlink()
            (os.killpg if role == "mlflow" else os.kill)(victim.pid, signal.SIGKILL)

    def _find(self, role: str, state: str, name: str = "") -> psutil.Process:
        """The process to be killed."""
        if role == "coordinator":
            return psutil.Process()
        if role in self._servers:
            return psutil.Process(int(self._servers[role].read_text()))
        family = psutil.Process().children(recursive=True)
        if role == "verifier" and not name:
            return next(p for p in family if _ZYGOTE in describe(p) and _ZYGOTE in describe(p.parent()))
        return next(p for p in family if (name or _NAMES[role]) in describe(p))


def struck_runtime(base: type[Any], strikes: Strikes) -> type[Any]:
    """A runtime that says in which state it is."""

    class Struck(base):  # type: ignore[misc]
        async def start(self, *arguments: Any) -> None:
            await super().start(*arguments)
            if base is LocalRuntime:  # its collect waits for requests, too
                generate = self._engine.generate

                def generating(requests: Any) -> Any:
                    with strikes.within("generating"):
                        return generate(requests)

                self._engine.generate = generating

        async def submit(self, generator: int, requests: Any) -> None:
            strikes.submitted({(request.group_id, request.index) for request in requests})
            await super().submit(generator, requests)

        async def collect(self, generator: int) -> Any:
            with strikes.within("waiting" if base is LocalRuntime else "generating"):
                completions = await super().collect(generator)
            strikes.finished({(completion.group_id, completion.index) for completion in completions})
            return completions

        async def score(self, groups: Any) -> Any:
            with strikes.within("verifying"):
                return await super().score(groups)

        async def train(self, rows: Any, step: int) -> Any:
            if strikes.away or strikes.awaits("generating"):  # which is struck while nothing else is under way
                await asyncio.sleep(_SLOWED_S)
            with strikes.within("training"):
                return await super().train(rows, step)

        async def publish(self, version: int) -> Any:
            with strikes.within("handover" if strikes.role == "trainer" else "publishing"):
                return await super().publish(version)

        async def update(self, generator: int, weights: Any) -> Any:
            with strikes.within("updating" if strikes.role == "trainer" else "handover"):
                return await super().update(generator, weights)

    return Struck


def main() -> None:
    job = json.loads(sys.argv[1])
    changes = {**SMALL, **job["set"]}
    recipe = api.load_recipe("tiny", [f"{key}={value}" for key, value in changes.items()])
    strikes = Strikes(job["strikes"], job["servers"], recipe.pipeline.generators)
    put_file = S3Store.put_file

    class Run(run_module._Run):
        def _make_runtime(self) -> Runtime:
            if recipe.pipeline.runtime == "local":
                return struck_runtime(LocalRuntime, strikes)(recipe)
            from magistral_core.pipeline.runtime_ray import RayRuntime

            return struck_runtime(RayRuntime, strikes)(recipe)

        def on_step(self, step: int, metrics: dict[str, float], batch: Batch) -> None:
            tell("trained", step=step, groups=[group.id for group in batch.groups], anew=strikes.anew)
            super().on_step(step, metrics, batch)

    def put(self: S3Store, path: Path, key: str, *count: Any) -> None:
        with strikes.within("uploading"):
            put_file(self, path, key, *count)

    run_module._Run, S3Store.put_file = Run, put  # type: ignore[misc, method-assign]
    api.run(recipe, on_event=strikes.on_event)
    sys.stdin.read()  # so that what is left of the run can be looked at


if __name__ == "__main__":
    main()
