"""Which GPUs each role gets. Pure; `runtime_ray` asks Ray for the placement groups that this computes.

    split        generators  [tp] [tp] [tp]      a bundle each, spread over the machines: each has a KV cache, and a lost machine costs few
                 trainers    [1] [1] [1] [1]     a bundle a rank, packed: they add up gradients at every step
    colocated                [g0 t0] [g1 t1]     a bundle of one GPU, shared by a generator and a trainer rank, packed

A bundle lies on one machine, so that tensor-parallel ranks and those who share a GPU are together without more ado.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from magistral_core.config.schema import Recipe
from magistral_core.errors import InputError


@dataclass(frozen=True)
class BundleGroup:
    """Bundles that are reserved together: all of them or none.

    Attributes:
        gpus: GPUs of each bundle.
        strategy: Ray's, of laying bundles out over machines.
    """

    gpus: tuple[int, ...]
    strategy: Literal["PACK", "SPREAD"]


@dataclass(frozen=True)
class Seat:
    """Where one process goes: `gpus` (perhaps a share of one) in a bundle of a group."""

    group: int
    bundle: int
    gpus: float


@dataclass(frozen=True)
class Placement:
    """All groups, and the seat of each generator and of each trainer rank."""

    groups: tuple[BundleGroup, ...]
    generators: tuple[Seat, ...]
    trainers: tuple[Seat, ...]


def place(recipe: Recipe) -> Placement:
    """The placement that a recipe asks for."""
    pipeline, parallel = recipe.pipeline, recipe.generation.tensor_parallel
    if pipeline.placement == "colocated":
        pairs = max(pipeline.generators, pipeline.trainers)

        def shared(roles: int) -> tuple[Seat, ...]:
            return tuple(Seat(0, i, 0.5) for i in range(roles))

        return Placement((BundleGroup((1,) * pairs, "PACK"),), shared(pipeline.generators), shared(pipeline.trainers))
    return Placement(
        (BundleGroup((parallel,) * pipeline.generators, "SPREAD"), BundleGroup((1,) * pipeline.trainers, "PACK")),
        tuple(Seat(0, i, parallel) for i in range(pipeline.generators)),
        tuple(Seat(1, i, 1) for i in range(pipeline.trainers)),
    )


def check_fits(placement: Placement, machines: Sequence[int]) -> None:
    """Refuse what can never be placed, instead of waiting for it.

    Args:
        placement: what is wanted.
        machines: GPUs of each machine.

    Raises:
        InputError: the bundles do not fit onto these machines.
    """
    # Largest first, each where it fits: never wrong here, for bundles have at most two sizes, of which one is 1.
    free = sorted(machines, reverse=True)
    bundles = sorted((gpus for group in placement.groups for gpus in group.gpus), reverse=True)
    for gpus in bundles:
        machine = next((i for i, have in enumerate(free) if have >= gpus), None)
        if machine is None:
            raise InputError(
                f"pipeline: its roles need {sum(bundles)} GPUs, the largest {bundles[0]} on one machine, and the machines have "
                f"{', '.join(map(str, machines)) or 'none'}; use fewer pipeline.generators or pipeline.trainers, a lower "
                "generation.tensor_parallel, or pipeline.placement=colocated"
            )
        free[machine] -= gpus
