"""Bundles of a recipe, in themselves and on a Ray cluster whose GPUs exist in name only."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from magistral_core.config import Recipe, load_recipe
from magistral_core.errors import InputError
from magistral_core.pipeline.placement import BundleGroup, Seat, check_fits, place


def recipe(generators: int = 1, trainers: int = 1, parallel: int = 1, placement: str = "split") -> Recipe:
    batch = 16 * trainers
    settings = {
        "pipeline.generators": generators,
        "pipeline.trainers": trainers,
        "pipeline.placement": placement,
        "pipeline.n_minibatch": batch,
        "pipeline.n_batch": batch,
        "pipeline.n_async": 32,
        "pipeline.queue": batch,
        "pipeline.max_open": 32 + batch,
        "generation.tensor_parallel": parallel,
    }
    return load_recipe("tiny", settings)


def test_split_by_hand() -> None:
    found = place(recipe(generators=2, trainers=3, parallel=4))
    assert found.groups == (BundleGroup((4, 4), "SPREAD"), BundleGroup((1, 1, 1), "PACK"))
    assert found.generators == (Seat(0, 0, 4), Seat(0, 1, 4))
    assert found.trainers == (Seat(1, 0, 1), Seat(1, 1, 1), Seat(1, 2, 1))


def test_colocated_by_hand() -> None:
    found = place(recipe(generators=1, trainers=2, placement="colocated"))
    assert found.groups == (BundleGroup((1, 1), "PACK"),)
    assert found.generators == (Seat(0, 0, 0.5),)
    assert found.trainers == (Seat(0, 0, 0.5), Seat(0, 1, 0.5))


@given(generators=st.integers(1, 5), trainers=st.integers(1, 5), parallel=st.integers(1, 8), colocated=st.booleans())
def test_no_bundle_holds_more_than_it_has(generators: int, trainers: int, parallel: int, colocated: bool) -> None:
    wanted = recipe(generators, trainers, 1 if colocated else parallel, "colocated" if colocated else "split")
    found = place(wanted)
    assert (len(found.generators), len(found.trainers)) == (generators, trainers)
    used: dict[tuple[int, int], float] = {}
    for seat in (*found.generators, *found.trainers):
        used[seat.group, seat.bundle] = used.get((seat.group, seat.bundle), 0.0) + seat.gpus
    assert used.keys() == {(g, b) for g, group in enumerate(found.groups) for b in range(len(group.gpus))}, "none is reserved for nobody"
    assert all(total <= found.groups[group].gpus[bundle] for (group, bundle), total in used.items())


@pytest.mark.parametrize(
    ("machines", "fits"),
    [([8], False), ([9], True), ([4, 4, 1], True), ([4, 3, 2], False), ([5, 4], True), ([], False), ([1] * 20, False)],
)
def test_two_engines_of_four_and_a_trainer(machines: list[int], fits: bool) -> None:
    wanted = place(recipe(generators=2, trainers=1, parallel=4))
    if fits:
        check_fits(wanted, machines)
        return
    with pytest.raises(InputError, match="its roles need 9 GPUs, the largest 4 on one machine, and the machines have") as caught:
        check_fits(wanted, machines)
    assert "\n" not in str(caught.value)


def test_an_engine_over_several_gpus_shares_none() -> None:
    with pytest.raises(InputError, match="generation.tensor_parallel"):
        recipe(parallel=2, placement="colocated")


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_ray_seats_everyone_as_planned() -> None:
    """Two machines of three GPUs in name: who shares a GPU, who has which, and that all is given back."""
    import ray
    from ray.cluster_utils import Cluster

    from magistral_core.pipeline.runtime_ray import reserve

    class Sitter:
        def where(self) -> tuple[str, tuple[int, ...]]:
            return ray.get_runtime_context().get_node_id(), tuple(ray.get_gpu_ids())

    store = 128 * 2**20
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "num_gpus": 3, "object_store_memory": store})
    try:
        cluster.add_node(num_cpus=1, num_gpus=3, object_store_memory=store)
        ray.init(address=cluster.address, log_to_driver=False)

        def seated(wanted: Recipe) -> tuple[list[tuple[str, tuple[int, ...]]], list[tuple[str, tuple[int, ...]]]]:
            reserved = reserve(place(wanted))
            roles = []
            for role, count in (("generators", wanted.pipeline.generators), ("trainers", wanted.pipeline.trainers)):
                actors = [ray.remote(Sitter).options(num_cpus=0, **reserved.seat(role, i)).remote() for i in range(count)]
                roles.append((actors, ray.get([actor.where.remote() for actor in actors])))
            for actors, _ in roles:
                for actor in actors:
                    ray.kill(actor)
            reserved.release()
            return roles[0][1], roles[1][1]

        generators, trainers = seated(recipe(generators=2, trainers=2, parallel=2))
        assert [len(gpus) for _, gpus in generators] == [2, 2]
        assert len({node for node, _ in generators}) == 2, "spread"
        taken = [(node, gpu) for node, gpus in (*generators, *trainers) for gpu in gpus]
        assert len(set(taken)) == len(taken) == 6, "nobody shares"

        generators, trainers = seated(recipe(generators=2, trainers=2, placement="colocated"))
        assert generators == trainers, "each pair on one GPU"
        assert len(set(generators)) == 2

        with pytest.raises(InputError, match="need 7 GPUs"):
            reserve(place(recipe(generators=3, trainers=1, parallel=2)))
    finally:
        ray.shutdown()
        cluster.shutdown()
