"""`curate code`: problems with noisy tests and solutions in, problems whose tests the solutions agree on out (Magistral, section 4).

    survey    every row of every input is read once: a line that is no JSON ends it here, before any work
    inputs    optional: a language model writes inputs of tests for problems that have too few
    settle    every solution on every test; votes; each finished problem is one line of a journal
    write     each kept statement once for each language; outputs beside their names, renamed at the very end

One problem is in memory at a time, with the outputs of all its solutions.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from magistral_core.config.code_curation import CodeCurationRecipe
from magistral_core.config.curation import SourceSettings
from magistral_core.config.schema import CodeSettings
from magistral_core.curation.asking import asked, not_asked
from magistral_core.curation.code import invent
from magistral_core.curation.code.draft import CodeDraft, read_code_draft
from magistral_core.curation.code.outputs import OUTPUTS, CodeWriter
from magistral_core.curation.code.settle import Settled, Settler
from magistral_core.curation.code.sources import code_rows
from magistral_core.curation.lineage import survey, version_of
from magistral_core.curation.progress import OnEvent, Progress
from magistral_core.curation.work import WorkFolder, check_out, write_whole
from magistral_core.problems import Row
from magistral_core.rewards.code import CodeJudge, usable_workers


def curate_code(
    inputs: Sequence[str],
    out: Path,
    recipe: CodeCurationRecipe,
    *,
    model: Path | None = None,
    judge: CodeJudge | None = None,
    on_event: OnEvent = lambda _: None,
) -> dict[str, Any]:
    """Curate code problems; see the module.

    Args:
        inputs: files, `s3://...`, `hf:NAME`, or folders of files or of problem packages.
        out: folder for the outputs; made if missing, earlier outputs in it are replaced.
        recipe: settings.
        model: folder of the language model that `recipe.llm.model` names; None leaves that step out.
        judge: runs the solutions; by default one with the recipe's sandbox.
        on_event: gets `{"event": "progress", "stage", "done", "total"}` about twice a second.

    Returns:
        The content of report.json.

    Raises:
        InputError: an input, the output folder or the model cannot be used; nothing was written then.
        InfrastructureError: the sandbox or an engine broke; the same command goes on behind the last finished problem.
    """
    check_out(out, inputs, OUTPUTS)
    progress = Progress(on_event)
    reading = recipe.problems
    sources = survey(_rows(inputs, reading), lambda row: read_code_draft(row, reading.fields), lambda done: progress("reading", done, 0))
    version = version_of(sources, (), recipe)
    total = sum(source.rows for source in sources)
    with CodeWork(out, version) as work:
        note = _ask_model(inputs, recipe, model, work, progress)
        run = recipe.run
        judge = judge or CodeJudge(CodeSettings(sandbox=run.sandbox, compile_s=run.compile_s))
        _settle(inputs, recipe, judge, work, total, progress)
        pairs = zip(_drafts(inputs, reading), work.settled(), strict=True)
        report = CodeWriter(work, recipe).write(pairs, version, sources, note, lambda done: progress("writing", done, total))
        work.remove()
    return report


class CodeWork(WorkFolder):
    """The work folder of a curation of code.

    settled.jsonl   finished problems in order, a line each, on disk before the next one begins
    inputs.jsonl    inputs that the language model wrote, once it has written all
    journal/        the sampler's
    """

    def __init__(self, out: Path, identity: str) -> None:
        super().__init__(out, identity)
        self._path = self.folder / "settled.jsonl"
        self._path.touch()
        whole = self._path.read_bytes()
        whole = whole[: whole.rfind(b"\n") + 1]
        os.truncate(self._path, len(whole))  # a line that a kill cut off
        self.finished = whole.count(b"\n")

    def append(self, settled: Settled) -> None:
        """Keep a finished problem."""
        with self._path.open("a", encoding="ascii") as file:
            file.write(settled.to_line() + "\n")
            file.flush()
            os.fsync(file.fileno())

    def settled(self) -> Iterator[Settled]:
        """Finished problems, in order."""
        with self._path.open(encoding="ascii") as file:
            yield from map(Settled.from_line, file)

    @property
    def has_inputs(self) -> bool:
        """Whether the language-model step was finished."""
        return (self.folder / "inputs.jsonl").exists()

    def write_inputs(self, found: dict[int, list[str]], counts: dict[str, int]) -> None:
        """Keep what the language model wrote, by the problem's index."""
        write_whole(self.folder / "replies.json", [json.dumps(counts)])
        write_whole(self.folder / "inputs.jsonl", (json.dumps(item) for item in sorted(found.items())))

    def inputs(self) -> tuple[dict[int, list[str]], dict[str, int]]:
        """What the language model wrote, and how its replies were read."""
        lines = (self.folder / "inputs.jsonl").read_text(encoding="ascii").splitlines()
        return dict(map(json.loads, lines)), json.loads((self.folder / "replies.json").read_text(encoding="ascii"))


def _rows(inputs: Sequence[str], reading: SourceSettings) -> Iterator[Row]:
    return (row for path in inputs for row in code_rows(path, reading.split))


def _drafts(inputs: Sequence[str], reading: SourceSettings) -> Iterator[CodeDraft]:
    return (read_code_draft(row, reading.fields) for row in _rows(inputs, reading))


def _ask_model(inputs: Sequence[str], recipe: CodeCurationRecipe, model: Path | None, work: CodeWork, progress: Progress) -> dict[str, Any]:
    """The language-model step; returns what the report says about it."""
    drafts = enumerate(_drafts(inputs, recipe.problems))
    tasks = ((index, draft) for index, draft in drafts if invent.for_model(draft, recipe.generate))
    if model is None:
        return not_asked(f"{sum(1 for _ in tasks)} problems")
    if not work.has_inputs:
        found, counts = invent.ask(tasks, model, recipe, work.folder / "journal", lambda done: progress("language model", done, 0))
        work.write_inputs(found, counts)
    _, replies = work.inputs()
    return asked(recipe.llm, replies)


def _settle(inputs: Sequence[str], recipe: CodeCurationRecipe, judge: CodeJudge, work: CodeWork, total: int, progress: Progress) -> None:
    """Every problem that is not finished yet."""
    if work.finished == total:
        return
    written = work.inputs()[0] if work.has_inputs else {}
    with ThreadPoolExecutor(usable_workers(recipe.run.workers), "solution") as executor:
        settler = Settler(recipe, judge, executor)
        for index, draft in enumerate(_drafts(inputs, recipe.problems)):
            if index < work.finished:
                continue
            progress("solutions on tests", index, total)
            scripts = invent.by_scripts(draft, recipe, judge)
            work.append(settler.settle(index, draft, [*scripts, *written.get(index, ())]))
        progress("solutions on tests", total, total)
