"""From a row's fields to a Problem: the usual field names, canonical answers, levels, languages. Pure."""

from __future__ import annotations

import ast
import builtins
import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from decimal import Decimal
from pathlib import PurePosixPath
from typing import Any

from magistral_core.boxed import extract_boxed
from magistral_core.config.schema import FieldNames
from magistral_core.errors import InputError
from magistral_core.problems.readers import Row
from magistral_core.records import Checker, Problem, ProblemKind, TestCase

#: Usual names in order of preference, compared in lower case. A field that is missing, null or blank is passed over.
QUESTION = ("question", "problem", "prompt", "statement", "informal_statement", "input", "text")
ANSWER = ("answer", "expected_answer", "final_answer", "correct_answer", "ground_truth")
#: Worked solutions, of which only the boxed (or `####`) result is the answer.
SOLUTION = ("solution", "reference_solution", "informal_solution")
CHOICES = ("choices", "options")
ID = ("id", "unique_id", "problem_id", "problem_name")
LANGUAGE = ("language", "lang")
LEVEL = ("level", "difficulty")

_FILE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]*")
#: Of programming languages: beside tests, a field called `language` means these.
_PROGRAMMING = {"py", "js", "ts", "go", "rs", "rb", "cs", "vb", "jl", "sh", "kt"}
_LANGUAGE_CODE = re.compile(r"([a-z]{2})(?:[-_][a-z0-9]+)*")
_NUMBER = re.compile(r"\d+")


def parse_problem(row: Row, fields: FieldNames | None = None) -> Problem:
    """Make a Problem of a row.

    Args:
        row: where it was read, and its fields.
        fields: names that replace the usual ones; a dotted name (`reward_model.ground_truth`) reaches into a nested object.

    Raises:
        InputError: no question; neither an answer nor tests; a field of the wrong type. Names file and line.
    """
    fields = fields or FieldNames()
    picker = FieldPicker(row)
    question_name, question = picker.pick("question", fields.question, QUESTION)
    code = _Code(row, picker, "" if question is None else str(question))
    if question is None:
        raise InputError(f"{row.place}: no question; expected one of the fields {', '.join(QUESTION)}, or set problems.fields.question")
    answer_name, answer = picker.pick("answer", fields.answer, ANSWER)
    text = "" if answer is None else answer_text(answer, f"{row.place}: field {answer_name}")
    if answer is None and not fields.answer and not code.tests:
        answer_name, solution = picker.pick("answer", "", SOLUTION)
        text = "" if solution is None else result_of(solution, f"{row.place}: field {answer_name}")
    if not text and not code.tests:
        if fields.answer:
            raise InputError(f"{row.place}: field {fields.answer} (set as problems.fields.answer) is empty; give an answer, or tests")
        raise InputError(
            f"{row.place}: the problem has no answer; expected one of the fields {', '.join(ANSWER)} (code: tests), "
            "or set problems.fields.answer"
        )
    id_name, id_ = picker.pick("id", fields.id, ID)
    language_name, language = picker.pick("language", fields.language, LANGUAGE)
    level_name, level = picker.pick("level", fields.level, LEVEL)
    choices_name, choices = picker.pick("choices", fields.choices, CHOICES)
    used = {question_name, answer_name, id_name, language_name, level_name, choices_name, *code.used}
    extra = {key: value for key, value in row.data.items() if key not in used}
    if choices is not None:
        extra["choices"] = choices
    return Problem(
        id=f"{PurePosixPath(row.file).stem}-{row.line}" if id_ is None else answer_text(id_, f"{row.place}: field {id_name}"),
        question=question_text(question, f"{row.place}: field {question_name}") + code.ask,
        answer="" if code.tests else text,
        kind=ProblemKind.CODE if code.tests else ProblemKind.MATH,
        language=parse_language(language, strict=bool(fields.language), place=f"{row.place}: field {language_name}", code=bool(code.tests)),
        level=parse_level(level),
        tests=code.tests,
        entry_point=code.entry_point,
        checker=code.checker,
        time_limit_s=code.time_limit_s,
        memory_limit_mb=code.memory_limit_mb,
        source=row.place,
        extra=extra,
    )


class FieldPicker:
    """Finds a row's fields by a set name, else by the usual names."""

    def __init__(self, row: Row) -> None:
        self._row = row
        self._by_lower = {key.lower(): key for key in row.data}

    def pick(self, what: str, set_name: str, usual: Sequence[str]) -> tuple[str, Any]:
        """The field's name and value; an empty name and None if there is none. A name that is set must exist."""
        if set_name:
            if set_name in self._row.data:
                return set_name, self._row.data[set_name]
            value: Any = self._row.data
            for part in set_name.split("."):
                if not isinstance(value, Mapping) or part not in value:
                    known = ", ".join(self._row.data) or "none"
                    raise InputError(f"{self._row.place}: no field {set_name} (set as problems.fields.{what}); it has {known}")
                value = value[part]
            return set_name, value
        for name in usual:
            key = self._by_lower.get(name)
            if key is not None:
                value = self._row.data[key]
                if value is not None and value != [] and not (isinstance(value, str) and not value.strip()):
                    return key, value
        return "", None


def question_text(value: Any, place: str) -> str:
    """A statement as text, stripped; of a chat of one message, its content. Raises InputError."""
    if isinstance(value, list) and len(value) == 1 and isinstance(value[0], dict) and value[0].get("role") == "user":
        value = value[0].get("content")  # a chat of one user message, as some Parquet sets have it
    if isinstance(value, list) and value and all(isinstance(message, dict) and "role" in message for message in value):
        roles = ", ".join(str(message["role"]) for message in value)
        raise InputError(
            f"{place}: the question is a chat of {len(value)} messages ({roles}); "
            "keep one user message, and give a system text as prompt.system"
        )
    if not isinstance(value, str):
        raise InputError(f"{place}: the question must be text, this is a {type(value).__name__}")
    if not value.strip():
        raise InputError(f"{place}: the question is empty")
    return _whole(value.strip(), place)


def _whole(text: str, place: str) -> str:
    """The text, in which no half of a surrogate pair may be: JSON can hold one alone, tokenizers and files refuse it."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InputError(f"{place}: half a character ({text[error.start]!a}) at {error.start}; write the text again") from error
    return text


def check_encodable(texts: Iterable[str], place: str) -> None:
    """Refuse texts with half a surrogate pair, which no program can be given. Bytes that are no text, as packages have them, may stand.

    Raises InputError.
    """
    for text in texts:
        try:
            text.encode("utf-8", "surrogateescape")
        except UnicodeEncodeError as error:
            raise InputError(f"{place}: half a character ({text[error.start]!a}) at {error.start}; write the text again") from error


def answer_text(value: Any, place: str) -> str:
    """Canonical text of an answer: 27.0 -> `27`, [1, 2] -> `1, 2`, GSM8K's `... #### 72` -> `72`."""
    if isinstance(value, str):
        _, marker, result = value.rpartition("####")
        return _whole((result if marker else value).strip(), place)
    if isinstance(value, bool):
        return str(value)
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float):
        if not math.isfinite(value):
            raise InputError(f"{place}: {value} is not an answer")
        return str(int(value)) if value.is_integer() else format(Decimal(repr(value)), "f")
    if isinstance(value, list) and value:
        return ", ".join(answer_text(item, place) for item in value)
    if value is None or value == []:
        return ""
    raise InputError(f"{place}: expected text, a number or a list, this is a {type(value).__name__}")


def result_of(solution: Any, place: str) -> str:
    """The result of a worked solution: the last box, else what follows `####`, else a short text whole.

    Raises InputError where that is no answer.
    """
    boxed = extract_boxed(solution) if isinstance(solution, str) else None  # a heading behind it may begin with `####`, too
    if boxed is not None:
        return answer_text(boxed, place)
    text = answer_text(solution, place)
    return text if "\n" not in text and len(text) <= 100 else ""


class _Code:
    """What a row says about a code problem: tests, or the checks of HumanEval and MBPP; entry point, flags and limits."""

    def __init__(self, row: Row, picker: FieldPicker, question: str) -> None:
        self._row = row
        self.used: set[str] = set()
        self.ask = ""  # what the statement does not say and the checks demand
        self.entry_point = str(self._take("entry_point") or "")
        self.checker = read_checker(row)
        self.used |= {"validator_flags", "output_validator"}
        self.time_limit_s = self._limit("time_limit_s")
        memory = self._limit("memory_limit_mb")
        self.memory_limit_mb = None if memory is None else max(int(memory), 1)
        tests_name, tests = picker.pick("tests", "", ("tests",))
        self.used.add(tests_name)
        if tests is not None:
            self.tests = _tests(tests, f"{row.place}: field {tests_name}", bool(self.entry_point))
        else:
            self.tests = self._checks(question)
            check_encodable((test.check for test in self.tests), f"{row.place}: the checks")

    def _limit(self, name: str) -> float | None:
        """A limit, in the unit that its name ends with."""
        value = self._take(name)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
            raise InputError(f"{self._row.place}: field {name}: a limit is a number above 0, this is {value!r}")
        return value

    def _take(self, name: str) -> Any:
        self.used.add(name)
        return self._row.data.get(name)

    def _checks(self, question: str) -> tuple[TestCase, ...]:
        test, listed = self._row.data.get("test"), self._row.data.get("test_list")
        if isinstance(test, str) and self.entry_point:  # HumanEval: the prompt is code that the checks may use
            self.used.add("test")
            own_name = f"{self.entry_point} = candidate  # in place of the prompt's, which has no body"
            return (TestCase(check=f"{question}\n\n{own_name}\n{test}\n\ncheck(candidate)\n"),)
        if isinstance(listed, list) and listed and all(isinstance(item, str) for item in listed):  # MBPP
            self.used |= {"test_list", "test_setup_code", "test_imports"}
            imports = self._row.data.get("test_imports") or []
            self.ask = _named_call(listed, question)
            setup = "\n".join([*imports, str(self._row.data.get("test_setup_code") or "")])
            return tuple(TestCase(check=f"{setup}\n{item}\n") for item in listed)
        return ()


def _named_call(checks: Sequence[str], question: str) -> str:
    """A line for a statement of MBPP, which does not name the function: the call in its first check, without the result expected of it."""
    try:
        calls = [dict(reversed(list(_calls(check)))) for check in checks]
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return ""  # a broken check is told when it is run
    shared = [name for name, _ in _calls(checks[0]) if all(name in each for each in calls)]
    # Python's own functions are around it (`assert set(f()) == ...`), unless there is no other: MBPP has a `sum`.
    name = next(iter(sorted(shared, key=lambda name: hasattr(builtins, name))), "")
    if not name or f"{name}(" in question:
        return ""
    return f"\n\nWrite the function `{name}`. It is called like this: `{calls[0][name]}`."


def _calls(check: str) -> Iterator[tuple[str, str]]:
    """Names of the functions that a check calls and the calls, outer ones first."""
    for node in ast.walk(ast.parse(check)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            yield node.func.id, ast.unparse(node)


def read_checker(row: Row) -> Checker:
    """How a row's outputs are compared: `validator_flags`, and `output_validator` = `{files: {name: text}, main}`, `main` for Python only.

    Raises InputError.
    """
    flags, validator = row.data.get("validator_flags"), row.data.get("output_validator") or {}
    if not isinstance(flags, str | None):
        raise InputError(f"{row.place}: field validator_flags: one text, this is a {type(flags).__name__}")
    files = validator.get("files", {}) if isinstance(validator, dict) else None
    if not isinstance(files, dict) or not all(isinstance(text, str) for text in files.values()):
        raise InputError(f"{row.place}: field output_validator: an object with `files`, texts by name, and for Python `main`")
    if odd := [name for name in files if not _FILE_NAME.fullmatch(name)]:
        raise InputError(f"{row.place}: field output_validator: {odd[0]!r} is not the name of a file; letters, digits, . _ + -, no folders")
    main = str(validator.get("main") or "")
    if main and main not in files:
        raise InputError(f"{row.place}: field output_validator: `main` is none of its files")
    check_encodable(files.values(), f"{row.place}: field output_validator")
    content = {name: text.encode("utf-8", "surrogateescape") for name, text in files.items()}
    usual = () if content else Checker().flags  # a validator gets no flags but those that are given
    return Checker(usual if flags is None else tuple(flags.split()), content, main)


def _tests(value: Any, place: str, function: bool) -> tuple[TestCase, ...]:
    """Tests as texts. The arguments and the result of a function may stand there as JSON values instead.

    Where the arguments do, the result is a value as well: a text there is the text that the function returns, though it look like a number.
    """
    if not isinstance(value, list):
        raise InputError(f"{place}: tests are a list of {{input, output}}, this is a {type(value).__name__}")
    cases = []
    for number, item in enumerate(value, start=1):
        if not (isinstance(item, dict) and "input" in item and "output" in item):
            raise InputError(f"{place}, test {number}: a test is an object with the texts `input` and `output`")
        parts = item["input"], item["output"]
        values = function and not isinstance(parts[0], str)
        texts = [json.dumps(part) if values or (function and not isinstance(part, str)) else part for part in parts]
        if not all(isinstance(part, str) for part in texts):
            raise InputError(f"{place}, test {number}: a test is an object with the texts `input` and `output`")
        check_encodable(texts, f"{place}, test {number}")
        cases.append(TestCase(*texts))
    return tuple(cases)


def parse_language(value: Any, *, strict: bool, place: str, code: bool = False) -> str:
    """ISO 639-1 code of `en`, `pt-BR` and the like; empty for anything else, or InputError if `strict`. `code`: of a code problem."""
    match = _LANGUAGE_CODE.fullmatch(value.strip().lower()) if isinstance(value, str) else None
    if match is not None and not (code and not strict and match.group(1) in _PROGRAMMING):
        return match.group(1)
    if strict:
        raise InputError(f"{place}: {value!r} is not a two-letter language code such as en")
    return ""  # a field called `language` may well name a programming language


def parse_level(value: Any) -> int:
    """`5`, `5.0` and `Level 5` are 5; a text without a number has no place on a scale and gives 0."""
    if isinstance(value, bool) or value is None:
        return 0
    if isinstance(value, int | float):
        return int(value) if math.isfinite(value) else 0
    found = _NUMBER.search(value) if isinstance(value, str) else None
    return int(found.group()) if found else 0
