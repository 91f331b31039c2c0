"""What a trainer rank tells of an optimiser step. Light: the coordinator reads it without torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np


@dataclass
class StepReport:
    """What one rank saw in one optimiser step; sums over its counted tokens, merged over ranks by `merge`.

    Attributes:
        loss: this rank's part of the loss; the parts add up to the step's.
        tokens: generated tokens that counted.
        entropy_sum, clipped: sum of entropies (nats), tokens stopped by the clip.
        log_ratios: float32, trainer minus generator log-probability of (a sample of) the tokens.
        mismatch_sum, mismatch_max, mismatch_tokens: absolute difference of the log-probabilities over the sequences that
            the very weights being trained had made from their first token, where it should be zero.
        grad_norm: norm of the whole gradient before clipping, the same on all ranks.
        learning_rate: of this step.
        seconds: wall time.
    """

    loss: float = 0.0
    tokens: int = 0
    entropy_sum: float = 0.0
    clipped: int = 0
    log_ratios: np.ndarray = field(default_factory=lambda: np.zeros(0, np.float32))
    mismatch_sum: float = 0.0
    mismatch_max: float = 0.0
    mismatch_tokens: int = 0
    grad_norm: float = 0.0
    learning_rate: float = 0.0
    seconds: float = 0.0

    @staticmethod
    def merge(reports: Sequence[StepReport]) -> StepReport:
        """The report of all ranks together."""
        return StepReport(
            loss=sum(r.loss for r in reports),
            tokens=sum(r.tokens for r in reports),
            entropy_sum=sum(r.entropy_sum for r in reports),
            clipped=sum(r.clipped for r in reports),
            log_ratios=np.concatenate([r.log_ratios for r in reports]),
            mismatch_sum=sum(r.mismatch_sum for r in reports),
            mismatch_max=max(r.mismatch_max for r in reports),
            mismatch_tokens=sum(r.mismatch_tokens for r in reports),
            grad_norm=reports[0].grad_norm,
            learning_rate=reports[0].learning_rate,
            seconds=max(r.seconds for r in reports),
        )
