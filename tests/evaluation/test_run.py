"""Grading, and a whole evaluation with a real engine."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "generation"))  # random_model.py

from magistral_core.config import load_recipe
from magistral_core.errors import InputError
from magistral_core.evaluation import evaluate
from magistral_core.evaluation.run import _grade
from magistral_core.records import Completion, FinishReason, Problem
from magistral_core.rewards import Verifier

OVERRIDES = [
    "evaluation.problems=6",
    "evaluation.samples=2",
    "evaluation.engines=1",
    "evaluation.suite=tiny",
    "generation.kv_cache_gib=0.0625",
]


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from random_model import make_model

    folder = tmp_path_factory.mktemp("model")
    make_model(folder, seed=0)
    return folder


def completion(text: str, index: int, finish_reason: FinishReason = FinishReason.STOP) -> Completion:
    none = np.zeros(3, dtype=np.int32)
    return Completion(0, index, none, none, none.astype(np.float32), none, text, finish_reason)


def test_grading_tells_right_wrong_cut_and_unusable_references_apart() -> None:
    recipe = load_recipe("tiny")
    right = "<think>3+4</think>\\boxed{7}"
    texts = [right, "<think>hm</think>\\boxed{8}", "\\boxed{7.0}", "<think>no box</think>7", "<think>bare</think>\\boxed 7"]
    group = [completion(text, i) for i, text in enumerate(texts)] + [completion(right, 5, FinishReason.LENGTH)]
    problems = [Problem("a", "3+4?", "7"), Problem("b", "?", "\\frac{1}{")]
    with Verifier(recipe.rewards, recipe.prompt) as verifier:
        (graded, _), unverifiable = _grade(problems, [group, [completion(right, 0)]], verifier, recipe)
    assert [outcome.correct for outcome in graded] == [True, False, True, False, True, False]
    assert [outcome.valid_format for outcome in graded] == [True, True, False, False, False, False]
    assert [outcome.answer for outcome in graded] == ["7", "8", "7", "", "7", ""]
    assert [outcome.truncated for outcome in graded] == [False] * 5 + [True]
    assert unverifiable == 1


def test_whole_evaluation_and_again_from_its_journal(model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = load_recipe("tiny", OVERRIDES)
    seen: list[tuple[int, int]] = []
    report = evaluate("tiny", model_folder, recipe, journal=tmp_path / "journal", on_progress=lambda *counts: seen.append(counts))
    measures = report.to_json()
    assert seen[-1] == (12, 12) and measures["problems"] == 6 and measures["samples"] == 2
    assert measures["pass_at_1"] == measures["maj_at_2"] == measures["valid_format"] == 0.0, "a random model solves nothing"
    assert 0 < measures["mean_length"] <= measures["settings"]["max_tokens"] <= 192
    assert set(measures["by_level"]) == {"1", "2", "3", "4"} and sum(level["problems"] for level in measures["by_level"].values()) == 6
    assert json.loads(json.dumps(measures)) == measures
    table = report.to_markdown().splitlines()
    assert len(table) == 2 + 1 + 4 and len({line.count("|") for line in table}) == 1

    monkeypatch.setattr("magistral_core.generation.sampler.LocalEngine", None)  # nothing is left to be sampled
    again = evaluate("tiny", model_folder, recipe, journal=tmp_path / "journal")
    assert dict(again.totals) == dict(report.totals)


def test_a_checkpoints_own_field_names_and_functions_are_not_asked_of_a_suite(model_folder: Path, tmp_path: Path) -> None:
    changes = ["rewards.extra=[functions_that_are_elsewhere:brevity]", "problems.fields.answer=reward_model.ground_truth"]
    report = evaluate("tiny", model_folder, load_recipe("tiny", [*OVERRIDES, *changes]))
    assert report.totals["problems"] == 6


def test_length_is_capped_by_the_models_context(model_folder: Path, tmp_path: Path) -> None:
    data = tmp_path / "math.jsonl"
    data.write_text('{"problem": "Compute 3+4.", "answer": "7"}\n', encoding="utf-8")
    report = evaluate("math500", model_folder, load_recipe("tiny", ["generation.kv_cache_gib=0.0625"]), data=str(data))
    assert report.settings["max_tokens"] < 512 and report.totals["problems"] == 1


def test_prompt_beyond_the_context_is_refused(model_folder: Path, tmp_path: Path) -> None:
    data = tmp_path / "long.jsonl"
    data.write_text(json.dumps({"problem": "x" * 600, "answer": "7"}) + "\n", encoding="utf-8")
    with pytest.raises(InputError, match=r"long\.jsonl:1.*tokens"):
        evaluate("math500", model_folder, load_recipe("tiny"), data=str(data))


def test_code_problems_are_refused_before_anything_is_sampled(model_folder: Path, tmp_path: Path) -> None:
    data = tmp_path / "code.jsonl"
    data.write_text(json.dumps({"problem": "Print 1.", "tests": [{"input": "", "output": "1"}]}) + "\n", encoding="utf-8")
    with pytest.raises(InputError, match="suite math500: 1 code problems cannot be evaluated, only mathematics"):
        evaluate("math500", model_folder, load_recipe("tiny"), data=str(data))
