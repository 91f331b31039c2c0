"""Evaluate a model on a suite, as a child process; its tables become artifacts."""

from __future__ import annotations

import json
import uuid
from typing import Any

from prefect import get_run_logger, task
from prefect.artifacts import create_table_artifact

from tasks.artifacts import evaluation_rows
from tasks.child import run_command, showing, work_folder
from tasks.training import broken_not_wrong


@task(
    name="evaluate", retries=1, retry_delay_seconds=10, retry_condition_fn=broken_not_wrong, persist_result=True, result_serializer="json"
)
def evaluate_model(arguments: list[str], flow_run_id: str) -> dict[str, Any]:
    """The report of `magistral evaluate ARGUMENTS`. `flow_run_id` names the folder of logs."""
    logger = get_run_logger()
    folder = work_folder(flow_run_id)
    name = f"evaluate-{uuid.uuid4().hex[:6]}"
    log, output = folder / f"{name}.log", folder / f"{name}.json"
    logger.info("evaluate %s; the evaluation's own log: %s", " ".join(arguments), log)
    run_command(["evaluate", *arguments, "--json"], log, output)
    report: dict[str, Any] = json.loads(output.read_text())
    rows = evaluation_rows(report)
    for row in rows:
        logger.info("%s", "  ".join(f"{name} {value}" for name, value in row.items()))
    with showing(logger):
        create_table_artifact(rows, key="evaluation", description=f"{report['suite']}: {report['model']}")
    return report
