r"""One spelling for what is presentation only: delimiters, colours, sizes, Unicode signs, spaces, thousands. Pure and linear.

Nothing here changes what an answer says; whatever needs understanding is the grammar's business (`grammar.py`).
"""

from __future__ import annotations

import re
import unicodedata

from magistral_core.rewards.math.boxes import unboxed

_GREEK = "αβγδεζηθικλμνξρστυφχψωΓΔΘΛΞΠΣΦΨΩ"
_GREEK_NAMES = (
    "alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi rho sigma tau upsilon phi chi psi omega "
    "Gamma Delta Theta Lambda Xi Pi Sigma Phi Psi Omega"
)
_CHARACTERS = str.maketrans(
    {
        "−": "-", "–": "-", "—": "-", "‐": "-", "×": r"\times ", "·": r"\cdot ", "⋅": r"\cdot ", "∙": r"\cdot ", "∗": "*", "÷": "/",
        "⁄": "/", "∕": "/", "π": r"\pi ", "∞": r"\infty ", "≤": r"\le ", "≥": r"\ge ", "⩽": r"\le ", "⩾": r"\ge ", "≠": r"\ne ",
        "±": r"\pm ", "∓": r"\mp ", "∪": r"\cup ", "∩": r"\cap ", "∖": r"\setminus ", "∈": r"\in ", "∉": r"\notin ", "∅": r"\emptyset ",
        "°": r"^\circ ", "º": r"^\circ ", "≈": r"\approx ", "≡": r"\equiv ", "∠": r"\angle ", "△": r"\triangle ", "…": r"\ldots ",
        "⟨": r"\langle ", "⟩": r"\rangle ", "⌊": r"\lfloor ", "⌋": r"\rfloor ", "⌈": r"\lceil ", "⌉": r"\rceil ", "ℝ": r"\mathbb{R}",
        "ℤ": r"\mathbb{Z}", "ℚ": r"\mathbb{Q}", "ℕ": r"\mathbb{N}", "ℂ": r"\mathbb{C}", "ⅈ": "i", "√": r"\sqrt ", "∛": r"\sqrt[3] ",
        "∜": r"\sqrt[4] ", "、": ",", "。": ".", "，": ",", "；": ";", "：": ":", "％": "%", "’": "'", "′": "'", "\ufeff": "", "\u200b": "",
    }
    | {chr(code): chr(code - 0xFEE0) for code in range(0xFF01, 0xFF5F) if chr(code) not in "，；：％"}  # full-width forms of ASCII
    | dict.fromkeys("\u00a0\u202f\u2009\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u200a\u205f\u3000", " ")
    | {letter: f"\\{name} " for letter, name in zip(_GREEK, _GREEK_NAMES.split(), strict=True)}
)  # fmt: skip
_SUPERSCRIPTS = re.compile("[⁰¹²³⁴⁵⁶⁷⁸⁹⁻⁺ⁿⁱ]+")
_SUBSCRIPTS = re.compile("[₀₁₂₃₄₅₆₇₈₉]+")
_VULGAR_FRACTION = re.compile("[¼-¾⅐-⅞]")
_WRAPPERS = (("$$", "$$"), ("$", "$"), (r"\(", r"\)"), (r"\[", r"\]"), ("**", "**"), ("`", "`"))
#: A formula within words, `$40$ g`; two prices in a row are none. And one with nothing in it.
_INLINE = re.compile(r"(?<!\\)(\$\$?)(?=[^\s$])((?:[^$\\]|\\.){1,300}?)(?<=[^\s\\])\1(?!\d)")
_EMPTY_FORMULA = re.compile(r"(?<!\\)\$\$\s*\$\$")
#: Commands for the fonts of words and of single letters; all become `\text`.
_FONTS = (
    "text|mathrm|mathbf|mathit|textbf|textrm|textit|mbox|hbox|operatorname\\*?|textnormal|mathsf|textsf|mathtt|texttt|boldsymbol|bm|emph"
)
_EDITS: tuple[tuple[re.Pattern[str], str], ...] = (
    (re.compile(r"\\(?:left|right)\s*\.|\\(?:left|right|middle|[bB]igg?[lrm]?)(?![a-zA-Z])"), ""),
    (re.compile(r"\\(?:display|text|script)style(?![a-zA-Z])|\\(?:limits|large|Large|huge|normalsize|small|bf|rm|it)(?![a-zA-Z])"), " "),
    (re.compile(r"\\(?:text)?color\s*(?:\[[^\[\]]*\])?\{[^{}]*\}"), ""),
    (re.compile(r"\\[dtc]frac(?![a-zA-Z])"), r"\\frac"),
    (re.compile(r"\\[dt]binom(?![a-zA-Z])"), r"\\binom"),
    (re.compile(rf"\\(?:{_FONTS})(?![a-zA-Z])\s*(?=\{{)"), r"\\text"),
    (re.compile(rf"\\(?:{_FONTS})\s+(?=\w)"), ""),
    (re.compile(r"\\text\s*\{\s*\.?\s*\}"), " "),
    (re.compile(r"\\lbrace(?![a-zA-Z])"), r"\\{"),
    (re.compile(r"\\rbrace(?![a-zA-Z])"), r"\\}"),
    (re.compile(r"\\varnothing(?![a-zA-Z])"), r"\\emptyset "),
    (re.compile(r"(?<=\d)(?<!(?<!\d)0)\s*(?:\\[,!;: ]|\{,\}\s*|,\s*\\!\s*|~)+\s*(?=\d{3}(?!\d))"), ""),  # 1\,000
    (re.compile(r"(?<=\d)\{,\}(?=\d)"), "."),  # 0{,}5, the decimal comma as LaTeX writes it
    (re.compile(r"(?<!\\)\\!"), ""),
    (re.compile(r"\\q?quad(?![a-zA-Z])"), "  "),
    (re.compile(r"(?<!\\)\\[,;: ]|~"), " "),
    (re.compile(r"\\textsuperscript\s*(?=\{)"), "^"),
    (re.compile(r"\^\s*\{\s*\}\s*\\circ(?![a-zA-Z])"), r"^\\circ "),
    (re.compile(r"\^\s*\{\s*\\(?:circ|degree)\s*\}|\^\s*\\circ(?![a-zA-Z])|\\degree(?![a-zA-Z])"), r"^\\circ "),
)
_LETTER_TIMES = re.compile(r"(?<=\d)\s*[xX]\s*(?=10\s*\^)")  # 3 x 10^5
_SPACED_THOUSANDS = re.compile(r"(?<![\d.,\w}])([1-9]\d{0,2}(?:[ ]\d{3})+)(?![\d,])(?!\s*/)(?! \d)")
_BLANKS = re.compile(r"\s+")


def clean(text: str) -> str:
    r"""Take away what is presentation only: math delimiters, a box, colours, sizes, odd characters, a final full stop."""
    text = text.strip()
    if "\\boxed" in text:
        text = unboxed(text)
    if not text.isascii():
        text = _to_ascii(text)
    text = _without_full_stop(text)
    for opening, closing in _WRAPPERS:
        if len(text) > len(opening) + len(closing) and text.startswith(opening) and text.endswith(closing):
            inner = text[len(opening) : -len(closing)]
            if opening not in inner:
                text = _without_full_stop(inner.strip())
    if "$" in text:
        text = _INLINE.sub(r" \2 ", _EMPTY_FORMULA.sub(" ", text))
    if "\\" in text or "~" in text or "{" in text:
        for pattern, replacement in _EDITS:
            text = pattern.sub(replacement, text)
    if "10" in text:
        text = _LETTER_TIMES.sub(r"\\times ", text)
    if " " in text or "\n" in text:
        text = _SPACED_THOUSANDS.sub(lambda found: found.group().replace(" ", ""), text)
        text = _BLANKS.sub(" ", text)
    return text.strip()


def squeeze(text: str) -> str:
    """Without white space, except between two digits (`2 7` is not 27) and between two letters."""
    return re.sub(r"(?<!\d) (?!\d)|(?<=\d) (?!\d)|(?<!\d) (?=\d)", "", text) if " " in text else text


def _without_full_stop(text: str) -> str:
    """Without the sentence's punctuation; an ellipsis is part of the answer."""
    stripped = text.rstrip(" .,;\n")
    if text[len(stripped) :].count(".") > 1:
        return text.rstrip()
    return text[: len(stripped) + 1] if stripped.endswith("\\") else stripped  # the comma of `\,` is no punctuation


def _to_ascii(text: str) -> str:
    text = _VULGAR_FRACTION.sub(_vulgar, text)
    text = _SUPERSCRIPTS.sub(lambda found: "^{" + unicodedata.normalize("NFKC", found.group()).replace("−", "-") + "}", text)
    text = _SUBSCRIPTS.sub(lambda found: "_{" + unicodedata.normalize("NFKC", found.group()) + "}", text)
    return text.translate(_CHARACTERS)


def _vulgar(found: re.Match[str]) -> str:
    top, _, bottom = unicodedata.normalize("NFKC", found.group()).partition("⁄")
    return rf"\frac{{{top}}}{{{bottom}}}"
