"""The vocabulary of the grammar: what each command and each plain word of a formula stands for."""

from __future__ import annotations

import re


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


CONSTANTS = {
    "\\pi": "pi", "pi": "pi", "\\infty": "infinity", "infinity": "infinity", "infty": "infinity", "inf": "infinity", "oo": "infinity",
    "\\imath": "i", "\\emptyset": "empty", "\\e": "e", "\\i": "i",
}  # fmt: skip
BLACKBOARD = {"R": "reals", "Z": "integers", "Q": "rationals", "N": "naturals", "C": "complexes"}
#: Functions of one argument, by the name under which they are computed.
FUNCTIONS = {
    name: name
    for name in (
        "sin", "cos", "tan", "cot", "sec", "csc", "sinh", "cosh", "tanh", "coth",
        "arcsin", "arccos", "arctan", "arccot", "arcsec", "arccsc", "arcsinh", "arccosh", "arctanh", "ln", "exp", "log",
    )
} | {"lg": "log", "asin": "arcsin", "acos": "arccos", "atan": "arctan", "abs": "abs", "arsinh": "arcsinh", "arcosh": "arccosh",
     "artanh": "arctanh", "cis": "cis", "Re": "re", "Im": "im", "det": "det",
     "tg": "tan", "ctg": "cot", "cotg": "cot", "cosec": "csc", "arctg": "arctan", "arcctg": "arccot", "arcsen": "arcsin",
     "sen": "sin"}  # fmt: skip
#: Functions of a list of arguments.
LIST_FUNCTIONS = {"max", "min", "gcd", "lcm"}
#: Functions only as a command or within `\\text`: bare they are products of letters.
NOT_BARE = {"tg", "sen"}
INVERSES = {"sin": "arcsin", "cos": "arccos", "tan": "arctan", "cot": "arccot", "sec": "arcsec", "csc": "arccsc",
            "sinh": "arcsinh", "cosh": "arccosh", "tanh": "arctanh"}  # fmt: skip
#: What joins statements, within `\\text`.
_JOINTS = {
    "and": "and", "or": "or", "ou": "or", "oder": "or", "o": "or", "или": "or", "或": "or", "或者": "or",
    "et": "and", "und": "and", "y": "and", "e": "and", "и": "and", "和": "and", "且": "and",
}  # fmt: skip
RELATIONS = {
    "=": "=", "<": "<", ">": ">", "<=": "<=", ">=": ">=", "!=": "!=", "\\lt": "<", "\\gt": ">", "\\le": "<=", "\\leq": "<=",
    "\\leqslant": "<=", "\\leqq": "<=", "\\ge": ">=", "\\geq": ">=", "\\geqslant": ">=", "\\geqq": ">=", "\\ne": "!=", "\\neq": "!=",
    "\\approx": "~", "\\simeq": "~", "\\in": "in", "\\equiv": "equiv", "~": "~",
}  # fmt: skip
SET_OPERATIONS = {
    "\\cup": "union",
    "\\cap": "intersection",
    "\\setminus": "difference",
    "\\backslash": "difference",
    "\\smallsetminus": "difference",
}
#: Greek letters and the like: variables.
LETTERS = _names(
    "alpha beta gamma delta epsilon varepsilon zeta eta theta vartheta iota kappa lambda mu nu xi rho sigma tau upsilon phi varphi chi psi "
    "omega Gamma Delta Theta Lambda Xi Pi Sigma Upsilon Phi Psi Omega ell hbar"
)
#: Marks over a letter that make another name of it, and those that are decoration.
ACCENTS = _names("bar hat tilde dot ddot widehat widetilde overline underline")
DECORATIONS = _names("vec overrightarrow overleftrightarrow")
#: Words before points that name a figure: `\angle ABC`.
FIGURES = _names("angle triangle measuredangle odot square parallelogram")
#: Mathematics that this grammar leaves to math-verify.
UNSUPPORTED = _names("sum prod int iint iiint oint lim limsup liminf partial nabla bmod")
MATRIX_ENVIRONMENTS = {"pmatrix", "bmatrix", "Bmatrix", "matrix", "smallmatrix", "array", "vmatrix"}
#: Names of functions that are applied, not multiplied, when a bracket follows at once.
FUNCTION_LETTERS = frozenset("fghFGHP")
BASE_WORDS = {
    "two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "eight": 8, "nine": 9, "ten": 10,
    "eleven": 11, "twelve": 12, "sixteen": 16,
}  # fmt: skip
_LETTER = re.compile(r"[A-Z]{2,}|[A-Za-z]")


def joint(content: str) -> str:
    r"""`and` or `or` for a `\text` that joins statements, in the languages that problems are translated to; else empty.

    `\text{ y }` joins, `\text{y}` is a variable.
    """
    word = content.strip(" ,;").lower()
    return _JOINTS.get(word, "") if len(word) > 1 or not word.isascii() or (content[:1] == content[-1:] == " ") else ""


def is_formula_word(word: str) -> bool:
    """Whether a plain word is a piece of a formula: `sin`, `pi`, `alpha`, `sqrt`."""
    return word in FUNCTIONS or word in CONSTANTS or word in LETTERS or word in LIST_FUNCTIONS or word in ("sqrt", "cbrt")


def letters_of(word: str) -> list[str]:
    """A run of letters as the variables that it multiplies; two or more capitals together are one name (a segment, a set of digits)."""
    return _LETTER.findall(word)
