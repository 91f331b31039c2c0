"""What a checkpoint keeps of the loop beside the trainer's own state: the ledger, the queue with its tokens, the counters.

Random states need no place here: every draw of the loop derives from (run seed, group, index) or (run seed, step).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from magistral_core.pipeline.curriculum import Curriculum
from magistral_core.pipeline.ledger import Ledger
from magistral_core.records import Completion, FinishReason, Group, Problem, Score, ScoreStatus

#: Parts of a checkpoint: the trainer's state, the model as a folder that vLLM loads, and the loop's own files.
TRAINER_FOLDER, MODEL_FOLDER = "trainer", "hf"
LOOP_FILE, _ARRAYS = "loop.json", "queue.npz"


@dataclass
class Counters:
    """Totals of a run, over all its attempts."""

    weight_updates: int = 0
    weight_updates_in_flight: int = 0
    completions: int = 0
    graded: int = 0
    correct: int = 0
    generated_tokens: int = 0
    trained_tokens: int = 0
    seconds: float = 0.0


@dataclass
class LoopState:
    """The loop at a batch boundary.

    Attributes:
        step: optimiser steps done; also the version of the trainer's weights.
        ledger: states of all groups.
        queue: verified groups that wait for the trainers, in order.
        counters: totals.
        curriculum: stages and what they know of the problems; None for a recipe without.
        validated: optimiser steps that were done when the last validation began whose figures were told; -1: none was.
    """

    step: int = 0
    ledger: Ledger = field(default_factory=Ledger)
    queue: list[Group] = field(default_factory=list)
    counters: Counters = field(default_factory=Counters)
    curriculum: Curriculum | None = None
    validated: int = -1

    def save(self, folder: Path) -> None:
        """Write the state into a checkpoint's folder."""
        self.ledger.check()
        completions = [completion for group in self.queue for completion in group.completions]
        document = {
            "step": self.step,
            "validated": self.validated,
            "ledger": self.ledger.to_json(),
            "counters": asdict(self.counters),
            "queue": [
                {
                    "id": group.id,
                    "stage": group.stage,
                    "texts": [completion.text for completion in group.completions],
                    "finish": [completion.finish_reason.value for completion in group.completions],
                    "scores": [_score_json(score) for score in group.scores],
                }
                for group in self.queue
            ],
        }
        if self.curriculum is not None:
            document["curriculum"] = self.curriculum.to_json()
        (folder / LOOP_FILE).write_text(json.dumps(document), encoding="utf-8")  # ASCII: a program's message may hold half a character
        np.savez(
            folder / _ARRAYS,
            prompt_lens=np.array([len(completion.prompt_ids) for completion in completions], dtype=np.int64),
            lens=np.array([completion.length for completion in completions], dtype=np.int64),
            prompt_ids=_join([completion.prompt_ids for completion in completions], np.int32),
            token_ids=_join([completion.token_ids for completion in completions], np.int32),
            logprobs=_join([completion.logprobs for completion in completions], np.float32),
            versions=_join([completion.versions for completion in completions], np.int32),
        )

    @classmethod
    def load(cls, folder: Path, problem_of: Callable[[int], Problem], curriculum: Curriculum | None = None) -> LoopState:
        """Read what `save` wrote.

        Args:
            folder: of the checkpoint.
            problem_of: gives back the problem of a group, which is not stored again.
            curriculum: a new one of the same recipe and problems, to be brought to where it was; it then knows the groups' problems.
        """
        document = json.loads((folder / LOOP_FILE).read_text(encoding="utf-8"))
        if curriculum is not None:
            curriculum.restore(document["curriculum"])
        with np.load(folder / _ARRAYS) as arrays:
            prompts = np.split(arrays["prompt_ids"], np.cumsum(arrays["prompt_lens"])[:-1])
            ends = np.cumsum(arrays["lens"])[:-1]
            tokens, logprobs, versions = (np.split(arrays[name], ends) for name in ("token_ids", "logprobs", "versions"))
        queue, i = [], 0
        for item in document["queue"]:
            completions = []
            for index, (text, finish) in enumerate(zip(item["texts"], item["finish"], strict=True)):
                completions.append(
                    Completion(item["id"], index, prompts[i], tokens[i], logprobs[i], versions[i], text, FinishReason(finish))
                )
                i += 1
            scores = tuple(_score(data) for data in item["scores"])
            problem = problem_of(item["id"]) if curriculum is None else curriculum.drawn(item["id"]).problem
            queue.append(Group(item["id"], problem, tuple(completions), scores, item["stage"]))
        return cls(
            document["step"],
            Ledger.from_json(document["ledger"]),
            queue,
            Counters(**document["counters"]),
            curriculum,
            document.get("validated", -1),  # not in checkpoints from before there were validations
        )


def _join(arrays: Sequence[np.ndarray], dtype: type) -> np.ndarray:
    return np.concatenate(arrays).astype(dtype) if arrays else np.zeros(0, dtype=dtype)


def _score_json(score: Score) -> dict[str, Any]:
    return {
        "reward": score.reward,
        "status": score.status.value,
        "parts": dict(score.parts),
        "detail": score.detail,
        "seconds": score.seconds,
    }


def _score(data: dict[str, Any]) -> Score:
    return Score(data["reward"], ScoreStatus(data["status"]), data["parts"], data["detail"], data["seconds"])
