"""A code problem as found: statement, tests with or without outputs, solutions, generator scripts. Pure.

Read leniently, with the usual names of public code sets: what is missing or malformed is a reason to reject the problem, not the file.

    tests       [{input, output}], {inputs: [...], outputs: [...]}, or such a value as JSON text; several such fields together
    solutions   [{language, code}], [code], or {language: [...], solution: [...]}
    generators  [{language, code}]: programs that print an input
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import Any

from magistral_core.config.schema import FieldNames
from magistral_core.errors import InputError
from magistral_core.problems import Row
from magistral_core.problems.fields import (
    ID,
    LANGUAGE,
    LEVEL,
    QUESTION,
    FieldPicker,
    check_encodable,
    parse_language,
    parse_level,
    question_text,
    read_checker,
)
from magistral_core.records import Checker, Problem, ProblemKind
from magistral_core.rewards.code import check_checker
from magistral_core.sandbox import Language

_QUESTION = (*QUESTION, "description")
_ID = (*ID, "name", "task_id")
_TESTS = ("tests", "test_cases", "testcases", "input_output", "public_tests", "private_tests", "generated_tests")
_INPUTS = ("input", "inputs", "stdin")
_OUTPUTS = ("output", "outputs", "expected_output", "answer")
_CODES = ("code", "source", "solution", "content")
_LABELS = ("label", "verdict", "status")
#: Assertions in place of outputs, as HumanEval and MBPP have them.
_CHECKS = ("test", "test_list")
#: How code_contests numbers languages; the others are none that is judged here.
_NUMBERED = {2: "c++", 3: "python"}
#: Field of a row made of a package that cannot be judged: why.
PACKAGE_FAULT = "package_fault"
_ACCEPTED = frozenset({"", "accepted", "correct", "ac", "ok", "true", "1"})


@dataclass(frozen=True, slots=True)
class Solution:
    """A solution. `language` is None where it is neither Python nor C++; `label` is what the source says of it, empty if nothing."""

    code: str
    language: Language | None = Language.PYTHON
    name: str = ""
    label: str = ""

    @property
    def accepted(self) -> bool:
        """Whether the source calls it right, or says nothing."""
        return self.label.lower() in _ACCEPTED


@dataclass(frozen=True, slots=True)
class Test:
    """A test; `output` is None where there is none yet."""

    __test__ = False

    input: str
    output: str | None = None
    name: str = ""
    generated: bool = False


@dataclass(frozen=True, slots=True)
class CodeDraft:
    """A code problem before its curation.

    Attributes:
        file, line: where it was read.
        id: the row's own, or file and line.
        question: statement; empty if there is none.
        fault: why the row cannot be used at all; empty if it can.
        tests, solutions: as found.
        generators: programs that print an input.
        checks: its tests are assertions, which have no outputs.
        entry_point, checker, time_limit_s, memory_limit_mb, language, level: as in `Problem`.
    """

    file: str
    line: int
    id: str
    question: str = ""
    fault: str = ""
    tests: tuple[Test, ...] = ()
    solutions: tuple[Solution, ...] = ()
    generators: tuple[Solution, ...] = ()
    checks: bool = False
    entry_point: str = ""
    checker: Checker = field(default_factory=Checker)
    time_limit_s: float | None = None
    memory_limit_mb: int | None = None
    language: str = ""
    level: int = 0

    @property
    def problem(self) -> Problem:
        """The problem for the judge, without its tests."""
        return Problem(
            self.id,
            self.question,
            kind=ProblemKind.CODE,
            entry_point=self.entry_point,
            checker=self.checker,
            source=f"{self.file}:{self.line}",
        )


def read_code_draft(row: Row, fields: FieldNames | None = None) -> CodeDraft:
    """Read a row.

    Raises:
        InputError: a field name that is set does not exist in the row.
    """
    fields = fields or FieldNames()
    picker = FieldPicker(row)
    _, question = picker.pick("question", fields.question, _QUESTION)
    _, id_ = picker.pick("id", fields.id, _ID)
    _, language = picker.pick("language", fields.language, LANGUAGE)
    _, level = picker.pick("level", fields.level, LEVEL)
    own = str(id_) if isinstance(id_, str | int) else f"{row.file.rpartition('/')[2].partition('.')[0]}-{row.line}"
    try:
        if PACKAGE_FAULT in row.data:
            raise InputError(str(row.data[PACKAGE_FAULT]))
        draft = CodeDraft(
            row.file,
            row.line,
            own,
            question="" if question is None else question_text(question, row.place),
            tests=tuple(_all_tests(row)),
            solutions=tuple(_all_solutions(row)),
            generators=tuple(_solutions(row.data.get("generators"), "", f"{row.place}: generators")),
            checks=not any(name in row.data for name in _TESTS) and any(name in row.data for name in _CHECKS),
            entry_point=_entry_point(row),
            checker=read_checker(row),
            time_limit_s=_limit(row, "time_limit_s"),
            memory_limit_mb=None if (memory := _limit(row, "memory_limit_mb")) is None else max(int(memory), 1),
            language=parse_language(language, strict=False, place=row.place, code=True),
            level=parse_level(level),
        )
        check_checker(draft.problem)
        return draft
    except InputError as error:
        return CodeDraft(row.file, row.line, own, fault=str(error).removeprefix(f"{row.place}: "))


def _entry_point(row: Row) -> str:
    named = row.data.get("entry_point") or _mapping(row.data.get("input_output")).get("fn_name")
    return named if isinstance(named, str) else ""


def _limit(row: Row, name: str) -> float | None:
    value = row.data.get(name)
    if value is None or (isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < float("inf")):
        return value
    raise InputError(f"{row.place}: {name}: a limit is a number above 0, this is {value!r}")


def _all_tests(row: Row) -> Iterator[Test]:
    for name in _TESTS:
        value = _parsed(row.data.get(name))
        if value in (None, {}, []) or (isinstance(value, str) and not value.strip()):
            continue
        place = f"{row.place}: {name}"
        mapping = _mapping(value)
        if mapping:
            inputs, outputs = (_first(mapping, names) or [] for names in (_INPUTS, _OUTPUTS))
            if not (isinstance(inputs, list) and isinstance(outputs, list) and len(outputs) <= len(inputs)):
                raise InputError(f"{place}: lists of inputs and of outputs, no more outputs than inputs")
            pairs: list[tuple[Any, Any, str]] = [(*pair, "") for pair in zip_longest(inputs, outputs)]
        elif isinstance(value, list) and all(isinstance(item, Mapping) and _first(item, _INPUTS) is not None for item in value):
            pairs = [(_first(item, _INPUTS), _first(item, _OUTPUTS), str(item.get("name") or "")) for item in value]
        else:
            raise InputError(f"{place}: a list of objects with `input` and, where it is known, `output`")
        function = bool(_entry_point(row))
        for content, output, own in pairs:
            # Where a function's arguments are values, so is its result: a text then is the text that it returns.
            value = function and not isinstance(content, str)
            result = None if output is None else json.dumps(output) if value else _text(output, function)
            test = Test(_text(content, function), result, own)
            check_encodable((test.input, test.output or ""), place)
            yield test


def _all_solutions(row: Row) -> Iterator[Solution]:
    for name, label in (("solutions", ""), ("canonical_solution", ""), ("incorrect_solutions", "incorrect")):
        yield from _solutions(row.data.get(name), label, f"{row.place}: {name}")


def _solutions(value: Any, label: str, place: str) -> Iterator[Solution]:
    """Solutions in any of the usual shapes."""
    value = _parsed(value)
    mapping = _mapping(value)
    if isinstance(_first(mapping, _CODES), str):
        value = [mapping]
    elif mapping:
        languages, codes = (mapping.get(name) or [] for name in ("language", "solution"))
        if not (isinstance(languages, list) and isinstance(codes, list)):
            raise InputError(f"{place}: lists `language` and `solution`, or a list of objects with `language` and `code`")
        value = [{"language": language, "code": code} for language, code in zip(languages, codes, strict=False)]
    elif not isinstance(value, str | list | None) and value != {}:
        raise InputError(f"{place}: a list of objects with `language` and `code`, this is a {type(value).__name__}")
    for number, item in enumerate([value] if isinstance(value, str) else value or (), start=1):
        entry = item if isinstance(item, Mapping) else {"code": item}
        code = _first(entry, _CODES)
        if not isinstance(code, str):
            raise InputError(f"{place}, {number}: an object with `language` and `code`, or the code itself")
        if not code.strip():
            continue
        check_encodable([code], f"{place}, {number}")
        language = next((entry[key] for key in ("language", "lang") if entry.get(key) is not None), "python")
        known = Language.of(_NUMBERED.get(language, "") if isinstance(language, int) else str(language))
        yield Solution(code, known, str(entry.get("name") or number), label or str(_first(entry, _LABELS) or ""))


def _parsed(value: Any) -> Any:
    """A value that stands in a field as JSON text; other texts as they are."""
    if isinstance(value, str) and value.lstrip()[:1] in ("[", "{"):
        try:
            return json.loads(value)
        except (ValueError, RecursionError):
            return value
    return value


def _mapping(value: Any) -> Mapping[str, Any]:
    parsed = _parsed(value)
    return parsed if isinstance(parsed, Mapping) else {}


def _first(item: Mapping[str, Any], names: tuple[str, ...]) -> Any:
    return next((item[name] for name in names if item.get(name) is not None), None)


def _text(value: Any, function: bool) -> str:
    """Standard input or output as text: a list of lines joined, other values and a function's as JSON."""
    if not function and isinstance(value, list) and value and all(isinstance(line, str) for line in value):
        return "\n".join(value) + "\n"
    return value if isinstance(value, str) else json.dumps(value)
