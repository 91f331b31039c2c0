"""Generated problems: deterministic, right, graded, and never shared between the splits."""

import re
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import magistral_core.tiny  # noqa: F401 - registers the sources
from magistral_core.config.schema import ProblemSettings
from magistral_core.errors import InputError
from magistral_core.problems import load_problems
from magistral_core.records import Problem
from magistral_core.tiny.problems import WORLDS, exercises, generate

LOSS_WORDS = ("gives", "donne", "regala", "schenkt", "送给", "отдаёт")
ALL_LEVELS = {"quick": (1, 2, 3, 4), "multilingual": (1, 2)}
worlds = st.sampled_from(sorted(WORLDS))
seeds = st.integers(0, 2**31)


def arithmetic(problem: Problem) -> tuple[str, tuple[int, ...]]:
    """The sum behind a statement, read from its text alone."""
    text = problem.question
    if sum_ := re.fullmatch(r"(\d+)\+(\d+)=\?", text):
        return "sum", tuple(sorted(map(int, sum_.groups())))
    if remainder := re.fullmatch(r"(\d+) mod (\d+)=\?", text):
        return "mod", tuple(map(int, remainder.groups()))
    if re.fullmatch(r"[\d+-]+=\?", text):
        return "chain", tuple(map(int, re.findall(r"[+-]?\d+", text)))
    if " has " in text and ", " in text:  # the quick world's stories
        return "chain", (
            int(re.search(r"has (\d+)", text)[1]),
            *(int(n) * (1 if verb == "gets" else -1) for verb, n in re.findall(r"(gets|loses) (\d+)", text)),
        )
    start, *changes = re.split(r"(?<=[.。]) ?", text)[:-1]
    signs = [-1 if any(word in change for word in LOSS_WORDS) else 1 for change in changes]
    return "chain", (int(re.search(r"\d+", start)[0]), *(s * int(re.search(r"\d+", c)[0]) for s, c in zip(signs, changes, strict=True)))


@pytest.mark.parametrize("world", sorted(WORLDS))
def test_answers_are_right_and_levels_are_harder(world):
    problems = generate(world, "train", 1500, ALL_LEVELS[world], 3)
    for problem in problems:
        kind, numbers = arithmetic(problem)
        assert int(problem.answer) == (numbers[0] % numbers[1] if kind == "mod" else sum(numbers)), problem
        size = len(str(numbers[0])) if problem.extra["kind"] in ("add", "sub", "mod") else len(numbers) - (world == "quick")
        assert size == problem.level + 1, problem
        assert len(problem.question) < 260
    assert {p.language for p in problems} == set(WORLDS[world].LANGUAGES)
    assert [p.level for p in problems[:4]] == [ALL_LEVELS[world][i % len(ALL_LEVELS[world])] for i in range(4)]
    assert len({p.id for p in problems}) == len(problems)


@settings(max_examples=30, deadline=None)
@given(world=worlds, seed=seeds, other=seeds, count=st.integers(1, 200))
def test_splits_share_no_arithmetic(world, seed, other, count):
    train = {arithmetic(p) for p in generate(world, "train", count, ALL_LEVELS[world], seed)}
    held_out = {arithmetic(p) for p in generate(world, "heldout", count, ALL_LEVELS[world], other)}
    assert not train & held_out


@settings(max_examples=20, deadline=None)
@given(world=worlds, seed=seeds, count=st.integers(1, 100))
def test_a_list_is_fixed_by_its_seed_and_starts_alike(world, seed, count):
    longer = generate(world, "train", count + 20, ALL_LEVELS[world], seed)
    assert generate(world, "train", count, ALL_LEVELS[world], seed) == longer[:count]
    assert generate(world, "train", count + 20, ALL_LEVELS[world], seed + 1) != longer


def test_no_problem_comes_twice_while_there_are_others():
    problems = generate("quick", "train", 20_000, (1, 2, 3, 4), 0)
    assert len({arithmetic(p) for p in problems}) == len(problems)
    stories = generate("multilingual", "train", 8000, (1, 2), 0)
    assert len({p.question for p in stories}) == len({(arithmetic(p), p.language) for p in stories}) == len(stories)


def test_a_used_up_level_repeats_instead_of_stopping():
    stream = exercises("multilingual", "heldout", (1,), 0)
    drawn = [next(stream) for _ in range(1500)]
    assert 700 < len({(e.key, e.language) for e in drawn}) < 1500


def test_problems_path_tiny():
    settings = ProblemSettings(path="tiny", count=40, levels=(1, 3))
    problems = load_problems(settings, seed=5)
    assert len(problems) == 40 and {p.level for p in problems} == {1, 3}
    assert load_problems(settings.model_copy(update={"limit": 7}), seed=5) == problems[:7]
    held_out = load_problems(settings.model_copy(update={"split": "heldout"}), seed=5)
    assert not {arithmetic(p) for p in held_out} & {arithmetic(p) for p in problems}
    stories = load_problems(ProblemSettings(path="tiny-multilingual", count=50, levels=(1, 2)), seed=5)
    assert len({p.language for p in stories}) == 7


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"path": "tiny-multilingual"}, "problems.levels .*1, 2"),
        ({"levels": (9,)}, "problems.levels"),
        ({"split": "test"}, "problems.split 'test'.*heldout"),
    ],
)
def test_what_the_world_lacks_is_refused(change, words):
    with pytest.raises(InputError, match=words):
        load_problems(ProblemSettings(**{"path": "tiny", **change}))


def test_an_unknown_world_is_refused():
    with pytest.raises(InputError, match="'slow'"):
        generate("slow", "train", 1, (1,), 0)


def test_import_loads_no_torch():
    code = "import sys, magistral_core.tiny; print([m for m in ('torch', 'transformers', 'vllm', 'ray') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
