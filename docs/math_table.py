"""The table of docs/math-verifier.md: math-verify alone and our verifier on the same labelled pairs, by category.

.venv/bin/python -m docs.math_table            writes the table between its markers
.venv/bin/python -m docs.math_table --check    exit code 1 if the page shows another one
"""

from __future__ import annotations

import json
import sys
from collections import defaultdict
from collections.abc import Callable, Iterable
from pathlib import Path

from magistral_core.boxed import extract_boxed
from magistral_core.rewards.format import answer_part
from magistral_core.rewards.math import quick_verdict
from magistral_core.rewards.math.judge import judge

PAIRS = Path(__file__).parents[1] / "tests/rewards/data/math_pairs.jsonl"
PAGE = Path(__file__).parent / "math-verifier.md"
START, END = "<!-- table: docs/math_table.py -->\n", "<!-- end of table -->\n"


def ours(gold: str, response: str) -> bool:
    """Our verdict, in this process."""
    answer = extract_boxed(answer_part(response), bare=True) or ""
    quick = quick_verdict(gold, answer)
    return (quick.status if quick is not None else judge(gold, answer)[0]).value == "correct"


def math_verify_alone(gold: str, response: str) -> bool:
    """math-verify as its documentation uses it: the reference as a formula, the response as it is."""
    from math_verify import parse, verify

    return bool(verify(parse(f"${gold}$"), parse(response)))


def count(accepts: Callable[[str, str], bool]) -> dict[str, tuple[int, int, int]]:
    """By category: pairs, false accepts, false rejects."""
    counts: dict[str, list[int]] = defaultdict(lambda: [0, 0, 0])
    for line in PAIRS.read_text(encoding="utf-8").splitlines():
        pair = json.loads(line)
        accepted = accepts(pair["gold"], pair["pred"])
        row = counts[pair["category"]]
        row[0] += 1
        row[1] += accepted and not pair["equal"]
        row[2] += pair["equal"] and not accepted
    return {category: (row[0], row[1], row[2]) for category, row in counts.items()}


def rows(theirs: dict[str, tuple[int, int, int]], own: dict[str, tuple[int, int, int]]) -> Iterable[str]:
    """The lines of the table."""
    yield "| category | pairs | math-verify: false accepts | false rejects | ours: false accepts | false rejects |"
    yield "|---|---|---|---|---|---|"
    for category, (pairs, accepts, rejects) in own.items():
        yield f"| {category} | {pairs} | {theirs[category][1]} | {theirs[category][2]} | {accepts} | {rejects} |"
    totals = [[sum(row[i] for row in table.values()) for i in range(3)] for table in (theirs, own)]
    pairs = totals[0][0]
    yield f"| **all** | {pairs} | {totals[0][1]} | {totals[0][2]} | {totals[1][1]} | {totals[1][2]} |"
    right = [f"{100 * (pairs - total[1] - total[2]) / pairs:.1f}%" for total in totals]
    yield f"| **right** | | {right[0]} | | {right[1]} | |"


def main() -> int:
    """Write the table into the page, or check it."""
    page = PAGE.read_text(encoding="utf-8")
    before, _, rest = page.partition(START)
    table = "".join(line + "\n" for line in rows(count(math_verify_alone), count(ours)))
    made = before + START + "\n" + table + "\n" + END + rest.partition(END)[2]
    if "--check" in sys.argv[1:]:
        return int(made != page)
    PAGE.write_text(made, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
