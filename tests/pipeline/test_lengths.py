"""No length bias: what reaches training is as long as what was sampled, by admission cohort, drained, before groups without signal go."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import simulated_runtime
import virtual_time
from simulated_runtime import Simulation, World, mixed, recipe
from test_coordinator import kolmogorov_smirnov, skewed

from magistral_core.pipeline.coordinator import Coordinator
from magistral_core.pipeline.ledger import GroupState
from magistral_core.records import Group, Score, ScoreStatus

STEPS, AGE = 220, 1


def a_third_without_signal(group_id: int, index: int) -> Score:
    return Score(1.0, ScoreStatus.CORRECT) if group_id % 3 == 0 else mixed(group_id, index)


class DropsOldSamples(Coordinator):
    """The planted policy: a group with a token of more than so many steps is thrown away, as other systems do."""

    async def _verify(self, groups: Sequence[Group]) -> None:
        fresh = []
        for group in groups:
            if self._state.step - min(int(completion.versions.min()) for completion in group.completions) > AGE:
                self._ledger.filter(group.id, "old")
                self._admission.dropped(group.id)
            else:
                fresh.append(group)
        await super()._verify(fresh)


def cohort(folder: Path) -> list[int]:
    """Lengths that came to the filter, of every group admitted before the oldest that is still in flight."""
    world = World(length=skewed, score=a_third_without_signal, token_seconds=0.05, train_seconds=0.1)
    run = virtual_time.run(Simulation(recipe(max_steps=STEPS, n_batch=8, n_minibatch=8), world, folder).run())
    oldest = min(group for state in GroupState for group in run.state.ledger.ids(state))
    return [run.runtime.generated[group, index] for group in run.runtime.verified if group < oldest for index in range(4)]


def independent() -> list[int]:
    """The distribution that lengths are sampled from, drawn anew."""
    return [skewed(10_000 + group, index) for group in range(3000) for index in range(4)]


def test_trained_lengths_are_distributed_as_those_sampled(tmp_path: Path) -> None:
    lengths = cohort(tmp_path)
    groups = len(lengths) // 4
    assert sorted(lengths) == sorted(skewed(group, index) for group in range(groups) for index in range(4)), "drained: all of the cohort"
    assert len(lengths) >= 2000
    assert max(lengths) >= 5 * np.mean(lengths)
    assert kolmogorov_smirnov(lengths, independent()) > 0.01


def test_a_policy_that_drops_old_samples_is_caught(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(simulated_runtime, "Coordinator", DropsOldSamples)
    lengths = cohort(tmp_path)
    assert len(lengths) >= 1000
    assert kolmogorov_smirnov(lengths, independent()) < 0.001
