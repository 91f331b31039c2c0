"""Rules about a reference answer: is there one, is it one, and could a verifier compare it. Pure."""

from __future__ import annotations

import re

from magistral_core.curation.draft import Draft
from magistral_core.curation.reasons import Reason
from magistral_core.curation.statements import Finding
from magistral_core.rewards.math.limits import MAX_CHARS
from magistral_core.rewards.math.words import is_formula_word

_NOTHING = re.compile(
    r"(?:none|n/?a|null|nan|unknown|tbd|-+|\?+|no (?:answer|solution given)|see (?:the )?(?:solution|explanation|above|below)|omitted|"
    r"(?:answers?|solutions?) (?:may |will )?var(?:y|ies)|proof|q\.?e\.?d|as (?:above|shown))\.?",
    re.IGNORECASE,
)
#: The dot of a label, not of a number: `1.5, 2.5` has no parts.
_LABELLED = re.compile(
    r"(?:^|[\s;,])\(?(?:a|i|1)(?:[):]|\.(?!\d))\s*\S.*[\s;,]\(?(?:b|ii|2)(?:[):]|\.(?!\d))\s*\S", re.IGNORECASE | re.DOTALL
)
#: Words of a worked solution's last line that is taken as the result; more is a sentence.
_SOLUTION_WORDS = 2
_BOX = re.compile(r"\\boxed\s*\{")
_FORMULA = re.compile(r"\$[^$]*\$|\\\([^)]*\\\)|\\\[.*?\\\]", re.DOTALL)
_TEXT = re.compile(r"\\(?:text|textbf|mbox|mathrm)\s*\{([^{}]*)\}")
_COMMAND = re.compile(r"\\[a-zA-Z]+")
_WORD = re.compile(r"[^\W\d_]{2,}")
#: A sentence around one formula: "The limit equals $-1$."
_SENTENCE_WITH_RESULT = re.compile(
    r"[^$]*\b(?:is|are|equals?|be|value|answer|(?:evaluates|converges|tends|equal) to)\s+(?:exactly\s+|precisely\s+)?\$([^$]+)\$\s*\.?\s*",
    re.IGNORECASE,
)
#: Units and function names have one or two letters, or are known to the verifier.
_LONG_WORD = re.compile(r"[^\W\d_]{3,}")
_YES_NO = re.compile(r"(?:\\text\s*\{)?\s*(?:yes|no|true|false)\s*\.?\}?", re.IGNORECASE)


def final_answer(draft: Draft, max_words: int) -> tuple[str, Finding | None]:
    """The one final answer of a draft, or why there is none.

    Args:
        draft: the answer of a worked solution may still be a sentence with the result in it.
        max_words: words outside formulas that an answer may have.
    """
    answer = draft.answer.strip()
    if not answer or _NOTHING.fullmatch(answer):
        return "", Finding(Reason.NO_ANSWER, answer or "no answer")
    if len(answer) > MAX_CHARS:
        return answer, Finding(Reason.PROSE_ANSWER, f"{len(answer)} characters")
    if isinstance(draft.raw_answer, str) and not draft.from_solution and len(_BOX.findall(answer)) > 1 and "\n" not in answer:
        return answer, Finding(Reason.SEVERAL_ANSWERS, answer[:80])
    if draft.from_solution and (found := _SENTENCE_WITH_RESULT.fullmatch(answer)):
        answer = found.group(1).strip()
    if _LABELLED.search(answer):
        return answer, Finding(Reason.SEVERAL_ANSWERS, answer[:80])
    if word_count(answer) > (min(max_words, _SOLUTION_WORDS) if draft.from_solution else max_words):
        return answer, Finding(Reason.PROSE_ANSWER, answer[:80])
    return answer, None


def is_yes_no(answer: str) -> bool:
    """Whether an answer is yes, no, true or false."""
    return _YES_NO.fullmatch(answer.strip()) is not None


def has_words(answer: str) -> bool:
    r"""Whether an answer says something in a language: `Monday`, `yes`, `7 apples`, `\text{odd}`; not `7 cm`, `\sqrt{2}`, `pi/2`, `AB`."""
    texts = " ".join(_TEXT.findall(answer))
    found = _LONG_WORD.findall(f"{_COMMAND.sub(' ', _TEXT.sub(' ', answer))} {texts}")
    return is_yes_no(answer) or any(not is_formula_word(word) and not word.isupper() for word in found)


def word_count(answer: str) -> int:
    r"""Words of an answer outside its formulas; words in `\text{}` count."""
    texts = " ".join(_TEXT.findall(answer))
    plain = _COMMAND.sub(" ", _FORMULA.sub(" ", _TEXT.sub(" ", answer)))
    return len(_WORD.findall(plain)) + len(_WORD.findall(texts))
