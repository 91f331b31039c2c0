"""Which settings make a run the same run."""

from __future__ import annotations

import pytest

from magistral_core.config import load_recipe
from magistral_core.pipeline.run import what_is_learnt
from magistral_core.storage import recipe_digest


def digest(*overrides: str) -> str:
    return recipe_digest(what_is_learnt(load_recipe("tiny", overrides)))


@pytest.mark.parametrize(
    "override",
    [
        "pipeline.trainers=4",
        "pipeline.generators=3",
        "pipeline.placement=colocated",
        "pipeline.ray_address=10.0.0.1:6379",
        "pipeline.update_timeout_s=7",
        "pipeline.max_filtered_groups=7",
        "pipeline.verifiers=2",
        "pipeline.handover=nccl",
        "pipeline.weights_folder=elsewhere",
        "pipeline.stall_timeout_s=7",
        "pipeline.start_timeout_s=7",
        "pipeline.max_restarts=7",
        "training.zero_stage=2",
        "training.token_budget=8192",
        "training.logprob_chunk=7",
        "training.gradient_checkpointing=true",
        "training.attention=sdpa",
        "training.share_prompts=false",
        "generation.tensor_parallel=2",
        "generation.max_num_seqs=7",
        "generation.kv_cache_gib=7",
        "generation.gpu_memory_utilization=0.5",
        "generation.enforce_eager=false",
        "rewards.max_workers=7",
        "rewards.workers=7",
        "rewards.code.workers=7",
        "rewards.code.sandbox=landlock",
        "checkpoints.every=7",
        "storage.uri=file:elsewhere",
        "tracking.experiment=elsewhere",
        "evaluation.samples=7",
        "validation={problems: {path: tiny}}",
    ],
)
def test_where_and_on_how_much_it_runs_is_not_part_of_it(override: str) -> None:
    """So the same command with another number of trainers finds its run."""
    assert load_recipe("tiny", [override]) != load_recipe("tiny")
    assert digest(override) == digest()


@pytest.mark.parametrize(
    "override",
    [
        "seed=1",
        "loss.eps_high=0.3",
        "loss.ratio=sequence",
        "training.learning_rate=0.5",
        "pipeline.n_async=64",
        "generation.temperature=0.7",
    ],
)
def test_what_is_learnt_is(override: str) -> None:
    assert digest(override) != digest()


def test_a_curriculum_is_and_its_absence_changes_nothing() -> None:
    assert "curriculum" not in what_is_learnt(load_recipe("tiny")), "runs from before there were curricula go on"
    assert digest("curriculum.stages=[{}]") != digest()
    assert digest("curriculum.stages=[{levels: [1, 2]}]") != digest("curriculum.stages=[{levels: [1, 3]}]")
