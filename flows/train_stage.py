"""One stage of a curriculum."""

from __future__ import annotations

from typing import Any

from prefect import flow, get_run_logger
from prefect.runtime import flow_run

from magistral_core.config import Recipe
from magistral_core.errors import MagistralError
from tasks.curriculum import select_data
from tasks.evaluation import evaluate_model
from tasks.training import train_recipe


@flow(name="train-stage", flow_run_name="next stage", persist_result=True, result_serializer="json")
def train_stage(settings: dict[str, Any], fresh: bool = False) -> dict[str, Any]:
    """Select data, train, evaluate: the stage in which the recipe's unfinished run is, from its last checkpoint to the stage's end.

    Returns:
        `training` (the run's summary; `finished` says whether a stage is left) and `evaluation` (a report;
        None without a suite, or where it failed).
    """
    run_id = str(flow_run.id)
    select_data(settings, run_id, fresh)
    summary = train_recipe(settings, run_id, fresh, until="stage")
    suite = Recipe.model_validate(settings).evaluation.suite
    report = None
    if suite:
        try:
            report = evaluate_model([suite, "--model", summary["checkpoints"][-1]], run_id)
        except MagistralError as error:  # the stage is trained, and a repetition would train the next one, or begin anew
            get_run_logger().error("not evaluated (`magistral evaluate` can, later): %s", error)
    return {"training": summary, "evaluation": report}
