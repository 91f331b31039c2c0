"""What a person fills in to start a flow: these models become the form in the Prefect UI."""

from __future__ import annotations

import json
from enum import Enum
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from magistral_core.config import (
    CodeCurationRecipe,
    CurationRecipe,
    GradingRecipe,
    Recipe,
    load_code_curation,
    load_curation,
    load_grading,
    load_recipe,
    override,
    recipe_names,
)
from magistral_core.errors import InputError

RecipeName = Enum("RecipeName", {name: name for name in recipe_names()}, type=str)  # type: ignore[misc]
RecipeName.__doc__ = "A recipe that ships with the project."

CurationName = Enum("CurationName", {name: name for name in recipe_names(CurationRecipe)}, type=str)  # type: ignore[misc]
CurationName.__doc__ = "A curation recipe that ships with the project."

CodeCurationName = Enum("CodeCurationName", {name: name for name in recipe_names(CodeCurationRecipe)}, type=str)  # type: ignore[misc]
CodeCurationName.__doc__ = "A recipe for the curation of code problems that ships with the project."

GradingName = Enum("GradingName", {name: name for name in recipe_names(GradingRecipe)}, type=str)  # type: ignore[misc]
GradingName.__doc__ = "A grading recipe that ships with the project."


class _Form(BaseModel):
    model_config = ConfigDict(extra="forbid")


class _RecipeForm(_Form):
    recipe: RecipeName = Field(RecipeName("tiny"), title="Recipe", description="Which recipe; every setting of it can be changed below.")
    seed: int | None = Field(None, ge=0, lt=2**32, title="Seed", description="Of problems' order and of sampling. Empty: the recipe's own.")
    overrides: list[str] = Field(
        default_factory=list,
        title="Settings to change",
        description="One a line, as section.key=value; for example training.max_steps=50.",
        examples=[["training.max_steps=50", "pipeline.group_size=8"]],
    )

    def load(self) -> Recipe:
        """The recipe with its changes. Raises InputError, naming the field."""
        return load_recipe(self.recipe.value, self.changes())

    def changes(self) -> list[str]:
        """What differs from the named recipe, as `section.key=value`."""
        return self.overrides + ([] if self.seed is None else [f"seed={self.seed}"])


class TrainForm(_RecipeForm):
    """A training run."""

    settings: dict[str, Any] | None = Field(
        None, title="Whole recipe", description="All settings at once, in place of a named recipe; `magistral run FILE.yaml` sends them."
    )
    fresh: bool = Field(False, title="Begin anew", description="Do not resume an unfinished run of the same recipe.")

    def load(self) -> Recipe:
        """The recipe with its changes. Raises InputError, naming the field."""
        return super().load() if self.settings is None else override(self.settings, self.changes(), "whole recipe")


class DemoForm(_RecipeForm):
    """Evaluate the base model, train it, evaluate again."""

    fresh: bool = Field(False, title="Begin anew", description="Do not resume an unfinished run of the same recipe.")


class EvaluateForm(_Form):
    """An evaluation."""

    suite: str = Field("tiny", title="Suite", description="Name of the suite, such as tiny, gsm8k or math500.", min_length=1)
    model: str = Field("tiny", title="Model", description="`tiny`, a model folder, or a checkpoint's URI (s3://...).", min_length=1)
    data: str | None = Field(None, title="Problem file", description="Problems in place of the suite's own: a file, or s3://...")
    problems: int | None = Field(None, ge=1, title="Problems", description="Only the first so many. Empty: all.")
    samples: int | None = Field(None, ge=1, title="Completions per problem", description="Empty: the suite's own number.")
    recipe: RecipeName | None = Field(
        None, title="Recipe", description="Whose prompt and engine settings apply. Empty: the checkpoint's own, else the usual ones."
    )
    overrides: list[str] = Field(
        default_factory=list, title="Settings to change", description="One a line, as section.key=value; for example evaluation.engines=2."
    )

    def arguments(self) -> list[str]:
        """The same as arguments of `magistral evaluate`."""
        found = [self.suite, "--model", self.model]
        found += ["--data", self.data] if self.data else []
        found += ["--recipe", self.recipe.value] if self.recipe else []
        values = {"problems": self.problems, "samples": self.samples}
        changes = self.overrides + [f"evaluation.{name}={value}" for name, value in values.items() if value is not None]
        return found + [part for change in changes for part in ("--set", change)]


class _FilesForm(_Form):
    inputs: list[str] = Field(
        default_factory=list,
        title="Problem files",
        description="One a line, in order: files or folders on the worker's machine, s3://... or hf:NAME. Of duplicates the first is kept.",
        examples=[["raw/train.jsonl", "s3://magistral/raw"]],
    )
    out: str = Field(
        "curated", title="Output folder", description="For the kept and rejected problems, the report and the card.", min_length=1
    )
    overrides: list[str] = Field(
        default_factory=list, title="Settings to change", description="One a line, as section.key=value; for example duplicates.near=false."
    )

    def changes(self) -> list[str]:
        """What differs from the named recipe, as `section.key=value`."""
        return list(self.overrides)

    def checked_inputs(self) -> list[str]:
        """The inputs. Raises InputError where there is none."""
        if not self.inputs:
            raise InputError("inputs: no problem file; name at least one")
        return self.inputs

    def arguments_of(self, kind: str, recipe: str, *more: str) -> list[str]:
        """The same as arguments of `magistral curate`."""
        sets = [part for change in self.changes() for part in ("--set", change)]
        return [kind, *self.inputs, "--out", self.out, *more, "--recipe", recipe, *sets]


class _CurationForm(_FilesForm):
    model: str | None = Field(
        None, title="Language model", description="Rewrites and judges what rules cannot. Empty: that step is skipped."
    )

    def changes(self) -> list[str]:
        """What differs from the named recipe, as `section.key=value`."""
        return super().changes() + ([f"llm.model={json.dumps(self.model)}"] if self.model else [])


class CurateForm(_CurationForm):
    """A curation of mathematics problems."""

    recipe: CurationName = Field(CurationName("math"), title="Recipe", description="Whose settings apply; all can be changed.")
    against: list[str] = Field(
        default_factory=list,
        title="Evaluation sets",
        description="One a line: problems that are also in these are removed. Empty: no decontamination.",
    )
    translator: str | None = Field(
        None, title="Translating model", description="Translates a share of the English problems. Empty: all stay as they are."
    )
    share: float | None = Field(
        None, ge=0, le=1, title="Share translated", description="Of the English problems, from 0 to 1. Empty: the recipe's own."
    )
    languages: list[str] = Field(
        default_factory=list, title="Languages", description="One a line, of fr, es, it, de, zh, ru. Empty: the recipe's own."
    )

    def load(self) -> CurationRecipe:
        """The recipe with its changes. Raises InputError, naming the field, also where there is no input."""
        self.checked_inputs()
        return load_curation(self.recipe.value, self.changes())

    def changes(self) -> list[str]:
        """What differs from the named recipe, as `section.key=value`."""
        changes = super().changes() + ([f"decontaminate.against={json.dumps(self.against)}"] if self.against else [])
        changes += [f"translate.model={json.dumps(self.translator)}"] if self.translator else []
        changes += [f"translate.share={self.share}"] if self.share is not None else []
        return changes + ([f"translate.languages={json.dumps(self.languages)}"] if self.languages else [])

    def arguments(self) -> list[str]:
        """The same as arguments of `magistral curate`."""
        return self.arguments_of("math", self.recipe.value)


class CurateCodeForm(_CurationForm):
    """A curation of code problems."""

    inputs: list[str] = Field(
        default_factory=list,
        title="Problem files",
        description="One a line: files, folders of files or of problem packages on the worker's machine, s3://... or hf:NAME.",
        examples=[["raw/contests.jsonl", "raw/packages"]],
    )
    recipe: CodeCurationName = Field(CodeCurationName("code"), title="Recipe", description="Whose settings apply; all can be changed.")
    wanted: int = Field(0, ge=0, title="Tests wanted", description="Problems with fewer tests get new ones made. 0: none are made.")
    model: str | None = Field(
        None, title="Language model", description="Writes inputs of new tests. Empty: only generator scripts that come with a problem do."
    )
    overrides: list[str] = Field(
        default_factory=list, title="Settings to change", description="One a line, as section.key=value; for example agreement.repair=0.95."
    )

    def load(self) -> CodeCurationRecipe:
        """The recipe with its changes. Raises InputError, naming the field, also where there is no input."""
        self.checked_inputs()
        return load_code_curation(self.recipe.value, self.changes())

    def changes(self) -> list[str]:
        """What differs from the named recipe, as `section.key=value`."""
        return super().changes() + ([f"generate.wanted={self.wanted}"] if self.wanted else [])

    def arguments(self) -> list[str]:
        """The same as arguments of `magistral curate`."""
        return self.arguments_of("code", self.recipe.value)


class GradeForm(_FilesForm):
    """A grading of problems by difficulty."""

    inputs: list[str] = Field(
        default_factory=list,
        title="Problem files",
        description="One a line: files or folders on the worker's machine, s3://... or hf:NAME, such as a curation's kept.jsonl.",
        examples=[["curated/kept.jsonl"]],
    )
    out: str = Field(
        "graded", title="Output folder", description="For the kept and rejected problems, grades, report and card.", min_length=1
    )
    model: str = Field(
        "tiny", title="Model", description="Of pass 1: `tiny`, a model folder, or a checkpoint's URI (s3://...).", min_length=1
    )
    grader: str | None = Field(
        None, title="Trained grader", description="Of pass 2, which then decides: a model trained on what pass 1 kept. Empty: one pass."
    )
    recipe: GradingName = Field(GradingName("difficulty"), title="Recipe", description="Whose settings apply; all can be changed.")
    overrides: list[str] = Field(
        default_factory=list, title="Settings to change", description="One a line, as section.key=value; for example sampling.samples=32."
    )

    def load(self) -> GradingRecipe:
        """The recipe with its changes. Raises InputError, naming the field, also where there is no input."""
        self.checked_inputs()
        return load_grading(self.recipe.value, self.changes())

    def arguments(self) -> list[str]:
        """The same as arguments of `magistral curate`."""
        grader = ["--grader", self.grader] if self.grader else []
        return self.arguments_of("grade", self.recipe.value, "--model", self.model, *grader)
