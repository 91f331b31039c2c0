"""Recipes: the schema of every setting, and how a recipe is found, overridden and validated."""

from magistral_core.config.code_curation import CodeCurationRecipe
from magistral_core.config.curation import CurationRecipe
from magistral_core.config.grading import GradingRecipe
from magistral_core.config.load import (
    describe,
    load_code_curation,
    load_curation,
    load_grading,
    load_recipe,
    override,
    parse_override,
    recipe_names,
)
from magistral_core.config.schema import Recipe

__all__ = [
    "CodeCurationRecipe",
    "CurationRecipe",
    "GradingRecipe",
    "Recipe",
    "describe",
    "load_code_curation",
    "load_curation",
    "load_grading",
    "load_recipe",
    "override",
    "parse_override",
    "recipe_names",
]
