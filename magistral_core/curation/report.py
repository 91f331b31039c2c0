"""What a curation did, as numbers for programs and as tables for people: counts at every filter as in the paper's Table 1, and the card."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from magistral_core.curation.entry import Entry
from magistral_core.curation.lineage import SourceFile
from magistral_core.curation.reasons import Reason, ReasonCode, Stage

#: Examples of each reason that the report shows.
EXAMPLES = 3
_SHOWN = 200


@dataclass
class Tally:
    """Counts while the outputs are written. Nothing vanishes: `check` holds read = kept + rejected, for every file."""

    kept: Counter[str] = field(default_factory=Counter)
    rejected: Counter[tuple[str, str]] = field(default_factory=Counter)
    rewritten: Counter[str] = field(default_factory=Counter)
    doubts: Counter[str] = field(default_factory=Counter)
    other_answer: int = 0
    examples: dict[str, list[dict[str, Any]]] = field(default_factory=dict)

    def keep(self, entry: Entry) -> None:
        """Count a row that is kept."""
        self.kept[entry.file] += 1
        if entry.rewritten:
            self.rewritten[entry.rewritten] += 1
        if entry.doubt:
            self.doubts[entry.doubt] += 1

    def reject(self, entry: Entry) -> None:
        """Count a row that is rejected, with its reason."""
        self.rejected[entry.file, entry.reason] += 1
        shown = self.examples.setdefault(entry.reason, [])
        if len(shown) < EXAMPLES:
            shown.append(
                {"source": entry.source, "question": entry.question[-_SHOWN:], "answer": entry.answer[:80], "detail": entry.detail}
            )

    def check(self, sources: Sequence[SourceFile]) -> None:
        """Hold that every row that was read was kept or rejected. Raises AssertionError."""
        for source in sources:
            rejected = sum(count for (file, _), count in self.rejected.items() if file == source.file)
            assert source.rows == self.kept[source.file] + rejected, (
                f"{source.file}: {source.rows} read, {self.kept[source.file]} kept, {rejected} rejected"
            )


def make_report(
    name: str,
    version: str,
    code: str,
    settings: Mapping[str, Any],
    sources: Sequence[SourceFile],
    against: Sequence[SourceFile],
    tally: Tally,
    matches: Sequence[Mapping[str, Any]],
    llm: Mapping[str, Any],
    translation: Mapping[str, Any],
) -> dict[str, Any]:
    """The content of report.json."""
    return {
        **common_report(name, version, code, settings, sources, tally, Reason, Stage),
        "rows": tally.kept.total() + translation["added"],
        "measures": translation_measures(translation),
        "rewritten": dict(tally.rewritten),
        "doubts_kept": dict(tally.doubts),
        "llm": dict(llm),
        "translation": dict(translation),
        "duplicates_with_other_answer": tally.other_answer,
        "decontamination": {
            "against": [{"file": source.file, "rows": source.rows, "sha256": source.sha256} for source in against],
            "matches": list(matches),
        },
    }


def translation_measures(translation: Mapping[str, Any]) -> dict[str, float]:
    """What MLflow gets of a translation; nothing if it was skipped."""
    return {} if translation["model"] is None else {f"translation/{name}": translation[name] for name in ("drawn", "translated")}


def common_report(
    name: str,
    version: str,
    code: str,
    settings: Mapping[str, Any],
    sources: Sequence[SourceFile],
    tally: Tally,
    reasons: type[ReasonCode],
    stages: Iterable[StrEnum],
) -> dict[str, Any]:
    """What every work on problems reports: counts by filter, reason and source, in a vocabulary of reasons and filters; and examples.

    `rows` counts the lines of kept.jsonl and `measures` are metrics of the work's own for MLflow: who has other ones replaces these.
    """
    by_reason: Counter[str] = Counter()
    for (_, reason), count in tally.rejected.items():
        by_reason[reason] += count
    read = sum(source.rows for source in sources)
    files = []
    for source in sources:
        lost = {reason.value: tally.rejected[source.file, reason.value] for reason in reasons if tally.rejected[source.file, reason.value]}
        files.append({"file": source.file, "sha256": source.sha256, "read": source.rows, "kept": tally.kept[source.file], "rejected": lost})
    return {
        "name": name,
        "version": version,
        "code": code,
        "read": read,
        "kept": tally.kept.total(),
        "rejected": by_reason.total(),
        "reasons": {reason.value: by_reason[reason.value] for reason in reasons if by_reason[reason.value]},
        "stages": stage_counts(by_reason, read, reasons, stages),
        "sources": files,
        "rows": tally.kept.total(),
        "measures": {},
        "examples": tally.examples,
        "settings": dict(settings),
    }


def stage_counts(by_reason: Mapping[str, int], read: int, reasons: type[ReasonCode], stages: Iterable[StrEnum]) -> list[dict[str, Any]]:
    """What goes into each filter, what it rejects by reason, and what comes out."""
    found, left = [], read
    for stage in stages:
        lost = {reason.value: by_reason[reason.value] for reason in reasons if reason.stage is stage and by_reason.get(reason.value)}
        found.append({"stage": stage.value, "in": left, "rejected": lost, "out": left - sum(lost.values())})
        left -= sum(lost.values())
    return found


def to_markdown(report: Mapping[str, Any]) -> str:
    """report.md."""
    lines = common_lines(report)
    lines += [
        "",
        f"Rewritten multiple choices among the kept: {counts_text(report['rewritten'])}. "
        f"Kept with a doubt: {counts_text(report['doubts_kept'])}.",
    ]
    lines += [f"Duplicates with another answer than the kept one: {report['duplicates_with_other_answer']}.", "", report["llm"]["note"], ""]
    lines += _decontamination(report["decontamination"])
    lines += translation_lines(report["translation"])
    return "\n".join([*lines, *example_lines(report, Reason)])


def common_lines(report: Mapping[str, Any]) -> list[str]:
    """Title, counts at every filter, counts by source."""
    return [
        f"# Curation of {report['name']}",
        "",
        f"{report['read']:,} rows read, {report['kept']:,} kept. Version `{report['version']}`.",
        "",
        *funnel_lines(report),
        "",
        *source_lines(report),
    ]


def source_lines(report: Mapping[str, Any]) -> list[str]:
    """A table of the sources, with their rejected rows by reason."""
    reasons = list(report["reasons"])
    lines = [
        "## By source",
        "",
        f"| source | read | kept | {' | '.join(reasons)} |".replace("|  |", "|"),
        f"|---|---|---|{'---|' * len(reasons)}",
    ]
    for source in report["sources"]:
        cells = [f"`{source['file']}`", source["read"], source["kept"], *(source["rejected"].get(reason, 0) for reason in reasons)]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return lines


def example_lines(report: Mapping[str, Any], reasons: type[ReasonCode]) -> list[str]:
    """A few rejected rows of each reason."""
    lines = ["## Examples", ""]
    for reason in report["reasons"]:
        lines += [f"### `{reason}`: {reasons(reason).__doc__}", ""]
        for shown in report["examples"][reason]:
            place = f"{shown['source']['file']}:{shown['source']['line']}"
            lines.append(f"- {place}: `{_one_line(shown['question'])}` ({' '.join(shown['detail'].split())})")
        lines.append("")
    return lines


def to_card(report: Mapping[str, Any], what: str, remarks: str) -> str:
    """card.md: what the set is, where it comes from, how it was made, in one page.

    Args:
        report: the report.
        what: what its problems are, as in "12 ... from 40 rows".
        remarks: what else its lineage says.
    """
    files = ["| source | rows | kept | SHA-256 of its rows |", "|---|---|---|---|"]
    files += [f"| `{item['file']}` | {item['read']} | {item['kept']} | `{item['sha256'][:16]}` |" for item in report["sources"]]
    return "\n".join(
        [
            f"# {report['name']}, version {report['version']}",
            "",
            f"{report['kept']:,} {what}, from {report['read']:,} rows, after Magistral (arXiv 2506.10910, section 4). "
            "Licences are those of the sources.",
            "",
            *funnel_lines(report),
            "",
            "## Lineage",
            "",
            *files,
            "",
            f"{remarks} Code `{report['code']}`. The version is a hash of sources, settings and code.",
            "",
        ]
    )


def math_card(report: Mapping[str, Any]) -> str:
    """card.md of mathematics problems."""
    against = [item["file"] for item in report["decontamination"]["against"]]
    compared = f"Compared with {', '.join(f'`{file}`' for file in against)}." if against else "Compared with no evaluation set."
    named = "Each line of `kept.jsonl` names its `source` (file and line), what it was `rewritten_from`, and where its `duplicates` stood."
    translation = report["translation"]
    if translation["translated"]:
        place = "joined" if translation["added"] else "took the place of"
        named += f" {translation['translated']} translations {place} their English problems; `translated_from` has these."
    return to_card(report, "mathematics problems with one verifiable answer each", f"{compared} {named} {translation['note']}")


def funnel_lines(report: Mapping[str, Any]) -> list[str]:
    """A table of the counts at every filter, by `stages`."""
    lines = ["| filter | in | rejected | out |", "|---|---|---|---|"]
    for stage in report["stages"]:
        lines.append(f"| {stage['stage']} | {stage['in']} | {counts_text(stage['rejected'])} | {stage['out']} |")
    return lines


def _decontamination(found: Mapping[str, Any]) -> list[str]:
    if not found["against"]:
        return ["Decontamination is off (`decontaminate.against`).", ""]
    lines = ["## Decontamination", "", "| problem | evaluation item | rule | shared |", "|---|---|---|---|"]
    for match in found["matches"]:
        problem, item = (f"{match[side]['file']}:{match[side]['line']}" for side in ("source", "item"))
        lines.append(f"| {problem} | {item} | {match['rule']} | {match['shared'].replace('|', ' ')} |")
    return [*lines, ""]


def translation_lines(found: Mapping[str, Any]) -> list[str]:
    """The section of a report about translation."""
    lines = ["## Translation", "", found["note"], ""]
    if found["model"] is None:
        return lines
    lines += ["| language | drawn | translated |", "|---|---|---|"]
    lines += [f"| {language} | {count['drawn']} | {count['translated']} |" for language, count in found["languages"].items()]
    lines += ["", f"At the first try {found['first_try']}. Replies that failed a check: {counts_text(found['failed_tries'])}."]
    if found["solver"] is not None:
        solved = {key: count for key, count in found["solver"].items() if key != "model"}
        lines.append(f"Solver `{found['solver']['model']}`: {counts_text(solved)}.")
    lines.append("")
    for shown in found["examples"]:
        result = shown.get("translation") or f"stays English: {shown['reason']} ({shown['detail']})"
        lines.append(f"- `{shown['id']}` into {shown['language']}: `{_one_line(shown['question'])}` `{_one_line(result)}`")
    return [*lines, ""]


def _one_line(text: str) -> str:
    return " ".join(text.split()).replace("`", "'")[:_SHOWN]


def counts_text(counts: Mapping[str, int]) -> str:
    """Counts by name, for people."""
    return ", ".join(f"{name} {count}" for name, count in counts.items()) or "none"
