"""Who among the generators does what: requests to the healthy, new weights to all that serve, the dead started again.

    coordinator ──give──> requests ──> generators ──> completions ──> coordinator
                ──bring─> weights  ──────┘

One task a generator collects its completions. One that dies is started again beside the others, and what it held begins anew on those.
Which generator may do what is the rule of `supervision`; this file applies it.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np

from magistral_core.pipeline.handover import WeightFile
from magistral_core.pipeline.metrics import Clock
from magistral_core.pipeline.runtime import Runtime
from magistral_core.pipeline.supervision import Fleet, GeneratorError, GeneratorState
from magistral_core.records import Completion, Request

T = TypeVar("T")


@dataclass
class _Seat:
    """One generator, alive or not: what it holds, whether it may be asked for completions, and when it last gave a sign of life."""

    answered: float
    clock: Clock
    held: dict[tuple[int, int], Request] = field(default_factory=dict)
    works: asyncio.Event = field(default_factory=asyncio.Event)

    def busy(self, now: float) -> None:
        """Note how many of training's completions it holds; those of a validation have negative groups."""
        self.clock.busy(sum(group_id >= 0 for group_id, _ in self.held), now)


class Dispatch:
    """The generators of a run, and what each of them holds.

    Args:
        runtime: started generators.
        max_restarts: deaths of one in a row before its error ends the run.
        update_timeout_s: seconds that a generator may take for new weights; may be changed.
        spawn: starts a task whose error ends the run.
        take: what came back from a generator.
        on_restart: told of who died and is started again, and why.

    Attributes:
        fleet: their states.
        progress: when one of them last answered, by the clock of the event loop.
    """

    def __init__(
        self,
        runtime: Runtime,
        max_restarts: int,
        update_timeout_s: float,
        *,
        spawn: Callable[[Coroutine[Any, Any, None]], object],
        take: Callable[[Sequence[Completion]], None],
        on_restart: Callable[[str, str], None],
    ) -> None:
        self._runtime, self.update_timeout_s = runtime, update_timeout_s
        self._spawn, self._take, self._on_restart = spawn, take, on_restart
        self._time = asyncio.get_running_loop().time
        self.fleet = Fleet(runtime.generators, max_restarts)
        self.progress = self._time()
        self._seats = [self._seat() for _ in range(runtime.generators)]
        for seat in self._seats:
            seat.works.set()
        self._place: dict[int, int] = {}
        self._homeless: list[Request] = []  # no healthy generator to hold them yet
        self._newest: WeightFile | None = None  # stays for generators that are started again
        self._files: list[WeightFile] = []
        self._readers: Counter[int] = Counter()

    def _seat(self) -> _Seat:
        return _Seat(self._time(), Clock(self._time()))

    def start(self) -> None:
        """Begin to collect completions."""
        for generator in self.fleet.present:
            self._spawn(self._collect(generator))

    def scale(self, generators: int) -> None:
        """Have generators join or leave towards so many; to be called again until it is so."""
        for generator in self.fleet.scale(generators):
            if generator == len(self._seats):
                self._seats.append(self._seat())
                self._spawn(self._collect(generator))
            self._spawn(self._revive(generator))
        self._spawn(self._let_go())

    async def _let_go(self) -> None:
        """End generators that leave and hold nothing, the last first."""
        while self.fleet.state(last := self.fleet.present[-1]) is GeneratorState.LEAVING and not self._seats[last].held:
            self.fleet.advance(last, GeneratorState.GONE)
            self._seats[last].works.clear()
            await self._runtime.remove(last)

    def give(self, requests: Sequence[Request]) -> None:
        """Have requests generated, each group on one generator for its shared prompt; once one is healthy, if none is."""
        self._homeless.extend(requests)
        healthy = self.fleet.healthy
        if not healthy or not self._homeless:
            return
        shares: dict[int, list[Request]] = {}
        for request in self._homeless:
            if self._place.get(request.group_id) not in healthy:
                self._place[request.group_id] = min(healthy, key=lambda generator: len(self._seats[generator].held))
            generator = self._place[request.group_id]
            seat = self._seats[generator]
            if not seat.held:
                seat.answered = self._time()
            seat.held[request.group_id, request.index] = request
            shares.setdefault(generator, []).append(request)
        self._homeless = []
        for generator, share in shares.items():
            self._seats[generator].busy(self._time())
            # Each by itself: one that does not answer must not keep the others from their work.
            self._spawn(self._submit(generator, self.fleet.incarnation(generator), share))

    def complete(self, group_id: int) -> None:
        """A group will have no more requests."""
        del self._place[group_id]

    async def _submit(self, generator: int, incarnation: int, requests: Sequence[Request]) -> None:
        """Hand over what was booked on a generator, unless it died since: then others have it already."""
        if incarnation == self.fleet.incarnation(generator):
            await self._ask(generator, self._runtime.submit(generator, requests))

    async def _collect(self, generator: int) -> None:
        seat = self._seats[generator]
        while True:
            await seat.works.wait()
            completions = await self._ask(generator, self._runtime.collect(generator))
            if completions is None:
                continue
            self.progress = seat.answered = self._time()
            if not completions:  # it decodes, that is all
                continue
            self.fleet.worked(generator)
            for completion in completions:
                del seat.held[completion.group_id, completion.index]
            seat.busy(self._time())
            self._take(completions)
            await self._let_go()

    async def _ask(self, generator: int, call: Awaitable[T]) -> T | None:
        """A generator's answer; None if it died meanwhile, which is then seen to."""
        incarnation = self.fleet.incarnation(generator)
        try:
            answer = await call
        except GeneratorError as error:
            self._bury(generator, incarnation, error)
            return None
        return answer if incarnation == self.fleet.incarnation(generator) else None

    def _bury(self, generator: int, incarnation: int, error: GeneratorError) -> None:
        """Give what a dead generator held to others, and have it started again. Raises `error` if it dies too often."""
        left_before = self.fleet.state(generator) is GeneratorState.LEAVING
        if not self.fleet.died(generator, incarnation, error):
            return
        leaving = self.fleet.state(generator) is GeneratorState.LEAVING
        if leaving and not left_before:
            self._on_restart(f"generator {generator}", f"{error}; it never came to work, so the run goes on without it")
        seat = self._seats[generator]
        self._homeless = [*seat.held.values(), *self._homeless]
        seat.held = {}
        seat.busy(self._time())
        seat.works.clear()
        if not leaving:
            self._on_restart(f"generator {generator}", str(error))
        self._spawn(self._let_go() if leaving else self._revive(generator))
        self.give(())

    async def _revive(self, generator: int) -> None:
        """Start a dead generator again, or one that joins; it gets work only when it holds the newest weights."""
        if self.fleet.state(generator) is GeneratorState.DEAD:
            self.fleet.advance(generator, GeneratorState.RESTARTING)
        version = await self._ask(generator, self._runtime.restart(generator))
        if version is None or self.fleet.state(generator) is GeneratorState.LEAVING:  # it is not wanted any more
            return
        self.fleet.advance(generator, GeneratorState.STALE)
        while self._newest is not None and version < self._newest.version:
            weights = self._newest
            if await self._update(generator, weights) is None or self.fleet.state(generator) is GeneratorState.LEAVING:
                return
            version = weights.version
        self.fleet.advance(generator, GeneratorState.REFRESHED)
        self.fleet.advance(generator, GeneratorState.HEALTHY)
        seat = self._seats[generator]
        self.progress = seat.answered = self._time()
        seat.works.set()
        self.give(())

    async def bring(self, weights: WeightFile) -> bool:
        """Bring weights to all that serve; those that are being started fetch them by themselves. Whether sequences were in flight."""

        async def to(generator: int, incarnation: int) -> int | None:
            return await self._update(generator, weights) if incarnation == self.fleet.incarnation(generator) else None

        self._newest = weights
        self._files.append(weights)
        # Of those that leave, not those that never came to work: there is nobody to take them.
        serving = [generator for generator in self.fleet.serving if self._seats[generator].works.is_set()]
        return any(await asyncio.gather(*(to(generator, self.fleet.incarnation(generator)) for generator in serving)))

    async def discard_old(self) -> None:
        """Free the files that no generator will read."""
        for old in [file for file in self._files if file is not self._newest and not self._readers[file.version]]:
            self._files.remove(old)
            await self._runtime.discard(old)

    async def _update(self, generator: int, weights: WeightFile) -> int | None:
        """Swap a generator's weights; how many sequences were in flight there, None if it died or was too slow."""
        limit = self.update_timeout_s

        async def within_limit() -> int:
            try:
                return await asyncio.wait_for(self._runtime.update(generator, weights), limit)
            except TimeoutError as error:
                raise GeneratorError(
                    f"generator {generator} did not take the weights of version {weights.version} within {limit:g} s; "
                    "run the same command again to resume, or raise pipeline.update_timeout_s"
                ) from error

        self._readers[weights.version] += 1
        try:
            return await self._ask(generator, within_limit())
        finally:
            self._readers[weights.version] -= 1

    def skip(self, seconds: float, now: float) -> None:
        """So many seconds, just gone by, are no part of the next lap."""
        for seat in self._seats:
            seat.clock.skip(seconds, now)

    def silent(self, now: float, limit: float) -> str:
        """Names those that hold completions and gave no sign of life for so many seconds; empty: none."""
        silent = [g for g, seat in enumerate(self._seats) if seat.held and now - seat.answered >= limit]
        return ", ".join(f"generator {g} holds {len(self._seats[g].held)} completions" for g in silent)

    def ill(self) -> str:
        """Names the states of all where none is healthy; empty: one is."""
        return "" if self.fleet.healthy else ", ".join(f"generator {g} is {self.fleet.state(g)}" for g in self.fleet.present)

    def metrics(self, now: float, n_async: int) -> dict[str, float]:
        """How busy they were since the last call, and how well they are."""
        laps = [seat.clock.lap(now) for seat in self._seats]
        busy = [laps[generator] for generator in self.fleet.present]
        return {
            "busy/generators": float(np.mean([share for share, _ in busy])),
            "busy/occupancy": float(sum(mean for _, mean in busy)) / n_async,
            "generators/healthy": float(len(self.fleet.healthy)),
            "generators/restarts": float(self.fleet.restarts),
        }
