"""Curate code problems."""

from __future__ import annotations

from typing import Any

from prefect import flow
from prefect.runtime import flow_run

from flows.parameters import CurateCodeForm
from tasks.curation import curate_problems


def _name() -> str:
    form = CurateCodeForm.model_validate(flow_run.parameters.get("curation") or {})
    return f"curate code: {form.out.rstrip('/').rsplit('/', 1)[-1]}"


@flow(name="curate-code", flow_run_name=_name, persist_result=True, result_serializer="json")
def curate_code(curation: CurateCodeForm = CurateCodeForm()) -> dict[str, Any]:  # noqa: B008  (the form's defaults; never changed)
    """Let solutions vote on the tests of code problems; a run that was stopped goes on where it was, with the same output folder."""
    curation.load()  # a wrong setting is refused before anything starts
    return curate_problems(curation.arguments(), str(flow_run.id))
