"""Grading, and a whole evaluation with a real engine."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "generation"))  # random_model.py

from magistral_core.config import load_recipe
from magistral_core.errors import InfrastructureError, InputError
from magistral_core.evaluation import evaluate
from magistral_core.evaluation.metrics import Outcome, majority_correct
from magistral_core.evaluation.run import _grade
from magistral_core.generation.engine import LocalEngine
from magistral_core.records import Completion, FinishReason, Problem, Request
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
        (graded, _), unverifiable, unjudged = _grade(problems, [group, [completion(right, 0)]], verifier, recipe)
    assert [outcome.correct for outcome in graded] == [True, False, True, False, True, False]
    assert [outcome.valid_format for outcome in graded] == [True, True, False, False, False, False]
    assert [outcome.answer for outcome in graded] == ["7", "8", "7", "", "7", ""]
    assert [outcome.truncated for outcome in graded] == [False] * 5 + [True]
    assert unverifiable == 1 and unjudged == 0


def test_wrong_answers_that_mean_the_same_vote_together() -> None:
    recipe = load_recipe("tiny")
    answers = ["5", "\\$5", "5.0", "6", "6", "\\$6", "\\$6", "7"]
    group = [completion(f"<think>x</think>\\boxed{{{text}}}", i) for i, text in enumerate(answers)]
    with Verifier(recipe.rewards, recipe.prompt) as verifier:
        (graded,), _, _ = _grade([Problem("a", "2+3?", "5")], [group], verifier, recipe)
    assert [outcome.correct for outcome in graded] == [True] * 3 + [False] * 5
    assert len({outcome.answer for outcome in graded[3:7]}) == 1 and graded[7].answer == "7"
    assert majority_correct(graded) == 0.0, "four say 6, three say 5"


def _graded_without_workers(gold: str, texts: list[str]) -> tuple[list[list[Outcome]], int, int]:
    """What grading makes of completions when every worker that takes one up is killed."""
    recipe = load_recipe("tiny", ["rewards.workers=1", "rewards.timeout_s=600", "rewards.retries=0"])
    group = [completion(text, i) for i, text in enumerate(texts)]
    with Verifier(recipe.rewards, recipe.prompt) as verifier, ThreadPoolExecutor(1) as threads:
        workers = verifier._pool.pids
        future = threads.submit(_grade, [Problem("a", "3+4?", gold)], [group], verifier, recipe)
        while not future.done():
            time.sleep(0.1)
            for pid in workers if verifier._pool.waiting else []:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        return future.result()


HANGS = "<think>x</think>\\boxed{\\sum_{k=1}^{10^{9}} k^{k}}"


def test_a_completion_at_which_the_verifier_breaks_is_left_out() -> None:
    right, wrong = "<think>a</think>\\boxed{7}", "<think>b</think>\\boxed{8}"
    (graded,), unverifiable, unjudged = _graded_without_workers("7", [right, HANGS, wrong])
    assert [outcome.correct for outcome in graded] == [True, False] and unverifiable == 0 and unjudged == 1


def test_an_evaluation_that_nobody_judged_has_no_figures() -> None:
    with pytest.raises(InfrastructureError, match="the verifier broke at every completion"):
        _graded_without_workers("7", [HANGS])


def test_whole_evaluation(model_folder: Path, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    report = evaluate(
        "tiny", model_folder, load_recipe("tiny", OVERRIDES), journals=tmp_path, on_progress=lambda *counts: seen.append(counts)
    )
    measures = report.to_json()
    assert seen[-1] == (12, 12) and measures["problems"] == 6 and measures["samples"] == 2
    assert measures["pass_at_1"] == measures["maj_at_2"] == measures["valid_format"] == 0.0, "a random model solves nothing"
    assert 0 < measures["mean_length"] <= measures["settings"]["max_tokens"] <= 192
    assert set(measures["by_level"]) == {"1", "2", "3", "4"} and sum(level["problems"] for level in measures["by_level"].values()) == 6
    assert json.loads(json.dumps(measures)) == measures
    table = report.to_markdown().splitlines()
    assert len(table) == 2 + 1 + 4 and len({line.count("|") for line in table}) == 1
    assert not list(tmp_path.iterdir()), "what was kept for a resume is of no use any more"


def test_an_evaluation_that_was_stopped_samples_only_what_is_missing(
    model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, add = load_recipe("tiny", OVERRIDES), LocalEngine.add
    drawn: list[Request] = []

    def count(self: LocalEngine, request: Request, *rest: Any) -> str:
        drawn.append(request)
        return add(self, request, *rest)

    def stop(done: int, _: int) -> None:
        if done == 5:
            raise KeyboardInterrupt

    monkeypatch.setattr(LocalEngine, "add", count)
    with pytest.raises(KeyboardInterrupt):
        evaluate("tiny", model_folder, recipe, journals=tmp_path, on_progress=stop)
    [journal] = tmp_path.iterdir()
    kept = sum(len(pq.read_table(part)) for part in journal.glob("part-*.parquet"))
    assert 5 <= kept < 12
    evaluate("tiny", model_folder, load_recipe("tiny", [*OVERRIDES, "seed=1"]), journals=tmp_path)
    assert list(tmp_path.iterdir()) == [journal], "another evaluation neither takes nor removes it"
    drawn.clear()
    report = evaluate("tiny", model_folder, recipe, journals=tmp_path)
    assert len(drawn) == 12 - kept
    assert not list(tmp_path.iterdir())
    assert report.totals == evaluate("tiny", model_folder, recipe).totals


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
    with pytest.raises(InputError, match=r"long\.jsonl:1.*tokens.*take another model, or the problem out"):
        evaluate("math500", model_folder, load_recipe("tiny"), data=str(data))


def test_code_problems_are_refused_before_anything_is_sampled(model_folder: Path, tmp_path: Path) -> None:
    data = tmp_path / "code.jsonl"
    data.write_text(json.dumps({"problem": "Print 1.", "tests": [{"input": "", "output": "1"}]}) + "\n", encoding="utf-8")
    with pytest.raises(InputError, match="suite math500: 1 code problems cannot be evaluated, only mathematics"):
        evaluate("math500", model_folder, load_recipe("tiny"), data=str(data))
