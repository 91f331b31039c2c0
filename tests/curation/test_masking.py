"""Masking: what is hidden from a translator, that any text comes back to the character, and which marks are refused."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from magistral_core.curation.masking import Masked, MaskingError, mask, signs

#: Pieces of statements, among them everything that opens, closes or looks like a mark.
PARTS = st.sampled_from(
    [
        *(
            "Find ",
            "a ",
            "\n",
            " ",
            "5",
            "$",
            "$$",
            "\\[",
            "\\]",
            "\\(",
            "\\)",
            "x^2",
            "```",
            "`",
            "[[1]]",
            "[[",
            "]]",
            "[",
            "\\frac{1}{2}",
        ),
        *("{", "}", "[asy]", "[/asy]", "\\begin{align}", "\\end{align}", "\\textbf{nice}", "https://a.b/c", "\\", "\\$", "é", "数"),
        *("$x$", "`f(x)`"),
    ]
)
TEXTS = st.lists(PARTS | st.text(max_size=3), max_size=25).map("".join)


@given(TEXTS)
@example("[[$x$]] [[1]] [[[2]]]")
@example("open ```python\nx = [[1]]")
def test_any_text_comes_back_to_the_character(text: str) -> None:
    masked = mask(text)
    assert masked.restore(masked.text) == text


@given(st.lists(st.sampled_from(["$x^2$", "`f(x)`", "\\(y\\)", "[[7]]", "\\frac{1}{2}"]), min_size=1, max_size=6))
def test_the_order_of_marks_is_free(pieces: list[str]) -> None:
    masked = mask(" and ".join(pieces))
    assert masked.pieces == tuple(pieces)
    other_way = " und ".join(f"[[{number}]]" for number in range(len(pieces), 0, -1))
    assert masked.restore(other_way) == " und ".join(reversed(pieces))


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("Find $x^2$ if `f(x)` is 5.", Masked("Find [[1]] if [[2]] is 5.", ("$x^2$", "`f(x)`"))),
        ("It costs $5 and then $6.", Masked("It costs $5 and then $6.", ())),
        ("Let $ a = b $ hold.", Masked("Let [[1]] hold.", ("$ a = b $",))),
        ("A \\textbf{nice} number, \\sqrt{2}, 50\\%.", Masked("A [[1]]{nice} number, [[2]], 50[[3]].", ("\\textbf", "\\sqrt{2}", "\\%"))),
        ("Run\n```python\nprint(1)\n```\nnow.", Masked("Run\n[[1]]\nnow.", ("```python\nprint(1)\n```",))),
        ("\\[\nx\n\\] $$y$$ [asy]d[/asy]", Masked("[[1]] [[2]] [[3]]", ("\\[\nx\n\\]", "$$y$$", "[asy]d[/asy]"))),
    ],
)
def test_what_is_masked(text: str, masked: Masked) -> None:
    assert mask(text) == masked


@pytest.mark.parametrize(
    ("reply", "why"),
    [
        ("Finde [[1]].", r"\[\[2\]\] stands 0 times"),
        ("Finde [[1]], [[2]] und [[1]].", r"\[\[1\]\] stands 2 times"),
        ("Finde [[1]], [[2]] und [[3]].", r"\[\[3\]\] was never given out"),
        ("Finde [[ 1 ]] und [[2]].", r"\[\[1\]\] stands 0 times"),
        ("Finde [[1]]5 und [[2]].", "other formulas"),
        ("Finde [[1]] und [[2]] mit $z$.", "other formulas"),
    ],
)
def test_marks_that_are_refused(reply: str, why: str) -> None:
    with pytest.raises(MaskingError, match=why):
        mask("Find $x$ and $y$.").restore(reply)


def test_signs_of_a_prose() -> None:
    assert signs("x^2 = 5% of $7") == signs("5% von $7 = x^2")
    assert signs("x = 5") != signs("x ist 5")
