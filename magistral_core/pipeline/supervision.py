"""Supervision: which generators may be given work, and when a role that dies again and again ends the run. Pure.

    HEALTHY ──died──> DEAD ──> RESTARTING ──> STALE ──> REFRESHED ──> HEALTHY

There is no shortcut: a generator that was started anew serves nobody before it holds the newest weights. Any state but DEAD may end in
DEAD. What a dead generator held is begun again elsewhere, from the same seeds.
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


_NEXT = {
    GeneratorState.DEAD: GeneratorState.RESTARTING,
    GeneratorState.RESTARTING: GeneratorState.STALE,
    GeneratorState.STALE: GeneratorState.REFRESHED,
    GeneratorState.REFRESHED: GeneratorState.HEALTHY,
}


class Fleet:
    """The generators of a run.

    Args:
        generators: how many there are, all healthy.
        max_restarts: restarts of one generator, with no completion of its own between them, before its death is final.

    Attributes:
        restarts: all restarts so far.
    """

    def __init__(self, generators: int, max_restarts: int) -> None:
        self._states = [GeneratorState.HEALTHY] * generators
        self._incarnations = [0] * generators
        self._in_a_row = [0] * generators
        self._max_restarts = max_restarts
        self.restarts = 0

    @property
    def healthy(self) -> list[int]:
        """Generators that may be given work."""
        return [generator for generator, state in enumerate(self._states) if state is GeneratorState.HEALTHY]

    def state(self, generator: int) -> GeneratorState:
        """State of a generator."""
        return self._states[generator]

    def incarnation(self, generator: int) -> int:
        """How often a generator has died. An answer to what an earlier incarnation was asked is no news."""
        return self._incarnations[generator]

    def worked(self, generator: int) -> None:
        """A generator gave a completion: earlier deaths are forgiven."""
        self._in_a_row[generator] = 0

    def died(self, generator: int, incarnation: int, error: GeneratorError) -> bool:
        """Note a death; False if it is known already. Raises `error` where the generator has died too often."""
        if incarnation != self._incarnations[generator]:
            return False
        self._in_a_row[generator] += 1
        if self._in_a_row[generator] > self._max_restarts:
            raise error
        self._incarnations[generator] += 1
        self._states[generator] = GeneratorState.DEAD
        return True

    def advance(self, generator: int, state: GeneratorState) -> None:
        """Move a generator to its next state."""
        if _NEXT.get(self._states[generator]) is not state:
            raise ValueError(f"generator {generator} cannot go from {self._states[generator]} to {state}")
        self._states[generator] = state
        self.restarts += state is GeneratorState.RESTARTING
