"""The language-model steps of curation at work with a real engine; the tables of docs/translation.md.

    .venv/bin/python -m docs.translation_table

The models are `docs/tiny_assistant.py`'s, trained on the spot and cached: one careful, one that was taught to make mistakes. Problems are
held out: no arithmetic of theirs was in training. Beside the checks, which know nothing of it, stands the true translation, from the
phrases that the problem was made of.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from benchmarks.page import put_between
from docs import tiny_assistant as tiny
from magistral_core import api
from magistral_core.config import load_curation
from magistral_core.curation.translation import NAMES, Flaw
from magistral_core.tiny.exercise import Exercise
from magistral_core.tiny.multilingual import LEVELS
from magistral_core.tiny.problems import exercises

PAGE = Path(__file__).parent / "translation.md"
STORIES, CHOICES, DOUBTFUL = 300, 100, 50
SEED = 77


def stories(count: int) -> Iterator[tuple[dict[str, Any], dict[str, str]]]:
    """English rows of the three styles in turn, each with its true translations."""
    for number, exercise in enumerate(_held_out(count)):
        style = number % 3
        row = {"id": f"story-{number}", "question": tiny.story(exercise, "en", style), "answer": str(exercise.answer)}
        yield row, {language: tiny.story(exercise, language, style) for language in NAMES}


def translate(model: Path, count: int, folder: Path, *changes: str) -> dict[str, Any]:
    """The report of `curate translate` on held-out stories, and how many of its translations are the true ones."""
    rows = list(stories(count))
    source = _write(folder / "stories.jsonl", [row for row, _ in rows])
    sets = [*tiny.settings("translate", model), "translate.share=1", "translate.temperature=0.7", "gold.workers=1", *changes]
    report = api.translate([source], folder / "out", load_curation("math", sets))
    true = {row["id"]: translations for row, translations in rows}
    kept = [json.loads(line) for line in (folder / "out" / "kept.jsonl").read_text(encoding="utf-8").splitlines()]
    translated = [row for row in kept if "translated_from" in row]
    right = sum(row["question"] == true[row["id"]][row["language"]] for row in translated)
    return {**report["translation"], "right": right, "rows": kept}


def edit(model: Path, choices: int, doubtful: int, folder: Path) -> tuple[dict[str, Any], Counter[str]]:
    """The report of `curate math` on multiple choices and doubtful statements, and what became of each kind of row."""
    rows = [tiny.choice(exercise) for exercise in _held_out(choices)] + [tiny.doubtful(exercise) for exercise in _held_out(doubtful)]
    source = _write(folder / "rows.jsonl", rows)
    sets = [*tiny.settings("llm", model), "llm.temperature=0.7", "duplicates.near=false", "gold.workers=1"]
    report = api.curate_math([source], folder / "out", load_curation("math", sets))
    fates: Counter[str] = Counter()
    for name in ("kept", "rejected"):
        for line in (folder / "out" / f"{name}.jsonl").read_text(encoding="utf-8").splitlines():
            found = json.loads(line)
            row = rows[found["source"]["line"] - 1]
            kind = "choice" if "choices" in row else "usable" if row["told"] else "unusable"
            right = found["answer"] == row["answer"] or found.get("reason") == "multiple_choice"
            fates[f"{kind}: {found.get('reason', 'kept')}{'' if right else ', wrong answer'}"] += 1
    return report, fates


def translation_table(results: dict[str, dict[str, Any]]) -> str:
    """One line a model: what was drawn, what passed, and the flaws of the replies that did not."""
    flaws = [flaw for flaw in Flaw if any(flaw in found["failed_tries"] for found in results.values())]
    lines = [f"| assistant | drawn | translated | of these right | at the first try | {' | '.join(f'`{flaw}`' for flaw in flaws)} |"]
    lines.append("|---" * (5 + len(flaws)) + "|")
    for name, found in results.items():
        cells = [name, found["drawn"], found["translated"], found["right"], found["first_try"]]
        lines.append(f"| {' | '.join(map(str, [*cells, *(found['failed_tries'].get(flaw, 0) for flaw in flaws)]))} |")
    return "\n".join(lines) + "\n"


def editing_table(results: dict[str, tuple[dict[str, Any], Counter[str]]]) -> str:
    """One line a model and fate."""
    lines = ["| assistant | replies | row: what became of it | rows |", "|---|---|---|---|"]
    for name, (report, fates) in results.items():
        replies = ", ".join(f"{kind} {count}" for kind, count in sorted(report["llm"]["replies"].items()))
        lines += [f"| {name} | {replies} | {fate} | {count} |" for fate, count in sorted(fates.items())]
    return "\n".join(lines) + "\n"


def _held_out(count: int) -> Iterator[Exercise]:
    """Exercises whose arithmetic differs, whatever their language."""
    seen: set[str] = set()
    stream = exercises("multilingual", "heldout", LEVELS, SEED)
    new = (exercise for exercise in stream if not (exercise.key in seen or seen.add(exercise.key)))  # type: ignore[func-returns-value]
    return islice(new, count)


def _write(path: Path, rows: Sequence[dict[str, Any]]) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def main() -> int:
    """Write both tables into the page."""
    careful, careless = tiny.assistant(), tiny.assistant(careless=True)
    with tempfile.TemporaryDirectory(prefix="magistral-translation-") as folder:
        runs = {"careful": (careful, 3), "careless": (careless, 1), "careless, 3 tries": (careless, 3)}
        translations = {
            name: translate(model, STORIES, Path(folder) / name, f"translate.tries={tries}") for name, (model, tries) in runs.items()
        }
        edits = {
            name: edit(model, CHOICES, DOUBTFUL, Path(folder) / f"edit {name}")
            for name, model in (("careful", careful), ("careless", careless))
        }
    page = put_between(PAGE.read_text(encoding="utf-8"), "translation-table", translation_table(translations))
    PAGE.write_text(put_between(page, "editing-table", editing_table(edits)), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
