"""What a grading did: both passes side by side, as numbers for programs and as tables for people. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from magistral_core.curation.grading import Grade, votes_by_agreement
from magistral_core.curation.lineage import SourceFile
from magistral_core.curation.reasons import GradingReason, GradingStage
from magistral_core.curation.report import Tally, common_report, example_lines, funnel_lines, source_lines, stage_counts, to_card

#: What a verdict is called where no reason stands.
KEPT = "kept"
_BINS = 4


@dataclass(frozen=True)
class PassResult:
    """One pass over the whole set.

    Attributes:
        model: the grader, as it was named.
        key: under which its grades are kept.
        sampled: problems that this command sampled, those of a second look twice; the others had a grade.
        grades: of every problem, in order; None where the prompt was too long.
        again: grades of a second look, in the same order; None where there was none.
        reasons: the verdicts, in the same order; None: kept.
    """

    model: str
    key: str
    sampled: int
    grades: Sequence[Grade | None]
    again: Sequence[Grade | None]
    reasons: Sequence[GradingReason | None]

    def numbers(self) -> dict[str, Any]:
        """Counts, pass rates and votes, for the report."""
        grades = [grade for grade in self.grades if grade is not None]
        rates = [grade.pass_rate for grade in grades if grade.pass_rate is not None]
        lost = Counter(reason.value for reason in self.reasons if reason is not None)
        return {
            "model": self.model,
            "grades": self.key,
            "sampled": self.sampled,
            "rechecked": sum(grade is not None for grade in self.again),
            "kept": len(self.reasons) - lost.total(),
            "pass_rate": fmean(rates) if rates else None,
            "by_pass_rate": _histogram(rates),
            "stages": stage_counts(lost, len(self.reasons), GradingReason, GradingStage),
            "votes": votes_by_agreement(grades),
        }


def make_report(
    name: str,
    version: str,
    code: str,
    settings: Mapping[str, Any],
    sources: Sequence[SourceFile],
    tally: Tally,
    passes: Sequence[PassResult],
) -> dict[str, Any]:
    """The content of report.json. The last pass decides; `crossing` counts verdicts of the first pass by those of the last."""
    report = common_report(name, version, code, settings, sources, tally, GradingReason, GradingStage)
    report["passes"] = [result.numbers() for result in passes]
    report["measures"] = {
        f"grading/pass_rate_{number}": result["pass_rate"]
        for number, result in enumerate(report["passes"], start=1)
        if result["pass_rate"] is not None
    }
    if len(passes) == 2:
        crossing: dict[str, Counter[str]] = {}
        for before, after in zip(passes[0].reasons, passes[1].reasons, strict=True):
            crossing.setdefault(str(before or KEPT), Counter())[str(after or KEPT)] += 1
        report["crossing"] = {before: dict(counts) for before, counts in crossing.items()}
        report["recovered"] = crossing.get(GradingReason.TOO_HARD, Counter())[KEPT]
        report["measures"]["grading/recovered"] = report["recovered"]
    return report


def to_markdown(report: Mapping[str, Any]) -> str:
    """report.md."""
    lines = [
        f"# Difficulty of {report['name']}",
        "",
        f"{report['read']:,} problems read, {report['kept']:,} kept. Version `{report['version']}`.",
    ]
    for number, result in enumerate(report["passes"], start=1):
        rate = "-" if result["pass_rate"] is None else f"{result['pass_rate']:.3f}"
        lines += [
            "",
            f"## Pass {number}: `{result['model']}`",
            "",
            f"Mean pass rate {rate}, {result['sampled']:,} problems sampled now.",
            "",
            *_recheck_lines(report["settings"]["recheck"], result),
        ]
        lines += [*funnel_lines(result), "", "| pass rate | problems |", "|---|---|"]
        lines += [f"| {label} | {count} |" for label, count in result["by_pass_rate"].items()]
        lines += ["", "| agreement, up to | problems | most frequent answer is not the reference |", "|---|---|---|"]
        lines += [f"| {row['agreement']:g} | {row['problems']} | {row['against']} |" for row in result["votes"]]
    if "crossing" in report:
        lines += ["", f"## Both passes: {report['recovered']:,} problems that were too hard in pass 1 are kept", ""]
        verdicts = sorted({after for counts in report["crossing"].values() for after in counts})
        lines += [f"| pass 1, then pass 2 | {' | '.join(verdicts)} |", f"|---|{'---|' * len(verdicts)}"]
        for before, counts in report["crossing"].items():
            lines.append(f"| {before} | {' | '.join(str(counts.get(after, 0)) for after in verdicts)} |")
    return "\n".join([*lines, "", *source_lines(report), "", *example_lines(report, GradingReason)])


def _recheck_lines(recheck: Mapping[str, Any], result: Mapping[str, Any]) -> list[str]:
    if not result["rechecked"]:
        return []
    samples, temperature = recheck["samples"], recheck["temperature"]
    looked_at = f"{result['rechecked']:,} references"
    text = f"More than half of the samples agreed on another answer than {looked_at}: {samples} more at temperature {temperature:g}"
    return [f"{text} decided which of them are outvoted.", ""]


def grading_card(report: Mapping[str, Any]) -> str:
    """card.md of graded problems."""
    graders = ", then ".join(f"`{result['model']}`" for result in report["passes"])
    what = f"mathematics problems of middle difficulty by {report['settings']['sampling']['samples']} samples of {graders}"
    remarks = (
        "Each line of `kept.jsonl` names its `source` (file and line), the `origin` that it named itself, and what each pass found "
        "(`grades`). The graders' weights count as settings."
    )
    return to_card(report, what, remarks)


def _histogram(rates: Sequence[float]) -> dict[str, int]:
    """Problems by pass rate: never, four bins between, always."""
    count: Counter[str] = Counter()
    for rate in rates:
        count["0" if rate == 0 else "1" if rate == 1 else _bin(rate)] += 1
    return {label: count[label] for label in ("0", *(_bin(i / _BINS) for i in range(_BINS)), "1")}


def _bin(rate: float) -> str:
    low = min(int(rate * _BINS), _BINS - 1)
    return f"{low / _BINS:g} to {(low + 1) / _BINS:g}"
