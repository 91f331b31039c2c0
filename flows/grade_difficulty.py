"""Grade the difficulty of problems."""

from __future__ import annotations

from typing import Any

from prefect import flow
from prefect.runtime import flow_run

from flows.parameters import GradeForm
from tasks.grading import grade_problems


def _name() -> str:
    form = GradeForm.model_validate(flow_run.parameters.get("grading") or {})
    return f"grade difficulty: {form.out.rstrip('/').rsplit('/', 1)[-1]}"


@flow(name="grade-difficulty", flow_run_name=_name, persist_result=True, result_serializer="json")
def grade_difficulty(grading: GradeForm = GradeForm()) -> dict[str, Any]:  # noqa: B008  (the form's defaults; never changed)
    """Keep problems of middle difficulty, by samples of one model or two; a run that was stopped samples only what is missing."""
    grading.load()  # a wrong setting is refused before anything starts
    return grade_problems(grading.arguments(), str(flow_run.id))
