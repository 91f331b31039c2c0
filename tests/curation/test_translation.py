"""Translation, what is pure in it: who is drawn, what is asked, and which replies are refused with which flaw."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from magistral_core.config import load_curation
from magistral_core.config.curation import TranslateSettings
from magistral_core.curation.answers import has_words
from magistral_core.curation.masking import mask
from magistral_core.curation.translation import Fault, Flaw, draw, is_english, read_translation, task_for, unfit
from magistral_core.errors import InputError
from magistral_core.records import Problem, ProblemKind, TestCase

QUESTION = "A farmer has $x^2$ cows and sells 12 of them, at 1,000 dollars each. How many cows does he keep?"
GERMAN = "Ein Bauer hat [[1]] Kühe und verkauft 12 davon für je 1,000 Dollar. Wie viele Kühe behält er?"
SHARES = st.floats(0, 1)


def reply(text: str) -> str:
    return json.dumps({"translation": text}, ensure_ascii=False)


@given(st.text(), SHARES, SHARES, st.integers(0, 5))
def test_a_larger_share_keeps_the_draws_of_a_smaller_one(id_: str, one: float, other: float, seed: int) -> None:
    small, large = (draw(id_, TranslateSettings(seed=seed, share=share)) for share in sorted((one, other)))
    assert small is None or small == large


def test_the_share_and_the_languages_are_even() -> None:
    settings = TranslateSettings()
    drawn = [draw(f"gsm8k-{number}", settings) for number in range(20_000)]
    found = [language for language in drawn if language]
    assert 0.09 < len(found) / len(drawn) < 0.11
    assert all(0.13 < found.count(language) / len(found) < 0.20 for language in settings.languages)
    assert drawn != [draw(f"gsm8k-{number}", TranslateSettings(seed=1)) for number in range(20_000)]
    assert not any(draw(str(number), TranslateSettings(share=0.0)) for number in range(100))
    assert all(draw(str(number), TranslateSettings(share=1.0)) for number in range(100))


def test_who_is_english() -> None:
    assert is_english(Problem("a", QUESTION))
    assert is_english(Problem("a", "What is 3+4?", language="en"))
    assert not is_english(Problem("a", "What is 3+4?"))
    assert not is_english(Problem("a", QUESTION, language="fr"))
    assert not is_english(Problem("a", "Combien de vaches le fermier a-t-il encore ce soir ?"))


@pytest.mark.parametrize(
    ("problem", "flaw"),
    [
        (Problem("a", QUESTION, "7"), None),
        (Problem("a", QUESTION, "Monday"), Flaw.WORD_ANSWER),
        (Problem("a", "What is $3+4$?", "7", language="en"), Flaw.FEW_WORDS),
        (Problem("a", QUESTION, "7", extra={"choices": ["7", "none"]}), Flaw.OPTIONS),
        (Problem("a", QUESTION, kind=ProblemKind.CODE, entry_point="f", tests=(TestCase(check="assert f()"),)), Flaw.CODE),
        (Problem("a", QUESTION, kind=ProblemKind.CODE, entry_point="f", tests=(TestCase("1", "2"),)), None),
    ],
)
def test_who_is_fit(problem: Problem, flaw: Flaw | None) -> None:
    found = unfit(problem)
    assert (found and found.flaw) == flaw


@pytest.mark.parametrize("answer", ["Monday", "yes", "No", "7 apples", "\\text{odd}", "x = 3 or never"])
def test_answers_with_words(answer: str) -> None:
    assert has_words(answer)


@pytest.mark.parametrize(
    "answer", ["7", "7 cm", "\\sqrt{2}", "pi/2", "AB", "\\triangle ABC", "\\frac{x}{y}", "arcsin(2)", "5\\text{ m}", "(1, 2]", "B", "xy"]
)
def test_answers_without_words(answer: str) -> None:
    assert not has_words(answer)


def test_the_model_sees_no_formula_and_no_answer() -> None:
    task = task_for(mask(QUESTION), "de")
    assert "into German" in task
    assert "A farmer has [[1]] cows" in task
    assert "x^2" not in task


def test_a_good_translation() -> None:
    text = "Think {not} of it. " + reply(GERMAN)
    assert read_translation(text, mask(QUESTION), "de") == GERMAN.replace("[[1]]", "$x^2$")


@pytest.mark.parametrize(
    ("answer", "flaw", "detail"),
    [
        ("", Flaw.UNREADABLE, ""),
        ("Ein Bauer hat Kühe.", Flaw.UNREADABLE, "Ein Bauer hat Kühe."),
        ('{"translation": 5}', Flaw.UNREADABLE, '{"translation": 5}'),
        (reply("  "), Flaw.UNREADABLE, reply("  ")),
        (reply(GERMAN.replace("[[1]]", "viele")), Flaw.MARKS, "[[1]] stands 0 times"),
        (reply(GERMAN + " [[1]]"), Flaw.MARKS, "[[1]] stands 2 times"),
        (reply(GERMAN.replace("[[1]]", "$x^2$")), Flaw.MARKS, "[[1]] stands 0 times"),
        (reply(GERMAN.replace("12", "21")), Flaw.NUMBERS, "lost 12, new 21"),
        (reply(GERMAN.replace("1,000", "1.000")), Flaw.NUMBERS, "lost 1,000, new 1.000"),
        (reply(GERMAN + " Es sind 5."), Flaw.NUMBERS, "lost none, new 5"),
        (reply(GERMAN + " x = y?"), Flaw.SIGNS, "lost none, new ="),
        (reply("Verkaufe 12 von [[1]] für 1,000 Dollar."), Flaw.LENGTH, "0.32 times as long"),
        (reply(mask(QUESTION).text), Flaw.LANGUAGE, "asked for de, got en"),
        (reply("农民有[[1]]头牛，以每头1,000美元的价格卖掉了其中的12头。请问他还剩下多少头牛？"), Flaw.LANGUAGE, "asked for de, got zh"),
    ],
)
def test_what_is_refused(answer: str, flaw: Flaw, detail: str) -> None:
    assert read_translation(answer, mask(QUESTION), "de") == Fault(flaw, detail)


def test_every_flaw_explains_itself() -> None:
    assert all(flaw.__doc__ and Flaw(flaw.value) is flaw for flaw in Flaw)


def test_trying_again_needs_a_temperature() -> None:
    with pytest.raises(InputError, match=r"translate: tries \(3\) above 1 need temperature above 0"):
        load_curation("math", ["translate.temperature=0"])
    assert load_curation("math", ["translate.temperature=0", "translate.tries=1"]).translate.tries == 1
