"""A row of a problem file, read leniently: what is missing is a reason to reject the problem, not to refuse the file. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from magistral_core.config.schema import FieldNames
from magistral_core.errors import InputError
from magistral_core.problems.fields import (
    ANSWER,
    CHOICES,
    ID,
    LANGUAGE,
    LEVEL,
    QUESTION,
    SOLUTION,
    FieldPicker,
    answer_text,
    parse_language,
    parse_level,
    question_text,
    result_of,
)
from magistral_core.problems.readers import Row

#: Names that only multiple-choice sets use for the right option and for the list of options.
_CHOSEN = ("correct", "answer_value", "answerkey", "label")
_OPTIONS = (*CHOICES, "answer_option_list")
#: Fields that say that a picture belongs to the problem, when they hold anything.
_PICTURES = ("picture", "image", "images", "figure", "diagram", "image_path")

#: JSON can name half a character, which no file can hold.
LONE_SURROGATE = re.compile("[\ud800-\udfff]")


def to_json(content: Mapping[str, Any]) -> str:
    """One line; half a character, which JSON can name and no file can hold, stays named."""
    text = json.dumps(content, ensure_ascii=False, default=str)
    return json.dumps(content, default=str) if LONE_SURROGATE.search(text) else text


@dataclass(frozen=True, slots=True)
class Draft:
    """A problem before the format filter.

    Attributes:
        file, line: where it was read.
        id: the row's own, or file and line.
        question: statement; empty if there is none.
        answer: reference answer as text; empty if there is none. Of a worked solution, only its result.
        raw_answer: the value as the file has it; a multiple choice may name its option by a number.
        choices: the field with the options, as the file has it; None without.
        from_solution: the answer was taken from a worked solution.
        picture: a picture belongs to the row.
        language, level: as in `Problem`.
    """

    file: str
    line: int
    id: str
    question: str
    answer: str
    raw_answer: Any = None
    choices: Any = None
    from_solution: bool = False
    picture: bool = False
    language: str = ""
    level: int = 0


def read_draft(row: Row, fields: FieldNames | None = None) -> Draft:
    """Map a row's fields by the usual names, or by those set.

    Raises:
        InputError: a name that is set does not exist in the row.
    """
    fields = fields or FieldNames()
    picker = FieldPicker(row)
    _, question = picker.pick("question", fields.question, QUESTION)
    _, choices = picker.pick("choices", fields.choices, _OPTIONS)
    answer_names = (*ANSWER, *_CHOSEN) if choices is not None else ANSWER
    _, raw = picker.pick("answer", fields.answer, answer_names)
    answer, from_solution = _text(raw, row), False
    if raw is None and not fields.answer:
        _, raw = picker.pick("answer", "", SOLUTION)
        answer, from_solution = _text(raw, row, result_of), True
    _, id_ = picker.pick("id", fields.id, ID)
    _, language = picker.pick("language", fields.language, LANGUAGE)
    _, level = picker.pick("level", fields.level, LEVEL)
    _, picture = picker.pick("picture", "", _PICTURES)
    return Draft(
        file=row.file,
        line=row.line,
        id=_text(id_, row) or f"{PurePosixPath(row.file).stem}-{row.line}",
        question=_question(question, row),
        answer=answer,
        raw_answer=_whole(raw),
        choices=_whole(choices),
        from_solution=from_solution,
        picture=bool(picture),
        language=parse_language(language, strict=bool(fields.language), place=f"{row.place}: language"),
        level=parse_level(level),
    )


def _text(value: Any, row: Row, read: Callable[[Any, str], str] = answer_text) -> str:
    """An answer's canonical text; empty for what is no answer at all (an object, nan)."""
    if isinstance(value, Mapping):
        return ""
    try:
        return LONE_SURROGATE.sub("\ufffd", read(value, row.place))
    except InputError:
        return ""


def _whole(value: Any) -> Any:
    """A value without halves of characters."""
    if isinstance(value, str):
        return LONE_SURROGATE.sub("\ufffd", value)
    if isinstance(value, Mapping):
        return {_whole(key): _whole(item) for key, item in value.items()}
    return [_whole(item) for item in value] if isinstance(value, list | tuple) else value


def _question(value: Any, row: Row) -> str:
    if value is None:
        return ""
    try:
        return LONE_SURROGATE.sub("\ufffd", question_text(value, row.place))
    except InputError:
        return ""
