"""Groups made from a few numbers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from magistral_core.records import Completion, FinishReason, Group, Problem, Score, ScoreStatus


def make_score(reward: float | None) -> Score:
    """Right from 1 on, wrong below; None: the verifier broke."""
    if reward is None:
        return Score(0.0, ScoreStatus.ERROR, {}, "worker died")
    return Score(reward, ScoreStatus.CORRECT if reward >= 1 else ScoreStatus.WRONG, {"format": 0.1, "correct": reward - 0.1}, seconds=0.5)


def make_completion(group_id: int, index: int, length: int = 3, version: int = 0, cut: bool = False) -> Completion:
    return Completion(
        group_id,
        index,
        np.array([1, 2], np.int32),
        np.arange(length, dtype=np.int32),
        np.full(length, -0.25, np.float32),
        np.full(length, version, np.int32),
        f"text {group_id}.{index}",
        FinishReason.LENGTH if cut else FinishReason.STOP,
    )


def make_group(group_id: int, rewards: Sequence[float | None], lengths: Sequence[int] | None = None, version: int = 0) -> Group:
    lengths = lengths or [3] * len(rewards)
    completions = tuple(make_completion(group_id, i, length, version) for i, length in enumerate(lengths))
    return Group(group_id, Problem(f"p{group_id}", "q", "a"), completions, tuple(map(make_score, rewards)))
