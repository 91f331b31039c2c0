"""`curate translate`: the translation step by itself, on any problem file; every problem is kept, the drawn ones in another language."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from magistral_core.config.curation import CurationRecipe
from magistral_core.curation.lineage import SourceFile, code_version, input_rows, survey_inputs, version_of
from magistral_core.curation.progress import OnEvent, Progress
from magistral_core.curation.reasons import Reason
from magistral_core.curation.report import Tally, common_report, translation_lines, translation_measures
from magistral_core.curation.translating import Models, Translation
from magistral_core.curation.work import WorkFolder, check_out, write_whole
from magistral_core.problems.readers import Row

#: Files that a translation leaves in its output folder; as no problem is rejected, `rejected.jsonl` is empty.
TRANSLATION_OUTPUTS = ("kept.jsonl", "rejected.jsonl", "report.json", "report.md")


def translate_problems(
    inputs: Sequence[str], out: Path, recipe: CurationRecipe, models: Models, *, on_event: OnEvent = lambda _: None
) -> dict[str, Any]:
    """Translate a share of the English problems of files; mathematics and code alike.

    Args:
        inputs: files, folders, `s3://...` or `hf:NAME`; rows keep all their fields.
        out: folder for the outputs; made if missing, earlier outputs in it are replaced.
        recipe: settings; of its sections `problems`, `gold`, `translate` and `tracking` count.
        models: folders of the models that `recipe.translate` names.
        on_event: gets progress.

    Returns:
        The content of report.json.

    Raises:
        InputError: an input, the output folder or a model cannot be used.
        InfrastructureError: a worker pool or an engine broke; the same command goes on without asking twice.
    """
    check_out(out, inputs, TRANSLATION_OUTPUTS)
    progress = Progress(on_event)
    sources = survey_inputs(inputs, recipe.problems, lambda done: progress("reading", done, 0))
    version = version_of(sources, (), recipe)

    def rows() -> Iterator[Row]:
        return (Row(row.file, row.line, _with_source(row)) for row in input_rows(inputs, recipe.problems))

    with WorkFolder(out, version) as work:
        translation = Translation(recipe, models, work.folder / "journals", progress)
        summary = translation.rewrite(rows, recipe.problems.fields, work.folder / "kept.jsonl")
        report = _report(recipe, version, sources, summary)
        write_whole(work.folder / "rejected.jsonl", [])
        work.deliver(report, {"report.md": _to_markdown(report)}, TRANSLATION_OUTPUTS)
        work.remove()
    return report


def _with_source(row: Row) -> dict[str, Any]:
    """A row's fields with its place; what `source` said before is kept as `origin`."""
    before = {"origin": row.data["source"]} if "source" in row.data else {}
    return {**row.data, **before, "source": {"file": row.file, "line": row.line}}


def _report(recipe: CurationRecipe, version: str, sources: Sequence[SourceFile], summary: dict[str, Any]) -> dict[str, Any]:
    """The fields of a curation's report that have a meaning here."""
    tally = Tally(kept=Counter({source.file: source.rows for source in sources}))
    report = common_report(recipe.name, version, code_version(), recipe.model_dump(mode="json"), sources, tally, Reason, ())
    rows = report["rows"] + summary["added"]
    return report | {"rows": rows, "measures": translation_measures(summary), "translation": summary}


def _to_markdown(report: dict[str, Any]) -> str:
    files = [f"| `{item['file']}` | {item['read']} | `{item['sha256'][:16]}` |" for item in report["sources"]]
    title = [f"# Translation of {report['name']}", "", f"{report['read']:,} problems. Version `{report['version']}`.", ""]
    return "\n".join(
        [*title, *translation_lines(report["translation"]), "| source | rows | SHA-256 of its rows |", "|---|---|---|", *files]
    )
