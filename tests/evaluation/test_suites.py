"""Every suite reads its real file, wherever `--data` points, and is never trained on."""

from __future__ import annotations

from pathlib import Path

import pytest

from magistral_core import api, tiny
from magistral_core.config.schema import FieldNames
from magistral_core.errors import InputError
from magistral_core.evaluation import SUITES, suite_named

DATA = Path(__file__).parents[3] / "shared" / "data"
COUNTS = {"gsm8k": 1319, "math500": 500, "aime24": 30, "aime25": 30, "amc23": 40}


@pytest.mark.skipif(not DATA.is_dir(), reason=f"real problem files are not at {DATA}")
@pytest.mark.parametrize("name", COUNTS)
def test_reads_the_real_file_from_a_folder_or_by_its_path(name: str) -> None:
    suite = suite_named(name)
    problems = suite.load(str(DATA), FieldNames(), "quick")
    assert len(problems) == COUNTS[name] and len({problem.id for problem in problems}) == COUNTS[name]
    assert all(problem.question and problem.answer for problem in problems)
    by_path = suite.load(str(DATA / suite.file[0]), FieldNames(), "quick")
    in_folder = suite.load(str((DATA / suite.file[0]).parent), FieldNames(), "quick")
    assert [p.question for p in by_path] == [p.question for p in in_folder] == [p.question for p in problems]


def test_protocol_is_the_papers() -> None:
    for suite in SUITES:
        # The tiny suite is ours: it shows the distribution that training samples from.
        assert suite.temperature == (1.0 if suite.name == "tiny" else 0.7) and suite.top_p == 1.0
    papers = {suite.name: (suite.samples, suite.max_tokens) for suite in SUITES if suite.name != "tiny"}
    assert papers == {
        "gsm8k": (1, 32 * 1024),
        "math500": (1, 32 * 1024),
        "aime24": (64, 40 * 1024),
        "aime25": (64, 40 * 1024),
        "amc23": (16, 32 * 1024),
    }


def test_a_runs_own_protocol_holds_for_its_own_suite_only() -> None:
    of_run = {"seed": 3, "evaluation": {"suite": "gsm8k", "samples": 1, "problems": 50, "engines": 2}}
    assert api._for_suite(of_run, "gsm8k") == of_run
    assert api._for_suite(of_run, "aime24") == {"seed": 3, "evaluation": {"suite": "gsm8k", "engines": 2}}
    assert api._for_suite({"seed": 3}, "aime24") == {"seed": 3, "evaluation": {}}
    trained_on = {"problems": {"path": "p", "fields": {"answer": "solution"}}}  # no field of a suite's file
    assert api._for_suite(trained_on, "aime24") == {"problems": {"path": "p", "fields": {}}, "evaluation": {}}


def test_a_named_recipes_protocol_is_not_another_suites() -> None:
    assert api.load_recipe("gsm8k-0.5b").evaluation.samples == 1
    aime, own = (api.recipe_for_suite("gsm8k-0.5b", suite) for suite in ("aime24", "gsm8k"))
    assert (aime.evaluation.samples, own.evaluation.samples) == (None, 1)
    assert aime.prompt == own.prompt and aime.generation == own.generation
    assert api.recipe_for_suite("gsm8k-0.5b", "aime24", ["evaluation.samples=3"]).evaluation.samples == 3


@pytest.mark.parametrize("world", ["quick", "multilingual"])
def test_tiny_is_held_out_and_always_the_same(world: str) -> None:
    problems = suite_named("tiny").load(None, FieldNames(), world)
    assert len(problems) == 256
    assert [p.question for p in problems] == [p.question for p in suite_named("tiny").load(None, FieldNames(), world)]
    trained = {p.question for p in tiny.generate(world, "train", 2000, sorted({p.level for p in problems}), 0)}
    assert not trained & {p.question for p in problems}


def test_unknown_suite_and_missing_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="unknown suite 'gsm9k'; known: tiny, gsm8k"):
        suite_named("gsm9k")
    with pytest.raises(InputError, match=str(tmp_path)):
        suite_named("gsm8k").load(str(tmp_path / "none.jsonl"), FieldNames(), "quick")
