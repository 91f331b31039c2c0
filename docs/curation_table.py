"""Precision and recall of the format filter on real files, against the labels that those carry by nature; the table of docs/curation.md.

    .venv/bin/python docs/curation_table.py [--data ../shared/data] [--every N]

What goes in is a pool of public data sets, through `curate_math` as the command calls it. Labels:

    keep     gsm8k and math500 are problems with one verifiable answer each
    reject   putnambench's problems whose solution is "None." are proofs; so are they with that field hidden, and with a dummy answer in its
             place, which leaves the wording of the statement as the only sign; theoremqa's problems with a picture
    choice   tal_scq5k, aqua, theoremqa's type `option`: right if rewritten, or rejected as multiple_choice; any other rejection is wrong

Positive is "kept". Right rewritings and keepings are true positives, right rejections true negatives.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.page import put_between
from magistral_core.config import load_curation
from magistral_core.curation import Reason, Stage, curate_math
from magistral_core.problems import source_rows

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "curation.md"
FILES = {
    "gsm8k": ("gsm8k/train.jsonl", "gsm8k/test.jsonl"),
    "math500": ("math500/test.jsonl",),
    "tal_scq5k": ("tal_scq5k/en_single_choice_train_3K.jsonl", "tal_scq5k/en_single_choice_test_2K.jsonl"),
    "aqua": ("aqua/dev.json", "aqua/test.json"),
    "theoremqa": ("theoremqa/theoremqa_test.json",),
    "putnambench": ("putnambench_informal/putnam.json",),
}
#: Rejections behind the format filter.
_LATER = {reason for reason in Reason if reason.stage in (Stage.DUPLICATES, Stage.DECONTAMINATION)}


@dataclass
class Count:
    """Verdicts on the problems of one set and label."""

    true_positive: int = 0
    false_positive: int = 0
    true_negative: int = 0
    false_negative: int = 0

    @property
    def right(self) -> int:
        return self.true_positive + self.true_negative

    @property
    def total(self) -> int:
        return self.right + self.false_positive + self.false_negative

    @property
    def precision(self) -> float | None:
        kept = self.true_positive + self.false_positive
        return self.true_positive / kept if kept else None

    @property
    def recall(self) -> float | None:
        positive = self.true_positive + self.false_negative
        return self.true_positive / positive if positive else None


def measure(data: Path, every: int = 1) -> tuple[dict[tuple[str, str], Count], dict[tuple[str, str], Counter[str]]]:
    """Counts and what became of the problems, by set and label; only every so many row of each file."""
    with tempfile.TemporaryDirectory(prefix="magistral-curation-") as folder:
        inputs, labels = [], {}
        for name, rows in pool(data, every):
            path = Path(folder) / f"{name}.jsonl"
            path.write_text("".join(json.dumps(row) + "\n" for _, row in rows), encoding="utf-8")
            inputs.append(str(path))
            labels |= {(str(path), line): (name, label) for line, (label, _) in enumerate(rows, start=1)}
        out = Path(folder) / "out"
        curate_math(inputs, out, load_curation("math"))
        counts: dict[tuple[str, str], Count] = defaultdict(Count)
        fates: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)
        for file in ("kept.jsonl", "rejected.jsonl"):
            with (out / file).open(encoding="utf-8") as lines:
                for row in map(json.loads, lines):
                    name, label = labels[row["source"]["file"], row["source"]["line"]]
                    reason = Reason(row["reason"]) if "reason" in row else None
                    passed = reason is None or reason in _LATER
                    rewritten = bool(row.get("rewritten"))
                    fates[name, label]["rewritten" if passed and rewritten else "kept" if passed else str(reason)] += 1
                    _count(counts[name, label], label, passed, rewritten, reason)
    return counts, fates


def pool(data: Path, every: int) -> Iterator[tuple[str, list[tuple[str, dict[str, Any]]]]]:
    """Each set with its rows, each with its label (empty: none)."""
    for name, files in FILES.items():
        rows = [dict(row.data) for file in files for row in source_rows(str(data / file))][::every]
        if name == "putnambench":
            proofs = [row for row in rows if row["informal_solution"].strip() == "None."]
            hidden = [{key: value for key, value in row.items() if key != "informal_solution"} for row in proofs]
            yield name, [("reject" if row in proofs else "", row) for row in rows]
            yield f"{name}, solution hidden", [("reject", row) for row in hidden]
            yield f"{name}, dummy answer", [("reject", {**row, "answer": "1"}) for row in hidden]
        else:
            yield name, [(_label(name, row), row) for row in rows]


def _label(name: str, row: dict[str, Any]) -> str:
    if name in ("tal_scq5k", "aqua"):
        return "choice"
    if name != "theoremqa":
        return "keep"
    return "reject" if row["Picture"] else "choice" if row["Answer_type"] == "option" else ""


def _count(count: Count, label: str, passed: bool, rewritten: bool, reason: Reason | None) -> None:
    if label == "choice":
        count.true_positive += passed and rewritten
        count.false_positive += passed and not rewritten
        count.true_negative += reason is Reason.MULTIPLE_CHOICE
        count.false_negative += not passed and reason is not Reason.MULTIPLE_CHOICE
    elif label:
        positive = label == "keep"
        count.true_positive += passed and positive
        count.false_positive += passed and not positive
        count.true_negative += not passed and not positive
        count.false_negative += not passed and positive


def total(counts: Sequence[Count]) -> Count:
    """All together."""
    return Count(*(sum(getattr(count, name) for count in counts) for name in Count.__dataclass_fields__))


def table(counts: dict[tuple[str, str], Count], fates: dict[tuple[str, str], Counter[str]]) -> str:
    """Markdown."""
    lines = ["| set | label | rows | right | precision | recall | what became of them |", "|---|---|---|---|---|---|---|"]
    for (name, label), count in counts.items():
        became = ", ".join(f"{fate} {number}" for fate, number in fates[name, label].most_common())
        if label:
            # Where nothing is to be kept, neither share means anything.
            shares = ("-", "-") if label == "reject" else (_share(count.precision), _share(count.recall))
            lines.append(f"| {name} | {label} | {count.total} | {count.right} | {' | '.join(shares)} | {became} |")
        else:
            lines.append(f"| {name} | none | {fates[name, label].total()} | - | - | - | {became} |")
    whole = total(list(counts.values()))
    lines.append(
        f"| **all that have a label** | | {whole.total} | {whole.right} | **{_share(whole.precision)}** | **{_share(whole.recall)}** | |"
    )
    return "\n".join(lines) + "\n"


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data")
    parser.add_argument("--every", type=int, default=1)
    options = parser.parse_args()
    made = table(*measure(options.data, options.every))
    print(made)  # noqa: T201
    if options.every == 1:
        PAGE.write_text(put_between(PAGE.read_text(encoding="utf-8"), "filter-table", made), encoding="utf-8")
