"""The outputs of a code curation: each kept statement once for each language, rejections, every change, report and card."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from magistral_core.config.code_curation import CodeCurationRecipe
from magistral_core.curation.code.draft import CodeDraft, Test
from magistral_core.curation.code.settle import Settled
from magistral_core.curation.code.sources import checker_fields
from magistral_core.curation.code.votes import Fate
from magistral_core.curation.entry import Entry
from magistral_core.curation.lineage import SourceFile, code_version
from magistral_core.curation.reasons import CodeReason, CodeStage
from magistral_core.curation.report import Tally, common_lines, common_report, counts_text, example_lines, to_card
from magistral_core.curation.work import UniqueIds, WorkFolder
from magistral_core.rewards.code import CORRECT

#: Files that a curation of code leaves in its output folder.
OUTPUTS = ("kept.jsonl", "rejected.jsonl", "changes.jsonl", "report.json", "report.md", "card.md")
_ASKS = {
    (
        "python",
        False,
    ): "Write a Python 3 program that reads standard input and writes standard output, in one fenced block marked `python`.",
    ("c++", False): "Write a C++20 program that reads standard input and writes standard output, in one fenced block marked `cpp`.",
    ("python", True): "Write the function `{name}` in Python 3, in one fenced block marked `python`.",
}
_ID_ENDS = {"python": "python", "c++": "cpp"}


class CodeWriter:
    """Writes what became of every problem."""

    def __init__(self, work: WorkFolder, recipe: CodeCurationRecipe) -> None:
        self._work = work
        self._recipe = recipe
        self._tally = Tally()
        self._ids = UniqueIds()
        self._rows = 0
        self._tests: Counter[str] = Counter()
        self._solutions: Counter[str] = Counter()

    def write(
        self,
        problems: Iterable[tuple[CodeDraft, Settled]],
        version: str,
        sources: Sequence[SourceFile],
        asked: Mapping[str, Any],
        on_done: Callable[[int], None],
    ) -> dict[str, Any]:
        """Write every output beside its name, then rename them all; returns the report."""
        folder = self._work.folder
        with (
            (folder / "kept.jsonl").open("w", encoding="ascii") as kept,
            (folder / "rejected.jsonl").open("w", encoding="ascii") as rejected,
            (folder / "changes.jsonl").open("w", encoding="ascii") as changes,
        ):
            for done, (draft, settled) in enumerate(problems, start=1):
                changes.writelines(json.dumps(change) + "\n" for change in changes_of(draft, settled))
                if settled.reason:
                    rejected.write(json.dumps(self._reject(draft, settled)) + "\n")
                else:
                    kept.writelines(json.dumps(row) + "\n" for row in self._keep(draft, settled))
                on_done(done)
            for file in (kept, rejected, changes):
                file.flush()
                os.fsync(file.fileno())
        self._tally.check(sources)
        report = self._report(version, sources, asked)
        self._work.deliver(report, {"report.md": _to_markdown(report), "card.md": _card(report)}, OUTPUTS)
        return report

    def _reject(self, draft: CodeDraft, settled: Settled) -> dict[str, Any]:
        entry = _entry(draft, settled)
        self._tally.reject(entry)
        self._tests["of rejected problems"] += len(draft.tests)
        self._solutions["of rejected problems"] += len(draft.solutions)
        stage = CodeReason(settled.reason).stage.value
        found = {"source": entry.source, "reason": settled.reason, "stage": stage, "detail": settled.detail}
        return found | {"id": draft.id, "question": draft.question}

    def _keep(self, draft: CodeDraft, settled: Settled) -> Iterator[dict[str, Any]]:
        entry = _entry(draft, settled)
        self._tally.keep(entry)
        for test in settled.tests:
            self._tests[f"{test.fate}, generated" if test.input is not None else test.fate] += 1
        self._solutions.update(solution.status for solution in settled.solutions)
        own = self._ids.unique(draft.id, draft.file, draft.line, settled.index)
        for language in self._recipe.languages:
            if (language, bool(draft.entry_point)) in _ASKS:
                self._rows += 1
                yield _kept(draft, settled, language) | {"id": f"{own}-{_ID_ENDS[language]}", "source": entry.source}

    def _report(self, version: str, sources: Sequence[SourceFile], asked: Mapping[str, Any]) -> dict[str, Any]:
        settings = self._recipe.model_dump(mode="json")
        counts = {"tests": dict(sorted(self._tests.items())), "solutions": dict(sorted(self._solutions.items()))}
        return {
            **common_report(self._recipe.name, version, code_version(), settings, sources, self._tally, CodeReason, CodeStage),
            "rows": self._rows,
            "measures": {
                f"{what}/{name.replace(', ', '_').replace(' ', '_')}": count for what, of in counts.items() for name, count in of.items()
            },
            **counts,
            "llm": dict(asked),
        }


def left_tests(draft: CodeDraft, settled: Settled) -> Iterator[Test]:
    """The tests of a kept problem, with their outputs as decided."""
    for number, test in enumerate(settled.tests):
        if test.fate is Fate.REMOVED:
            continue
        own = draft.tests[number] if test.input is None else Test(test.input, generated=True)
        yield own if test.output is None else replace(own, output=test.output)


def changes_of(draft: CodeDraft, settled: Settled) -> Iterator[dict[str, Any]]:
    """Every test that is not as it was, and every solution that does not pass them all; numbers from 1."""
    place: dict[str, Any] = {"source": {"file": draft.file, "line": draft.line}, "id": draft.id}
    for number, test in enumerate(settled.tests, start=1):
        if test.fate is not Fate.KEPT:
            found: dict[str, Any] = place | {"test": number, "fate": test.fate, "probability": test.probability}
            if test.input is None:
                found |= {"name": draft.tests[number - 1].name, "was": draft.tests[number - 1].output, "is": test.output}
            else:
                found |= {"generated": test.input, "is": test.output}
            yield found
    for number, (own, solution) in enumerate(zip(draft.solutions, settled.solutions, strict=False), start=1):
        if solution.status != CORRECT:
            found = place | {"solution": number, "name": own.name, "label": own.label, "status": solution.status}
            yield found | {"passed": solution.passed, "accuracy": solution.accuracy}


def _entry(draft: CodeDraft, settled: Settled) -> Entry:
    """As the counts take a row."""
    return Entry(settled.index, draft.file, draft.line, draft.id, draft.question, "", reason=settled.reason, detail=settled.detail)


def _kept(draft: CodeDraft, settled: Settled, language: str) -> dict[str, Any]:
    """A line of kept.jsonl, but for id and source."""
    ask = _ASKS[language, bool(draft.entry_point)].format(name=draft.entry_point)
    found: dict[str, Any] = {"id": "", "question": f"{draft.question}\n\n{ask}", "asks_for": language}
    found["tests"] = [{"input": test.input, "output": test.output} for test in left_tests(draft, settled)]
    optional = {
        "entry_point": draft.entry_point,
        "time_limit_s": draft.time_limit_s,
        "memory_limit_mb": draft.memory_limit_mb,
        "language": draft.language,
        "level": draft.level,
    }
    found |= {name: value for name, value in optional.items() if value} | checker_fields(draft.checker)
    found["solutions"] = [
        {"language": language, "code": own.code, "name": own.name}
        for own, solution in zip(draft.solutions, settled.solutions, strict=True)
        if solution.status == CORRECT and own.language == language
    ]
    return found


def _to_markdown(report: Mapping[str, Any]) -> str:
    lines = common_lines(report)
    lines += ["", f"Lines of kept.jsonl, one a language asked for: {report['rows']}. Tests: {counts_text(report['tests'])}."]
    lines += [f"Solutions: {counts_text(report['solutions'])}.", "", report["llm"]["note"], "", *example_lines(report, CodeReason)]
    return "\n".join(lines)


def _card(report: Mapping[str, Any]) -> str:
    tests, solutions = counts_text(report["tests"]), counts_text(report["solutions"])
    remarks = (
        f"Tests: {tests}. Solutions: {solutions}. `changes.jsonl` has every test that was changed or removed and every solution that "
        "fails. Each line of `kept.jsonl` names its `source` (file and line)."
    )
    return to_card(report, "code problems whose tests their solutions agree on", remarks)
