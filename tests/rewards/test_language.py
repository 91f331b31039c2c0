"""The language reward on prose, on mixtures, and on texts that are mostly formulas."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from magistral_core.rewards.language import WINDOW_CHARS, WINDOWS, classify, same_language, strip_markup

PROSE = {
    "en": "First we need to find out how many apples are left after she has given some of them away to her friend.",
    "fr": "Il faut d'abord trouver combien de pommes il reste après en avoir donné quelques-unes à son ami de l'école.",
    "es": "Primero tenemos que averiguar cuántas manzanas quedan después de que ella regaló algunas a su amigo.",
    "it": "Prima dobbiamo scoprire quante mele rimangono dopo che lei ne ha regalate alcune al suo amico.",
    "de": "Zuerst müssen wir herausfinden, wie viele Äpfel übrig sind, nachdem sie ihrem Freund einige geschenkt hat.",
    "zh": "首先我们需要算出她送给朋友一些苹果以后还剩下多少个苹果。",
    "ru": "Сначала нужно узнать, сколько яблок осталось после того, как она отдала часть своему другу.",
    "ja": "まず、友達にりんごをいくつかあげたあとに、りんごが何個残っているかを計算する必要があります。",
}
FORMULA = "$x^2 + 3x = \\frac{1}{2}$ and \\[ \\sum_{i=1}^{n} i \\] \\boxed{5}"


@pytest.mark.parametrize("code", PROSE)
def test_prose(code: str) -> None:
    assert classify(PROSE[code]).code == code
    assert classify(f"{FORMULA} {PROSE[code]} 3 + 4 = 7 so x = 5. {FORMULA}").code == code


@pytest.mark.parametrize("first", ["en", "fr", "ru"])
@pytest.mark.parametrize("second", ["de", "zh", "es"])
def test_mixtures_are_unknown(first: str, second: str) -> None:
    assert classify(f"{PROSE[first]} {PROSE[second]}").code == ""


def test_an_english_start_does_not_hide_french() -> None:
    assert classify(PROSE["en"] + PROSE["fr"] * 8).code == ""
    assert classify("So, first. " + PROSE["fr"] * 8).code == "fr"


@pytest.mark.parametrize("code", PROSE)
def test_long_texts_are_sampled(code: str) -> None:
    text = f"{PROSE[code]} {FORMULA} " * (40_000 // len(PROSE[code]))
    found = classify(text)
    assert found.code == code
    assert found.words <= WINDOWS * WINDOW_CHARS


@pytest.mark.parametrize("place", [0.0, 0.3, 0.62, 0.85])
@pytest.mark.parametrize("other", ["fr", "zh", "ru"])
def test_a_foreign_passage_of_15_percent_is_seen_wherever_it_stands(place: float, other: str) -> None:
    before = (PROSE["en"] + " ") * int(400 * place)
    after = (PROSE["en"] + " ") * (340 - int(400 * place))
    passage = (PROSE[other] + " ") * (len(before + after) * 15 // 85 // len(PROSE[other]) + 1)
    assert classify(before + passage + after).code == ""
    assert classify(before + after).code == "en"


@pytest.mark.parametrize(
    "text", ["", "x = 5", FORMULA, "\\boxed{5}", "答案是5", "the answer is 5", "```python\nprint('many words are in this code block')\n```"]
)
def test_too_short(text: str) -> None:
    assert classify(text).code == ""
    assert classify(text).too_short


def test_markup_is_stripped() -> None:
    text = "a $x$ b \\(y\\) c \\[z\\] d `code` e ```python\nf\n``` g \\begin{align*}h\\end{align*} i "
    text += "\\boxed{j} [asy]draw(k);[/asy] l \\alpha m"
    assert strip_markup(text).split() == list("abcdegilm")
    assert strip_markup("She pays $12 an hour and then $5 more") == "She pays $12 an hour and then $5 more"
    assert strip_markup("open ```python\nx = 1").split() == ["open"]


def test_all_three_parts_must_agree() -> None:
    en, fr, zh = PROSE["en"], PROSE["fr"], PROSE["zh"]
    assert same_language(en, en, en)
    assert same_language(zh, zh, zh)
    assert same_language(en, en, "\\boxed{5}"), "a bare formula does not veto"
    assert not same_language(en, en, fr)
    assert not same_language(en, fr, en)
    assert not same_language(fr, en, en)
    assert not same_language(en, "x = 5", en), "thoughts must be known"
    assert not same_language("5 + 5?", en, en), "so must the problem"
    assert same_language("5 + 5?", fr, fr, language="fr"), "unless its file names the language"
    assert not same_language(en, en, f"{en} {fr}"), "a mixed answer vetoes"


@pytest.mark.parametrize(
    "text", ["$" * 60_000, "\\[" * 30_000, "\\begin{a}" * 7_000, "`" * 60_001, "\\frac{" * 10_000, "$a " * 20_000, "```\n" * 15_001]
)
def test_hostile_texts_take_linear_time(text: str) -> None:
    started = time.thread_time()
    strip_markup(text)
    assert time.thread_time() - started < 1.0


def test_the_classifier_writes_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    classify(PROSE["de"])
    assert list(tmp_path.iterdir()) == []
