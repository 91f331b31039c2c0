"""Put the published results into docs/performance.md: `python -m benchmarks.page`, after `magistral bench NAME --full`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from benchmarks import RESULTS, summaries
from benchmarks.common import short

#: Results that no command of `magistral bench` makes, with what stands where there are none.
_ABSENT = {"gpu": "Never run yet: no machine with a GPU was at hand."}
PAGE = Path(__file__).resolve().parents[1] / "docs" / "performance.md"


def put_between(text: str, name: str, replacement: str) -> str:
    """A page with what stands between the markers `<!-- NAME:start -->` and `<!-- NAME:end -->` replaced.

    Raises:
        ValueError: the page lacks one of them.
    """
    before, start, rest = text.partition(f"<!-- {name}:start -->")
    _, end, after = rest.partition(f"<!-- {name}:end -->")
    if not (start and end):
        raise ValueError(f"no place for {name}: it goes between <!-- {name}:start --> and <!-- {name}:end -->")
    return f"{before}{start}\n{replacement}{end}{after}"


def section(name: str, result: dict[str, Any] | None) -> str:
    """A benchmark's table with its headline, remarks and machine; what to do where there is no result."""
    if result is None:
        return f"{_ABSENT[name]}\n" if name in _ABSENT else f"Not published yet: `magistral bench {name} --full` makes it.\n"
    headline, machine = result["headline"], result["machine"]
    lines = [f"**{headline['name']}: {short(headline['value'])} {headline['unit']}**", ""]
    if result["table"]:
        columns = list(result["table"][0])
        rows = [columns, ["---"] * len(columns), *([short(row[column]) for column in columns] for row in result["table"])]
        lines += [f"| {' | '.join(row)} |" for row in rows] + [""]
    lines += [f"- {remark}" for remark in result["remarks"]] + ([""] if result["remarks"] else [])
    gpus = f", {', '.join(machine['gpus'])}" if machine["gpus"] else ""
    made = f"Made in {short(result['seconds'])} s on {machine['cores']} cores of {machine['processor']}{gpus}"
    lines.append(f"{made}; load average at the end {short(machine['load_average_1min'])}.")
    return "\n".join(lines) + "\n"


def render(text: str) -> str:
    """The page with every benchmark's published result, or its absence, in place."""
    for name in (*summaries(), *_ABSENT):
        path = RESULTS / f"{name}.json"
        text = put_between(text, name, section(name, json.loads(path.read_text(encoding="utf-8")) if path.exists() else None))
    return text


if __name__ == "__main__":
    PAGE.write_text(render(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
