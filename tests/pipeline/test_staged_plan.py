"""What is said of a curriculum before and between its stages, and what is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from small_run import SMALL

from magistral_core import api
from magistral_core.config import Recipe
from magistral_core.errors import InputError
from magistral_core.pipeline.prepare import _trainer_bytes, count_parameters
from magistral_core.pipeline.run import _handle
from magistral_core.pipeline.state import LOOP_FILE
from magistral_core.storage import CorruptCheckpointError, open_store

STAGES = [
    {"levels": [1, 1], "steps": 2, "l_max": 32, "l_cache": 8, "share": 0.5},
    {"n_async": 16, "n_batch": 16, "n_minibatch": 16},
]


def recipe(model: Path, root: Path, **changes: Any) -> Recipe:
    places = {"storage.uri": f"file:{root}/store", "tracking.uri": f"sqlite:{root}/mlflow.db"}
    levels = {"problems.levels": [1, 2], "problems.count": 60, "training.max_steps": 7}
    settings = {**SMALL, "model.path": model, **levels, "curriculum": {"stages": STAGES}, **places, **changes}
    return api.load_recipe("tiny", [f"{name}={'null' if value is None else value}" for name, value in settings.items()])


def test_the_plan_shows_the_stages(writer_model: Path, tmp_path: Path) -> None:
    plan = api.plan(recipe(writer_model, tmp_path))
    assert [(row["problems"], row["active"], row["waiting"], row["state"]) for row in plan.stages] == [
        (30, 15, 15, "now"),
        (60, None, None, "to come"),
    ]
    assert plan.completions == 2 * 32 + 5 * 16
    assert plan.max_model_len == 64 + 48, "room for the longest stage"
    text = plan.to_text()
    assert "30 problems (levels 1-1, pass rates all, the easiest 50% to begin with), length penalty from 24 to 32 tokens" in text
    assert "n_async 16, n_batch 16, n_minibatch 16, until the end" in text
    assert api.plan(recipe(writer_model, tmp_path, curriculum=None)).stages == []


def test_the_plan_shows_the_validation_and_what_is_not_held_out(writer_model: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.jsonl").write_text('{"question": "1+1=?", "answer": "2"}\n{"question": "2+1=?", "answer": "3"}\n')
    (tmp_path / "held-out.jsonl").write_text("".join(f'{{"question": "{n}+1=?", "answer": "{n + 1}"}}\n' for n in range(2, 5)))
    with (tmp_path / "held-out.jsonl").open("a") as file:
        file.write(
            json.dumps({"question": "7+1=?", "answer": "\\frac{3}{"}) + "\n" + json.dumps({"question": 90 * "9", "answer": "2"}) + "\n"
        )
    validation = f"{{problems: {{path: {tmp_path}/held-out.jsonl}}, every: 5, samples: 2}}"
    changes = {"problems.path": tmp_path / "mine.jsonl", "curriculum": None, "validation": validation, "prompt.on_long": "skip"}
    plan = api.plan(recipe(writer_model, tmp_path, **changes))
    assert plan.validation == {"problems": 4, "skipped": 1, "unreadable": 1, "also_trained": 1, "samples": 2, "every": 5}
    text = (
        "4 held-out problems, 2 completions each, every 5 steps; 1 too long and skipped; 1 found with a reference answer that no response"
    )
    assert f"{text} can be compared with; 1 trained on as well: take them out" in plan.to_text()
    assert api.plan(recipe(writer_model, tmp_path, **{**changes, "validation": None})).validation is None
    with pytest.raises(InputError, match=r"elsewhere\.jsonl"):
        api.plan(recipe(writer_model, tmp_path, **{**changes, "validation": validation.replace("held-out", "elsewhere")}))


def test_a_sliding_window_that_packed_rows_do_not_have_is_refused(writer_model: Path, tmp_path: Path) -> None:
    model = shutil.copytree(writer_model, tmp_path / "model")
    for window in (111, 112):
        content = json.loads((writer_model / "config.json").read_text())
        (model / "config.json").write_text(json.dumps({**content, "sliding_window": window}))
        if window < 112:
            with pytest.raises(InputError, match=r"varlen has no sliding window.* of 111 tokens, .* 112; use sdpa"):
                api.plan(recipe(model, tmp_path))
            assert api.plan(recipe(model, tmp_path, **{"training.attention": "sdpa"})).max_model_len == 112
    assert api.plan(recipe(model, tmp_path)).max_model_len == 112


def test_a_kind_of_model_that_is_not_known_is_refused(writer_model: Path, tmp_path: Path) -> None:
    model = shutil.copytree(writer_model, tmp_path / "model")
    content = json.loads((writer_model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps({**content, "model_type": "quite_another"}))
    with pytest.raises(InputError, match=r"model\.path .*: Transformers cannot read its config\.json \(.*quite_another"):
        api.plan(recipe(model, tmp_path))


def test_weights_in_two_forms_are_counted_once_and_half_a_file_is_named(writer_model: Path, tmp_path: Path) -> None:
    model = tmp_path / "model"
    shutil.copytree(writer_model, model)
    weights = model / "model.safetensors"
    shutil.copy(weights, model / "consolidated.safetensors")
    assert count_parameters(model) == count_parameters(writer_model) > 0
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(InputError, match=f"model.path {weights}: not a whole .safetensors file"):
        count_parameters(model)


def test_a_plan_needs_no_place_to_write_and_counts_what_no_response_can_answer(
    writer_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("MAGISTRAL_STORAGE_URI", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)
    file = tmp_path / "mine.jsonl"
    file.write_text('{"question": "1+1=?", "answer": "2"}\n{"question": "2+1=?", "answer": "\\\\frac{3}{"}\n')
    changes = {"problems.path": file, "curriculum": None, "storage.uri": '""', "tracking.uri": '""'}
    plan = api.plan(recipe(writer_model, tmp_path, **changes))
    assert plan.storage.startswith("storage.uri is not set") and plan.tracking.startswith("tracking.uri is not set")
    assert (plan.problems, plan.problems_unreadable) == (2, 1)
    assert "2 read and valid, 1 found with a reference answer that no response can be compared with" in plan.to_text()


@pytest.mark.parametrize(
    ("dtype", "stage", "ranks", "size"),
    [
        ("float32", 1, 1, 16),
        ("float32", 0, 4, 16),
        ("float32", 1, 4, 10),
        ("bfloat16", 1, 4, 9),
        ("bfloat16", 2, 4, 6),
        ("bfloat16", 3, 4, 4.5),
    ],
)
def test_what_zero_shards_is_shared_by_the_ranks(dtype: str, stage: int, ranks: int, size: float) -> None:
    settings = {"training.dtype": dtype, "training.zero_stage": stage, "pipeline.trainers": ranks}
    assert _trainer_bytes(api.load_recipe("tiny", [f"{name}={value}" for name, value in settings.items()])) == size


def test_stages_of_a_run_that_has_not_begun(writer_model: Path, tmp_path: Path) -> None:
    rows = api.stages(recipe(writer_model, tmp_path))
    assert [row["begun"] for row in rows] == [0, None]
    assert not (tmp_path / "store" / "runs").exists()


def test_stages_are_those_of_the_newest_whole_checkpoint(writer_model: Path, tmp_path: Path) -> None:
    recipe_ = recipe(writer_model, tmp_path)
    prepared, store = api.prepare(recipe_), open_store(f"file:{tmp_path}/store")
    store.check()
    handle, curriculum = _handle(store, recipe_, fresh=False), prepared.curriculum()
    assert curriculum is not None
    handle.begin(recipe_.model_dump(mode="json"))
    (tmp_path / "staging").mkdir()
    for step in (1, 2):
        curriculum.end_batch(step, ())
        (tmp_path / "staging" / LOOP_FILE).write_text(json.dumps({"curriculum": curriculum.to_json()}))
        handle.checkpoints().save(step, tmp_path / "staging", {"problems_digest": prepared.problems_digest})

    def damage(step: int) -> None:
        file = next((tmp_path / "store").glob(f"**/step-{step:08d}/*/{LOOP_FILE}"))
        file.write_bytes(file.stat().st_size * b" ")

    assert [row["begun"] for row in api.stages(recipe_)] == [0, 2]
    damage(2)
    assert [row["begun"] for row in api.stages(recipe_)] == [0, None]
    damage(1)
    with pytest.raises(CorruptCheckpointError, match="step-00000002"):
        api.stages(recipe_)


def test_what_is_refused(writer_model: Path, tmp_path: Path) -> None:
    plain = recipe(writer_model, tmp_path, curriculum=None)
    with pytest.raises(InputError, match=r"has no curriculum\.stages, so no stage to run; leave --until out"):
        api.run(plain, until="stage")
    with pytest.raises(InputError, match=r"has no curriculum\.stages"):
        api.stages(plain)
    with pytest.raises(InputError, match=r"curriculum\.stages\.0: no problem is in its range"):
        api.plan(recipe(writer_model, tmp_path, curriculum={"stages": [{"levels": [3, 4]}]}))


def test_sequences_that_the_engine_would_refuse_are_refused_before(writer_model: Path, tmp_path: Path) -> None:
    plain = {"curriculum": None, "problems.levels": [1, 1]}
    long = recipe(writer_model, tmp_path, **plain, **{"prompt.max_tokens": 100_000, "training.token_budget": 100_048})
    with pytest.raises(InputError, match=r"the model reads at most \d+ tokens, prompt and completion need 100048"):
        api.prepare(long)
    both = {"generation.max_tokens": 5, "generation.max_model_len": 6, "rewards.length": None}
    short = recipe(writer_model, tmp_path, **plain, **both)
    with pytest.raises(InputError, match=r"the prompt has \d+ tokens, the limit is 5"):
        api.prepare(short)


def test_a_changed_test_is_another_problem(writer_model: Path, tmp_path: Path) -> None:
    def digest(output: str) -> str:
        (tmp_path / "code.jsonl").write_text(json.dumps({"question": "Print it.", "tests": [{"input": "1", "output": output}]}) + "\n")
        changes = {"curriculum": None, "problems.path": tmp_path / "code.jsonl"}
        return api.prepare(recipe(writer_model, tmp_path, **changes)).problems_digest

    assert digest("1") == digest("1") != digest("2")


def test_a_changed_level_is_another_problem_for_a_curriculum_only(writer_model: Path, tmp_path: Path) -> None:
    def digest(**changes: Any) -> str:
        lines = "".join(f'{{"question": "{i}+1=?", "answer": "{i + 1}", "level": {level}}}\n' for i, level in enumerate(levels))
        (tmp_path / "problems.jsonl").write_text(lines)
        return api.prepare(recipe(writer_model, tmp_path, **{"problems.path": tmp_path / "problems.jsonl"}, **changes)).problems_digest

    levels = [1, 1, 1]
    staged, plain = digest(), digest(curriculum=None)
    levels = [1, 1, 2]
    assert digest() != staged
    assert digest(curriculum=None) == plain
