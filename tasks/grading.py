"""Grade the difficulty of problems as a child process; its progress, both passes and the summary become artifacts."""

from __future__ import annotations

from typing import Any

from prefect import get_run_logger, task
from prefect.artifacts import create_markdown_artifact, create_table_artifact

from tasks.child import showing
from tasks.curation import follow_curation
from tasks.training import broken_not_wrong

#: Percent of the whole at which each step begins, about, with one pass and with two.
_BEGINS = {"reading": 0, "pass 1": 1, "pass 1, again": 90, "writing": 99}
_BEGINS_OF_TWO = {"reading": 0, "pass 1": 1, "pass 1, again": 45, "pass 2": 50, "pass 2, again": 90, "writing": 99}


@task(name="grade", retries=2, retry_delay_seconds=10, retry_condition_fn=broken_not_wrong, persist_result=True, result_serializer="json")
def grade_problems(arguments: list[str], flow_run_id: str) -> dict[str, Any]:
    """The report of `magistral curate ARGUMENTS`, without its examples. A second attempt samples only what has no grade yet."""
    report = follow_curation(arguments, flow_run_id, "grading", _BEGINS_OF_TWO if "--grader" in arguments else _BEGINS)
    with showing(get_run_logger()):
        create_table_artifact(pass_rows(report), key="grading-results", description="What each pass found")
    text = f"**{report['kept']}** of {report['read']} problems kept; data set version `{report['version']}`."
    if "recovered" in report:
        text += f" **{report['recovered']}** problems that were too hard in pass 1 are kept."
    with showing(get_run_logger()):
        create_markdown_artifact(text, key="grading-summary", description="In one sentence")
    return report


def pass_rows(report: dict[str, Any]) -> list[dict[str, Any]]:
    """Counts and the mean pass rate of each pass, one row each."""
    return [
        {
            "pass": number,
            "model": result["model"],
            "problems": report["read"],
            "looked at again": result["rechecked"],
            **{reason: count for stage in result["stages"] for reason, count in stage["rejected"].items()},
            "kept": result["kept"],
            "mean pass rate": None if result["pass_rate"] is None else round(result["pass_rate"], 4),
        }
        for number, result in enumerate(report["passes"], start=1)
    ]
