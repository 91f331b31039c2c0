"""MinHash signatures and their bands, for many texts at a time, in numpy (Broder 1997; Leskovec, Rajaraman and Ullman, chapter 3).

Two sets of shingles agree in each place of their signatures with a probability that is their Jaccard similarity. A band is a run of
`rows` places; texts that agree in a whole band are candidates, and the share of equal places decides.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np
import xxhash

#: Chance that a pair exactly at the threshold becomes a candidate.
RECALL = 0.99
_MIX = np.uint64(0x9E3779B97F4A7C15)
_SHIFT = np.uint64(32)


def band_rows(permutations: int, threshold: float) -> int:
    """Places of one band: as many as keep the recall at the threshold, since longer bands make fewer false candidates."""
    best = 1
    for rows in range(1, permutations + 1):
        if 1 - (1 - threshold**rows) ** (permutations // rows) >= RECALL:
            best = rows
    return best


def shingle_hashes(tokens: Sequence[str], length: int) -> np.ndarray:
    """uint64 [S]: a hash of every run of `length` tokens; of the whole text if it is shorter; one zero if it is empty."""
    if not tokens:
        return np.zeros(1, dtype=np.uint64)
    words = np.fromiter(map(_token_hash, tokens), dtype=np.uint64, count=len(tokens))
    length = min(length, len(words))
    count = len(words) - length + 1
    hashed = words[:count].copy()
    for offset in range(1, length):
        hashed = (hashed ^ (hashed >> _SHIFT)) * _MIX + words[offset : offset + count]
    return mix(hashed)


def mix(values: np.ndarray) -> np.ndarray:
    """A bijection of uint64 whose every output bit depends on every input bit (the finaliser of splitmix64)."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


class MinHash:
    """Signatures of a fixed length under fixed hash functions, so that those of two runs may be compared."""

    def __init__(self, permutations: int) -> None:
        generator = np.random.default_rng(20250612)
        self._factors = generator.integers(1, 2**63, permutations, dtype=np.uint64) * np.uint64(2) + np.uint64(1)
        self._offsets = generator.integers(0, 2**63, permutations, dtype=np.uint64)

    def signatures(self, shingles: Sequence[np.ndarray]) -> np.ndarray:
        """uint32 [N, permutations] of N texts, each given by its shingle hashes."""
        starts = np.cumsum([0, *(len(item) for item in shingles[:-1])])
        flat = np.concatenate(shingles)
        found = np.empty((len(shingles), len(self._factors)), dtype=np.uint32)
        for place, (factor, offset) in enumerate(zip(self._factors, self._offsets, strict=True)):
            found[:, place] = np.minimum.reduceat((flat * factor + offset) >> _SHIFT, starts)
        return found


def band_hash(signatures: np.ndarray, band: int, rows: int, group: np.ndarray | None = None) -> np.ndarray:
    """uint64 [N]: one number for a band of each signature; texts of different `group` (uint64 [N]) do not meet in it."""
    hashed = np.zeros(len(signatures), dtype=np.uint64) if group is None else group.copy()
    for place in range(band * rows, (band + 1) * rows):
        hashed = mix(hashed * _MIX + signatures[:, place])
    return hashed


def similarity(first: np.ndarray, second: np.ndarray) -> float:
    """Estimated Jaccard similarity of two signatures."""
    return float(np.count_nonzero(first == second)) / first.shape[-1]


@functools.lru_cache(maxsize=2**18)
def _token_hash(token: str) -> int:
    return xxhash.xxh3_64_intdigest(token.encode())
