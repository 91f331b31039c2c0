"""`curate grade`: verifiable problems in, those of middle difficulty out (Magistral, section 4).

    read      every problem of every input: bad input ends it here, before any work
    pass 1    k samples a problem from an ordinary model; grades are stored as they come
    pass 2    optional: the same by the trained grader, over the whole set again; then it decides
    recheck   optional, in a pass that votes: where most samples contradict the reference, more samples decide about it
    write     outputs beside their names, renamed at the very end

Between the passes a grader is trained on what pass 1 kept, by the command `run`. A pass whose grades are stored already samples nothing:
pass 1 costs nothing when it is repeated for pass 2, and neither do other thresholds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from magistral_core.config.grading import GradingRecipe
from magistral_core.config.schema import ProblemSettings
from magistral_core.curation.draft import to_json
from magistral_core.curation.entry import Entry
from magistral_core.curation.grading import Grade, contested, judge
from magistral_core.curation.grading_report import PassResult, grading_card, make_report, to_markdown
from magistral_core.curation.grading_samples import Grader, grade_missing, problem_key, what_samples_depend_on
from magistral_core.curation.grading_store import GradeStore, write_grades
from magistral_core.curation.lineage import SourceFile, code_version, digest_of, survey_inputs
from magistral_core.curation.progress import OnEvent, Progress
from magistral_core.curation.reasons import GradingReason
from magistral_core.curation.report import Tally
from magistral_core.curation.work import WorkFolder, check_out, write_whole
from magistral_core.errors import InputError
from magistral_core.problems import load_problems
from magistral_core.problems.load import with_own_id
from magistral_core.records import Problem, ProblemKind
from magistral_core.storage import ObjectStore

if TYPE_CHECKING:
    from magistral_core.generation.sampler import OpenEngines

#: Files that a grading leaves in its output folder, beside the Parquet of each pass.
OUTPUTS = ("kept.jsonl", "rejected.jsonl", "report.json", "report.md", "card.md")


def grade_difficulty(
    inputs: Sequence[str],
    out: Path,
    recipe: GradingRecipe,
    graders: Sequence[Grader],
    store: ObjectStore,
    *,
    open_engines: OpenEngines | None = None,
    on_event: OnEvent = lambda _: None,
) -> dict[str, Any]:
    """Grade problems; see the module.

    Args:
        inputs: problem files, folders, `s3://...` or `hf:NAME`; ids must differ.
        out: folder for the outputs; made if missing, earlier outputs in it are replaced.
        recipe: settings.
        graders: the ordinary model, and the trained one where there is a second pass.
        store: where grades are kept.
        open_engines: starts engines elsewhere than on this machine.
        on_event: gets `{"event": "progress", "stage", "done", "total"}` about twice a second.

    Returns:
        The content of report.json.

    Raises:
        InputError: an input, the output folder or a model cannot be used; nothing was written then.
        InfrastructureError: an engine, the verifier's pool or the store broke; the same command goes on with what is missing.
    """
    check_out(out, inputs, output_names(len(graders)))
    progress = Progress(on_event)
    sources = survey_inputs(inputs, recipe.problems, lambda done: progress("reading", done, 0))
    problems = _read(inputs, recipe)
    about = [what_samples_depend_on(grader.fingerprint(), recipe) for grader in graders]
    version = _version(sources, about, recipe)
    store.check()
    with WorkFolder(out, version) as work:
        passes = [
            _run_pass(number, grader, problems, recipe, depends, store, open_engines, progress)
            for number, (grader, depends) in enumerate(zip(graders, about, strict=True), start=1)
        ]
        report = _write(work, problems, passes, version, sources, recipe, progress)
        work.remove()
    return report


def _run_pass(
    number: int,
    grader: Grader,
    problems: Sequence[Problem],
    recipe: GradingRecipe,
    depends: Mapping[str, Any],
    store: ObjectStore,
    open_engines: OpenEngines | None,
    progress: Progress,
) -> PassResult:
    """Sample what has no grade yet, and judge the whole set."""
    keys = [problem_key(problem) for problem in problems]
    settings = recipe.pass_1 if number == 1 else recipe.pass_2
    grades = GradeStore(store, depends)

    def sample(stage: str, wanted: Mapping[str, Problem], how: GradingRecipe, into: GradeStore) -> int:
        return grade_missing(wanted, how, grader, into, open_engines=open_engines, on_done=lambda done: progress(stage, done, len(wanted)))

    sampled = sample(f"pass {number}", dict(zip(keys, problems, strict=True)), recipe, grades)
    found = [grades.get(key) for key in keys]
    again: list[Grade | None] = [None] * len(keys)
    doubtful = {key: problem for key, problem, grade in zip(keys, problems, found, strict=True) if contested(grade, settings)}
    if doubtful and recipe.recheck.samples:
        how = recipe.rechecking()
        more = GradeStore(store, what_samples_depend_on(depends["model"], how))
        sampled += sample(f"pass {number}, again", doubtful, how, more)
        again = [more.get(key) if key in doubtful else None for key in keys]
    reasons = [judge(grade, settings, second, recipe.recheck.lead) for grade, second in zip(found, again, strict=True)]
    return PassResult(grader.name, grades.key, sampled, found, again, reasons)


def output_names(passes: int) -> tuple[str, ...]:
    """Files that a grading of so many passes leaves."""
    return (*OUTPUTS, *(f"grades-{number}.parquet" for number in range(1, passes + 1)))


def _read(inputs: Sequence[str], recipe: GradingRecipe) -> list[Problem]:
    """Every problem. Raises InputError for one that has no reference answer, and for an id that comes twice."""
    places: dict[str, str] = {}
    problems = []
    for path in inputs:
        for problem in load_problems(ProblemSettings(path=path, split=recipe.problems.split, fields=recipe.problems.fields)):
            if problem.kind is ProblemKind.CODE:
                raise InputError(f"{problem.source}: a code problem; grading takes mathematics problems with a reference answer")
            problems.append(with_own_id(problem, places))
    return problems


def _version(sources: Sequence[SourceFile], about: Sequence[Mapping[str, Any]], recipe: GradingRecipe) -> str:
    settings = recipe.model_dump(mode="json", include={"name", "problems", "pass_1", "pass_2", "recheck"})
    files = [[source.file, source.rows, source.sha256] for source in sources]
    return digest_of({"sources": files, "graders": list(about), "settings": settings, "code": code_version()})


def _write(
    work: WorkFolder,
    problems: Sequence[Problem],
    passes: Sequence[PassResult],
    version: str,
    sources: Sequence[SourceFile],
    recipe: GradingRecipe,
    progress: Progress,
) -> dict[str, Any]:
    """Write every output beside its name, then rename them all; returns the report."""
    tally = Tally()
    lines: dict[bool, list[str]] = {True: [], False: []}
    for i, problem in enumerate(problems):
        file, _, line = problem.source.rpartition(":")
        entry = Entry(i, file, int(line), problem.id, problem.question, problem.answer, problem.language, problem.level)
        row = _row(problem, entry, [(result.grades[i], result.again[i]) for result in passes])
        reason = passes[-1].reasons[i]
        if reason is None:
            tally.keep(entry)
        else:
            entry.reject(reason, _detail(reason, passes[-1].grades[i], passes[-1].again[i]))
            tally.reject(entry)
            row |= {"reason": reason.value, "stage": reason.stage.value, "detail": entry.detail}
        lines[reason is None].append(to_json(row))
        progress("writing", i + 1, len(problems))
    tally.check(sources)
    report = make_report(recipe.name, version, code_version(), recipe.model_dump(mode="json"), sources, tally, passes)
    write_whole(work.folder / "kept.jsonl", lines[True])
    write_whole(work.folder / "rejected.jsonl", lines[False])
    for number, result in enumerate(passes, start=1):
        grades = {problem.id: grade for problem, grade in zip(problems, result.grades, strict=True) if grade is not None}
        (work.folder / f"grades-{number}.parquet").write_bytes(write_grades(grades))
    work.deliver(report, {"report.md": to_markdown(report), "card.md": grading_card(report)}, output_names(len(passes)))
    return report


def _row(problem: Problem, entry: Entry, grades: Sequence[tuple[Grade | None, Grade | None]]) -> dict[str, Any]:
    """A problem as an output line: what its own line said, and what each pass found.

    The question and the answer are those that were graded. A field of the same name that was not read as such (a worked solution called
    `answer`, beside a `final_answer`) is kept as `original_answer`.
    """
    own = {"id": problem.id, "question": problem.question, "answer": problem.answer}
    extra = {name: value for name, value in problem.extra.items() if name not in ("source", "grades", "pass_rate")}
    row = own | {(f"original_{name}" if name in own else name): value for name, value in extra.items()} | {"source": entry.source}
    row |= {name: value for name, value in (("language", problem.language), ("level", problem.level)) if value}
    if "source" in problem.extra:
        row["origin"] = problem.extra["source"]
    last, _ = grades[-1]
    return row | {"pass_rate": None if last is None else last.pass_rate, "grades": [_found(*both) for both in grades]}


def _found(grade: Grade | None, again: Grade | None = None) -> dict[str, Any] | None:
    """A grade as an output has it, with that of a second look, if there was one."""
    if grade is None:
        return None
    if again is not None:
        return {**(_found(grade) or {}), "again": _found(again)}
    most = grade.answers[0].answer if grade.answers else None
    return {"pass_rate": grade.pass_rate, "correct": grade.correct, "graded": grade.graded, "majority": most, "agreement": grade.agreement}


def _detail(reason: GradingReason, grade: Grade | None, again: Grade | None) -> str:
    if grade is None:
        return ""
    if reason is GradingReason.GOLD_OUTVOTED:
        grade = again or grade
        return f"{grade.answers[0].votes} of {grade.graded} answered {grade.answers[0].answer[:80]}"
    return f"{grade.correct} of {grade.graded} right"
