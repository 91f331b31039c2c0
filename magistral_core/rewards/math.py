r"""Answers of math problems as text: cleaning, canonical forms, and the verdicts that need no parser. Pure and linear.

Most answers are plain numbers or words; they are decided here, exactly, in microseconds. Whatever is left goes to math-verify in a
worker process (`symbolic.py`). The rules here also refuse what a parser is known to accept wrongly: 0.428571 for 3/7, `AC` for `CA`,
`\{1,2\}` for `(1,2)`, `5=7` for `7`, centimetres for metres.
"""

from __future__ import annotations

import re
import unicodedata
from fractions import Fraction
from typing import NamedTuple

from magistral_core.boxed import extract_boxed
from magistral_core.records import ScoreStatus

#: Longer or more deeply nested answers are not parsed: no verifiable answer needs them, and they are how a parser is made to hang.
MAX_CHARS = 500
MAX_NESTING = 30
#: Largest plain exponent that is parsed; `2^{100000}` has 30,000 digits.
MAX_EXPONENT = 10_000


class Verdict(NamedTuple):
    """What comparing two answers gave: a status, and one line for people."""

    status: ScoreStatus
    detail: str = ""
    seconds: float = 0.0

    @property
    def correct(self) -> bool:
        """Whether the answers mean the same."""
        return self.status is ScoreStatus.CORRECT


_CHARACTERS = str.maketrans(
    {
        "−": "-", "–": "-", "×": r"\times ", "·": r"\cdot ", "⋅": r"\cdot ", "÷": "/", "⁄": "/", "π": r"\pi ", "∞": r"\infty ",
        "≤": r"\le ", "≥": r"\ge ", "≠": r"\ne ", "±": r"\pm ", "∪": r"\cup ", "∩": r"\cap ", "∈": r"\in ", "∅": r"\emptyset ",
        "°": r"^\circ ", "、": ",", "。": ".", "\u00a0": " ", "\u202f": " ", "\u2009": " ", "θ": r"\theta ",
    }
    | {chr(code): chr(code - 0xFEE0) for code in range(0xFF08, 0xFF5E)}  # full-width forms of ASCII
)  # fmt: skip
_SUPERSCRIPTS = re.compile("[⁰¹²³⁴⁵⁶⁷⁸⁹⁻]+")
_VULGAR_FRACTION = re.compile("[¼-¾⅐-⅞]")
_UNICODE_ROOT = re.compile(r"√\s*(\d+(?:\.\d+)?|[A-Za-z]|\{[^{}]*\}|\([^()]*\))")
_WRAPPERS = (("$$", "$$"), ("$", "$"), (r"\(", r"\)"), (r"\[", r"\]"))
_EDITS: tuple[tuple[re.Pattern[str], str], ...] = (
    (re.compile(r"\\(?:left|right)\s*\.|\\(?:left|right|[bB]igg?[lr]?|displaystyle|textstyle)(?![a-zA-Z])|\\limits"), ""),
    (re.compile(r"\\(?:text)?color\s*(?:\[[^\[\]]*\])?\{[^{}]*\}"), ""),
    (re.compile(r"\\[dtc]frac(?![a-zA-Z])"), r"\\frac"),
    (re.compile(r"\\(?:mathrm|mathbf|mathit|textbf|textrm|textit|mbox|operatorname|textnormal|mathsf)(?![a-zA-Z])\s*\{"), r"\\text{"),
    (re.compile(r"\\varnothing"), r"\\emptyset "),
    (re.compile(r"\\(?:leq|leqslant)(?![a-zA-Z])"), r"\\le "),
    (re.compile(r"\\(?:geq|geqslant)(?![a-zA-Z])"), r"\\ge "),
    (re.compile(r"(?<=\d)(?:\\[,!;: ]|\{,\}|~)+(?=\d{3}(?!\d))"), ""),  # 1\,000
    (re.compile(r"(?<!\\)\\[,!;: ]|\\q?quad(?![a-zA-Z])|~"), " "),
    (re.compile(r"\^\s*\{\s*\\(?:circ|degree)\s*\}|\^\s*\\circ(?![a-zA-Z])|\\degree(?![a-zA-Z])"), r"^\\circ "),
    (re.compile(r"\s+"), " "),
)
_INTEGER = r"(?:\d{1,3}(?:,\d{3})+|\d+)"
_DECIMAL = re.compile(rf"([+-]?)({_INTEGER}?)(?:\.(\d*))?(?:\s*(?:[eE]|(?:\\times|\\cdot|\*)\s*10\s*\^)\s*\{{?\s*([+-]?\d{{1,3}})\s*\}}?)?")
_REPEATING = re.compile(r"([+-]?)(\d*)\.(\d*)\\(?:overline|bar|dot)\s*\{(\d+)\}")
_FRACTION = re.compile(r"([+-]?)\s*(?:(\d+)\s*)?(?:\\frac\s*(?:\{\s*([+-]?\d+)\s*\}|(\d))\s*(?:\{\s*([+-]?\d+)\s*\}|(\d)))")
_SLASH = re.compile(r"([+-]?)(?:(\d+) )?([+-]?\d+) ?/ ?([+-]?\d+)")
_MIXED_SLASH = re.compile(r"(?<![\d.])(\d+) (\d+) ?/ ?(\d+)")
_WORD = re.compile(r"[A-Z]{2,}|(?=.{4,}$)[^\W\d_]+(?:[ '-][^\W\d_]+)*")
_TEXT_ONLY = re.compile(r"\\text\s*\{([^{}]*)\}")
_CHOICE = re.compile(r"\(?([A-Z])\)?")
_NOT_WORDS = re.compile(r"sqrt|sin|cos|tan|log|exp|inf|theta|alpha|beta", re.IGNORECASE)
_SPACE = re.compile(r"(?<!\d) | (?!\d)")
_BASED = re.compile(r"([0-9A-Z]+)_\{?(\d{1,2})\}?")
_UNIT = re.compile(r"(?<![a-zA-Z\\])\s*(?:\\text\s*\{\s*([a-zA-Z]+)\.?\s*\}|([a-zA-Z]+))\s*(\^\s*\{?\d\}?)?$")
#: Units that a parser drops, so that 5 cm would equal 5 m. Names that mean the same share a line.
_UNITS = {
    name: line[0]
    for line in (
        ["mm", "millimeter", "millimeters"], ["cm", "centimeter", "centimeters"], ["m", "meter", "meters", "metre", "metres"],
        ["km", "kilometer", "kilometers"], ["in", "inch", "inches"], ["ft", "foot", "feet"], ["yd", "yard", "yards"],
        ["mi", "mile", "miles"],
        ["s", "sec", "second", "seconds"], ["min", "minute", "minutes"], ["h", "hr", "hour", "hours"], ["day", "days"], ["week", "weeks"],
        ["year", "years"], ["mg"], ["g", "gram", "grams"], ["kg", "kilogram", "kilograms"], ["lb", "lbs", "pound", "pounds"],
        ["ml", "mL"], ["l", "L", "liter", "liters", "litre", "litres"], ["cent", "cents"], ["dollar", "dollars"],
    )
    for name in line
}  # fmt: skip
_TRIGONOMETRIC = re.compile(r"\\(?:sin|cos|tan|cot|sec|csc)")
_DEGREES = re.compile(r"(\d+(?:\.\d+)?)\s*\^\\circ")


def clean(text: str) -> str:
    r"""Take away what is presentation only: math delimiters, a box, colours, sizes, odd characters, a final full stop."""
    text = text.strip()
    if "\\boxed" in text:
        text = extract_boxed(text) or text
    if not text.isascii():
        text = _VULGAR_FRACTION.sub(_vulgar, text).translate(_CHARACTERS)
        text = _SUPERSCRIPTS.sub(lambda found: "^{" + unicodedata.normalize("NFKC", found.group()).replace("−", "-") + "}", text)
        text = _UNICODE_ROOT.sub(r"\\sqrt{\1}", text)
    text = text.rstrip(" .,;\n")
    for opening, closing in _WRAPPERS:
        if len(text) > len(opening) + len(closing) and text.startswith(opening) and text.endswith(closing):
            text = text[len(opening) : -len(closing)].strip()
    text = text.removeprefix("\\$").removeprefix("$").rstrip(" .,;\n")
    if "\\" in text or "~" in text or "  " in text or "\n" in text or "{" in text:
        for pattern, replacement in _EDITS:
            text = pattern.sub(replacement, text)
    return text.strip()


def canonical_answer(text: str) -> str:
    """A key under which equal answers meet, for majority voting: exact numbers as `27` or `1/2`, other text cleaned and without spaces."""
    text = clean(text)
    number = parse_number(text)
    if number is not None:
        return str(number)
    words = _words(text)
    return words or _squeeze(text)


def parse_number(text: str) -> Fraction | None:
    r"""Exact value of a cleaned plain number: decimals, thousands, exponents, fractions, mixed and repeating ones; else None.

    A trailing degree sign is dropped; a percent sign is not a plain number.
    """
    if len(text) > MAX_CHARS:
        return None
    text = text.removesuffix("^\\circ").rstrip()
    if not text or text[-1] not in "0123456789.})":
        return None
    if found := _DECIMAL.fullmatch(text):
        sign, whole, decimals, exponent = found.groups()
        if not whole and not decimals:
            return None
        value = Fraction(int((whole or "").replace(",", "") + (decimals or ""))) / 10 ** len(decimals or "")
        return _signed(sign, value * Fraction(10) ** int(exponent or 0))
    if found := _REPEATING.fullmatch(text):
        sign, whole, fixed, repeated = found.groups()
        head = Fraction(int(whole + fixed or "0"), 10 ** len(fixed))
        return _signed(sign, head + Fraction(int(repeated), (10 ** len(repeated) - 1) * 10 ** len(fixed)))
    if found := _FRACTION.fullmatch(text):
        sign, whole, top, top_digit, bottom, bottom_digit = found.groups()
        return _ratio(sign, whole, top or top_digit, bottom or bottom_digit)
    if found := _SLASH.fullmatch(text):
        return _ratio(*found.groups())
    return None


def quick_verdict(gold: str, pred: str) -> Verdict | None:
    """Decide without a parser where that is safe; None where a parser is needed. Both as given, not yet cleaned."""
    if not gold.strip():
        return Verdict(ScoreStatus.ERROR, "the reference answer is empty")
    if not pred.strip():
        return Verdict(ScoreStatus.NO_ANSWER, "empty answer")
    if gold.isdecimal() and pred.isdecimal() and len(gold) < MAX_CHARS and len(pred) < MAX_CHARS and gold.isascii() and pred.isascii():
        return _verdict(gold.lstrip("0") == pred.lstrip("0"), pred)
    for name, text in (("reference", gold), ("", pred)):
        reason = too_costly(text)
        if reason:
            return Verdict(ScoreStatus.ERROR, f"the reference answer is {reason}") if name else Verdict(ScoreStatus.UNPARSABLE, reason)
    gold, pred = clean(gold), clean(pred)
    gold_key, pred_key = _squeeze(gold), _squeeze(pred)
    if gold_key == pred_key:
        return _verdict(bool(gold_key), pred)
    gold_number, pred_number = parse_number(gold), parse_number(pred)
    if gold_number is not None and pred_number is not None:
        return _verdict(gold_number == pred_number, pred)
    gold_words = _words(gold)
    if gold_words:
        return _verdict(gold_words == _words(pred), pred)
    if _false_equation(pred) or _bracket_kind(gold_key) * _bracket_kind(pred_key) < 0 or _units_differ(gold, pred):
        return _verdict(False, pred)
    return _compare_based(gold_key, pred_key, pred)


def quick_gold_verdict(gold: str) -> Verdict | None:
    """Whether a reference answer is usable, where that is plain: numbers and words are, empty and costly ones are not (ERROR)."""
    verdict = quick_verdict(gold, gold)
    if verdict is None or verdict.status is ScoreStatus.ERROR:
        return verdict
    cleaned = clean(gold)
    return verdict if parse_number(cleaned) is not None or _words(cleaned) else None


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
    if "!" in text and re.search(r"\d{4,}\s*[)}]*\s*!|!\s*[)}\]]*\s*!", text):
        return "a huge factorial"
    if "^" in text or "**" in text:
        return _costly_power(text.replace("**", "^"))
    return ""


def for_parser(text: str) -> str:
    """A cleaned text in the notation that math-verify reads rightly: mixed numbers as sums, degrees inside functions as radians."""
    text = _MIXED_SLASH.sub(r"(\1+\\frac{\2}{\3})", text)
    number = parse_number(text)
    if number is not None and not text.removeprefix("-").isdecimal():
        # Exponents and repeating decimals would be misread; an exact fraction is not.
        return str(number.numerator) if number.denominator == 1 else rf"\frac{{{number.numerator}}}{{{number.denominator}}}"
    if _TRIGONOMETRIC.search(text):
        text = _DEGREES.sub(r"{\\frac{\1\\pi}{180}}", text)
    return text


def _squeeze(text: str) -> str:
    """Without white space, except between two digits: `2 7` is not 27."""
    return _SPACE.sub("", text) if " " in text else text


def _costly_power(text: str) -> str:
    """Towers of powers, and plain powers too large to write out."""
    if _exponent_depth(text) > 2 or re.search(r"\^\s*\w\s*\^\s*\w\s*\^", text):
        return "a tower of powers"
    # Without opening brackets 9^{9^{9}} reads 9^9^9; a closing one ends a number, as in 2^{3}4^{5}.
    for tower in re.findall(r"\d+(?:\^-?\d+)+", re.sub(r"[)}]", " ", re.sub(r"[\s{(,]|\\left|\\right", "", text))):
        first, *rest = [abs(int(part)) for part in tower.split("^")[1:]]
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


def _verdict(same: bool, pred: str) -> Verdict:
    return Verdict(ScoreStatus.CORRECT if same else ScoreStatus.WRONG, pred)


def _vulgar(found: re.Match[str]) -> str:
    top, _, bottom = unicodedata.normalize("NFKC", found.group()).partition("⁄")
    return rf"\frac{{{top}}}{{{bottom}}}"


def _signed(sign: str, value: Fraction) -> Fraction:
    return -value if sign == "-" else value


def _ratio(sign: str, whole: str | None, top: str, bottom: str) -> Fraction | None:
    if int(bottom) == 0 or (whole and (int(top) < 0 or int(bottom) < 0)):
        return None
    return _signed(sign, int(whole or 0) + Fraction(int(top), int(bottom)))


def _words(text: str) -> str:
    r"""The words of an answer that is not a formula (`\text{east}`, `Monday`, a choice `(C)`), in one notation; empty for formulas."""
    wrapped = _TEXT_ONLY.fullmatch(text)
    inner = (wrapped.group(1) if wrapped else text).strip(" .")
    choice = _CHOICE.fullmatch(inner)
    if choice is not None:
        return choice.group(1)
    if wrapped is not None and inner and not any(character.isdigit() for character in inner):
        return " ".join(inner.casefold().split())
    if _WORD.fullmatch(inner) and not _NOT_WORDS.search(inner):
        return " ".join(inner.casefold().split())
    return ""


def _false_equation(text: str) -> bool:
    """Whether the text equates two different plain numbers; a parser would take the right side."""
    left, equals, right = text.partition("=")
    if not equals:
        return False
    values = parse_number(left.strip()), parse_number(right.strip())
    return None not in values and values[0] != values[1]


def _bracket_kind(key: str) -> int:
    """1 for a tuple or interval in brackets, -1 for a set in braces, 0 for anything else."""
    if "," not in key:
        return 0
    if key.startswith("\\{") and key.endswith("\\}"):
        return -1
    return 1 if key[0] in "([" and key[-1] in ")]" else 0


def _units_differ(gold: str, pred: str) -> bool:
    """Whether both name a unit of the table, and not the same one."""
    units = []
    for text in (gold, pred):
        found = _UNIT.search(text)
        unit = None if found is None else _UNITS.get(found.group(1) or found.group(2))
        if found is None or unit is None or not any(character.isdigit() for character in text[: found.start()]):
            return False
        units.append(unit + (re.sub(r"\D", "", found.group(3) or "")))
    return units[0] != units[1]


def _compare_based(gold_key: str, pred_key: str, pred: str) -> Verdict | None:
    """Numbers with a base as an index: the same digits (the base may be left out), or the same value."""
    gold, other = _BASED.fullmatch(gold_key), _BASED.fullmatch(pred_key)
    if gold is None and other is None:
        return None
    readings = []
    for found, key in ((gold, gold_key), (other, pred_key)):
        digits, base = found.groups() if found else (key, "10")
        if not 2 <= int(base) <= 36 or any(not c.isalnum() or int(c, 36) >= int(base) for c in digits):
            return None
        readings.append((digits, int(digits, int(base))))
    same_digits = readings[0][0] == readings[1][0] and None in (gold, other)
    return _verdict(same_digits or readings[0][1] == readings[1][1], pred)
