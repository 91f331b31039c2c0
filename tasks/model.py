"""Have a recipe's model ready: the tiny base model is trained on first use and then comes from the cache."""

from __future__ import annotations

import json
import uuid
from typing import Any

import yaml
from prefect import get_run_logger, task

from tasks.child import run_command, work_folder
from tasks.events import EventFile
from tasks.training import broken_not_wrong

_LOG_STEPS = 200


@task(name="prepare model", retries=1, retry_delay_seconds=5, retry_condition_fn=broken_not_wrong)
def prepare_model(recipe: dict[str, Any], flow_run_id: str) -> str:
    """The model's folder (or hub name), made if it is the tiny one and the cache has none."""
    logger = get_run_logger()
    folder = work_folder(flow_run_id)
    name = f"model-{uuid.uuid4().hex[:6]}"
    settings, events, output = folder / f"{name}.yaml", folder / f"{name}.jsonl", folder / f"{name}.json"
    settings.write_text(yaml.safe_dump(recipe, sort_keys=False))
    progress = EventFile(events)

    def report() -> None:
        for event in progress.read():
            if event["step"] % _LOG_STEPS == 0:
                logger.info("base model: step %d of %d, loss %.3f", event["step"], event["max_steps"], event["metrics"]["loss"])

    run_command(["prepare", str(settings), "--events", str(events), "--json"], folder / f"{name}.log", output, on_poll=report)
    path = str(json.loads(output.read_text())["model"])
    logger.info("model: %s", path)
    return path
