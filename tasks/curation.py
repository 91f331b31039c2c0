"""Curate problems as a child process; its progress, funnel and report become artifacts."""

from __future__ import annotations

import time
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from prefect import get_run_logger, task
from prefect.artifacts import (
    create_link_artifact,
    create_markdown_artifact,
    create_progress_artifact,
    create_table_artifact,
    update_progress_artifact,
)

from magistral_core.errors import InfrastructureError
from tasks.child import run_command, showing, work_folder
from tasks.events import EventFile
from tasks.training import broken_not_wrong

#: The UI redraws no faster, and each update is a request.
_UPDATE_S = 2.0
#: Percentage of the whole at which each step begins, about; gold checks and solutions take longest.
_BEGINS = {
    "math": {"reading": 0, "rules and gold check": 5, "language model": 70, "duplicates": 75, "writing": 80, "translation": 85},
    "code": {"reading": 0, "language model": 2, "solutions on tests": 10, "writing": 98},
}


@task(name="curate", retries=2, retry_delay_seconds=10, retry_condition_fn=broken_not_wrong, persist_result=True, result_serializer="json")
def curate_problems(arguments: list[str], flow_run_id: str) -> dict[str, Any]:
    """The report of `magistral curate ARGUMENTS`, without its examples. A second attempt goes on behind what is finished."""
    report = follow_curation(arguments, flow_run_id, "curation", _BEGINS[arguments[0]])
    with showing(get_run_logger()):
        create_table_artifact(funnel_rows(report), key="curation-results", description="Problems at every filter")
    text = f"**{report['kept']}** of {report['read']} rows kept; data set version `{report['version']}`."
    for step in ("llm", "translation"):
        if step in report:
            text += f" {report[step]['note']}"
    for what in ("tests", "solutions"):
        if what in report:
            text += f"\n\n{what.capitalize()}: {', '.join(f'{name} {count}' for name, count in report[what].items())}."
    with showing(get_run_logger()):
        create_markdown_artifact(text, key="curation-summary", description="In one sentence")
    return report


def follow_curation(arguments: list[str], flow_run_id: str, key: str, begins: Mapping[str, int]) -> dict[str, Any]:
    """Run `magistral curate ARGUMENTS`, show its progress under an artifact's key, link its data set; returns the report.

    Args:
        arguments: of the command.
        flow_run_id: whose folder gets log and events.
        key: of the progress artifact.
        begins: percentage of the whole at which each step begins.
    """
    folder = work_folder(flow_run_id)
    name = f"{key}-{uuid.uuid4().hex[:6]}"
    log, events = folder / f"{name}.log", folder / f"{name}.jsonl"
    get_run_logger().info("curate %s; its own log: %s", " ".join(arguments), log)
    follower = _Follower(events, key, begins)
    run_command(["curate", *arguments, "--events", str(events)], log, on_poll=follower.poll)
    return follower.finish()


class _Follower:
    """Turns events into what Prefect shows."""

    def __init__(self, events: Path, key: str, begins: Mapping[str, int]) -> None:
        self._events = EventFile(events)
        self._begins = begins
        self._log = get_run_logger()
        self._progress: Any = None
        with showing(self._log):
            self._progress = create_progress_artifact(progress=0.0, key=key, description=key.capitalize())
        self._stage, self._percent, self._shown = "", 0.0, 0.0
        self._last_update = time.monotonic()
        self._report: dict[str, Any] | None = None

    def poll(self) -> None:
        """Show what is new."""
        for event in self._events.read():
            if event["event"] == "end":
                self._report = {key: value for key, value in event.items() if key not in ("event", "examples")}
                continue
            stage = event["stage"]
            if stage != self._stage:
                self._stage = stage
                self._log.info("%s", stage)
            begin = self._begins[stage]
            following = min((other for other in self._begins.values() if other > begin), default=100)
            share = event["done"] / event["total"] if event["total"] else 0.0
            self._percent = begin + share * (following - begin)
        if self._percent != self._shown and time.monotonic() - self._last_update > _UPDATE_S:
            self._show(self._percent)

    def finish(self) -> dict[str, Any]:
        """The report of the ended curation; with a link to its data set."""
        if self._report is None:
            raise InfrastructureError("the curation ended without a report")
        self._show(100.0)
        report = self._report
        if report["mlflow_url"].startswith("http"):
            with showing(self._log):
                create_link_artifact(
                    report["mlflow_url"], link_text="The data set in MLflow", key="mlflow", description="Report, card, problems"
                )
        return report

    def _show(self, percent: float) -> None:
        if self._progress is not None:
            with showing(self._log):
                update_progress_artifact(self._progress, progress=percent)
        self._shown, self._last_update = percent, time.monotonic()


def funnel_rows(report: dict[str, Any]) -> list[dict[str, Any]]:
    """Counts at every filter, one row each."""
    return [
        {
            "filter": stage["stage"],
            "in": stage["in"],
            "rejected": ", ".join(f"{reason} {count}" for reason, count in stage["rejected"].items()),
            "out": stage["out"],
        }
        for stage in report["stages"]
    ]
