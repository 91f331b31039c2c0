"""The last steps of a curation: duplicates are merged, evaluation items removed, a share translated, and the outputs written."""

from __future__ import annotations

import json
import os
from array import array
from collections.abc import Sequence
from typing import Any

import xxhash

from magistral_core.config.curation import CurationRecipe
from magistral_core.config.schema import FieldNames
from magistral_core.curation.decontamination import EvaluationIndex
from magistral_core.curation.duplicates import Deduplicator
from magistral_core.curation.entry import Entry, Work
from magistral_core.curation.lineage import SourceFile, code_version
from magistral_core.curation.normalise import tokens
from magistral_core.curation.progress import Progress
from magistral_core.curation.reasons import Reason
from magistral_core.curation.report import Tally, make_report, math_card, to_markdown
from magistral_core.curation.translating import Translation
from magistral_core.curation.work import UniqueIds
from magistral_core.problems.readers import read_rows
from magistral_core.rewards import canonical_answer

#: Files that a curation leaves in its output folder.
OUTPUTS = ("kept.jsonl", "rejected.jsonl", "report.json", "report.md", "card.md")


class Writer:
    """The last steps: merging duplicates, decontamination, translation, and the outputs."""

    def __init__(self, work: Work, recipe: CurationRecipe, index: EvaluationIndex, translation: Translation) -> None:
        self._work = work
        self._recipe = recipe
        self._index = index
        self._translation = translation
        self._tally = Tally()
        self._matches: list[dict[str, Any]] = []
        self._ids = UniqueIds()

    def write(
        self,
        version: str,
        sources: Sequence[SourceFile],
        against: Sequence[SourceFile],
        asked: dict[str, Any],
        total: int,
        progress: Progress,
    ) -> dict[str, Any]:
        """Write every output beside its name, then rename them all; returns the report."""
        merged = _Merged(self._work, self._recipe, total, progress)
        with (
            (self._work.folder / "kept.jsonl").open("w", encoding="utf-8") as kept,
            (self._work.folder / "rejected.jsonl").open("w", encoding="utf-8") as rejected,
        ):
            survivor = 0
            for entry in self._work.entries():
                note: dict[str, Any] = {}
                if not entry.reason:
                    note = merged.settle(survivor, entry)
                    self._tally.other_answer += bool(note.get("answer_differs"))
                    survivor += 1
                # A choice's options, or whatever a rewriting changed, may be what the item shares with it.
                asked_before = (entry.question, entry.original) if entry.original else (entry.question,)
                if not entry.reason and (match := next(filter(None, map(self._index.match, asked_before)), None)) is not None:
                    item = {"file": match.item.file, "line": match.item.line}
                    entry.reject(Reason.CONTAMINATED, f"{item['file']}:{item['line']}: {match.shared}")
                    note = {"matches": item}
                    self._matches.append({"source": entry.source, "item": item, "rule": match.rule, "shared": match.shared})
                if entry.reason:
                    self._tally.reject(entry)
                    rejected.write(_json(_rejected(entry, note)))
                else:
                    self._tally.keep(entry)
                    kept.write(_json(self._kept(entry, note)))
                progress("writing", entry.index + 1, total)
            for file in (kept, rejected):
                file.flush()
                os.fsync(file.fileno())
        self._tally.check(sources)
        kept_file = self._work.folder / "kept.jsonl"
        translated = self._translation.rewrite(lambda: read_rows(kept_file) if self._tally.kept else iter(()), FieldNames(), kept_file)
        settings = self._recipe.model_dump(mode="json")
        report = make_report(
            self._recipe.name, version, code_version(), settings, sources, against, self._tally, self._matches, asked, translated
        )
        self._work.deliver(report, {"report.md": to_markdown(report), "card.md": math_card(report)}, OUTPUTS)
        return report

    def _kept(self, entry: Entry, note: dict[str, Any]) -> dict[str, Any]:
        found: dict[str, Any] = {
            "id": self._ids.unique(entry.id, entry.file, entry.line, entry.index),
            "question": entry.question,
            "answer": entry.answer,
        }
        found |= {name: value for name, value in (("language", entry.language), ("level", entry.level)) if value}
        found["source"] = entry.source
        if entry.rewritten:
            found |= {"rewritten": entry.rewritten, "rewritten_from": entry.original}
        if entry.doubt:
            found["doubt"] = entry.doubt
        return found | note


class _Merged:
    """Duplicates among the survivors, by their number in order."""

    def __init__(self, work: Work, recipe: CurationRecipe, total: int, progress: Progress) -> None:
        deduplicator = Deduplicator(recipe.duplicates)
        self._files: list[str] = []
        numbers: dict[str, int] = {}
        self._file, self._line, self._answer = array("i"), array("q"), array("Q")
        for entry in work.entries():
            if entry.reason:
                continue
            answer = canonical_answer(entry.answer)
            deduplicator.add(tokens(entry.question), answer)
            if entry.file not in numbers:
                numbers[entry.file] = len(self._files)
                self._files.append(entry.file)
            self._file.append(numbers[entry.file])
            self._line.append(entry.line)
            self._answer.append(xxhash.xxh3_64_intdigest(answer.encode()))
            progress("duplicates", entry.index + 1, total)
        self._clusters = deduplicator.clusters()
        self._members: dict[int, list[int]] = {}
        for item, (kept, _) in sorted(self._clusters.items()):
            self._members.setdefault(kept, []).append(item)

    def settle(self, survivor: int, entry: Entry) -> dict[str, Any]:
        """Reject a duplicate; returns what its output line says beyond its own fields."""
        if survivor in self._clusters:
            kept, reason = self._clusters[survivor]
            place = self._place(kept)
            entry.reject(reason, f"{place['file']}:{place['line']}")
            return {"duplicate_of": place, "answer_differs": self._answer[survivor] != self._answer[kept]}
        members = self._members.get(survivor, ())
        return {"duplicates": [self._place(member) for member in members]} if members else {}

    def _place(self, survivor: int) -> dict[str, Any]:
        return {"file": self._files[self._file[survivor]], "line": self._line[survivor]}


def _rejected(entry: Entry, note: dict[str, Any]) -> dict[str, Any]:
    found = {"source": entry.source, "reason": entry.reason, "stage": Reason(entry.reason).stage.value, "detail": entry.detail}
    found |= {"id": entry.id, "question": entry.question, "answer": entry.answer}
    if entry.options:
        found["options"] = entry.options
    if entry.rewritten:
        found |= {"rewritten": entry.rewritten, "rewritten_from": entry.original}
    return found | note


def _json(content: dict[str, Any]) -> str:
    return json.dumps(content, ensure_ascii=False) + "\n"
