"""Recipes: what is found, what is overridden, and everything that is refused, each in one line that names the field."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from magistral_core.config import Recipe, load_recipe, parse_override, recipe_names
from magistral_core.errors import InputError


def write(folder: Path, text: str, name: str = "mine.yaml") -> str:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return str(path)


def refusal(*overrides: str, recipe: str = "tiny") -> str:
    """The message with which a recipe is refused: one line."""
    with pytest.raises(InputError) as caught:
        load_recipe(recipe, overrides)
    assert caught.value.exit_code == 2
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("name", recipe_names())
def test_shipped_recipes_are_valid(name: str) -> None:
    recipe = load_recipe(name)
    assert recipe.name == name
    assert recipe.pipeline.n_async <= 2 * recipe.pipeline.n_batch
    assert Recipe.model_validate(recipe.model_dump(mode="json")) == recipe


def test_the_recipes_of_the_readme_ship() -> None:
    assert {"tiny", "tiny-multilingual", "gsm8k-0.5b"} <= set(recipe_names())


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("trainig.max_steps=3", "unknown key trainig (did you mean training?)"),
        ("training.max_step=3", "unknown key training.max_step (did you mean training.max_steps?)"),
        ("rewards.length.l_maximum=3", "unknown key rewards.length.l_maximum (did you mean rewards.length.l_max?)"),
        ("problems.fields.answr=a", "unknown key problems.fields.answr (did you mean problems.fields.answer?)"),
        ("checkpoints.zzz=1", "unknown key checkpoints.zzz (known here: every, keep)"),
    ],
)
def test_unknown_keys_are_refused_with_the_nearest_known_one(override: str, message: str) -> None:
    assert refusal(override).endswith(message)


@pytest.mark.parametrize("name", ["top_p", "top_k", "min_p", "repetition_penalty"])
def test_sampling_that_would_bias_the_ratio_is_refused_with_the_reason(name: str) -> None:
    message = refusal(f"generation.{name}=0.9")
    assert f"unknown key generation.{name}: training draws from the policy's whole distribution" in message
    assert "importance ratio would be biased" in message
    assert "biased" not in refusal(f"training.{name}=0.9")


@pytest.mark.parametrize(
    ("override", "field", "value"),
    [
        ("training.max_steps=soon", "training.max_steps", "'soon'"),
        ("training.max_steps=0", "training.max_steps", "0"),
        ("training.max_steps=1.5", "training.max_steps", "1.5"),
        ("training.max_steps=null", "training.max_steps", "None"),
        ("training.zero_stage=4", "training.zero_stage", "4"),
        ("training.betas=[0.9]", "training.betas.1", "[0.9]"),
        ("training.betas=[0.9, 1.5]", "training.betas.1", "1.5"),
        ("training.learning_rate=-1", "training.learning_rate", "-1"),
        ("training.learning_rate=.nan", "training.learning_rate", "nan"),
        ("loss.normalisation=batch", "loss.normalisation", "'batch'"),
        ("loss.denominator=tokens", "loss.denominator", "'tokens'"),
        ("loss=null", "loss", "None"),
        ("pipeline.group_size=1", "pipeline.group_size", "1"),
        ("pipeline.schedule=parallel", "pipeline.schedule", "'parallel'"),
        ("problems.levels=3", "problems.levels", "3"),
        ("problems.levels=[]", "problems.levels", "[]"),
        ("problems.levels=[1, x]", "problems.levels.1", "'x'"),
        ("rewards.length=5", "rewards.length", "5"),
        ("rewards.extra=my:function", "rewards.extra", "'my:function'"),
        ("generation.gpu_memory_utilization=1.1", "generation.gpu_memory_utilization", "1.1"),
        ("name=a/b", "name", "'a/b'"),
        ("seed=-1", "seed", "-1"),
    ],
)
def test_wrong_types_and_ranges_name_field_and_value(override: str, field: str, value: str) -> None:
    message = refusal(override)
    assert f": {field}: " in message
    assert message.endswith(f", got {value}")


@pytest.mark.parametrize("override", ["training.max_steps=yes", "training.zero_stage=on", "loss.eps_high=true", "seed=false"])
def test_a_flag_is_no_number(override: str) -> None:
    assert refusal(override).endswith("is not a value for this field")
    assert load_recipe("tiny", ["problems.shuffle=no"]).problems.shuffle is False


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["pipeline.n_batch=248"], "pipeline: group_size (16) must divide n_batch (248)"),
        (["pipeline.n_minibatch=8"], "pipeline: group_size (16) must divide n_minibatch (8)"),
        (["pipeline.n_minibatch=96"], "pipeline: n_minibatch (96) must divide n_batch (256)"),
        (["pipeline.trainers=3"], "pipeline: trainers (3) must divide n_minibatch (256)"),
        (["pipeline.queue=255"], "pipeline: queue (255) must be at least n_batch (256)"),
        (["pipeline.max_open=511"], "pipeline: max_open (511) must be at least n_async + n_batch (512)"),
        (["pipeline.n_async=513", "pipeline.max_open=1024"], "pipeline: n_async (513) above 2 * n_batch (512) trains on stale policies"),
        (["pipeline.runtime=local"], "pipeline: runtime: local runs schedule: sync only"),
        (["pipeline.runtime=local", "pipeline.schedule=sync", "pipeline.generators=2"], "runtime: local has one generator and one"),
        (["pipeline.runtime=local", "pipeline.schedule=sync", "pipeline.trainers=2"], "runtime: local has one generator and one"),
        (["training.dtype=bfloat16", "training.zero_stage=0"], "training: zero_stage: 0 with dtype: bfloat16 is wrong"),
        (["rewards.length.l_cache=128"], "rewards.length: l_cache (128) must be below l_max (128)"),
        (["rewards.length.l_max=129"], "recipe: rewards.length.l_max (129) is never reached: generation.max_tokens is 128"),
        (["training.token_budget=255"], "recipe: training.token_budget (255) must hold the longest sequence (256 tokens)"),
        (["generation.max_model_len=128"], "recipe: generation.max_model_len (128) leaves no room for a prompt"),
        (["prompt.think_open=T", "prompt.think_close=T"], "prompt: think_open and think_close must differ"),
        (["seed=4294967296"], "seed: input should be less than 4294967296, got 4294967296"),
        (["generation.temperature=0.001"], "generation.temperature: input should be greater than or equal to 0.01, got 0.001"),
        (["generation.temperature=2.5"], "generation.temperature: input should be less than or equal to 2, got 2.5"),
        (["curriculum.stages=[]"], "curriculum: stages is empty"),
        (["curriculum.stages=[{}, {}]"], "curriculum: stages.0 never ends; give it steps, reward_plateau or length_plateau"),
        (["curriculum.stages=[{levels: [3, 1]}]"], "curriculum.stages.0: levels ([3, 1]): the lower end comes first"),
        (["curriculum.stages=[{step: 3}]"], "unknown key curriculum.stages.0.step (did you mean curriculum.stages.0.steps?)"),
        (
            ["curriculum.stages=[{steps: 1}, {n_async: 257}]"],
            "curriculum.stages.1: max_open (512) must be at least n_async + n_batch",
        ),
        (["curriculum.stages=[{n_batch: 512, n_minibatch: 256, max_open: 768, queue: 511}]"], "curriculum.stages.0: queue (511) must be"),
        (["curriculum.stages=[{n_minibatch: 24}]"], "curriculum.stages.0: group_size (16) must divide n_minibatch (24)"),
        (["curriculum.stages=[{max_tokens: 200}]"], "curriculum.stages.0: max_tokens (200) is above generation.max_tokens (128)"),
        (["curriculum.stages=[{max_tokens: 64}]"], "curriculum.stages.0: rewards.length.l_max (128) is never reached"),
        (["rewards.length=null", "curriculum.stages=[{l_max: 64}]"], "curriculum.stages.0: rewards.length.l_cache: field required"),
    ],
)
def test_combinations_that_would_go_wrong_are_refused(overrides: list[str], message: str) -> None:
    assert message in refusal(*overrides)


@pytest.mark.parametrize(
    "overrides",
    [
        ["pipeline.n_async=512", "pipeline.max_open=768"],
        ["pipeline.n_async=513", "pipeline.max_open=1024", "pipeline.allow_stale=true"],
        ["pipeline.max_open=512", "pipeline.queue=256"],
        ["pipeline.schedule=sync", "pipeline.max_open=1", "pipeline.n_async=4096"],  # neither bound means anything here
        ["pipeline.schedule=sync", "pipeline.runtime=local"],
        ["pipeline.n_minibatch=128", "pipeline.trainers=2"],
        ["training.dtype=bfloat16", "training.zero_stage=1"],
        ["training.zero_stage=0"],
        ["rewards.length=null"],
        ["training.token_budget=256"],
    ],
)
def test_what_lies_on_the_edge_is_accepted(overrides: list[str]) -> None:
    load_recipe("tiny", overrides)


def test_every_mistake_is_told_at_once() -> None:
    message = refusal("training.max_step=3", "loss.eps_low=2", "generation.dtype=int8")
    assert all(part in message for part in ("training.max_step ", "loss.eps_low: ", "generation.dtype: "))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a.b=3", ("a.b", 3)),
        (" a.b = 3 ", ("a.b", 3)),
        ("a=null", ("a", None)),
        ("a=", ("a", None)),
        ("a=true", ("a", True)),
        ("a='3'", ("a", "3")),
        ("a=x=y", ("a", "x=y")),
        ("a=[1, 2]", ("a", [1, 2])),
        ("a=[m:f, n:g]", ("a", ["m:f", "n:g"])),
        ("a={b: 1}", ("a", {"b": 1})),
        ("a=s3://bucket/prefix", ("a", "s3://bucket/prefix")),
        ("a=file:/tmp/x", ("a", "file:/tmp/x")),
    ],
)
def test_overrides_are_read_as_yaml(text: str, expected: tuple[str, Any]) -> None:
    assert parse_override(text) == expected


@pytest.mark.parametrize("text", ["a.b", "=3", " =3", "a=[1", "a={b", "a='x"])
def test_overrides_that_are_none(text: str) -> None:
    with pytest.raises(InputError, match=r"^--set "):
        parse_override(text)


@settings(max_examples=40)
@given(st.text("ab.=1-[]{}:,'\"&*!|>%@`#~ ", max_size=12).map("training.betas".__add__) | st.text("seed.=1[]{}:,'!&* ", max_size=12))
def test_any_override_is_read_or_refused_in_one_line(text: str) -> None:
    try:
        load_recipe("tiny", [text])
    except InputError as caught:
        error = caught
    else:
        return
    assert "\n" not in str(error)


def test_overrides_reach_the_recipe_and_the_last_one_wins() -> None:
    overrides = ["training.max_steps=7", "training.max_steps=5", "training.learning_rate=1e-6", "training.betas=[0.8, 0.9]"]
    overrides += ["problems.levels=[2, 3]", "rewards.extra=[a:b]", "rewards.length=null", "problems.fields.question=text"]
    recipe = load_recipe("tiny", overrides)
    assert (recipe.training.max_steps, recipe.training.learning_rate, recipe.training.betas) == (5, 1e-6, (0.8, 0.9))
    assert (recipe.problems.levels, recipe.rewards.extra, recipe.rewards.length) == ((2, 3), ("a:b",), None)
    assert recipe.problems.fields.question == "text"
    assert load_recipe("tiny", {"training.max_steps": 5, "seed": 3}).seed == 3
    section = load_recipe("tiny", ["rewards.length={l_max: 100, l_cache: 20}"]).rewards.length
    assert section is not None and section.l_max == 100


def test_a_value_has_no_keys() -> None:
    assert refusal("name.x=1") == "--set name.x: name is a value, not a section"


def test_a_recipe_of_ones_own(tmp_path: Path) -> None:
    assert load_recipe(write(tmp_path, "")) == Recipe(name="mine")
    assert load_recipe(write(tmp_path, "name: other\nseed: 3\n")) == Recipe(name="other", seed=3)
    assert load_recipe(write(tmp_path, "training:\n"), ["training.max_steps=4"]).training.max_steps == 4


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- a\n- b\n", "a recipe is a mapping of sections, this is a list"),
        ("just words", "a recipe is a mapping of sections, this is a str"),
        ("training: {max_steps: 5", "not YAML ("),
        ("a: b: c\n", "not YAML ("),
        ("seed: 1\nsead: 2\n", "unknown key sead (did you mean seed?)"),
        ("1: 2\n", "1"),
    ],
)
def test_files_that_are_no_recipes(tmp_path: Path, text: str, message: str) -> None:
    path = write(tmp_path, text)
    found = refusal(recipe=path)
    assert found.startswith(f"{path}: ")
    assert message in found


def test_a_file_that_is_no_text(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_bytes(b"seed: \xff\xfe\n")
    assert refusal(recipe=str(path)).startswith(f"{path}: not YAML (")


@pytest.mark.parametrize("name", ["nowhere.yaml", "folder/recipe"])
def test_files_that_are_not_there(name: str) -> None:
    assert refusal(recipe=name) == f"recipe {name}: no such file"


@pytest.mark.parametrize("name", ["tny", "", "tiny-2"])
def test_unknown_names_are_refused_with_the_known_ones(name: str) -> None:
    message = refusal(recipe=name)
    assert message.startswith(f"unknown recipe {name!r}; known: ")
    assert all(known in message for known in recipe_names())


def test_the_keys_that_stay() -> None:
    """Programs and scripts of others rely on these."""
    sections = {
        "": "seed model problems pipeline training loss rewards storage tracking",
        "model": "path",
        "problems": "path fields",
        "problems.fields": "question answer choices id",
        "pipeline": "n_async n_batch n_minibatch group_size queue max_open",
        "training": "max_steps",
        "loss": "denominator",
        "rewards": "extra",
        "storage": "uri",
        "tracking": "uri",
    }
    for section, keys in sections.items():
        model: Any = Recipe()
        for part in filter(None, section.split(".")):
            model = getattr(model, part)
        assert set(keys.split()) <= set(type(model).model_fields)


def test_defaults_are_the_papers_figures() -> None:
    """Sections 2.1 (clip, normalisation), 2.2 (rewards), 5 (temperature), 6.3 (at most two policies a sequence, one minibatch a batch)."""
    recipe = Recipe()
    rewards, loss, pipeline = recipe.rewards, recipe.loss, recipe.pipeline
    assert (rewards.format, rewards.correct, rewards.language) == (0.1, 0.9, 0.1)
    assert load_recipe("tiny", ["rewards.length={l_max: 9, l_cache: 3}"]).rewards.length.penalty == 0.1  # type: ignore[union-attr]
    assert 0.26 <= loss.eps_high <= 0.28
    assert (loss.normalisation, loss.denominator) == ("minibatch", "group")
    assert recipe.generation.temperature == 1.0
    assert pipeline.n_batch == pipeline.n_minibatch
    assert pipeline.n_async <= 2 * pipeline.n_batch
    assert not pipeline.allow_stale


def test_recipes_do_not_change() -> None:
    recipe = load_recipe("tiny")
    with pytest.raises(ValidationError, match="frozen"):
        recipe.seed = 3
    with pytest.raises(ValidationError, match="frozen"):
        recipe.training.max_steps = 3


def test_every_section_forbids_unknown_keys() -> None:
    def sections(model: type[BaseModel]) -> list[type[BaseModel]]:
        nested = [item for field in model.model_fields.values() for item in (field.annotation, *getattr(field.annotation, "__args__", ()))]
        found = [item for item in nested if isinstance(item, type) and issubclass(item, BaseModel)]
        return [model, *(deeper for item in found for deeper in sections(item))]

    assert len(sections(Recipe)) > 12
    for section in sections(Recipe):
        assert (section.model_config.get("extra"), section.model_config.get("frozen")) == ("forbid", True), section


def test_a_stage_replaces_what_it_names_and_nothing_else() -> None:
    plain = load_recipe("tiny")
    stages = [{"steps": 5, "l_max": 64, "n_async": 128, "n_batch": 128, "n_minibatch": 64, "max_tokens": 96}, {}]
    first, last = load_recipe("tiny", {"curriculum.stages": stages}).stages()
    assert last == plain
    assert plain.stages() == (plain,)
    assert (first.pipeline.n_async, first.pipeline.n_batch, first.pipeline.n_minibatch, first.generation.max_tokens) == (128, 128, 64, 96)
    assert first.rewards.length is not None
    assert (first.rewards.length.l_max, first.rewards.length.l_cache) == (64, 32)
    assert first.pipeline.queue == plain.pipeline.queue
    assert first.training == plain.training
