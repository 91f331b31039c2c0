"""Multiple choice: find the options, resolve the right one, and say the problem again without them. Pure.

options in a field, or (A) ... (B) ... inside the statement
-> the right one, by its letter, its number or its content
-> a statement that stands alone: the option's content becomes the answer
-> a statement that lives by its options ("which of the following"): rules cannot rewrite it
"""

from __future__ import annotations

import ast
import json
import re
import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from magistral_core.curation.answers import word_count
from magistral_core.curation.normalise import tokens
from magistral_core.curation.statements import ends_open

#: Words outside formulas that the right option may have: more is a statement, not an answer.
_MAX_OPTION_WORDS = 4

_LABELLED_OPTION = re.compile(r"\s*\(?\s*([A-Za-z])\s*[).:]\s*(.*)", re.DOTALL)
_LETTER = re.compile(r"(?:\\text\s*\{|\\textbf\s*\{|\$)*\s*\(?\s*([A-Ja-j])\s*[).]?\s*[}$]*")
_BRACKETED_LETTER = re.compile(r"(?:\\text\s*\{|\$)*\s*\(\s*([A-Ja-j])\s*\)\s*[}$]*\.?")
#: `(A)`, `\textbf{(A)}`, `A)`, and `A.` at the start of a line.
_INLINE = re.compile(
    r"(?:\$?\\(?:textbf|text|mathrm|bf)\s*\{?\s*)?(?:\(\s*([A-Ja-j])\s*\)|(?:(?<=\s)|^)([A-Ja-j])\)|(?:(?<=\n)|^)([A-J])[.:](?=\s))"
    r"[:\s]*\}?(?:\\[ ~])?",
    re.MULTILINE,
)
#: The label of an option in a text of nothing but options.
_PIECE = re.compile(r"(?:^|[,;\n])[^\S\n]*(?:\([^\S\n]*)?([A-Ja-j])[^\S\n]*[).:]\s*")
#: What stands behind the options and belongs to none of them.
_AFTERWARDS = re.compile(
    r"(?<![\s.;,])[\s.;,]*(?:which|enter|choose|select|pick|give|write|state)\b[^.?]{0,40}\b(?:options?|choices?|letters?|answers?|one|correct|true)\b[^.?]{0,40}[.?]?\s*$",
    re.IGNORECASE,
)
_SEPARATOR = re.compile(r"\\q?quad|\\hspace\*?\{[^{}]*\}|\\\\|\s|[;,]|\\,|~")

_AMONG = re.compile(
    r"\bwhich\b[^.?]{0,60}\b(?:following|these|those|options?|choices?|statements?|below|answers?)\b"
    r"|\b(?:of|among|from)\s+(?:the|these)\s+(?:following|options|choices|events|statements)\b"
    r"|\bone\s+of\s+the\s+following\b|\bthe\s+following\s+(?:\w+\s+)?(?:is|are|can|could|must|has|have|does|do)\b"
    r"|\b(?:statements?|options?|choices?|expressions?|conclusions?|equations? below|sentences?)\b[^.?]{0,100}"
    r"\b(?:true|false|correct|incorrect|wrong|right)\b"
    r"|\b(?:closest|nearest)\s+to\b|\bbest\s+(?:estimate|describes?|approximat)|\bapproximately\b[^.?]{0,100}\bwhich\b"
    r"|\bexcept\b|\b(?:impossible|not possible)\b|\bcertain\s+(?:one|event)"
    r"|\bI\s*\.\s.{1,500}?\bII\s*\.\s",
    re.IGNORECASE | re.DOTALL,
)
_POSSIBLE = re.compile(r"\b(?:can|could|may|might|must|cannot|can't|necessarily)\b(?:\s+\w+){0,3}?\s+be\b|\bpossible\b", re.IGNORECASE)
_DETERMINED = re.compile(
    r"\bhow\s+(?:many|much|long|far)\b|\b(?:least|most|largest|smallest|greatest|maximum|minimum|highest|lowest|fewest|biggest|best|shortest|"
    r"longest|last|first|product|sum|number of|probability|total)\b",
    re.IGNORECASE,
)
_WHICH = re.compile(r"\bwhich\b(?:\s+(?:one|of|is|are|the))*\s*(\w*)", re.IGNORECASE)
#: A sentence to be completed in many ways: "48 is not a multiple of", "12 is divisible by", "Given that, then".
_MANY_ENDINGS = re.compile(
    r"\b(?:not|never|no)\b|\ba\s+(?:multiple|factor|divisor|solution|root)\s+of\b|\bdivisible\s+by\b|\bthen\W*$", re.IGNORECASE
)
_STATEMENT = re.compile(r"\b(?:is|are|was|can|has|have|will|does|do|must|because|if)\b", re.IGNORECASE)
#: A relative clause ("the day on which he came", "a number, which is even") asks nothing.
_RELATIVE = re.compile(r"(?:,|\b(?:in|on|at|of|for|by|to|from|with|through|during|under|after|during|into|upon))\s*$", re.IGNORECASE)
#: Things of which everybody knows what there are.
_CLOSED = frozenset(
    (
        *(
            "day",
            "days",
            "month",
            "months",
            "year",
            "years",
            "season",
            "hour",
            "time",
            "quadrant",
            "quadrants",
            "digit",
            "digits",
            "letter",
        ),
        *("page", "term", "place", "position", "floor", "row", "column", "direction"),
    )
)
_REFERS = re.compile(
    r"\b(?:none|all|both|neither|any|some)\s+of\b|\b(?:cannot|can't|can not|could not)\s+be\s+(?:determined|known)|\bnot enough\b"
    r"|\b(?:undetermined|indeterminate|other|none|all|never|always|don.?t know)\b|\b(?:above|these|options?)\b"
    r"|\bI{1,3}\b(?:\s+only|\s+and|,|$)",
    re.IGNORECASE,
)

#: LaTeX's text-mode names of plain characters, and its old switch to upright letters, as converters leave them in options.
_TEXT_MODE = tuple(
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"\\textquotesingle(?![a-zA-Z])\s?", "'"),
        (r"\\textbackslash(?![a-zA-Z])(?:\{\})?\s*(?=\\)", ""),
        (r"\\textbackslash(?![a-zA-Z])(?:\{\})?\s*", r"\\"),
        (r"\\textgreater(?![a-zA-Z])(?:\{\})?", ">"),
        (r"\\textless(?![a-zA-Z])(?:\{\})?", "<"),
        (r"(?:\\textasciitilde|\\space)(?![a-zA-Z])(?:\{\})?|\u3000", " "),
        (r"\\_", "_"),
        (r"\\rm(?![a-zA-Z])\s*\{?\s*([a-zA-Z]+)\}?", r" \\text{ \1}"),
        (r"\\rm(?![a-zA-Z])\s*", ""),
    )
)


@dataclass(frozen=True, slots=True)
class Choice:
    """A multiple choice taken apart.

    Attributes:
        stem: the statement without its options.
        options: contents, in order.
        answer: content of the right one; None if the reference answer names none of them.
    """

    stem: str
    options: tuple[str, ...]
    answer: str | None


def take_apart(question: str, choices: Any, answer: str, raw_answer: Any) -> Choice | None:
    """Find options in the field or in the statement; None if the problem is no multiple choice.

    Args:
        question: the statement.
        choices: the field with the options, in any of the usual shapes, or None.
        answer: reference answer as text.
        raw_answer: the same as the file has it; a whole number counts options from 0.
    """
    if choices is not None:
        labels, options = _from_field(choices)
        if len(options) < 2:  # options that cannot be read are there all the same: a letter alone is no answer
            return Choice(question, (), None) if choices and _LETTER.fullmatch(answer) else None
        stem, inline = _from_statement(question)
        if [tokens(text) for text in inline] != [tokens(text) for text in options]:
            stem = question
        return Choice(stem, tuple(options), _resolve(labels, options, answer, raw_answer))
    if not _LETTER.fullmatch(answer):
        return None
    stem, options = _from_statement(question)
    if not options or (len(options) < 3 and not _BRACKETED_LETTER.fullmatch(answer)):
        return None
    return Choice(stem, tuple(options), _resolve(list(string.ascii_uppercase), options, answer, answer))


def names_an_option(answer: str) -> bool:
    """Whether an answer is the bracketed letter of an option: `(B)`."""
    return _BRACKETED_LETTER.fullmatch(answer.strip()) is not None


def rewrite(choice: Choice) -> tuple[str, str] | str:
    """A plain statement with its answer, or why rules cannot make one. The choice must be resolved."""
    assert choice.answer is not None
    stem, answer = choice.stem.strip(), choice.answer
    if _REFERS.search(answer):
        return f"the right option speaks of other options: {answer[:60]}"
    if word_count(answer) > _MAX_OPTION_WORDS or _STATEMENT.search(answer):
        return f"the right option is a statement: {answer[:60]}"
    if found := _AMONG.search(stem):
        return f"asks about its options: {' '.join(found.group().split())[:60]}"
    sentences = re.split(r"(?<=[.?!])\s+", stem)
    contained: bool | None = None  # not known yet: it takes as long as the stem is
    for asking in [sentence for sentence in sentences if "?" in sentence] or sentences[-1:]:
        if (found := _POSSIBLE.search(asking)) and not _DETERMINED.search(asking):
            return f"several answers are possible: {found.group()}"
        for found in _WHICH.finditer(asking):
            relative = _RELATIVE.search(asking[: found.start()]) is not None
            if not relative and found.group(1).lower() not in _CLOSED:
                contained = _contains(stem, answer) if contained is None else contained
                if not contained:
                    return f"asks about its options: {found.group()}"
    if ends_open(stem) and (found := _MANY_ENDINGS.search(sentences[-1])):
        return f"may end in several ways: {found.group()}"
    if ends_open(stem):
        stem = stem.rstrip(" \n\t.．~") + " ____."
    return stem, answer


def _from_field(choices: Any) -> tuple[list[str], list[str]]:
    """Labels and contents of a field of options; empty if it is nothing of the kind."""
    if isinstance(choices, str):
        choices = _parsed(choices)
    if isinstance(choices, Mapping):
        if isinstance(choices.get("text"), Sequence) and not isinstance(choices["text"], str):
            contents = [str(item) for item in choices["text"]]
            labels = [str(item) for item in choices.get("label") or []]
            return (labels if len(labels) == len(contents) else list(string.ascii_uppercase[: len(contents)])), [*map(_clean, contents)]
        return [str(key) for key in choices], [_clean(str(value)) for value in choices.values()]
    if not isinstance(choices, Sequence) or isinstance(choices, str):
        return [], []
    labels, contents = [], []
    for number, item in enumerate(choices):
        while isinstance(item, Sequence) and not isinstance(item, str) and len(item) == 1:
            item = item[0]
        label = string.ascii_uppercase[number % 26]
        if isinstance(item, Mapping):
            label = str(item.get("label") or item.get("aoVal") or item.get("key") or label)
            content = next((item[name] for name in ("text", "content", "value") if name in item), "")
        else:
            content = item
            found = _LABELLED_OPTION.fullmatch(str(item))
            if found and found.group(1).upper() == label:
                content = found.group(2)
        labels.append(label)
        contents.append(_clean(str(content)))
    return labels, contents


def _parsed(text: str) -> Any:
    """Options that were written as one text: JSON, a Python literal, or labelled pieces (`a ) 24 , b ) 120`)."""
    for read in (json.loads, ast.literal_eval):
        try:
            found = read(text)
        except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
            continue
        if isinstance(found, list | tuple | dict):
            return found
    marks = list(_PIECE.finditer(text))
    labels = [mark.group(1).upper() for mark in marks]
    if not labels or labels != list(string.ascii_uppercase[: len(labels)]):
        return text
    ends = [mark.start() for mark in marks[1:]] + [len(text)]
    return [text[mark.end() : end].strip(" ,;\n") for mark, end in zip(marks, ends, strict=True)]


def _from_statement(question: str) -> tuple[str, list[str]]:
    """The stem and the options inside a statement, labelled A, B, ... or a, b, ... in order; no options if there are none."""
    for letters in (string.ascii_uppercase, string.ascii_lowercase):
        marks: list[re.Match[str]] = []
        for found in _INLINE.finditer(question):
            label = next(group for group in found.groups() if group)
            if len(marks) < 10 and label == letters[len(marks)]:
                marks.append(found)
        if len(marks) < 2:
            continue
        ends = [mark.start() for mark in marks[1:]] + [len(question)]
        pieces = [question[mark.end() : end] for mark, end in zip(marks, ends, strict=True)]
        afterwards = _AFTERWARDS.search(pieces[-1])
        if afterwards:
            pieces[-1] = pieces[-1][: afterwards.start()]
        options = [_clean(_without_separators(piece)) for piece in pieces]
        if all(options):
            return question[: marks[0].start()].rstrip().removesuffix("$").rstrip(), options
    return question, []


def _without_separators(text: str) -> str:
    """The text without the separators at its end. An expression that ends with `$` would look for them from each one of a long run."""
    begin = end = len(text) + 1
    for found in _SEPARATOR.finditer(text):
        begin, end = (begin if found.start() == end else found.start()), found.end()
    return text[:begin] if end == len(text) else text


def _resolve(labels: Sequence[str], options: Sequence[str], answer: str, raw_answer: Any) -> str | None:
    """Content of the right option: the answer may be its label, its content, or its number from 0; None where these name different ones."""
    letter = _LETTER.fullmatch(answer.strip())
    by_label = {label.strip("(). ").upper(): option for label, option in zip(labels, options, strict=False)}
    if letter and letter.group(1).upper() in by_label:
        return by_label[letter.group(1).upper()] or None
    wanted = tokens(answer)
    meant = [option for option in options if wanted and tokens(option) == wanted][:1]
    if isinstance(raw_answer, int) and not isinstance(raw_answer, bool) and 0 <= raw_answer < len(options):
        meant.append(options[raw_answer])
    if label := by_label.get(answer.strip("(). ").upper()):
        meant.append(label)
    # `2` among the options 1, 2, 3 is the second or the third: who can tell
    return meant[0] if len(set(meant)) == 1 else None


def _clean(text: str) -> str:
    """An option as an answer: without doubled dollar signs and what typesetting left at its ends."""
    for pattern, replacement in _TEXT_MODE:
        text = pattern.sub(replacement, text)
    text = text.strip(" ~\n\t")
    if text.count("$$") == 2 and text.startswith("$$") and text.endswith("$$"):
        text = text[2:-2]
    elif text.count("$") == 2 and text.startswith("$") and text.endswith("$"):
        text = text[1:-1]
    return text.strip(" ~").removesuffix(".").strip()


def _contains(stem: str, answer: str) -> bool:
    """Whether the statement itself names the answer among its candidates."""
    wanted, found = tokens(answer), tokens(stem)
    return any(found[start : start + len(wanted)] == wanted for start in range(len(found) - len(wanted) + 1)) if wanted else False
