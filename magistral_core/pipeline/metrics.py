"""The metrics of one optimiser step, from what was verified, what was trained, and how busy everyone was. Pure.

Names are `group/name`. `reward/*`, `pass/*` and `length/*` are taken over every group verified since the last step, filtered
ones included, so that they measure the policy and not the filter; `batch/*`, `policy/*`, `age/*` over what was trained.
"""

from __future__ import annotations

from collections.abc import Container, Sequence
from dataclasses import dataclass, field

import numpy as np

from magistral_core.pipeline.batches import truncated_share
from magistral_core.records import Batch, Group, ScoreStatus
from magistral_core.training.report import StepReport

#: Ages (in optimiser steps) whose share of tokens is a metric of its own; the paper keeps sequences at about two policies.
AGES = 4


@dataclass
class Clock:
    """Seconds of work within a window of wall time; `busy(n)` says from now on `n` things are running."""

    started: float
    _since: float = 0.0
    running: int = 0
    _seconds: float = 0.0
    _integral: float = 0.0

    def __post_init__(self) -> None:
        self._since = self.started

    def busy(self, running: int, now: float) -> None:
        """Note a change of how many run."""
        self._account(now)
        self.running = running

    def lap(self, now: float) -> tuple[float, float]:
        """Share of the window with at least one running, and the mean number running; a new window starts."""
        self._account(now)
        wall = max(now - self.started, 1e-9)
        result = self._seconds / wall, self._integral / wall
        self.started, self._seconds, self._integral = now, 0.0, 0.0
        return result

    def skip(self, seconds: float, now: float) -> None:
        """So many seconds, just gone by, in which nothing ran, are no part of the window, which may be younger."""
        self.started = min(self.started + seconds, now)

    def _account(self, now: float) -> None:
        span = now - self._since
        self._seconds += span if self.running else 0.0
        self._integral += span * self.running
        self._since = now


@dataclass
class Window:
    """What happened since the last optimiser step."""

    verified: list[Group] = field(default_factory=list)
    filtered: dict[str, int] = field(default_factory=dict)
    failed: dict[str, int] = field(default_factory=dict)
    tokens: int = 0

    def count(self, kind: dict[str, int], reason: str) -> None:
        """Count one group by reason."""
        kind[reason] = kind.get(reason, 0) + 1


def rollout_metrics(groups: Sequence[Group]) -> dict[str, float]:
    """Reward and its parts, pass rate, lengths, over verified groups."""
    scores = [score for group in groups for score in group.scores if score.graded]
    if not scores:
        return {}
    judged = [group for group in groups if any(score.graded for score in group.scores)]
    lengths = np.array([completion.length for group in groups for completion in group.completions])
    parts = sorted({name for score in scores for name in score.parts})
    return {
        "reward/mean": float(np.mean([score.reward for score in scores])),
        **{f"reward/{name}": float(np.mean([score.parts.get(name, 0.0) for score in scores])) for name in parts},
        "pass/rate": float(np.mean([score.correct for score in scores])),
        "pass/valid_format": float(np.mean([score.status is not ScoreStatus.BAD_FORMAT for score in scores])),
        "pass/groups_solved": float(np.mean([any(score.correct for score in group.scores) for group in judged])),
        "length/mean": float(lengths.mean()),
        "length/p50": float(np.percentile(lengths, 50)),
        "length/p95": float(np.percentile(lengths, 95)),
        "length/max": float(lengths.max()),
        "length/truncated_share": truncated_share(groups),
        "verifier/seconds_mean": float(np.mean([score.seconds for score in scores])),
    }


def resample_metrics(groups: Sequence[Group], again: Container[int]) -> dict[str, float]:
    """How many of the verified groups were sampled again after a resume, and how many tokens longer they are than the others.

    `again` holds the ids of those that were in flight at the checkpoint.
    """
    lengths: dict[bool, list[int]] = {True: [], False: []}
    for group in groups:
        lengths[group.id in again] += [completion.length for completion in group.completions]
    if not lengths[True]:
        return {}
    metrics = {"resume/groups": float(sum(group.id in again for group in groups))}
    if lengths[False]:
        metrics["resume/length_shift"] = float(np.mean(lengths[True]) - np.mean(lengths[False]))
    return metrics


def _age_histogram(ages: np.ndarray) -> dict[str, float]:
    """Percentiles of the tokens' ages, int [tokens], and the share of each age; the last share takes whatever is older."""
    p50, p95 = np.percentile(ages, (50, 95))
    counts = np.bincount(np.minimum(ages, AGES), minlength=AGES + 1) / len(ages)
    names = [*(f"age/share_{age}" for age in range(AGES)), f"age/share_{AGES}_up"]
    return {"age/p50": float(p50), "age/p95": float(p95), **dict(zip(names, counts.tolist(), strict=True))}


def policy_metrics(batch: Batch, report: StepReport) -> dict[str, float]:
    """How far the policy is from the one that sampled, and how old the tokens are."""
    completions = [completion for group in batch.groups for completion in group.completions]
    ages = batch.step - np.concatenate([completion.versions for completion in completions])
    log_ratios = np.clip(report.log_ratios.astype(np.float64), -50.0, 50.0)
    ratios = np.exp(log_ratios)
    rewards = [score.reward for group in batch.groups for score in group.scores if score.graded]
    low, middle, high = np.percentile(ratios, (1, 50, 99)) if len(ratios) else (1.0, 1.0, 1.0)
    tokens = max(report.tokens, 1)
    metrics = {
        "policy/entropy": report.entropy_sum / tokens,
        "policy/clip_fraction": report.clipped / tokens,
        "policy/ratio_p01": float(low),
        "policy/ratio_p50": float(middle),
        "policy/ratio_p99": float(high),
        "policy/effective_sample_share": float(ratios.sum() ** 2 / (len(ratios) * (ratios**2).sum())) if len(ratios) else 1.0,
        "policy/kl": float(np.mean(ratios - 1.0 - log_ratios)) if len(ratios) else 0.0,
        "age/mean": float(ages.mean()),
        "age/max": float(ages.max()),
        **_age_histogram(ages),
        "batch/reward_mean": float(np.mean(rewards)),
        "batch/reward_std": float(np.std(rewards)),
        "batch/masked": float(sum(not score.graded for group in batch.groups for score in group.scores)),
        "train/loss": report.loss,
        "train/grad_norm": report.grad_norm,
        "train/learning_rate": report.learning_rate,
        "train/tokens": float(report.tokens),
        "train/seconds": report.seconds,
    }
    if report.mismatch_tokens:
        metrics["policy/mismatch_mean"] = report.mismatch_sum / report.mismatch_tokens
        metrics["policy/mismatch_max"] = report.mismatch_max
    return metrics
