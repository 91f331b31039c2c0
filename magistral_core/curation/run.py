"""`curate math`: rows in, kept and rejected problems out, with a report, a card and a version (Magistral, section 4).

    survey    every row of every input is read once: a line that is no JSON ends it here, before any work
    rules     completeness, answer, form, gold check; in shards that survive a kill
    model     optional: rewriting and doubts
    merge     duplicates among the survivors, in memory by hashes
    write     decontamination, outputs beside their names
    translate optional: a share of what is kept; then the outputs are renamed

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
from magistral_core.curation import llm
from magistral_core.curation.asking import asked, not_asked
from magistral_core.curation.decontamination import EvaluationIndex, EvaluationItem
from magistral_core.curation.draft import Draft, read_draft
from magistral_core.curation.entry import Entry, Work
from magistral_core.curation.form import Passed, check_form
from magistral_core.curation.golds import gold_faults, gold_verifier
from magistral_core.curation.lineage import SourceFile, input_rows, survey_inputs, version_of
from magistral_core.curation.outputs import OUTPUTS, Writer
from magistral_core.curation.progress import OnEvent, Progress
from magistral_core.curation.reasons import Reason
from magistral_core.curation.translating import Models, Translation
from magistral_core.curation.work import check_out, write_whole
from magistral_core.errors import InputError
from magistral_core.rewards import Verifier


def curate_math(
    inputs: Sequence[str],
    out: Path,
    recipe: CurationRecipe,
    *,
    model: Path | None = None,
    translators: Models | None = None,
    on_event: OnEvent = lambda _: None,
) -> dict[str, Any]:
    """Curate mathematics problems; see the module.

    Args:
        inputs: files, folders, `s3://...` or `hf:NAME`, in order: of duplicates the first is kept.
        out: folder for the outputs; made if missing, earlier outputs in it are replaced.
        recipe: settings.
        model: folder of the language model that `recipe.llm.model` names; None leaves that step out.
        translators: folders of the models that `recipe.translate` names; None leaves that step out.
        on_event: gets `{"event": "progress", "stage", "done", "total"}` about twice a second.

    Returns:
        The content of report.json.

    Raises:
        InputError: an input, the output folder or the model cannot be used; nothing was written then.
        InfrastructureError: a worker pool or an engine broke; the same command goes on from the last shard.
    """
    check_out(out, inputs, OUTPUTS)
    progress = Progress(on_event)
    sources = survey_inputs(inputs, recipe.problems, lambda done: progress("reading", done, 0))
    items, against = _evaluation_items(recipe)
    version = version_of(sources, against, recipe)
    total = sum(source.rows for source in sources)
    with Work(out, f"{version}, {recipe.shard_rows} rows a shard") as work:
        _apply_rules(inputs, recipe, work, total, progress)
        replies = _ask_model(recipe, model, work, total, progress)
        translation = Translation(recipe, translators, work.folder / "journals", progress)
        report = Writer(work, recipe, EvaluationIndex(items, recipe.decontaminate), translation).write(
            version, sources, against, replies, total, progress
        )
        work.remove()
    return report


def _evaluation_items(recipe: CurationRecipe) -> tuple[list[EvaluationItem], list[SourceFile]]:
    settings = recipe.decontaminate
    reading = SourceSettings(fields=settings.fields, split=settings.split)
    sources = survey_inputs(settings.against, reading)
    items = []
    for row in input_rows(settings.against, reading):
        draft = read_draft(row, settings.fields)
        if not draft.question:  # left out in silence, it would let everything through
            raise InputError(f"{row.place}: no question to compare with; set decontaminate.fields.question, or take the line out")
        items.append(EvaluationItem(draft.file, draft.line, draft.question))
    return items, sources


def _shards(inputs: Sequence[str], recipe: CurationRecipe, work: Work) -> Iterator[tuple[int, list[tuple[int, Draft]], int]]:
    """Shards that are not finished yet, each with its number, its rows and how many rows lie before its end."""
    number, index, rows = 0, 0, list[tuple[int, Draft]]()
    finished = work.has_shard(0)
    for row in input_rows(inputs, recipe.problems):
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
        verifier = stack.enter_context(gold_verifier(recipe.gold)) if recipe.gold.check else None
        while first is not None:
            number, rows, done = first
            entries = [_judge(index, draft, recipe) for index, draft in rows]
            if verifier is not None:
                check_golds(entries, verifier)
            work.write_shard(number, entries)
            progress("rules and gold check", done, total)
            first = next(shards, None)


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
    """Reject survivors whose reference answer does not verify against itself."""
    alive = [entry for entry in entries if not entry.reason]
    for number, detail in gold_faults([entry.answer for entry in alive], verifier).items():
        alive[number].reject(Reason.UNVERIFIABLE_GOLD, detail)


def _ask_model(recipe: CurationRecipe, model: Path | None, work: Work, total: int, progress: Progress) -> dict[str, Any]:
    """The language-model step; returns what the report says about it."""
    if model is None:
        tasks = sum(llm.task_for(entry) is not None for entry in work.entries())
        return not_asked(f"{tasks} rows")
    if not work.has_changes:
        changes: list[Entry] = []
        counts: Counter[str] = Counter()
        answers = llm.ask(work.entries(), model, recipe.llm, work.folder / "journal", lambda done: progress("language model", done, 0))
        for entry, reply in answers:
            counts["too_long" if reply is None else reply.kind] += 1
            if reply is not None and reply.kind != "unreadable":
                changes.append(_changed(entry, reply, recipe))
        rewritten = [entry for entry in changes if entry.rewritten == "model"]
        if rewritten:
            with gold_verifier(recipe.gold) as verifier:
                if recipe.gold.check:
                    check_golds(rewritten, verifier)
                _check_right_options(rewritten, verifier)
        write_whole(work.folder / "replies.json", [json.dumps(counts)])
        work.write_changes(sorted(changes, key=lambda entry: entry.index))
    return asked(recipe.llm, json.loads((work.folder / "replies.json").read_text(encoding="utf-8")))


def _check_right_options(rewritten: Sequence[Entry], verifier: Verifier) -> None:
    """Reject rewritings whose answer is not the content of the right option: the model changed the problem."""
    alive = [entry for entry in rewritten if not entry.reason]
    verdicts = verifier.answers_equal([(entry.right, entry.answer) for entry in alive])
    for entry, verdict in zip(alive, verdicts, strict=True):
        if not verdict.correct:
            entry.reject(Reason.LLM_CHANGED_ANSWER, f"{entry.answer[:40]} in place of {entry.right[:40]}")


def _changed(entry: Entry, reply: llm.Reply, recipe: CurationRecipe) -> Entry:
    """A row after a reply that could be read."""
    if reply.kind == "rewritten" and entry.reason:
        draft = Draft(
            entry.file, entry.line, entry.id, reply.question, reply.answer, reply.answer, None, False, False, entry.language, entry.level
        )
        changed = _judge(entry.index, draft, recipe)
        changed.original, changed.rewritten, changed.doubt = entry.question, "model", ""
        changed.options, changed.right = entry.options, entry.right
        return changed
    if reply.kind == "impossible":
        entry.detail = f"{entry.detail}; the model: {reply.why}"[:300]
    elif reply.kind == "unusable":
        entry.reject(Reason.LLM_REJECTED, f"{entry.doubt}; the model: {reply.why}"[:300])
    elif reply.kind == "usable":
        entry.doubt = ""
    return entry
