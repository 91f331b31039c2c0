"""Tables and texts that the Prefect UI shows beside a run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from prefect import get_run_logger, task
from prefect.artifacts import create_markdown_artifact, create_table_artifact

from tasks.child import showing

#: Figures of a report that are no measures of the model.
_ASIDE = {"samples", "unverifiable", "unjudged", "seconds"}
#: Compared before and after, in the order in which people read them.
_COMPARED = ("pass_at_1", "pass_at_1_valid", "maj_at_", "valid_format", "mean_length")


def checkpoints_table(uris: Sequence[str]) -> list[dict[str, Any]]:
    """Rows of checkpoint URIs, oldest first."""
    return [{"checkpoint": uri} for uri in uris]


def evaluation_rows(report: dict[str, Any]) -> list[dict[str, Any]]:
    """A report as rows: all problems, then each level."""
    rows = [{"level": "all", **_figures(report)}]
    return rows + [{"level": level, **_figures(figures)} for level, figures in report.get("by_level", {}).items()]


def _figures(measures: dict[str, Any]) -> dict[str, Any]:
    return {
        name: None if value is None else round(value, 4)
        for name, value in measures.items()
        if (value is None or isinstance(value, int | float)) and name not in _ASIDE
    }


def publish_stages(rows: list[dict[str, Any]]) -> None:
    """The stages of a curriculum, and how far the run has come, as a table."""
    create_table_artifact(rows, key="stages", description="Stages of the curriculum")


@task(name="compare")
def publish_comparison(before: dict[str, Any], after: dict[str, Any]) -> list[dict[str, Any]]:
    """A table of both evaluations side by side, by difficulty; also as an artifact."""
    rows = []
    for first, second in zip(evaluation_rows(before), evaluation_rows(after), strict=True):
        row: dict[str, Any] = {"level": first["level"]}
        for wanted in _COMPARED:
            for name in first:
                if name == wanted or (wanted.endswith("_") and name.startswith(wanted)):
                    row |= {f"{name} before": first[name], f"{name} after": second.get(name)}
        rows.append(row)
    with showing(get_run_logger()):
        create_table_artifact(rows, key="results", description="Held-out problems before and after training, by difficulty")
    gain = after["pass_at_1"] - before["pass_at_1"]
    text = (
        f"pass@1 went from **{before['pass_at_1']:.3f}** to **{after['pass_at_1']:.3f}** ({gain:+.3f}) on problems that training never saw."
    )
    with showing(get_run_logger()):
        create_markdown_artifact(text, key="summary", description="In one sentence")
    return rows
