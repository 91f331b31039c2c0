"""Problems that an evaluation set holds: a shared n-gram of tokens, or a near duplicate. No embeddings, so that each hit can be shown.

An n-gram that occurs in many evaluation items is a set phrase ("where m and n are relatively prime positive integers, find m + n"), not
a trace of an item; it does not count.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from magistral_core.config.curation import DecontaminationSettings
from magistral_core.curation.minhash import MinHash, band_hash, band_rows, shingle_hashes, similarity
from magistral_core.curation.normalise import tokens

#: Signatures of this comparison; recall needs no more, since evaluation sets are small.
_PERMUTATIONS = 128
_SHINGLE = 3


@dataclass(frozen=True, slots=True)
class EvaluationItem:
    """A problem that training must not see."""

    file: str
    line: int
    question: str


@dataclass(frozen=True, slots=True)
class Match:
    """What a problem shares with an evaluation item; `shared` is the n-gram or the similarity."""

    item: EvaluationItem
    rule: Literal["ngram", "near_duplicate"]
    shared: str


class EvaluationIndex:
    """Evaluation items, ready to be looked up."""

    def __init__(self, items: Iterable[EvaluationItem], settings: DecontaminationSettings) -> None:
        self._settings = settings
        # A statement that a file holds many times is one: its n-grams would pass for phrases that everybody uses.
        distinct: dict[tuple[str, ...], EvaluationItem] = {}
        for item in items:
            distinct.setdefault(tuple(tokens(item.question)), item)
        self._items, texts = list(distinct.values()), list(distinct)
        self._minhash = MinHash(_PERMUTATIONS)
        self._rows = band_rows(_PERMUTATIONS, settings.threshold)
        shingles = [shingle_hashes(text, _SHINGLE) for text in texts]
        self._signatures = self._minhash.signatures(shingles) if shingles else np.empty((0, _PERMUTATIONS), np.uint32)
        self._buckets: list[dict[int, list[int]]] = []
        for band in range(_PERMUTATIONS // self._rows):
            buckets: dict[int, list[int]] = {}
            for number, key in enumerate(band_hash(self._signatures, band, self._rows).tolist()):
                buckets.setdefault(key, []).append(number)
            self._buckets.append(buckets)
        self._grams, self._owners = self._index(texts)

    def __len__(self) -> int:
        return len(self._items)

    def match(self, question: str) -> Match | None:
        """What the statement shares with an evaluation item, or None."""
        if not self._items:
            return None
        words = tokens(question)
        n = self._settings.ngram
        if len(words) >= n and len(self._grams):
            hashed = shingle_hashes(words, n)
            at = np.minimum(np.searchsorted(self._grams, hashed), len(self._grams) - 1)
            hits = np.flatnonzero(self._grams[at] == hashed)
            if len(hits):
                place = int(hits[0])
                return Match(self._items[self._owners[at[place]]], "ngram", " ".join(words[place : place + n]))
        signature = self._minhash.signatures([shingle_hashes(words, _SHINGLE)])
        for band, buckets in enumerate(self._buckets):
            for number in buckets.get(int(band_hash(signature, band, self._rows)[0]), ()):
                alike = similarity(signature[0], self._signatures[number])
                if alike >= self._settings.threshold:
                    return Match(self._items[number], "near_duplicate", f"similarity {alike:.2f}")
        return None

    def _index(self, texts: Sequence[Sequence[str]]) -> tuple[np.ndarray, np.ndarray]:
        """Hashes of the n-grams that count, sorted, and the first item that has each."""
        n = self._settings.ngram
        hashes = [np.unique(shingle_hashes(text, n)) if len(text) >= n else np.empty(0, np.uint64) for text in texts]
        if not hashes:
            return np.empty(0, np.uint64), np.empty(0, np.int64)
        owners = np.repeat(np.arange(len(hashes)), [len(item) for item in hashes])
        grams, first, counts = np.unique(np.concatenate(hashes), return_index=True, return_counts=True)
        counted = counts <= self._settings.max_items
        return grams[counted], owners[first[counted]]
