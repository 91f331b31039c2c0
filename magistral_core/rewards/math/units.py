"""Units and counted things behind a value. A unit is dropped only when it is one, and two different units are never equal."""

from __future__ import annotations

import re

#: Names that mean the same share a line; the first is canonical. Units are not converted: 1 m is not 100 cm (docs/math-verifier.md).
_LINES = (
    "mm millimeter millimeters millimetre millimetres", "cm centimeter centimeters centimetre centimetres cms",
    "dm decimeter decimeters", "m meter meters metre metres", "km kilometer kilometers kilometre kilometres kms",
    "in inch inches", "ft foot feet", "yd yard yards", "mi mile miles", "nm nanometer nanometers", "au",
    "s sec secs second seconds", "ms millisecond milliseconds", "min mins minute minutes", "h hr hrs hour hours", "day days",
    "week weeks", "month months", "year years yr yrs",
    "mg milligram milligrams", "g gram grams gm", "kg kilogram kilograms kgs", "t ton tons tonne tonnes",
    "lb lbs pound pounds", "oz ounce ounces",
    "mL ml milliliter milliliters millilitre millilitres", "L l liter liters litre litres", "gal gallon gallons", "cup cups",
    "$ dollar dollars usd", "cent cents ¢", "€ euro euros eur", "£ gbp", "¥ yen", "₹ rupee rupees",
    "degree degrees deg", "rad radian radians", "°C celsius", "°F fahrenheit", "K kelvin kelvins",
    "N newton newtons", "J joule joules", "W watt watts", "kW kilowatt kilowatts", "V volt volts", "A ampere amperes amp amps",
    "Pa pascal pascals", "kPa", "Hz hertz", "kHz", "MHz", "mol mole moles", "eV", "Ω ohm ohms", "kJ kilojoule kilojoules",
    "C coulomb coulombs",
    "unit units", "mph", "people person", "foot-pound foot-pounds",
)  # fmt: skip
_CANONICAL = {name: line.split()[0] for line in _LINES for name in line.split()}
#: Words after which a number is not the number before them, or that make a statement of it.
_NOT_A_THING_WORDS = (
    "or and not to times plus minus over more less least most if when unless except mod modulo remainder half halves third thirds "
    "quarter quarters fifth fifths sixth sixths seventh sevenths eighth eighths ninth ninths tenth tenths hundredth hundredths "
    "thousandth thousandths millionth millionths billionth billionths eleventh elevenths twelfth twelfths thirteenth thirteenths "
    "fourteenth fourteenths fifteenth fifteenths sixteenth sixteenths seventeenth seventeenths eighteenth eighteenths nineteenth "
    "nineteenths twentieth twentieths thirtieth thirtieths fortieth fortieths fiftieth fiftieths sixtieth sixtieths "
    "gross mln bn "
    "squared cubed factorial power percent per if than about approximately between through till until but "
    "is are was of out from no none never neither nor only maybe possibly either wrong incorrect false true yes where for "
    "all any each with without "
    "ou oder et und mehr weniger mindestens höchstens moins environ fast más menos más y o e più meno oppure almeno"
)
_NOT_A_THING = frozenset(_NOT_A_THING_WORDS.split())
#: As the last word: `5 degrees below zero`, `5 root two`. In `10 one dollar bills` they count nothing.
_LAST_WORDS = (
    "zero one two three four five six seven eight nine ten eleven twelve "
    "thirteen fourteen fifteen sixteen seventeen eighteen nineteen twenty thirty forty fifty sixty seventy eighty ninety"
)
_NUMBER_WORDS = frozenset(_LAST_WORDS.split())
#: Number words behind a number: they multiply it.
MULTIPLIERS = {
    "hundred": 10**2, "thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12, "dozen": 12, "dozens": 12,
    "quadrillion": 10**15, "quintillion": 10**18, "lakh": 10**5, "lakhs": 10**5, "crore": 10**7, "crores": 10**7,
    "hundreds": 10**2, "thousands": 10**3, "millions": 10**6, "billions": 10**9, "trillions": 10**12,
    "mille": 10**3, "mil": 10**3, "tausend": 10**3, "millionen": 10**6, "millones": 10**6, "milioni": 10**6, "milione": 10**6,
    "millón": 10**6, "milliard": 10**9, "milliards": 10**9, "milliarde": 10**9, "milliarden": 10**9, "miliardi": 10**9, "miliardo": 10**9,
}  # fmt: skip
_WORD = re.compile(r"[A-Za-zÀ-ÖØ-öø-ÿ$€£¥₹¢°Ω-]+")
#: `sinx` is no thing to count.
_FUNCTION_OF = re.compile(r"(?:arc)?(?:sin|cos|tan|cot|sec|csc|ln|log|exp|sqrt)[xyt]")
#: Two units that are none but these, though without `\\text`: `60 km/h`; `10 m/s` and `2 mg/L` may be letters.
_COMPOUND = frozenset(("km/h", "km/s", "km/min", "cm/s", "ft/s", "ft/min", "mi/h"))
_POWERS = {"square": "^2", "sq": "^2", "cubic": "^3", "cu": "^3"}
_MAX_WORDS = 4


def canonical_unit(text: str, bare: bool = False, touching: bool = False) -> str:
    r"""The canonical name of the unit or counted thing that a text names; empty if it names none.

    Args:
        text: `cm^2`, `square feet`, `m/s`, `miles per hour`, `red apples`.
        bare: it stands without `\\text`, where a short word may be a product of variables; only units of two or more letters count then.
        touching: and without a space behind its number, where only units are none: `2sinx`.
    """
    text = re.sub(r"[{}\\.]|\\text", " ", text.replace("**", "^")).strip()
    text = re.sub(r"\s*\^\s*", "^", text)
    text = re.sub(r"\s+per\s+|\s*/\s*", " / ", " " + text).strip()
    above, _, below = text.partition(" / ")
    if " / " in below:
        return ""
    parts = (above, below) if below else (above,)
    bare = bare and "/".join(parts) not in _COMPOUND
    named = [_simple_unit(part, bare, touching) for part in parts]
    if not all(named):
        return ""
    unit = "/".join(named)
    return {"mi/h": "mph", "cm^3": "cm^3"}.get(unit, unit)


def _simple_unit(text: str, bare: bool, touching: bool) -> str:
    words = text.split()
    if not words or len(words) > _MAX_WORDS:
        return ""
    power = ""
    if words[0].lower() in _POWERS and len(words) > 1:
        power = _POWERS[words.pop(0).lower()]
    elif words[-1].lower() in ("squared", "cubed") and len(words) > 1:
        power = "^2" if words.pop().lower() == "squared" else "^3"
    if len(words) == 1:
        name, caret, exponent = words[0].partition("^")
        if caret and not re.fullmatch(r"-?\d", exponent):
            return ""
        power = power or (caret + exponent)
        known = _CANONICAL.get(name) or (_CANONICAL.get(name.lower()) if len(name) > 2 else None)
        if known and not (bare and len(name) == 1 and name.isalpha()):
            return known + power
        words = [name]
    if any(not _WORD.fullmatch(word) or word.lower() in _NOT_A_THING or word.lower() in MULTIPLIERS for word in words):
        return ""
    last = words[-1].lower().rpartition("-")[2]
    if last in _NUMBER_WORDS or last in _NOT_A_THING:
        return ""
    if touching or (bare and any(len(word) < 4 or _FUNCTION_OF.fullmatch(word) for word in words)):
        return ""
    if len(words) == 1 and len(words[0]) < 3:
        return ""
    return " ".join(_singular(word.lower()) for word in words) + power


def _singular(word: str) -> str:
    """`apples` and `apple`, `boxes` and `box` in one form."""
    if word.endswith("ies") and len(word) > 4:
        return word[:-3] + "y"
    for ending in ("ches", "shes", "xes", "sses"):
        if word.endswith(ending):
            return word[:-2]
    return word[:-1] if word.endswith("s") and not word.endswith("ss") else word
