"""What trainers take: a batch of completions with advantages, cut into packed microbatches."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from magistral_core.records.completion import Group


@dataclass(frozen=True, slots=True)
class Batch:
    """The completions of one optimiser step (a minibatch of the paper).

    Attributes:
        step: the optimiser step that consumes it, from 0.
        groups: whole groups; `n_minibatch` completions in all.
        advantages: float32 [n], one a completion in group order, 0 for masked ones.
        weights: float32 [n], the weight of each *token* of the completion in the loss: `1 / (groups x tokens of its group)`
            or `1 / tokens of the step`; 0 for masked completions.
    """

    step: int
    groups: tuple[Group, ...]
    advantages: np.ndarray
    weights: np.ndarray


@dataclass(frozen=True, slots=True)
class Microbatch:
    """Sequences packed into one row of `T` tokens, for one forward and backward pass.

    The row is made of `S` segments, one after the other. A segment is a whole sequence, prompt and completion; or a prompt that several
    completions share; or a completion that goes on from such a prompt, which lies before it in the row:

        segments    [prompt completion]  [prompt]  [completion]  [completion]
        prefixes            -1              -1          1             1

    Position `t` predicts token `t`: every array is aligned to the token that is *predicted*, so the first token of each
    sequence (which nothing predicts) has `weights == 0`, as have prompt tokens.

    Attributes:
        token_ids: int32 [T].
        position_ids: int32 [T], the token's place in its sequence, from 0; a completion's first token has that after its prompt's last.
        seq_lens: int32 [S], tokens of each segment; their sum is `T`.
        prefixes: int32 [S], the segment that each goes on from, or -1.
        logprobs: float32 [T], the generator's log-probability of each generated token, 0 elsewhere.
        advantages: float32 [T], the completion's advantage on its generated tokens, 0 elsewhere.
        weights: float32 [T], the token's weight in the loss, 0 where it does not count.
        versions: int32 [T], the weight version that made each generated token of sequences that one version made whole; -1 elsewhere.
        mask: bool [T], generated tokens of completions that count; metrics are taken over these.
    """

    token_ids: np.ndarray
    position_ids: np.ndarray
    seq_lens: np.ndarray
    prefixes: np.ndarray
    logprobs: np.ndarray
    advantages: np.ndarray
    weights: np.ndarray
    versions: np.ndarray
    mask: np.ndarray
