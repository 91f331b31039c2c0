"""Evaluate a model."""

from __future__ import annotations

from typing import Any

from prefect import flow
from prefect.runtime import flow_run

from flows.parameters import EvaluateForm
from tasks.evaluation import evaluate_model


def _name() -> str:
    form = EvaluateForm.model_validate(flow_run.parameters.get("evaluation") or {})
    return f"evaluate {form.suite}: {form.model.rstrip('/').rsplit('/', 1)[-1]}"


@flow(name="evaluate", flow_run_name=_name, persist_result=True, result_serializer="json")
def evaluate(evaluation: EvaluateForm = EvaluateForm()) -> dict[str, Any]:  # noqa: B008  (the form's defaults; never changed)
    """Measure a model folder or a checkpoint on a suite by the paper's protocol."""
    return evaluate_model(evaluation.arguments(), str(flow_run.id))
