"""The order in which a run visits its problems: a function of the seed and the index alone, so resume needs no more."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from magistral_core.errors import InputError
from magistral_core.records import Problem


class ProblemStream:
    """An endless stream of problems: `stream[i]` is the problem of prompt group `i`.

    Groups `k * n ... (k + 1) * n - 1` are epoch `k` and visit each of the `n` problems exactly once, in a permutation drawn from
    `(seed, k)`; without `shuffle`, in file order. Access is random, so a resumed run needs only the next group's index.
    """

    def __init__(self, problems: Sequence[Problem], seed: int, shuffle: bool = True) -> None:
        if not problems:
            raise InputError("no problems to train on")
        self._problems = problems
        self._seed = seed
        self._shuffle = shuffle
        self._cached: tuple[int, np.ndarray] = (-1, np.empty(0, dtype=np.int64))

    def __getitem__(self, index: int) -> Problem:
        if index < 0:
            raise IndexError(f"group index {index} is negative")
        epoch, offset = divmod(index, len(self._problems))
        return self._problems[self._order(epoch)[offset] if self._shuffle else offset]

    def _order(self, epoch: int) -> np.ndarray:
        cached_epoch, order = self._cached
        if cached_epoch != epoch:
            # RandomState, because numpy promises that its permutations never change between versions: a run that is
            # resumed under a newer numpy must not skip or repeat a problem.
            generator = np.random.RandomState(np.random.MT19937(np.random.SeedSequence([self._seed, epoch])))
            order = generator.permutation(len(self._problems))
            self._cached = (epoch, order)
        return order
