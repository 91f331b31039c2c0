"""Traces: clean work is right to the last column, slips stay consistent, and the mix is what it says."""

import random
import re
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from magistral_core.config.schema import PromptSettings
from magistral_core.records import ProblemKind
from magistral_core.rewards.format import Response, check_format
from magistral_core.rewards.language import classify, same_language
from magistral_core.tiny import quick
from magistral_core.tiny.exercise import Exercise, Slips
from magistral_core.tiny.foreign import foreign_trace
from magistral_core.tiny.multilingual import LANGUAGES
from magistral_core.tiny.problems import exercises
from magistral_core.tiny.traces import MIX, Trace, curriculum, write

LEVELS = {"quick": (1, 2, 3, 4), "multilingual": (1, 2)}
draws = st.tuples(st.sampled_from(["quick", "multilingual"]), st.integers(0, 10**6))


def exercise_of(world: str, seed: int) -> tuple[Exercise, random.Random]:
    rng = random.Random(seed)
    return next(exercises(world, "train", [rng.choice(LEVELS[world])], seed)), rng


def judged(trace: Trace) -> Response:
    return check_format(trace.response, ProblemKind.MATH, PromptSettings())


@settings(max_examples=200, deadline=None)
@given(draws)
def test_careful_and_rambling_work_is_valid_and_right(draw):
    exercise, rng = exercise_of(*draw)
    for author in ("careful", "rambling"):
        response = judged(write(exercise, author, rng, world=draw[0]))
        assert response.valid and response.result == str(exercise.answer)


@settings(max_examples=100, deadline=None)
@given(draws)
def test_formal_faults_fail_the_format_check(draw):
    exercise, rng = exercise_of(*draw)
    for author in ("unboxed", "unopened", "unclosed"):
        assert not judged(write(exercise, author, rng, world=draw[0])).valid
    assert judged(write(exercise, "guessing", rng, world=draw[0])).valid


@settings(max_examples=300, deadline=None)
@given(st.integers(0, 10**6))
def test_every_written_step_of_careful_work_holds(seed):
    exercise, rng = exercise_of("quick", seed)
    steps, answer = quick.work(exercise, Slips(rng))
    total = exercise.numbers[0]
    for step in steps:
        if exercise.kind == "mod":
            value, rest = map(int, step.split(":"))
            assert value % exercise.numbers[1] == rest
        else:
            left, right = step.split("=")
            parts = [int(n) for n in re.findall(r"[+-]?\d+", left)]
            total = sum(parts) if exercise.kind in ("add", "sub") else total + parts[0]
            assert total == int(right)
    assert answer == exercise.answer


@settings(max_examples=300, deadline=None)
@given(st.integers(0, 10**6))
def test_slips_are_carried_on_consistently(seed):
    """The answer is what the written steps say, wrong as they may be."""
    exercise, rng = exercise_of("quick", seed)
    steps, answer = quick.work(exercise, Slips(rng, 0.5))
    last = int(re.split("[=:]", steps[-1])[1])
    if exercise.kind in ("add", "sub"):
        digits = [int(step.split("=")[1]) % 10 for step in steps]
        expected = sum(digit * 10**place for place, digit in enumerate(digits)) + (last // 10) * 10 ** len(steps)
    else:
        expected = last
    assert answer == expected >= (0 if exercise.kind in ("add", "sub", "mod") else -99)


def test_slips_are_as_frequent_as_asked():
    stream = exercises("quick", "train", (1, 2, 3, 4), 1)
    rng = random.Random(0)
    wrong = Counter()
    drawn = [next(stream) for _ in range(4000)]
    for exercise in drawn:
        wrong[exercise.level] += quick.work(exercise, Slips(rng, 0.3))[1] != exercise.answer
    rates = [wrong[level] / 1000 for level in (1, 2, 3, 4)]
    assert rates == sorted(rates) and 0.4 < rates[0] < 0.6 and 0.65 < rates[3] < 0.95


def test_curriculum_goes_from_easy_and_clean_to_the_mix():
    traces = list(curriculum("quick", 100, 200, seed=2))
    easy, clean, mixed = traces[:3750], traces[:15_000], traces[15_000:]
    assert len(traces) == 20_000
    assert {t.exercise.level for t in easy} == {1, 2} and {t.exercise.level for t in traces[3750:4000]} == {1, 2, 3, 4}
    assert {t.author for t in clean} == {"careful"}
    shares = Counter(t.author for t in mixed)
    assert sum(MIX.values()) == 100
    for author, percent in MIX.items():
        assert shares[author] / len(mixed) * 100 == pytest.approx(percent, abs=2.0)
    assert traces == list(curriculum("quick", 100, 200, seed=2))


def test_the_model_never_learns_from_a_held_out_problem():
    held_out = exercises("quick", "heldout", (1, 2, 3, 4), 0)
    keys = {next(held_out).key for _ in range(3000)}
    assert not keys & {trace.exercise.key for trace in curriculum("quick", 100, 50, seed=0)}


class TestLanguages:
    def test_problem_thoughts_and_answer_are_recognised(self):
        stream = exercises("multilingual", "train", (1, 2), 4)
        rng = random.Random(0)
        right = Counter()
        count = Counter()
        for _ in range(1400):
            exercise = next(stream)
            thoughts, answer = write(exercise, "careful", rng, world="multilingual").response.removeprefix("<think>").split("</think>")
            for part, text in (("problem", exercise.question), ("thoughts", thoughts), ("answer", answer)):
                count[exercise.language, part] += 1
                right[exercise.language, part] += classify(text).code == exercise.language
        assert len(count) == 3 * len(LANGUAGES)
        assert min(right[key] / count[key] for key in count) >= 0.95

    def test_authors_stray_into_other_languages_only_when_imperfect(self):
        def faithful(traces: list[Trace]) -> float:
            mine = [trace for trace in traces if trace.author == "careful"]
            parts = [trace.response.removeprefix("<think>").split("</think>") for trace in mine]
            return sum(same_language(t.exercise.question, *p) for t, p in zip(mine, parts, strict=True)) / len(mine)

        traces = list(curriculum("multilingual", 100, 40, seed=1))
        assert faithful(traces[:3000]) > 0.95
        assert 0.4 < faithful(traces[3000:]) < 0.7


def test_foreign_traces_teach_the_form_most_of_the_time():
    rng = random.Random(3)
    traces = [foreign_trace(rng) for _ in range(2000)]
    valid = [not check_format(trace.response, ProblemKind.MATH, PromptSettings()).fault for trace in traces]
    assert sum(valid) / len(valid) == pytest.approx(0.75, abs=0.03)
    lengths = [len(trace.question.split()) for trace in traces]
    assert (min(lengths), max(lengths)) == (10, 120)
