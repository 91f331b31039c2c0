"""How many workers a pool has, by what it has to do. Pure.

smallest ──more than BACKLOG_PER_WORKER jobs a worker──> as many as bring it back to that, at most the largest
more than the smallest ──one had nothing to do for IDLE_S──> one fewer
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Self

from magistral_core.config.schema import RewardSettings

#: Jobs that one worker may have before it: formulas take milliseconds each, so a second or less of waiting. A worker starts in 0.1 s.
BACKLOG_PER_WORKER = 64
#: An extra worker that was idle for so long ends, and gives back what its caches hold. Longer than a step of most runs: between two
#: batches there is often nothing to verify.
IDLE_S = 60.0


@dataclass(frozen=True)
class PoolSize:
    """The bounds of a pool, and when it changes within them."""

    smallest: int
    largest: int

    @classmethod
    def of(cls, rewards: RewardSettings) -> Self:
        """From `rewards.workers` to `rewards.max_workers`, or to one a core of this machine."""
        return cls(rewards.workers, rewards.max_workers or max(rewards.workers, os.cpu_count() or 1))

    def grown(self, workers: int, backlog: int) -> int:
        """How many workers there should be, where there are `workers` and `backlog` jobs are not settled; never fewer than there are."""
        return max(workers, min(self.largest, -(-backlog // BACKLOG_PER_WORKER)))

    def may_end(self, workers: int) -> bool:
        """Whether one that was idle for IDLE_S may end."""
        return workers > self.smallest
