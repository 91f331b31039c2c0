"""Exact and near duplicates among many statements. The first of each cluster is kept.

    add(...) a million times  -> per statement: a 128-bit digest, a MinHash signature, a guard
    clusters()                -> exact: equal digests
                                 near: equal guards, a band in common, and enough equal places of the signatures

The guard is a hash of the statement's numbers and of its canonical answer. Mathematics problems made from one template differ in their
numbers only; with the guard they never meet, and without it they would be called duplicates.

Memory is about 560 bytes a statement with signatures of 128 places; texts are not held.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import xxhash

from magistral_core.config.curation import DuplicateSettings
from magistral_core.curation.answers import is_yes_no
from magistral_core.curation.minhash import MinHash, band_hash, band_rows, shingle_hashes, similarity
from magistral_core.curation.normalise import numbers
from magistral_core.curation.reasons import Reason

#: Statements whose signatures are computed together.
_BLOCK = 2048
#: A statement is compared with so many earlier ones of its bucket that are not duplicates of each other; more are noise of one template.
_LEADERS = 64


class Deduplicator:
    """Collects statements in order, then names the duplicates."""

    def __init__(self, settings: DuplicateSettings) -> None:
        self._settings = settings
        self._minhash = MinHash(settings.permutations)
        self._waiting: list[np.ndarray] = []
        self._signatures: list[np.ndarray] = []
        self._digests: list[tuple[int, int]] = []
        self._digest_blocks: list[np.ndarray] = []
        self._guards: list[int] = []
        self._guard_blocks: list[np.ndarray] = []

    def add(self, tokens: Sequence[str], answer: str) -> None:
        """One statement as tokens, and its canonical answer."""
        digest = xxhash.xxh3_128_intdigest(" ".join(tokens).encode())
        self._digests.append((digest >> 64, digest & 0xFFFFFFFFFFFFFFFF))
        if self._settings.near:
            key = (*numbers(tokens), "=", answer if self._settings.same_answer else "")
            if is_yes_no(answer):  # says too little: "is it even" and "is it odd" must not meet
                key = (str(digest),)
            self._guards.append(xxhash.xxh3_64_intdigest("\0".join(key).encode()))
            self._waiting.append(shingle_hashes(tokens, self._settings.shingle))
        if len(self._digests) == _BLOCK:
            self._flush()

    def clusters(self) -> dict[int, tuple[int, Reason]]:
        """Every duplicate by its number in the order of `add`: the number of the one that is kept, and which kind it is."""
        self._flush()
        if not self._digest_blocks:
            return {}
        digests = np.concatenate(self._digest_blocks)
        self._digest_blocks = []
        first = _first_equal(digests)
        found = {int(item): (int(first[item]), Reason.EXACT_DUPLICATE) for item in np.flatnonzero(first != np.arange(len(first)))}
        if self._settings.near:
            alone = np.flatnonzero(first == np.arange(len(first)))
            roots = self._near(alone)
            found |= {item: (root, Reason.NEAR_DUPLICATE) for item, root in roots.items()}
            for item, (kept, reason) in found.items():
                found[item] = (roots.get(kept, kept), reason)  # what an exact duplicate repeats may itself be a near one
        return found

    def _flush(self) -> None:
        if not self._digests:
            return
        self._digest_blocks.append(np.array(self._digests, dtype=np.uint64))
        self._digests = []
        if self._waiting:
            self._signatures.append(self._minhash.signatures(self._waiting))
            self._guard_blocks.append(np.array(self._guards, dtype=np.uint64))
            self._waiting, self._guards = [], []

    def _near(self, alone: np.ndarray) -> dict[int, int]:
        """Near duplicates among the statements `alone` (numbers, ascending), each with the first of its cluster."""
        signatures = np.empty((len(alone), self._settings.permutations), dtype=np.uint32)
        guards = np.empty(len(alone), dtype=np.uint64)
        _gather(self._signatures, alone, signatures)
        _gather(self._guard_blocks, alone, guards)
        self._signatures, self._guard_blocks = [], []
        rows = band_rows(self._settings.permutations, self._settings.threshold)
        parents: dict[int, int] = {}
        for band in range(self._settings.permutations // rows):
            for bucket in _buckets(band_hash(signatures, band, rows, guards)):
                self._join(bucket, signatures, parents)
        return {int(alone[item]): int(alone[_root(parents, item)]) for item in sorted(parents)}

    def _join(self, bucket: np.ndarray, signatures: np.ndarray, parents: dict[int, int]) -> None:
        """Join each statement of a bucket (ascending) to the first earlier one that is similar enough."""
        leaders: list[int] = []
        for item in map(int, bucket):
            for leader in leaders:
                mine, other = _root(parents, item), _root(parents, leader)
                if mine == other or similarity(signatures[item], signatures[leader]) >= self._settings.threshold:
                    if mine != other:
                        parents[max(mine, other)] = min(mine, other)
                    break
            else:
                if len(leaders) < _LEADERS:
                    leaders.append(item)


def _first_equal(digests: np.ndarray) -> np.ndarray:
    """int64 [N]: for each row of uint64 [N, 2], the number of the first row that equals it."""
    order = np.lexsort((np.arange(len(digests)), digests[:, 1], digests[:, 0]))
    ordered = digests[order]
    new = np.ones(len(order), dtype=bool)
    new[1:] = np.any(ordered[1:] != ordered[:-1], axis=1)
    first = np.empty(len(order), dtype=np.int64)
    first[order] = order[np.flatnonzero(new)][np.cumsum(new) - 1]
    return first


def _gather(blocks: list[np.ndarray], wanted: np.ndarray, into: np.ndarray) -> None:
    """Copy the wanted rows (ascending) of what stands in blocks, freeing each block when it is done."""
    begin = done = 0
    while blocks:
        block = blocks.pop(0)
        end = int(np.searchsorted(wanted, begin + len(block)))
        into[done:end] = block[wanted[done:end] - begin]
        begin, done = begin + len(block), end


def _buckets(keys: np.ndarray) -> Iterator[np.ndarray]:
    """Numbers of the rows that share a key with another row, ascending, one array a key."""
    order = np.argsort(keys, kind="stable")
    ordered = keys[order]
    edges = np.flatnonzero(np.concatenate(([True], ordered[1:] != ordered[:-1], [True])))
    for number in np.flatnonzero(np.diff(edges) > 1):
        yield order[edges[number] : edges[number + 1]]


def _root(parents: dict[int, int], item: int) -> int:
    """The first statement of a cluster; shortens the way for the next call."""
    root = item
    while root in parents:
        root = parents[root]
    while item != root:
        parents[item], item = root, parents[item]
    return root
