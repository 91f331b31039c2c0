"""The verdict on one completion."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum


class ScoreStatus(StrEnum):
    """What the verifiers found."""

    CORRECT = "correct"
    WRONG = "wrong"
    NO_ANSWER = "no_answer"  # well formed, but nothing to compare
    UNPARSABLE = "unparsable"  # the answer could not be read
    TIMEOUT = "timeout"  # judging this answer took too long: a wrong answer
    BAD_FORMAT = "bad_format"  # failed the format check: total reward 0, nothing else graded
    ERROR = "error"  # the verifier broke: not a verdict; the completion is masked


GRADED = frozenset(ScoreStatus) - {ScoreStatus.ERROR}


@dataclass(frozen=True, slots=True)
class Score:
    """Reward of one completion with its parts (Magistral, section 2.2).

    Attributes:
        reward: the sum of `parts`.
        parts: reward by part: `format`, `correct`, `length`, `language` and a user's own by function name.
        status: what was found. With `ERROR` the completion is masked and `reward` means nothing.
        detail: one line for people: the extracted answer, or the reason.
        seconds: wall time of the verification.
    """

    reward: float
    status: ScoreStatus
    parts: Mapping[str, float] = field(default_factory=dict)
    detail: str = ""
    seconds: float = 0.0

    @property
    def graded(self) -> bool:
        """Whether a verdict was reached."""
        return self.status in GRADED

    @property
    def correct(self) -> bool:
        """Whether the answer was judged right."""
        return self.status is ScoreStatus.CORRECT
