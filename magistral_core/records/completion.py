"""What generators take and return: prompts, requests, completions, groups."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any

import numpy as np

from magistral_core.records.problem import Problem

if TYPE_CHECKING:
    from magistral_core.records.score import Score

IntArray = np.ndarray
FloatArray = np.ndarray


class FinishReason(StrEnum):
    """Why generation of a completion ended."""

    STOP = "stop"  # the model ended its turn
    LENGTH = "length"  # cut at the maximum length: trained with format reward 0, never masked


@dataclass(frozen=True, slots=True)
class Prompt:
    """A rendered problem.

    Attributes:
        token_ids: int32 [P], what the engine gets.
        prefill: the end of the rendered prompt that already belongs to the response (for instance an opening
            thinking tag that the chat template writes); verifiers see `prefill + text`.
    """

    token_ids: IntArray
    prefill: str = ""


@dataclass(frozen=True, slots=True)
class Request:
    """One completion to generate: completion `index` of group `group_id`, which is negative for a validation.

    `seed` fixes the sampling of this completion: it derives from (run seed, group, index), so that a request sampled
    again after a crash draws from the same random stream.
    """

    group_id: int
    index: int
    prompt: Prompt
    seed: int
    max_tokens: int


@dataclass(frozen=True, slots=True)
class Completion:
    """One generated completion, `T` tokens, the end-of-turn token included when there is one.

    Attributes:
        group_id, index: which request it answers.
        prompt_ids: int32 [P].
        token_ids: int32 [T].
        logprobs: float32 [T], the generator's log-probability of each sampled token under the policy that made it.
            The importance ratio's denominator (Magistral, section 2.1).
        versions: int32 [T], the weight version (number of optimiser steps) that made each token.
        text: decoded once, for the verifiers, without special tokens; the prompt's `prefill` stands before it.
        finish_reason: why it ended.
    """

    group_id: int
    index: int
    prompt_ids: IntArray
    token_ids: IntArray
    logprobs: FloatArray
    versions: IntArray
    text: str
    finish_reason: FinishReason

    @property
    def length(self) -> int:
        """Number of generated tokens, `|o_i|`."""
        return int(self.token_ids.shape[0])

    def __reduce__(self) -> tuple[Any, ...]:
        """The arrays travel between processes as one piece of bytes: a buffer of each costs more than all that is in them."""
        arrays = [np.asarray(getattr(self, name), dtype) for name, dtype in _ARRAYS]
        content = b"".join([array.tobytes() for array in arrays])
        return _completion, (self.group_id, self.index, [len(a) for a in arrays], content, self.text, str(self.finish_reason))


_ARRAYS: tuple[tuple[str, Any], ...] = (("prompt_ids", np.int32), ("token_ids", np.int32), ("logprobs", np.float32), ("versions", np.int32))


def _completion(group_id: int, index: int, lengths: list[int], content: bytes, text: str, reason: str) -> Completion:
    """What `Completion.__reduce__` took apart."""
    arrays: dict[str, np.ndarray] = {}
    start = 0
    for length, (name, dtype) in zip(lengths, _ARRAYS, strict=True):
        arrays[name] = np.frombuffer(content, dtype, length, start)
        start += arrays[name].nbytes
    return Completion(group_id, index, text=text, finish_reason=FinishReason(reason), **arrays)


@dataclass(frozen=True, slots=True)
class Group:
    """`G` completions of one problem, in the order of their indices, with their scores once verified.

    Attributes:
        id: position in the run's stream of prompts; the ledger's key.
        problem: the problem.
        completions: `G` completions.
        scores: `G` scores in the same order, or empty while unverified.
        stage: the curriculum stage that the group was admitted in; it is scored with that stage's lengths.
    """

    id: int
    problem: Problem
    completions: tuple[Completion, ...]
    scores: tuple[Score, ...] = ()
    stage: int = 0
