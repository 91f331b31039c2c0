r"""A box within a text: is it the answer, or a part of it?

`The answer is \boxed{7}`, `x = \boxed{7}` and a whole solution come to 7; `-\boxed{7}`, `3 or \boxed{7}` and `\boxed{7} million` do not,
and are read as they stand.
"""

from __future__ import annotations

import re

from magistral_core.boxed import boxed_in
from magistral_core.rewards.math import words

#: What may stand before a box that is all of an answer: delimiters and words, none of which changes what it says; or what it equals.
_BEFORE_A_BOX = re.compile(
    r"(?:\\[()\[\]]|\\(?:text|textbf|mathbf)\s*\{(?:[^\W\d_]|[\s.,:!'’])*+\}|\*\*|[^\W\d_]{2,}+|I\b|[\u3400-\u9fff]|[\s$.,:;!'’#：，。；、！])*+"
)
_EQUALS = re.compile(r"[^,;]*[A-Za-z][^,;]*=[\s{$]*")
#: And behind it: delimiters, and sentences after a full stop.
_BEHIND_A_BOX = re.compile(r"(?:\\[)\]]|\*\*|[\s$])*+(?:[.!。！](?:[^\W\d_]|[\s$.,:;!'’*，。！])*+)?")
#: As the last word; of the others also a little before: `half of`, `not the`.
_JOINING = frozenset(("or", "and"))
_OTHERWISE = frozenset(("not", "no", "never", "minus", "negative", "plus", "half", "twice", "double", "triple", "percent", "times"))
_WORDS = re.compile(r"(?<![\\A-Za-z])[^\W\d_]+")
#: A solution, rather than an answer with some words, has so many words of three letters, or several formulas.
_SOLUTION_WORDS, _SOLUTION_FORMULAS = 4, re.compile(r"\\\[|\\begin\s*\{align|\$[^$]*\$[^$]*\$", re.DOTALL)
#: In a solution: a box that is a part of a formula. Anything else is what the solution comes to.
_PART_BEFORE = re.compile(r"(?:[-+*/^_{]|\\(?:pm|mp|times|cdot|div)\s*)[\s$]*$")
_PART_BEHIND = re.compile(r"[\s$]*[-+*/^_}!]")


def unboxed(text: str) -> str:
    """What is in the last box of a text, where that is its answer; else the text."""
    found = boxed_in(text)
    if found is None:
        return text
    inside, before, behind = found
    return inside if inside and _comes_to(before, behind) else text


def _comes_to(before: str, behind: str) -> bool:
    """Whether what stands before and behind a box leaves what is in it as it is, so that the box is the answer."""
    said = _WORDS.findall(before)
    around = before + behind
    plain = sum(len(word) > 2 and not words.is_formula_word(word) for word in _WORDS.findall(around))
    solution = plain >= _SOLUTION_WORDS or _SOLUTION_FORMULAS.search(around) is not None
    if any(word.lower() in _OTHERWISE for word in said[-1 if solution else -3 :]) or any(word.lower() in _JOINING for word in said[-1:]):
        return False
    if solution:
        return not _PART_BEFORE.search(before) and not _PART_BEHIND.match(behind)
    if not _BEHIND_A_BOX.fullmatch(behind):
        return False
    if _EQUALS.fullmatch(before) and "\\boxed" not in before:
        return True
    return _BEFORE_A_BOX.fullmatch(before) is not None and not any(words.is_formula_word(word) for word in said[-1:])
