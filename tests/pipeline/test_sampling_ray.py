"""Engines of the sampler on a Ray cluster whose nodes have processes of their own, on this machine."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from marked_processes import describe
from ray.cluster_utils import Cluster

from magistral_core.config.schema import GenerationSettings, PromptSettings
from magistral_core.errors import InfrastructureError, InputError
from magistral_core.generation.chat import ChatRenderer
from magistral_core.generation.sampler import Sampler
from magistral_core.generation.tokens import Sampling
from magistral_core.pipeline.sampling_ray import RayEngines
from magistral_core.records import Completion, Problem, Request

_STORE = 128 * 2**20
GENERATION = GenerationSettings(dtype="float32", max_num_seqs=8, kv_cache_gib=0.0625)


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "object_store_memory": _STORE, "include_dashboard": False})
    try:
        made.add_node(num_cpus=1, object_store_memory=_STORE)
        yield made
    finally:
        made.shutdown()


def requests(model: Path, groups: int = 6) -> list[Request]:
    prompt = ChatRenderer(model, PromptSettings(system=None)).render(Problem("p", "1+1=?"))
    return [Request(group, index, prompt, seed=16 * group + index, max_tokens=64) for group in range(groups) for index in range(8)]


def sampled(sampler: Sampler, asked: list[Request]) -> dict[tuple[int, int], str]:
    with sampler:
        found: list[Completion] = list(sampler.sample(asked, Sampling()))
    assert len(found) == len(asked)
    return {(completion.group_id, completion.index): completion.text for completion in found}


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_engines_on_a_cluster_sample_the_same(cluster: Cluster, writer_model: Path, tmp_path: Path) -> None:
    asked = requests(writer_model)
    open_engines = functools.partial(RayEngines, cluster.address)
    local = sampled(Sampler(writer_model, GENERATION, max_model_len=256), asked)
    spread = sampled(Sampler(writer_model, GENERATION, max_model_len=256, engines=2, open_engines=open_engines), asked)
    assert spread == local
    with pytest.raises(InputError, match="config.json is missing"):
        sampled(Sampler(tmp_path, GENERATION, max_model_len=256, open_engines=open_engines), asked)

    sampler = Sampler(writer_model, GENERATION, max_model_len=256, engines=2, open_engines=open_engines)
    stream = sampler.sample(requests(writer_model, groups=500), Sampling())  # enough to be still at it when an engine goes
    next(stream)
    raylets = [psutil.Process(node.all_processes["raylet"][0].process.pid) for node in cluster.list_all_nodes()]
    ours = [child for raylet in raylets for child in raylet.children(recursive=True)]
    next(process for process in ours if "ray::EngineActor" in describe(process)).kill()
    with pytest.raises(InfrastructureError, match=r"engine [01] died"):
        list(stream)
    sampler.close()


@pytest.mark.slow
def test_no_cluster(writer_model: Path) -> None:
    with pytest.raises(InputError, match="the Ray cluster cannot be reached there"):
        RayEngines("127.0.0.1:1", 1, writer_model, GENERATION, {"max_model_len": 256})
