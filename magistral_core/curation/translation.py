r"""Translation of English problems (Magistral, section 2.2.4): which ones, what a model is asked, when its answer is refused. Pure.

    drawn by hash -> unfit? -> masked -> asked -> marks, numbers, signs, length, language -> translated
                        |                                      |
                        '--------- stays English, with its Flaw '

Formulas and code never reach the model (`masking.py`). The reference answer does not either: it is the same afterwards. An answer of
words ("Monday") would have to be translated too, and a verifier could not compare the right one with it; such problems stay English.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from enum import StrEnum
from typing import NamedTuple

from magistral_core.config.curation import TranslateSettings
from magistral_core.curation.answers import has_words
from magistral_core.curation.asking import is_encodable, read_object
from magistral_core.curation.masking import Masked, MaskingError, signs
from magistral_core.records import Problem
from magistral_core.rewards.language import classify

ENGLISH = "en"
NAMES = {"fr": "French", "es": "Spanish", "it": "Italian", "de": "German", "zh": "Chinese", "ru": "Russian"}

#: Letters of a translation for each of the statement's. The six languages need 0.8 to 1.4.
_LENGTHS = (0.5, 2.0)
#: A Chinese character says as much as so many letters.
_LETTERS_A_CHARACTER = 3
_CHINESE = re.compile(r"[\u3400-\u9fff]")
_NUMBER = re.compile(r"\d+(?:[.,]\d+)*")

SYSTEM = """\
You translate mathematics and programming problems for an automatic grader. You never solve them. Think first, between {open} and \
{close}, if it helps. End with one JSON object on a line of its own and nothing behind it."""

_TRANSLATE = """\
Translate the problem below from English into {language}. It must ask exactly the same: leave out no condition, add no hint, no \
explanation and no answer. Signs such as [[1]] stand for formulas and code: put each where it belongs in your sentence, once and \
unchanged. Write every number with the same digits.

Problem:
{question}

Reply with {{"translation": "..."}}."""


class Flaw(StrEnum):
    """Why a drawn problem stays English. Each member has a sentence for people as `__doc__`."""

    def __new__(cls, code: str, doc: str = "") -> Flaw:
        """A text with its explanation. The default is for type checkers, which take `Flaw(code)` for a call of this."""
        member = str.__new__(cls, code)
        member._value_ = code
        member.__doc__ = doc
        return member

    FEW_WORDS = "few_words", "The statement has too few words outside formulas to tell a language by."
    OPTIONS = "options", "It has options in a field of its own, which would stay English."
    CODE = "code", "Its statement is code, which its tests run (HumanEval)."
    WORD_ANSWER = "word_answer", "Its reference answer has words, which belong to English."
    UNVERIFIABLE_GOLD = "unverifiable_gold", "Its reference answer does not verify against itself."
    TOO_LONG = "too_long", "It is too long for the model's prompt."
    UNREADABLE = "unreadable", "The reply holds no translation, or was cut."
    MARKS = "marks", "A formula or a piece of code is missing, doubled or out of place."
    NUMBERS = "numbers", "The numbers outside formulas are not the same."
    SIGNS = "signs", "The signs outside formulas (`=`, `$`, braces, ...) are not the same."
    LENGTH = "length", "It is less than half or more than twice as long as the statement."
    LANGUAGE = "language", "It is not in the language that was asked for, or that cannot be told."
    SOLVED_DIFFERENTLY = "solved_differently", "The solver finds the reference answer from the English statement only."


class Fault(NamedTuple):
    """A flaw, and the words that gave it away."""

    flaw: Flaw
    detail: str


def draw(id_: str, settings: TranslateSettings) -> str | None:
    """The language that a problem is drawn for, or None. Seed, id and settings decide; a larger share keeps a smaller one's draws."""
    digest = hashlib.blake2b(f"{settings.seed}/{id_}".encode("utf-8", "surrogatepass"), digest_size=16).digest()
    if int.from_bytes(digest[:8]) >= settings.share * 2**64:
        return None
    return settings.languages[int.from_bytes(digest[8:]) % len(settings.languages)]


def is_english(problem: Problem) -> bool:
    """Whether a problem says that it is English, or says nothing and is."""
    return (problem.language or classify(problem.question).code) == ENGLISH


def unfit(problem: Problem) -> Fault | None:
    """Why an English problem is not even given to the model."""
    if "choices" in problem.extra:
        return Fault(Flaw.OPTIONS, str(problem.extra["choices"])[:80])
    if problem.entry_point and any(test.check for test in problem.tests):
        return Fault(Flaw.CODE, problem.entry_point)
    if has_words(problem.answer):
        return Fault(Flaw.WORD_ANSWER, problem.answer[:80])
    if classify(problem.question).code != ENGLISH:  # then a translation could not be told either
        return Fault(Flaw.FEW_WORDS, "")
    return None


def task_for(masked: Masked, language: str) -> str:
    """What the model is asked."""
    return _TRANSLATE.format(language=NAMES[language], question=masked.text)


def read_translation(answer: str, masked: Masked, language: str) -> str | Fault:
    """The translated statement in a model's answer, with its formulas back in place; or what is wrong with it."""
    content = read_object(answer)
    text = "" if content is None else content.get("translation")
    if not isinstance(text, str) or not text.strip() or not is_encodable(text):
        return Fault(Flaw.UNREADABLE, answer[-80:])
    text = text.strip()
    try:
        restored = masked.restore(text)
    except MaskingError as error:
        return Fault(Flaw.MARKS, str(error))
    prose, translated = masked.prose, Masked(text, masked.pieces).prose
    return _differences(prose, translated) or _wrong_language(restored, language) or restored


def _differences(prose: str, translated: str) -> Fault | None:
    """What the two have by themselves and do not share."""
    numbers, others = Counter(_NUMBER.findall(prose)), Counter(_NUMBER.findall(translated))
    if numbers != others:
        return Fault(Flaw.NUMBERS, f"lost {_listed(numbers - others)}, new {_listed(others - numbers)}")
    if signs(prose) != signs(translated):
        lost, new = signs(prose) - signs(translated), signs(translated) - signs(prose)
        return Fault(Flaw.SIGNS, f"lost {_listed(lost)}, new {_listed(new)}")
    ratio = _letters(translated) / max(_letters(prose), 1)
    if not _LENGTHS[0] <= ratio <= _LENGTHS[1]:
        return Fault(Flaw.LENGTH, f"{ratio:.2f} times as long")
    return None


def _wrong_language(text: str, language: str) -> Fault | None:
    found = classify(text)
    return None if found.code == language else Fault(Flaw.LANGUAGE, f"asked for {language}, got {found.code or 'none that can be told'}")


def _letters(prose: str) -> int:
    return sum(map(str.isalpha, prose)) + (_LETTERS_A_CHARACTER - 1) * len(_CHINESE.findall(prose))


def _listed(found: Counter[str]) -> str:
    return " ".join(sorted(found.elements())) or "none"
