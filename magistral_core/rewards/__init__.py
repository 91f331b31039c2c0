"""Rewards: format, correctness, length, language and a user's own, composed into one Score with its parts and a status."""

from magistral_core.boxed import extract_boxed
from magistral_core.rewards.format import Response, answer_part, check_format, first_code_block
from magistral_core.rewards.length import length_penalty
from magistral_core.rewards.math import Verdict, canonical_answer
from magistral_core.rewards.verifier import Verifier, check_supported

__all__ = [
    "Response",
    "Verdict",
    "Verifier",
    "answer_part",
    "canonical_answer",
    "check_format",
    "check_supported",
    "extract_boxed",
    "first_code_block",
    "length_penalty",
]
