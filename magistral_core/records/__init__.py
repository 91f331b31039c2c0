"""The frozen records that travel through the system, from problem to microbatch.

They depend on numpy only, so that every process can read them. Token arrays are int32, log-probabilities
float32, in natural logarithms. A completion's tokens never turn back from text: tokens in, tokens out.
"""

from magistral_core.records.batch import Batch, Microbatch
from magistral_core.records.completion import Completion, FinishReason, Group, Prompt, Request
from magistral_core.records.problem import Checker, Problem, ProblemKind, TestCase
from magistral_core.records.score import GRADED, Score, ScoreStatus

__all__ = [
    "GRADED",
    "Batch",
    "Checker",
    "Completion",
    "FinishReason",
    "Group",
    "Microbatch",
    "Problem",
    "ProblemKind",
    "Prompt",
    "Request",
    "Score",
    "ScoreStatus",
    "TestCase",
]
