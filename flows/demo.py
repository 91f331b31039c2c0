"""The whole system once: base model, evaluation, reinforcement learning, evaluation again."""

from __future__ import annotations

from typing import Any

from prefect import flow
from prefect.runtime import flow_run

from flows.evaluate import evaluate
from flows.parameters import DemoForm, EvaluateForm, TrainForm
from flows.train import train
from magistral_core.errors import InputError
from tasks.artifacts import publish_comparison
from tasks.model import prepare_model


@flow(name="demo", flow_run_name="demo {demonstration.recipe.value}", persist_result=True, result_serializer="json")
def demo(demonstration: DemoForm = DemoForm()) -> dict[str, Any]:  # noqa: B008  (the form's defaults; never changed)
    """Show what training changes: the same held-out problems before and after.

    Returns:
        `before` and `after` (evaluation reports), `table` (both by difficulty) and `training` (the run's summary).
    """
    recipe = demonstration.load()
    suite = recipe.evaluation.suite
    if suite is None:
        raise InputError(f"recipe {recipe.name}: evaluation.suite is null, so there is nothing to compare; set it to a suite")

    def measure(model: str) -> dict[str, Any]:
        return evaluate(EvaluateForm(suite=suite, model=model, recipe=demonstration.recipe, overrides=demonstration.changes()))

    base = prepare_model(recipe.model_dump(mode="json"), str(flow_run.id))
    before = measure(base)
    summary = train(TrainForm(settings=recipe.model_dump(mode="json"), fresh=demonstration.fresh))
    after = measure(summary["checkpoints"][-1])
    table = publish_comparison(before, after)
    return {"before": before, "after": after, "table": table, "training": summary}
