"""Translation at work: draws problems of a file, asks the model until its translation passes the checks, and writes the file anew.

    rows --parse--> drawn? --no------------------------------------------------> as they are
                      |                                                            ^
                      v                      .--- flaw: another seed, `tries` ---. |  stays English, with its flaw
                    unfit? --no--> ask all --+--> checks --> solver (optional) --+-'
                                                                |
                                                                v
                                          question, `language`, `translated_from` replaced or joined

Replies lie in the sampler's journal in the work folder: a killed command goes on without asking twice. In memory are the drawn problems
and every id.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from magistral_core.config.curation import CurationRecipe, TranslateSettings
from magistral_core.config.schema import FieldNames
from magistral_core.curation.asking import Asker, Question
from magistral_core.curation.draft import to_json
from magistral_core.curation.golds import gold_faults, gold_verifier
from magistral_core.curation.masking import Masked, mask
from magistral_core.curation.progress import Progress
from magistral_core.curation.translation import ENGLISH, SYSTEM, Fault, Flaw, draw, is_english, read_translation, task_for, unfit
from magistral_core.curation.work import write_whole
from magistral_core.errors import InputError
from magistral_core.problems import parse_problem
from magistral_core.problems.fields import ID, LANGUAGE, QUESTION, FieldPicker
from magistral_core.problems.readers import Row
from magistral_core.records import Problem, ProblemKind

#: Examples of translations, and of each flaw, that the report shows.
EXAMPLES = 3
#: Problems whose reference answers are checked together.
_GOLD_BATCH = 1000


@dataclass(slots=True)
class Drawn:
    """A drawn English problem and what became of it.

    Attributes:
        number: of its row, from 0.
        problem, language: the English problem, and what it is translated into.
        masked: its statement with marks.
        tries: replies that were read.
        text: the translation that passed; empty until then.
        fault: why the last try failed, or why there was none.
    """

    number: int
    problem: Problem
    language: str
    masked: Masked
    tries: int = 0
    text: str = ""
    fault: Fault | None = None


@dataclass(frozen=True, slots=True)
class Models:
    """Folders of the models that `translate` names."""

    translator: Path
    solver: Path | None = None


class Translation:
    """The translation step of one command.

    Args:
        recipe: settings.
        models: None leaves the step out, which the summary says.
        journals: folder for the journals.
        progress: gets the stage `translation`.
    """

    def __init__(self, recipe: CurationRecipe, models: Models | None, journals: Path, progress: Progress) -> None:
        self._settings = recipe.translate
        self._gold = recipe.gold
        self._models = models
        self._journals = journals
        self._progress = progress
        self._failed_tries: Counter[str] = Counter()
        self._solved: Counter[str] = Counter()

    def rewrite(self, rows: Callable[[], Iterator[Row]], fields: FieldNames, out: Path) -> dict[str, Any]:
        """Write every row to `out` (JSON lines), the drawn ones translated; returns the summary for the report.

        Args:
            rows: reads the problems, from the first on, each time it is called; the second time after `out` was begun.
            fields: names of the rows' fields.
            out: written beside its name, then renamed.

        Raises:
            InputError: a row is no problem, two have one id, or a model cannot be used.
            InfrastructureError: a worker pool or an engine broke; the same command goes on.
        """
        if self._models is None:
            return skipped(self._settings)
        drawn, ids = self._draw(rows(), fields)
        self._check_golds(drawn)
        self._translate([item for item in drawn if item.fault is None], self._models)
        by_number = {item.number: item for item in drawn}
        lines = (
            to_json(content) for number, row in enumerate(rows()) for content in self._outputs(row, fields, by_number.get(number), ids)
        )
        write_whole(out, lines)
        return self._summary(drawn, len(ids))

    def _draw(self, rows: Iterator[Row], fields: FieldNames) -> tuple[list[Drawn], set[str]]:
        drawn: list[Drawn] = []
        ids: set[str] = set()
        for number, row in enumerate(rows):
            problem = parse_problem(row, fields)
            if problem.id in ids:
                raise InputError(f"{row.place}: the id {problem.id!r} is taken; give each problem its own, or set problems.fields.id")
            ids.add(problem.id)
            language = draw(problem.id, self._settings)
            if language is not None and is_english(problem):
                drawn.append(Drawn(number, problem, language, mask(problem.question), fault=unfit(problem)))
        return drawn, ids

    def _check_golds(self, drawn: list[Drawn]) -> None:
        """The answer check: translating makes a new problem of an old answer only if that answer is sound."""
        asked = [item for item in drawn if item.fault is None and item.problem.kind is ProblemKind.MATH]
        if not (asked and self._gold.check):
            return
        with gold_verifier(self._gold) as verifier:
            for start in range(0, len(asked), _GOLD_BATCH):
                batch = asked[start : start + _GOLD_BATCH]
                for number, detail in gold_faults([item.problem.answer for item in batch], verifier).items():
                    batch[number].fault = Fault(Flaw.UNVERIFIABLE_GOLD, detail)

    def _translate(self, pending: list[Drawn], models: Models) -> None:
        if not pending:
            return
        total = len(pending)
        with ExitStack() as stack:
            translator = stack.enter_context(Asker(models.translator, self._settings, self._journals / "translator", SYSTEM))
            solver = None
            if models.solver is not None:
                exact = self._settings.model_copy(update={"temperature": 0.0})
                solver = stack.enter_context(Asker(models.solver, exact, self._journals / "solver"))
            for attempt in range(self._settings.tries):
                settled = total - len(pending)
                by_number = {item.number: item for item in pending}
                questions = (Question(item.number, task_for(item.masked, item.language), item.problem.source, attempt) for item in pending)
                for question, answer in translator.ask(questions, lambda done: self._progress("translation", settled + done, total)):  # noqa: B023
                    _read(by_number[question.row], answer)
                if solver is not None:
                    translator.rest()
                    self._solve([item for item in pending if item.text], solver, attempt)
                    solver.rest()
                self._failed_tries.update(str(item.fault.flaw) for item in pending if item.fault is not None)
                pending = [item for item in pending if item.fault is not None and item.fault.flaw is not Flaw.TOO_LONG]
                if not pending:
                    break

    def _solve(self, translated: list[Drawn], solver: Asker, attempt: int) -> None:
        """Have both problems solved; a translation fails if the solver finds the reference answer in English only."""
        asked = {item.number: item for item in translated if item.problem.kind is ProblemKind.MATH}
        if not asked:
            return
        replies: dict[tuple[int, bool], str] = {}
        questions = (
            Question(2 * number + foreign, item.text if foreign else item.problem.question, item.problem.source, attempt * foreign)
            for number, item in asked.items()
            for foreign in (False, True)
        )
        for question, answer in solver.ask(questions):
            replies[question.row // 2, bool(question.row % 2)] = answer or ""
        with gold_verifier(self._gold) as verifier:
            keys = list(replies)
            verdicts = verifier.grade_responses([(asked[number].problem.answer, replies[number, foreign]) for number, foreign in keys])
        right = {key: verdict.correct for key, verdict in zip(keys, verdicts, strict=True)}
        for number, item in asked.items():
            if right[number, False] and not right[number, True]:
                item.text, item.fault = "", Fault(Flaw.SOLVED_DIFFERENTLY, replies[number, True][-80:])
            else:
                self._solved["both" if right[number, False] else "english_unsolved"] += 1

    def _outputs(self, row: Row, fields: FieldNames, item: Drawn | None, ids: set[str]) -> Iterator[dict[str, Any]]:
        """What stands in the output for one row."""
        if item is None:
            yield dict(row.data)
            return
        if item.fault is not None:
            yield {**row.data, "untranslated": {"language": item.language, "reason": item.fault.flaw, "detail": item.fault.detail}}
            return
        if self._settings.keep_english:
            yield dict(row.data)
        problem = item.problem
        translated = _with_field(row, "language", fields.language, LANGUAGE, item.language, dict(row.data))
        translated = _with_field(row, "question", fields.question, QUESTION, item.text, translated)
        if self._settings.keep_english:
            translated = _with_field(row, "id", fields.id, ID, _free(f"{problem.id}@{item.language}", ids), translated)
        translated["translated_from"] = {"id": problem.id, "language": ENGLISH, "question": problem.question}
        read = parse_problem(Row(row.file, row.line, translated), fields)
        assert (read.question, read.answer, read.tests, read.language) == (item.text, problem.answer, problem.tests, item.language), (
            row.place
        )
        yield translated

    def _summary(self, drawn: list[Drawn], read: int) -> dict[str, Any]:
        done = [item for item in drawn if item.text]
        failed = Counter(str(item.fault.flaw) for item in drawn if item.fault is not None)
        assert len(done) + failed.total() == len(drawn)
        languages = {
            language: {
                "drawn": sum(item.language == language for item in drawn),
                "translated": sum(item.language == language for item in done),
            }
            for language in self._settings.languages
        }
        stay = ", ".join(f"{flaw} {count}" for flaw, count in failed.items()) or "none"
        name = self._settings.model
        return {
            "model": name,
            "note": f"Translation by `{name}`: {len(done)} of {len(drawn)} drawn English problems; stay English: {stay}.",
            "read": read,
            "drawn": len(drawn),
            "translated": len(done),
            "first_try": sum(item.tries == 1 for item in done),
            "added": len(done) if self._settings.keep_english else 0,
            "languages": languages,
            "untranslated": dict(failed),
            "failed_tries": dict(self._failed_tries),
            "solver": {"model": self._settings.solver, **self._solved} if self._settings.solver else None,
            "examples": [_example(item) for item in _examples(drawn)],
        }


def skipped(settings: TranslateSettings) -> dict[str, Any]:
    """The summary where no model is configured."""
    share = f"{settings.share:.0%} of the English problems would have gone to it"
    return {
        "model": None,
        "note": f"Translation was skipped: no model is configured (`translate.model`); {share}.",
        "translated": 0,
        "added": 0,
    }


def _read(item: Drawn, answer: str | None) -> None:
    """Note what an answer comes to; None: the prompt was too long."""
    item.text, item.fault = "", None
    if answer is None:
        item.fault = Fault(Flaw.TOO_LONG, f"{len(item.problem.question)} characters")
        return
    item.tries += 1
    found = read_translation(answer, item.masked, item.language)
    if isinstance(found, Fault):
        item.fault = found
    else:
        item.text = found


def _with_field(row: Row, what: str, set_name: str, usual: tuple[str, ...], value: str, content: dict[str, Any]) -> dict[str, Any]:
    """A row's content with one field changed, under the name that it has there (a dotted one reaches into an object)."""
    name = FieldPicker(row).pick(what, set_name, usual)[0] or what
    if name in content or "." not in name or not set_name:
        return {**content, name: value}
    first, rest = name.split(".", 1)
    inner: Mapping[str, Any] = content[first]
    return {**content, first: _with_field(Row(row.file, row.line, inner), what, rest, usual, value, dict(inner))}


def _free(id_: str, ids: set[str]) -> str:
    while id_ in ids:
        id_ += "'"
    ids.add(id_)
    return id_


def _examples(drawn: Iterable[Drawn]) -> Iterator[Drawn]:
    shown: Counter[str] = Counter()
    for item in drawn:
        key = item.language if item.fault is None else str(item.fault.flaw)
        shown[key] += 1
        if shown[key] <= EXAMPLES:
            yield item


def _example(item: Drawn) -> dict[str, Any]:
    found = {"id": item.problem.id, "language": item.language, "question": item.problem.question}
    return found | ({"translation": item.text} if item.fault is None else {"reason": str(item.fault.flaw), "detail": item.fault.detail})
