"""The forms that start flows: what a person sees, and what is refused."""

import pytest
from pydantic import ValidationError

from flows.curate_code import curate_code
from flows.curate_math import curate_math
from flows.demo import demo
from flows.evaluate import evaluate
from flows.grade_difficulty import grade_difficulty
from flows.parameters import CurateCodeForm, CurateForm, DemoForm, EvaluateForm, GradeForm, TrainForm
from flows.train import train
from magistral_core.cli.app import build_parser
from magistral_core.config import load_code_curation, load_curation, load_grading, load_recipe, recipe_names
from magistral_core.errors import InputError


@pytest.mark.parametrize(
    ("flow", "form"),
    [
        *((train, TrainForm), (evaluate, EvaluateForm), (demo, DemoForm)),
        *((curate_math, CurateForm), (curate_code, CurateCodeForm), (grade_difficulty, GradeForm)),
    ],
)
def test_every_field_explains_itself(flow, form) -> None:
    schema = flow.parameters.model_dump()["definitions"][form.__name__]
    for name, field in schema["properties"].items():
        assert field.get("title") and field.get("description"), name
    assert "required" not in schema  # the form can be sent as it is
    assert flow.validate_parameters({}) == {name: form() for name in flow.parameters.properties}


def test_recipes_are_a_choice() -> None:
    schema = train.parameters.model_dump()["definitions"]["RecipeName"]
    assert schema["enum"] == recipe_names()


def test_changes_reach_the_recipe() -> None:
    recipe = TrainForm(recipe="tiny", seed=3, overrides=["training.max_steps=5"]).load()
    assert (recipe.name, recipe.seed, recipe.training.max_steps) == ("tiny", 3, 5)
    whole = load_recipe("tiny", ["name=mine"])
    assert TrainForm(settings=whole.model_dump(mode="json")).load() == whole
    form = TrainForm(settings=whole.model_dump(mode="json"), seed=7, overrides=["training.max_steps=50"])
    assert form.load() == load_recipe("tiny", ["name=mine", "seed=7", "training.max_steps=50"])
    form = EvaluateForm(model="m", data="d", recipe="tiny", problems=5, overrides=["seed=1"])
    changes = ["--set", "seed=1", "--set", "evaluation.problems=5"]
    assert form.arguments() == ["tiny", "--model", "m", "--data", "d", "--recipe", "tiny", *changes]


def test_a_curation_reaches_the_command() -> None:
    form = CurateForm(inputs=["a.jsonl", "b"], out="o", against=["aime.jsonl"], overrides=["duplicates.near=false"])
    recipe = form.load()
    assert (recipe.decontaminate.against, recipe.duplicates.near, recipe.llm.model) == (("aime.jsonl",), False, None)
    options = build_parser().parse_args(["curate", *form.arguments()])
    assert (options.inputs, str(options.out), options.recipe) == (["a.jsonl", "b"], "o", "math")
    assert load_curation(options.recipe, options.overrides) == recipe
    assert CurateForm(inputs=["a"], model="some/folder").load().llm.model == "some/folder"
    form = CurateForm(inputs=["a"], translator="some/folder", share=0.5, languages=["de", "zh"])
    translate = form.load().translate
    assert (translate.model, translate.share, translate.languages) == ("some/folder", 0.5, ("de", "zh"))
    options = build_parser().parse_args(["curate", *form.arguments()])
    assert load_curation(options.recipe, options.overrides).translate == translate
    with pytest.raises(InputError, match=r"translate\.languages\.0"):
        CurateForm(inputs=["a"], languages=["en"]).load()
    with pytest.raises(InputError, match="no problem file"):
        CurateForm().load()
    with pytest.raises(InputError, match=r"duplicates\.neer"):
        CurateForm(inputs=["a"], overrides=["duplicates.neer=false"]).load()


def test_a_code_curation_reaches_the_command() -> None:
    form = CurateCodeForm(inputs=["packages"], out="o", wanted=20, overrides=["agreement.repair=0.95"])
    recipe = form.load()
    assert (recipe.generate.wanted, recipe.agreement.repair, recipe.llm.model) == (20, 0.95, None)
    options = build_parser().parse_args(["curate", *form.arguments()])
    assert (options.inputs, str(options.out), options.recipe) == (["packages"], "o", "code")
    assert load_code_curation(options.recipe, options.overrides) == recipe
    with pytest.raises(InputError, match="no problem file"):
        CurateCodeForm().load()
    with pytest.raises(InputError, match=r"agreement: repair must not be below keep"):
        CurateCodeForm(inputs=["a"], overrides=["agreement.repair=0.1"]).load()


def test_a_grading_reaches_the_command() -> None:
    form = GradeForm(inputs=["a.jsonl", "b"], out="o", model="m", grader="g", recipe="tiny", overrides=["sampling.samples=32"])
    options = build_parser().parse_args(["curate", *form.arguments()])
    assert (options.inputs, str(options.out), options.model, options.grader) == (["a.jsonl", "b"], "o", "m", "g")
    assert load_grading(options.recipe, options.overrides) == form.load()
    assert build_parser().parse_args(["curate", *GradeForm(inputs=["a"]).arguments()]).grader is None
    with pytest.raises(InputError, match="no problem file"):
        GradeForm().load()


def test_what_is_wrong_is_refused() -> None:
    with pytest.raises(ValidationError, match="recipe"):
        TrainForm(recipe="nope")
    with pytest.raises(ValidationError, match="seed"):
        TrainForm(seed=-1)
    with pytest.raises(ValidationError, match="Extra inputs"):
        EvaluateForm(modle="x")
    with pytest.raises(InputError, match=r"training\.max_stps"):
        TrainForm(overrides=["training.max_stps=5"]).load()
