"""Held-out problems, answered by the generators while a run trains: what is asked, and what came of it. Pure.

    due ──begin──ask──> generators ──join──> verifiers ──take──> figures ──> told after the next step

They are sampled as in training, by the engines of the run, with the weights that come meanwhile. Their groups have negative ids: neither
the ledger nor admission knows them, no trainer sees them, and the engines cache their prompts apart. One validation is under way at a time.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from magistral_core.config.schema import ValidationSettings
from magistral_core.pipeline.metrics import rollout_metrics
from magistral_core.records import Completion, Group, Problem, Prompt, Request


class Validation:
    """The validations of one attempt at a run.

    Args:
        settings: of the recipe.
        held_out: its problems with their prompts.
        seed: of the run. A problem is sampled with the same seeds each time: two validations differ by the weights alone.
        max_model_len: longest sequence, prompt and completion, in tokens.
    """

    def __init__(self, settings: ValidationSettings, held_out: Sequence[tuple[Problem, Prompt]], seed: int, max_model_len: int) -> None:
        self._settings, self._held_out, self._seed, self._max_model_len = settings, held_out, seed, max_model_len
        self._waiting: deque[Request] = deque()
        self._unanswered = 0
        self._answers: dict[int, list[Completion]] = {}
        self._verified: list[Group] = []
        self.step = self.stage = 0
        self.running = False
        self.grading: set[int] = set()

    def due(self, step: int, validated: int) -> bool:
        """Whether one begins after `step` optimiser steps, the last having begun after `validated`; -1: none has."""
        every = self._settings.every
        return not self.running and step // every > validated // every

    def begin(self, step: int, stage: int, max_tokens: int) -> None:
        """Put every problem on the list, by the rules of a stage; one under way is given up. Group ids do not come twice."""
        self.step, self.stage, self.running = step, stage, True
        self._waiting.clear()
        self._answers.clear()
        self._verified.clear()
        self.grading.clear()
        self._unanswered = 0
        for number, (_, prompt) in enumerate(self._held_out):
            group_id = -1 - (step * len(self._held_out) + number)
            self._answers[group_id] = []
            room = min(max_tokens, self._max_model_len - len(prompt.token_ids))
            for index in range(self._settings.samples):
                seed = int(np.random.SeedSequence([self._seed, number, index]).generate_state(1)[0]) & 0x7FFFFFFF
                self._waiting.append(Request(group_id, index, prompt, seed, room))

    def ask(self, limit: int) -> list[Request]:
        """What to ask now, so that no more than `limit` wait for an answer: training's requests come in between."""
        requests = [self._waiting.popleft() for _ in range(min(limit - self._unanswered, len(self._waiting)))]
        self._unanswered += len(requests)
        return requests

    def join(self, completion: Completion) -> Group | None:
        """An answer has come; its group, if it was the last one, which is now with the verifiers."""
        if completion.group_id not in self._answers:  # of one that was given up
            return None
        self._unanswered -= 1
        answers = self._answers[completion.group_id]
        answers.append(completion)
        if len(answers) < self._settings.samples:
            return None
        del self._answers[completion.group_id]
        self.grading.add(completion.group_id)
        problem, _ = self._held_out[(-1 - completion.group_id) % len(self._held_out)]
        return Group(completion.group_id, problem, tuple(sorted(answers, key=lambda answer: answer.index)), stage=self.stage)

    def take(self, groups: Sequence[Group]) -> bool:
        """Groups were verified; whether these were the last of the validation."""
        self._verified.extend(group for group in groups if group.id in self.grading)
        self.grading -= {group.id for group in groups}
        return len(self._verified) == len(self._held_out)

    def figures(self) -> dict[str, float]:
        """What a validation that is over came to, named `validation/name`; the next one may begin.

        `validation/step` is the optimiser step at which it began. What no verifier could grade is in no figure but `graded_share`.
        """
        groups, self._verified, self.running = self._verified, [], False
        found = rollout_metrics([_graded(group) for group in groups if any(score.graded for score in group.scores)])
        found.pop("verifier/seconds_mean", None)
        return {
            "validation/step": float(self.step),
            "validation/graded_share": float(np.mean([score.graded for group in groups for score in group.scores])),
            **{f"validation/{name.replace('/', '_')}": value for name, value in found.items()},
        }


def _graded(group: Group) -> Group:
    """A group without what no verifier could judge."""
    kept = [index for index, score in enumerate(group.scores) if score.graded]
    return replace(group, completions=tuple(group.completions[i] for i in kept), scores=tuple(group.scores[i] for i in kept))
