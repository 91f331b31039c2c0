r"""The format rule (Magistral, section 2.2) and the split of a response into thoughts and answer. Pure.

A response is valid when it starts with the opening tag (white space before it is forgiven), holds exactly one opening and one
closing tag, was not cut at the maximum length, and has an answer after the closing tag: for math a `\boxed{}` that is not
empty, for code a fenced block with a language name.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from magistral_core.boxed import extract_boxed
from magistral_core.config.schema import PromptSettings
from magistral_core.records import FinishReason, ProblemKind

_FENCE = re.compile(r"( {0,3})```[ \t]*([A-Za-z][\w+#.-]*)?")
_CLOSING_FENCE = re.compile(r" {0,3}```[ \t]*")


@dataclass(frozen=True, slots=True)
class Response:
    """A response taken apart.

    Attributes:
        thoughts: text between the tags; empty if the format is not valid.
        answer: text after the closing tag; empty if the format is not valid.
        result: math: content of the answer's last box; code: the first fenced block. Empty if the format is not valid.
        fault: why the format is not valid; empty if it is.
    """

    thoughts: str = ""
    answer: str = ""
    result: str = ""
    fault: str = ""

    @property
    def valid(self) -> bool:
        """Whether the format is valid."""
        return not self.fault


def check_format(text: str, kind: ProblemKind, prompt: PromptSettings, finish_reason: FinishReason = FinishReason.STOP) -> Response:
    """Judge the format of a response (prefill included) and take it apart."""
    opening, closing = prompt.think_open, prompt.think_close
    if finish_reason is FinishReason.LENGTH:
        return Response(fault="cut at the maximum length")
    if not text.lstrip().startswith(opening):
        return Response(fault=f"does not start with {opening}")
    for tag, count in zip((opening, closing), _count_tags(text, opening, closing), strict=True):
        if count != 1:
            return Response(fault=f"{tag} occurs {count} times instead of once")
    head, _, answer = text.partition(closing)
    thoughts = head.lstrip().removeprefix(opening)
    if kind is ProblemKind.MATH:
        result = extract_boxed(answer) or ""
        missing = "no answer in \\boxed{} after the thoughts"
    else:
        block = first_code_block(answer)
        result = "" if block is None else block[1]
        missing = "no fenced block with a language name after the thoughts"
    if not result.strip():
        return Response(fault=missing)
    return Response(thoughts, answer, result)


def answer_part(text: str, closing: str = "</think>") -> str:
    """What follows the last closing tag; all of the text if there is none."""
    return text.rpartition(closing)[2]


def first_code_block(text: str) -> tuple[str, str] | None:
    """Language name and content of the first fenced block that names its language and is closed; None if there is none.

    A block in a list is indented as a whole, its fence too: that is taken away. Reads line by line, so the time is linear however many
    fences stay open.
    """
    language: str | None = None
    body: list[str] = []
    inside, indent = False, 0
    for line in text.splitlines(keepends=True):
        if not inside:
            opened = _FENCE.match(line)
            if opened is not None:
                inside, indent, language, body = True, len(opened.group(1)), opened.group(2), []
        elif _CLOSING_FENCE.fullmatch(line.rstrip("\r\n")):
            if language:
                whole = all(line.startswith(" " * indent) for line in body if line.strip())
                return language, "".join(line[indent:] if whole and line.strip() else line for line in body)
            inside = False
        else:
            body.append(line)
    return None


def _count_tags(text: str, opening: str, closing: str) -> tuple[int, int]:
    """How often each tag occurs; where one tag contains the other, the longer one wins."""
    longest_first = sorted((opening, closing), key=len, reverse=True)
    found = re.findall("|".join(map(re.escape, longest_first)), text)
    return found.count(opening), found.count(closing)
