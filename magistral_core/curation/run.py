"""`curate math`: rows in, kept and rejected problems out, with a report, a card and a version (Magistral, section 4).

    survey    every row of every input is read once: a line that is no JSON ends it here, before any work
    rules     completeness, answer, form, gold check; in shards that survive a kill
    model     optional: rewriting and doubts
    merge     duplicates among the survivors, in memory by hashes
    write     decontamination, outputs beside their names; renamed at the very end

Rows stream through each step; what is held in memory is about 700 bytes a survivor (its MinHash signature).
"""

from __future__ import annotations

import contextlib
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from magistral_core.config.curation import CurationRecipe, SourceSettings
from magistral_core.config.schema import PromptSettings, RewardSettings
from magistral_core.curation import llm
from magistral_core.curation.decontamination import EvaluationIndex, EvaluationItem
from magistral_core.curation.draft import Draft, read_draft
from magistral_core.curation.entry import Entry, Work, write_whole
from magistral_core.curation.form import Passed, check_form
from magistral_core.curation.lineage import SourceFile, survey, version_of
from magistral_core.curation.outputs import Writer
from magistral_core.curation.progress import OnEvent, Progress
from magistral_core.curation.reasons import Reason
from magistral_core.errors import InputError
from magistral_core.problems import source_rows
from magistral_core.rewards import Verifier


def curate_math(
    inputs: Sequence[str],
    out: Path,
    recipe: CurationRecipe,
    *,
    model: Path | None = None,
    on_event: OnEvent = lambda _: None,
) -> dict[str, Any]:
    """Curate mathematics problems; see the module.

    Args:
        inputs: files, folders, `s3://...` or `hf:NAME`, in order: of duplicates the first is kept.
        out: folder for the outputs; made if missing, earlier outputs in it are replaced.
        recipe: settings.
        model: folder of the language model that `recipe.llm.model` names; None leaves that step out.
        on_event: gets `{"event": "progress", "stage", "done", "total"}` about twice a second.

    Returns:
        The content of report.json.

    Raises:
        InputError: an input, the output folder or the model cannot be used; nothing was written then.
        InfrastructureError: a worker pool or an engine broke; the same command goes on from the last shard.
    """
    if out.exists() and not out.is_dir():
        raise InputError(f"--out {out}: is a file; give a folder")
    progress = Progress(on_event)
    sources = survey(inputs, recipe.problems, lambda done: progress("reading", done, 0))
    items, against = _evaluation_items(recipe)
    version = version_of(sources, against, recipe)
    total = sum(source.rows for source in sources)
    with Work(out, version) as work:
        _apply_rules(inputs, recipe, work, total, progress)
        asked = _ask_model(recipe, model, work, total, progress)
        report = Writer(out, work, recipe, EvaluationIndex(items, recipe.decontaminate)).write(
            version, sources, against, asked, total, progress
        )
        work.remove()
    return report


def _evaluation_items(recipe: CurationRecipe) -> tuple[list[EvaluationItem], list[SourceFile]]:
    settings = recipe.decontaminate
    sources = survey(settings.against, SourceSettings(fields=settings.fields, split=settings.split))
    drafts = (read_draft(row, settings.fields) for path in settings.against for row in source_rows(path, settings.split))
    return [EvaluationItem(draft.file, draft.line, draft.question) for draft in drafts if draft.question], sources


def _shards(inputs: Sequence[str], recipe: CurationRecipe, work: Work) -> Iterator[tuple[int, list[tuple[int, Draft]], int]]:
    """Shards that are not finished yet, each with its number, its rows and how many rows lie before its end."""
    number, index, rows = 0, 0, list[tuple[int, Draft]]()
    finished = work.has_shard(0)
    for path in inputs:
        for row in source_rows(path, recipe.problems.split):
            if not finished:
                rows.append((index, read_draft(row, recipe.problems.fields)))
            index += 1
            if index % recipe.shard_rows == 0:
                if not finished:
                    yield number, rows, index
                number, rows = number + 1, []
                finished = work.has_shard(number)
    if rows:
        yield number, rows, index


def _apply_rules(inputs: Sequence[str], recipe: CurationRecipe, work: Work, total: int, progress: Progress) -> None:
    """Completeness, answer, form and gold check of every row whose shard is missing."""
    shards = _shards(inputs, recipe, work)
    first = next(shards, None)
    if first is None:
        return
    with contextlib.ExitStack() as stack:
        verifier = stack.enter_context(_verifier(recipe)) if recipe.gold.check else None
        while first is not None:
            number, rows, done = first
            entries = [_judge(index, draft, recipe) for index, draft in rows]
            if verifier is not None:
                check_golds(entries, verifier)
            work.write_shard(number, entries)
            progress("rules and gold check", done, total)
            first = next(shards, None)


def _verifier(recipe: CurationRecipe) -> Verifier:
    gold = recipe.gold
    limits = RewardSettings(language=0.0, workers=gold.workers, timeout_s=gold.timeout_s, memory_mb=gold.memory_mb)
    return Verifier(limits, PromptSettings())


def _judge(index: int, draft: Draft, recipe: CurationRecipe) -> Entry:
    """A draft after the rules."""
    entry = Entry(index, draft.file, draft.line, draft.id, draft.question, draft.answer, draft.language, draft.level)
    result = check_form(draft, recipe.format)
    if not isinstance(result, Passed):
        entry.reject(result.reason, result.detail)
        entry.options, entry.right = result.options, result.right
        return entry
    if result.rewritten:
        entry.original, entry.rewritten = draft.question, "rules"
    entry.question, entry.answer, entry.doubt = result.question, result.answer, result.doubt
    return entry


def check_golds(entries: Sequence[Entry], verifier: Verifier) -> None:
    """Reject survivors whose reference answer does not verify against itself.

    What fails is checked once more, by itself: on a busy machine a limit may have struck the wrong answer.
    """
    alive = [entry for entry in entries if not entry.reason]
    verdicts = verifier.check_golds([entry.answer for entry in alive])
    failed = [entry for entry, verdict in zip(alive, verdicts, strict=True) if not verdict.correct]
    for entry in failed:
        [verdict] = verifier.check_golds([entry.answer])
        if not verdict.correct:
            entry.reject(Reason.UNVERIFIABLE_GOLD, verdict.detail)


def _ask_model(recipe: CurationRecipe, model: Path | None, work: Work, total: int, progress: Progress) -> dict[str, Any]:
    """The language-model step; returns what the report says about it."""
    if model is None:
        tasks = sum(llm.task_for(entry) is not None for entry in work.entries())
        note = f"The language-model step was skipped: no model is configured (`llm.model`); {tasks} rows would have gone to it."
        return {"model": None, "note": note}
    if not work.has_changes:
        changes: list[Entry] = []
        counts: Counter[str] = Counter()
        asked = llm.ask(work.entries(), model, recipe.llm, work.folder / "journal", lambda done: progress("language model", done, 0))
        for entry, reply in asked:
            counts["too_long" if reply is None else reply.kind] += 1
            if reply is not None and reply.kind != "unreadable":
                changes.append(_changed(entry, reply, recipe))
        rewritten = [entry for entry in changes if entry.rewritten == "model"]
        if recipe.gold.check and rewritten:
            with _verifier(recipe) as verifier:
                check_golds(rewritten, verifier)
        write_whole(work.folder / "replies.json", [json.dumps(counts)])
        work.write_changes(sorted(changes, key=lambda entry: entry.index))
    replies = json.loads((work.folder / "replies.json").read_text(encoding="utf-8"))
    said = ", ".join(f"{kind} {count}" for kind, count in sorted(replies.items())) or "nothing to ask"
    return {"model": recipe.llm.model, "replies": replies, "note": f"Language model `{recipe.llm.model}`: {said}."}


def _changed(entry: Entry, reply: llm.Reply, recipe: CurationRecipe) -> Entry:
    """A row after a reply that could be read."""
    if reply.kind == "rewritten" and entry.reason:
        draft = Draft(
            entry.file, entry.line, entry.id, reply.question, reply.answer, reply.answer, None, False, False, entry.language, entry.level
        )
        changed = _judge(entry.index, draft, recipe)
        changed.original, changed.rewritten, changed.doubt = entry.question, "model", ""
        return changed
    if reply.kind == "impossible":
        entry.detail = f"{entry.detail}; the model: {reply.why}"[:300]
    elif reply.kind == "unusable":
        entry.reject(Reason.LLM_REJECTED, f"{entry.doubt}; the model: {reply.why}"[:300])
    elif reply.kind == "usable":
        entry.doubt = ""
    return entry
