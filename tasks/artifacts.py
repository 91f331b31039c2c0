"""Tables and texts that the Prefect UI shows beside a run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from prefect import task
from prefect.artifacts import create_markdown_artifact, create_table_artifact

#: Measures in the order in which people read them.
MEASURES = ("pass_at_1", "maj_at_8", "valid_format")


def checkpoints_table(uris: Sequence[str]) -> list[dict[str, Any]]:
    """Rows of checkpoint URIs, oldest first."""
    return [{"checkpoint": uri} for uri in uris]


def evaluation_rows(report: dict[str, Any]) -> list[dict[str, Any]]:
    """A report as rows: all problems, then each level."""
    rows = [{"level": "all", **_figures(report)}]
    return rows + [{"level": level, **_figures(figures)} for level, figures in report.get("by_level", {}).items()]


def _figures(measures: dict[str, Any]) -> dict[str, Any]:
    return {name: round(value, 4) for name, value in measures.items() if isinstance(value, int | float) and not isinstance(value, bool)}


@task(name="compare")
def publish_comparison(before: dict[str, Any], after: dict[str, Any]) -> list[dict[str, Any]]:
    """A table of both evaluations side by side, by difficulty; also as an artifact."""
    rows = []
    for first, second in zip(evaluation_rows(before), evaluation_rows(after), strict=True):
        row: dict[str, Any] = {"level": first["level"]}
        for name in MEASURES:
            if name in first:
                row |= {f"{name} before": first[name], f"{name} after": second[name]}
        rows.append(row)
    create_table_artifact(rows, key="results", description="Held-out problems before and after training, by difficulty")
    gain = after["pass_at_1"] - before["pass_at_1"]
    text = (
        f"pass@1 went from **{before['pass_at_1']:.3f}** to **{after['pass_at_1']:.3f}** ({gain:+.3f}) on problems that training never saw."
    )
    create_markdown_artifact(text, key="summary", description="In one sentence")
    return rows
