"""The check that reference answers verify against themselves, in killable worker processes."""

from __future__ import annotations

from collections.abc import Sequence

from magistral_core.config.curation import GoldSettings
from magistral_core.config.schema import PromptSettings, RewardSettings
from magistral_core.rewards import Verifier


def gold_verifier(gold: GoldSettings) -> Verifier:
    """A verifier with these limits; a context manager."""
    limits = RewardSettings(language=0.0, workers=gold.workers, timeout_s=gold.timeout_s, memory_mb=gold.memory_mb)
    return Verifier(limits, PromptSettings())


def gold_faults(answers: Sequence[str], verifier: Verifier) -> dict[int, str]:
    """Which answers (by their number) do not verify against themselves, and why.

    What fails is checked once more, by itself: on a busy machine a limit may have struck the wrong answer.
    """
    faults = {}
    for number, verdict in enumerate(verifier.check_golds(answers)):
        if not verdict.correct:
            [again] = verifier.check_golds([answers[number]])
            if not again.correct:
                faults[number] = again.detail
    return faults
