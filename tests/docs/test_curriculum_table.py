"""The table of docs/curriculum.md is what the result file says."""

from __future__ import annotations

import json

from docs.curriculum_table import PAGE, RESULTS, table


def test_the_table_is_current() -> None:
    shown = PAGE.read_text(encoding="utf-8").partition("<!-- curriculum-table:start -->\n")[2].partition("<!-- curriculum-table:end -->")[0]
    rows = json.loads(RESULTS.read_text(encoding="utf-8"))
    assert rows
    assert shown == table(rows)
