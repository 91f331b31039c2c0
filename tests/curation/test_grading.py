"""Verdicts on problems from what samples answered; grades in Parquet."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra.s3 import S3Server
from magistral_core.config import load_grading
from magistral_core.config.grading import PassSettings
from magistral_core.config.schema import PromptSettings, RewardSettings
from magistral_core.curation.grading import AnswerClass, Grade, contested, equal_classes, judge, votes_by_agreement
from magistral_core.curation.grading_report import PassResult, grading_card, make_report, to_markdown
from magistral_core.curation.grading_samples import grade_groups, problem_key
from magistral_core.curation.grading_store import GradeStore, read_grades, write_grades
from magistral_core.curation.lineage import SourceFile
from magistral_core.curation.reasons import GradingReason
from magistral_core.curation.report import Tally
from magistral_core.errors import InputError
from magistral_core.records import Completion, FinishReason, Problem
from magistral_core.rewards import Verifier
from magistral_core.storage import open_store

PLAIN, VOTE = PassSettings(), PassSettings(majority=0.5)


def grade(right: int = 0, *others: int, samples: int = 16, errors: int = 0) -> Grade:
    """A grade in which so many samples were right, and so many agreed on each other answer."""
    answers = {f"x{number}": count for number, count in enumerate(others)}
    return Grade(samples, errors, 0, 10.0, equal_classes({"7": right} if right else {}, answers, set()))


@st.composite
def grades(draw: st.DrawFn) -> Grade:
    samples = draw(st.integers(1, 16))
    left, counts = samples, []
    for _ in range(draw(st.integers(1, 4))):
        counts.append(draw(st.integers(0, left)))
        left -= counts[-1]
    return grade(counts[0], *[count for count in counts[1:] if count], samples=samples, errors=draw(st.integers(0, left)))


@pytest.mark.parametrize(
    ("found", "settings", "reason"),
    [
        (grade(8, 8), PLAIN, None),
        (grade(0, 1), PLAIN, GradingReason.TOO_HARD),
        (grade(16), PLAIN, GradingReason.TOO_EASY),
        (grade(15), PLAIN, None),
        (grade(12), PassSettings(below=0.75), GradingReason.TOO_EASY),
        (grade(11), PassSettings(below=0.75), None),
        (grade(4), PassSettings(above=0.25), GradingReason.TOO_HARD),
        (grade(0, 9), VOTE, GradingReason.GOLD_OUTVOTED),
        (grade(0, 8, 7), VOTE, GradingReason.TOO_HARD),  # half is no majority
        (grade(0, 8, errors=1), VOTE, GradingReason.GOLD_OUTVOTED),  # 8 of 15
        (grade(1, 9), VOTE, GradingReason.GOLD_OUTVOTED),  # it would have been kept
        (grade(1, 9), PLAIN, None),
        (grade(2, 14), VOTE, None),  # a wrong reference is seldom reached twice
        (grade(2, 14), PassSettings(majority=0.5, support=1.0), GradingReason.GOLD_OUTVOTED),
        (grade(14, 2), VOTE, None),
        (grade(errors=16), VOTE, GradingReason.UNGRADED),
        (grade(7, errors=9), VOTE, GradingReason.UNGRADED),
        (grade(7, errors=8), VOTE, None),
        (None, VOTE, GradingReason.PROMPT_TOO_LONG),
    ],
)
def test_verdicts(found: Grade | None, settings: PassSettings, reason: GradingReason | None) -> None:
    assert judge(found, settings) is reason


@given(grades(), st.floats(0.5, 1.0, exclude_max=True), st.floats(0.0, 1.0))
def test_the_vote_takes_only_what_agrees_on_another_answer(found: Grade, majority: float, support: float) -> None:
    with_vote, without = judge(found, PassSettings(majority=majority, support=support)), judge(found, PLAIN)
    if with_vote is GradingReason.GOLD_OUTVOTED:
        assert found.pass_rate is not None
        assert found.pass_rate <= min(1 - majority, support)
        assert without is not GradingReason.TOO_EASY
    else:
        assert with_vote is without


@given(grades(), grades(), st.floats(0.0, 1.0))
def test_a_second_look_decides_about_the_reference_alone(found: Grade, again: Grade, lead: float) -> None:
    verdict, without = judge(found, VOTE, again, lead), judge(found, PLAIN)
    if without is GradingReason.UNGRADED:
        assert verdict is GradingReason.UNGRADED
    else:
        outvoted = any(item.votes - again.correct > lead * again.graded for item in again.answers if not item.correct)
        assert verdict is (GradingReason.GOLD_OUTVOTED if outvoted else without)


@given(grades(), st.floats(0.5, 1.0, exclude_max=True))
def test_what_a_vote_takes_is_looked_at_again(found: Grade, majority: float) -> None:
    settings = PassSettings(majority=majority)
    assert contested(found, settings) or judge(found, settings) is not GradingReason.GOLD_OUTVOTED
    assert not contested(found, PLAIN)
    assert not contested(None, settings)


@given(grades(), st.tuples(st.floats(0, 1), st.floats(0, 1)).filter(lambda pair: pair[0] < pair[1]))
def test_wider_thresholds_keep_more(found: Grade, band: tuple[float, float]) -> None:
    if judge(found, PassSettings(above=band[0], below=band[1])) is None:
        assert judge(found, PLAIN) is None


@given(
    st.dictionaries(st.sampled_from("abcdef"), st.integers(1, 5)),
    st.dictionaries(st.sampled_from("uvwxyz"), st.integers(1, 5)),
    st.sets(st.tuples(st.sampled_from("uvwxyz"), st.sampled_from("uvwxyz"))),
)
def test_no_vote_is_lost(right: dict[str, int], others: dict[str, int], equal: set[tuple[str, str]]) -> None:
    found = equal_classes(right, others, equal)
    assert sum(item.votes for item in found) == sum(right.values()) + sum(others.values())
    assert sum(item.votes for item in found if item.correct) == sum(right.values())
    assert [item.votes for item in found] == sorted((item.votes for item in found), reverse=True)
    assert {item.answer for item in found} <= right.keys() | others.keys()


def test_equal_answers_vote_together() -> None:
    found = equal_classes({}, {"1/3": 4, "0.333": 3, "2": 5}, {("0.333", "1/3")})
    assert found == (AnswerClass("1/3", 7, False), AnswerClass("2", 5, False))
    tie = equal_classes({"7": 8}, {"8": 8}, set())
    assert tie[0].correct, "a tie outvotes nobody"


@given(st.lists(grades()))
def test_agreement_counts_every_problem_with_an_answer(found: list[Grade]) -> None:
    rows = votes_by_agreement(found)
    assert sum(row["problems"] for row in rows) == sum(bool(item.answers) for item in found)
    assert sum(row["against"] for row in rows) == sum(bool(item.answers) and not item.answers[0].correct for item in found)


def completion(text: str, finish: FinishReason = FinishReason.STOP) -> Completion:
    none = np.zeros(0, dtype=np.int32)
    return Completion(0, 0, none, np.zeros(4, dtype=np.int32), none.astype(np.float32), none, text, finish)


@pytest.fixture(scope="module")
def verifier() -> Iterator[Verifier]:
    with Verifier(RewardSettings(language=0.0, workers=1), PromptSettings()) as started:
        yield started


def test_samples_are_graded_by_meaning(verifier: Verifier) -> None:
    half = Problem("a", "What is half of 1?", "1/2")
    texts = ["0.5", "\\frac12", "\\frac{2}{4}", "3", "3.0", "\\frac{6}{2}", "\\sqrt{9}", "4"]
    cut = completion("<think>x</think>\\boxed{1/2}", FinishReason.LENGTH)
    samples = [completion(f"<think>\\boxed{{9}}</think>It is $\\boxed{{{text}}}$.") for text in texts]
    broken = Problem("b", "What?", "\\frac{")
    found = grade_groups(
        [("a", half, [*samples, completion("<think>x</think>no box"), cut]), ("b", broken, samples[:2])], verifier, "</think>"
    )
    first = found["a"]
    assert (first.samples, first.errors, first.truncated, first.correct, first.tokens) == (10, 0, 1, 3, 4.0)
    assert [(item.votes, item.correct) for item in first.answers] == [(4, False), (3, True), (1, False)]
    assert (first.pass_rate, first.agreement) == (0.3, 0.4)
    assert (found["b"].errors, judge(found["b"], PLAIN)) == (2, GradingReason.UNGRADED)


@given(st.dictionaries(st.text("0123456789abcdef", min_size=1, max_size=4), grades(), max_size=5))
def test_grades_survive_parquet(found: dict[str, Grade]) -> None:
    assert dict(read_grades(write_grades(found), "part")) == found


def test_parquet_is_for_any_program(tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    path = tmp_path / "grades.parquet"
    path.write_bytes(write_grades({"a": grade(4, 8), "b": grade(errors=16)}))
    table = pq.read_table(path)
    assert table["pass_rate"].to_pylist() == [0.25, None]
    assert table["answers"].to_pylist()[0][0] == {"answer": "x0", "votes": 8, "correct": False}


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with S3Server(tmp_path_factory.mktemp("s3"), "magistral:admin", "a-secret-for-tests") as server:
        yield server


@pytest.mark.parametrize("kind", ["file", "s3"])
def test_the_store_keeps_grades_for_good(
    kind: str, tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = f"file:{tmp_path}"
    if kind == "s3":
        monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)
        for name, value in request.getfixturevalue("s3").environment().items():
            monkeypatch.setenv(name, value)
        uri = "s3://bucket/grades-of-a-test"
    store = open_store(uri)
    store.check()
    about: dict[str, Any] = {"model": {"w": "1"}, "samples": 16}
    first, beside = GradeStore(store, about), GradeStore(store, about)
    first.add({"a": grade(1), "b": grade(2)})
    beside.add({"c": grade(3)})  # a second command, which saw nothing of the first one's
    first.add({"d": grade(4)})
    again = GradeStore(store, about)
    assert len(again) == 4
    assert [again.get(key) for key in "abcde"] == [grade(1), grade(2), grade(3), grade(4), None]
    assert len(GradeStore(store, {**about, "samples": 8})) == 0
    store.put_bytes(b"PAR1 broken", f"grades/{first.key}/part-00000009-x.parquet")
    with pytest.raises(InputError, match=r"part-00000009-x\.parquet cannot be read.*remove this object"):
        GradeStore(store, about)


def test_the_key_follows_statement_and_reference() -> None:
    keys = {problem_key(Problem(*item)) for item in [("a", "q", "1"), ("b", "q", "1"), ("a", "q", "2"), ("a", "q1", "")]}
    assert len(keys) == 3  # an id does not count


def test_the_report() -> None:
    before = [None, GradingReason.TOO_HARD, GradingReason.TOO_HARD, GradingReason.TOO_EASY]
    after = [None, None, GradingReason.GOLD_OUTVOTED, None]
    found = [grade(8), grade(0, 3), grade(0, 14), None]
    nothing = [None] * 4
    passes = [
        PassResult("base", "k1", 4, found, nothing, before),
        PassResult("trained", "k2", 5, found, [None, None, grade(0, 100), None], after),
    ]
    settings = load_grading("difficulty", ["recheck.samples=128", "recheck.temperature=1.6"]).model_dump(mode="json")
    report = make_report("x", "v", "c", settings, [SourceFile("f", 0, "0" * 64)], Tally(), passes)
    assert report["crossing"] == {"kept": {"kept": 1}, "too_hard": {"kept": 1, "gold_outvoted": 1}, "too_easy": {"kept": 1}}
    assert report["recovered"] == 1
    first = report["passes"][0]
    assert first["stages"][-1] == {"stage": "difficulty", "in": 4, "rejected": {"too_hard": 2, "too_easy": 1}, "out": 1}
    assert first["by_pass_rate"] == {"0": 2, "0 to 0.25": 0, "0.25 to 0.5": 0, "0.5 to 0.75": 1, "0.75 to 1": 0, "1": 0}
    assert report["measures"]["grading/pass_rate_1"] == pytest.approx(1 / 6)
    text = to_markdown(report)
    assert "agreed on another answer than 1 references: 128 more at temperature 1.6 decided" in text.split("## Pass 2")[1]
    assert "contradicted" not in text.split("## Pass 2")[0]
    assert "| too_hard | 1 | 1 |" in text  # verdicts of pass 2 in alphabetical order
    assert "`base`, then `trained`" in grading_card(report)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ("pass_1.above=0.8", "above (0.8) must be less than below (0.75)"),
        ("pass_2.majority=0.4", "pass_2.majority"),
        ("sampling.sample=8", "did you mean sampling.samples?"),
        ("recheck.samples=8 pass_2.majority=null", "recheck.samples: no pass votes"),
    ],
)
def test_wrong_settings_are_told(change: str, told: str) -> None:
    with pytest.raises(InputError) as caught:
        load_grading("difficulty", change.split())
    assert told in str(caught.value)
