"""Evaluation by the paper's protocol: suites, sampling, pass@k and maj@k, reports."""

from magistral_core.evaluation.metrics import Outcome, majority_correct, pass_at_k, summarise
from magistral_core.evaluation.report import EvaluationReport
from magistral_core.evaluation.run import evaluate
from magistral_core.evaluation.suites import SUITES, Suite, suite_named

__all__ = ["SUITES", "EvaluationReport", "Outcome", "Suite", "evaluate", "majority_correct", "pass_at_k", "suite_named", "summarise"]
