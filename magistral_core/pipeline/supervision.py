"""Supervision: which generators may be given work, and when a role that dies again and again ends the run. Pure.

    HEALTHY ──died──> DEAD ──> RESTARTING ──> STALE ──> REFRESHED ──> HEALTHY
       │                          │             ^
       │                          │  JOINING ───┘
       │                          │   │  ^
       └──leaves──> LEAVING <─────┴───┘  │
                       └──────────────> GONE
                         holds nothing

There is no shortcut: a generator that was started anew serves nobody before it holds the newest weights. Any state but DEAD may end in
DEAD. What a dead generator held is begun again elsewhere, from the same seeds. A generator that leaves finishes what it holds, and is
given nothing new; the last one leaves first and numbers are used again, so that they have no gaps.
"""

from __future__ import annotations

from enum import StrEnum

from magistral_core.errors import InfrastructureError


class RoleError(InfrastructureError):
    """A process of the run ended or must be replaced; the run can go on without what it held."""


class GeneratorError(RoleError):
    """A generator's engine or actor is gone, or did what it was asked too late."""


class TrainerError(RoleError):
    """A trainer rank is gone, and with it the process group of all ranks."""


class VerifierError(RoleError):
    """The verifiers' actor is gone; its worker processes went with it."""


class GeneratorState(StrEnum):
    """State of one generator."""

    HEALTHY = "healthy"
    DEAD = "dead"
    RESTARTING = "restarting"
    STALE = "stale"
    REFRESHED = "refreshed"
    JOINING = "joining"
    LEAVING = "leaving"
    GONE = "gone"


_NEXT = {
    GeneratorState.DEAD: GeneratorState.RESTARTING,
    GeneratorState.RESTARTING: GeneratorState.STALE,
    GeneratorState.STALE: GeneratorState.REFRESHED,
    GeneratorState.REFRESHED: GeneratorState.HEALTHY,
    GeneratorState.JOINING: GeneratorState.STALE,
    GeneratorState.LEAVING: GeneratorState.GONE,
}


class Fleet:
    """The generators of a run.

    Args:
        generators: how many there are at first, all healthy.
        max_restarts: restarts of one generator, with no completion of its own between them, before its death is final.

    Attributes:
        restarts: all restarts so far.
    """

    def __init__(self, generators: int, max_restarts: int) -> None:
        self._states = [GeneratorState.HEALTHY] * generators
        self._incarnations = [0] * generators
        self._in_a_row = [0] * generators
        self._max_restarts = max_restarts
        self._trying: set[int] = set()
        self._asked = generators
        self._possible: int | None = None
        self.restarts = 0

    @property
    def healthy(self) -> list[int]:
        """Generators that may be given work."""
        return [generator for generator, state in enumerate(self._states) if state is GeneratorState.HEALTHY]

    @property
    def serving(self) -> list[int]:
        """Generators that may hold work, and so must be brought new weights: the healthy and the leaving."""
        return [g for g, state in enumerate(self._states) if state in (GeneratorState.HEALTHY, GeneratorState.LEAVING)]

    @property
    def present(self) -> list[int]:
        """Generators that are not gone, 0 to the last."""
        return [generator for generator, state in enumerate(self._states) if state is not GeneratorState.GONE]

    def state(self, generator: int) -> GeneratorState:
        """State of a generator."""
        return self._states[generator]

    def incarnation(self, generator: int) -> int:
        """How often a generator has died or gone. An answer to what an earlier incarnation was asked is no news."""
        return self._incarnations[generator]

    def worked(self, generator: int) -> None:
        """A generator gave a completion: earlier deaths are forgiven."""
        self._in_a_row[generator] = 0

    def died(self, generator: int, incarnation: int, error: GeneratorError) -> bool:
        """Note a death; False if it is known already, or of no matter.

        Raises `error` where the generator has died too often. But one that joined and was never healthy since leaves then, with all that
        joined after it: the run was whole without them. They do not join this fleet again before another number is asked for.
        """
        if incarnation != self._incarnations[generator] or self._states[generator] is GeneratorState.GONE:
            return False
        if self._states[generator] is not GeneratorState.LEAVING:  # which is not started again
            self._in_a_row[generator] += 1
            self._states[generator] = GeneratorState.DEAD
            if self._in_a_row[generator] > self._max_restarts:
                if generator not in self._trying:
                    raise error
                self._possible = generator
                for last in self.present[generator:]:
                    self._states[last] = GeneratorState.LEAVING
        self._incarnations[generator] += 1
        return True

    def scale(self, generators: int) -> list[int]:
        """Towards so many generators; returns the numbers of those that join. To be asked again until it is so.

        While one leaves nothing else changes. The last one may leave at once where it joins or is being started again, for it may wait for
        room that never comes.
        """
        if generators != self._asked:
            self._asked, self._possible = generators, None
        if self._possible is not None:
            generators = min(generators, self._possible)
        if GeneratorState.LEAVING in self._states:
            return []
        present = len(self.present)
        if generators < present and self._states[present - 1] in (GeneratorState.JOINING, GeneratorState.RESTARTING):
            self._states[present - 1] = GeneratorState.LEAVING
            return []
        for generator in range(present - 1, generators - 1, -1):
            if self._states[generator] is not GeneratorState.HEALTHY:
                break
            self._states[generator] = GeneratorState.LEAVING
        joining = list(range(present, generators))
        for generator in joining:
            if generator == len(self._states):
                self._states.append(GeneratorState.GONE)
                self._incarnations.append(0)
                self._in_a_row.append(0)
            self._states[generator] = GeneratorState.JOINING
            self._in_a_row[generator] = 0
            self._trying.add(generator)
        return joining

    def advance(self, generator: int, state: GeneratorState) -> None:
        """Move a generator to its next state."""
        if _NEXT.get(self._states[generator]) is not state:
            raise ValueError(f"generator {generator} cannot go from {self._states[generator]} to {state}")
        self._states[generator] = state
        if state is GeneratorState.HEALTHY:
            self._trying.discard(generator)
        self.restarts += state is GeneratorState.RESTARTING
        self._incarnations[generator] += state is GeneratorState.GONE
