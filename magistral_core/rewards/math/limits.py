"""What must not reach a parser: texts that are long, deep, or stand for numbers too large to write out. Linear in the text's length."""

from __future__ import annotations

import re

#: Longer or more deeply nested answers are not parsed: no verifiable answer needs them, and they are how a parser is made to hang.
MAX_CHARS = 500
MAX_NESTING = 30
#: Largest plain exponent that is parsed; `2^{100000}` has 30,000 digits.
MAX_EXPONENT = 10_000
_FACTORIAL = re.compile(r"\d{4,}\s*[)}]*\s*!|!\s*[)}\]]*\s*!")
_SMALL_FACTORIAL = re.compile(r"(?<!\d)[12]\d{3}\s*!")
_LETTER_TOWER = re.compile(r"\^\s*\w\s*\^\s*\w\s*\^")


def too_costly(text: str) -> str:
    """Why a text must not reach a parser: length, nesting, power towers, huge factorials. Empty if it may."""
    if len(text) > MAX_CHARS:
        return f"longer than {MAX_CHARS} characters"
    depth = 0
    for character in text:
        if character in "{([":
            depth += 1
            if depth > MAX_NESTING:
                return f"nested more than {MAX_NESTING} deep"
        elif character in "})]":
            depth -= 1
    if "!" in text and _FACTORIAL.search(_SMALL_FACTORIAL.sub("1!", text)):
        return "a huge factorial"
    if "^" in text or "**" in text:
        return _costly_power(text.replace("**", "^"))
    return ""


def _costly_power(text: str) -> str:
    """Towers of powers, and plain powers too large to write out."""
    if _exponent_depth(text) > 2 or _LETTER_TOWER.search(text):
        return "a tower of powers"
    # Without opening brackets 9^{9^{9}} reads 9^9^9; a closing one ends a number, as in 2^{3}4^{5}.
    for tower in re.findall(r"\d+(?:\^-?\d+)+", re.sub(r"[)}]", " ", re.sub(r"[\s{(,]|\\left|\\right", "", text))):
        first, *rest = [int(part[:8]) for part in tower.replace("^-", "^").split("^")[1:]]
        if first > MAX_EXPONENT or len(rest) > 1 or (rest and first > 1 and (rest[0] > 13 or first ** rest[0] > MAX_EXPONENT)):
            return "a huge power"
    return ""


def _exponent_depth(text: str) -> int:
    """How deep exponents in brackets stand in one another: 2 for x^{y^{z}}."""
    depth = deepest = 0
    brackets: list[bool] = []  # whether each open bracket holds an exponent
    previous = ""
    for character in text:
        if character in "{(":
            brackets.append(previous == "^")
            depth += brackets[-1]
            deepest = max(deepest, depth)
        elif character in "})" and brackets:
            depth -= brackets.pop()
        if not character.isspace():
            previous = character
    return deepest
