"""Tables that are made from files of results say what these say."""

from __future__ import annotations

import json

from docs import grading_table, simulator_table


def test_grading() -> None:
    results = json.loads(grading_table.RESULTS.read_text(encoding="utf-8"))
    assert grading_table.tables(results) in grading_table.PAGE.read_text(encoding="utf-8")


def test_simulator() -> None:
    measured = json.loads(simulator_table.RESULT.read_text(encoding="utf-8"))
    assert simulator_table.table(measured) in simulator_table.PAGE.read_text(encoding="utf-8")
