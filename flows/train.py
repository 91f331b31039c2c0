"""Train a recipe."""

from __future__ import annotations

from typing import Any

from prefect import flow
from prefect.runtime import flow_run

from flows.parameters import TrainForm
from flows.train_stage import train_stage
from tasks.model import prepare_model
from tasks.training import train_recipe


def _name() -> str:
    form = TrainForm.model_validate(flow_run.parameters.get("training") or {})
    return f"train {(form.settings or {'name': form.recipe.value}).get('name', 'run')}"


@flow(name="train", flow_run_name=_name, persist_result=True, result_serializer="json")
def train(training: TrainForm = TrainForm()) -> dict[str, Any]:  # noqa: B008  (the form's defaults; never changed)
    """Train a recipe to its end; an unfinished run of the same recipe goes on where it stopped. Each stage of a curriculum is a subflow."""
    recipe = training.load()
    run_id = str(flow_run.id)
    settings = recipe.model_dump(mode="json")
    model = prepare_model(settings, run_id)
    if recipe.curriculum is None:
        return {**train_recipe(settings, run_id, training.fresh), "base_model": model}
    found = train_stage(settings, training.fresh)
    evaluations = [found["evaluation"]]
    while not found["training"]["finished"]:  # the core says when
        found = train_stage(settings)
        evaluations.append(found["evaluation"])
    return {**found["training"], "base_model": model, "stage_evaluations": evaluations}
