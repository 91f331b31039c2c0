"""Find a recipe by name or path, apply overrides, validate; every error names the field's path."""

from __future__ import annotations

import copy
import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from magistral_core.config.code_curation import CodeCurationRecipe
from magistral_core.config.curation import CurationRecipe
from magistral_core.config.grading import GradingRecipe
from magistral_core.config.schema import Recipe
from magistral_core.errors import InputError

_PACKAGE = Path(__file__).resolve().parents[1]
#: In a wheel the recipes lie inside the package, in a checkout beside it.
_FOLDERS = (_PACKAGE / "recipes", _PACKAGE.parent / "recipes")
#: vLLM's sampling parameters that change the distribution a token is drawn from.
_CUTTING = frozenset(
    {
        *("top_p", "top_k", "min_p", "typical_p", "repetition_penalty", "frequency_penalty", "presence_penalty", "logit_bias"),
        *("bad_words", "allowed_token_ids", "min_tokens", "structured_outputs", "guided_decoding"),
    }
)
#: Where in these folders each kind of recipe lies.
_KINDS: dict[type[BaseModel], str] = {
    Recipe: "",
    CurationRecipe: "curation",
    CodeCurationRecipe: "curation/code",
    GradingRecipe: "grading",
}
_Schema = TypeVar("_Schema", bound=BaseModel)


def recipe_names(schema: type[BaseModel] = Recipe) -> list[str]:
    """Names of the recipes of a kind that ship with the package."""
    return sorted({path.stem for folder in _folders(schema) if folder.is_dir() for path in folder.glob("*.yaml")})


def parse_override(text: str) -> tuple[str, Any]:
    """Split `a.b=value` into its path and its value, read as YAML. Raises InputError."""
    path, equals, value = text.partition("=")
    if not equals or not path.strip():
        raise InputError(f"--set {text}: write it as section.key=value")
    try:
        return path.strip(), yaml.safe_load(value)
    except (yaml.YAMLError, ValueError) as error:  # ValueError: a day that is in no calendar
        raise InputError(f"--set {text}: the value is not YAML ({_first_line(error)})") from error


def load_recipe(name_or_path: str, overrides: Sequence[str] | Mapping[str, Any] = ()) -> Recipe:
    """Load and validate the recipe of a run.

    Args:
        name_or_path: the name of a shipped recipe, or the path of a YAML file.
        overrides: `a.b=value` strings, or a mapping of dotted paths to values; applied in order.

    Raises:
        InputError: unknown recipe, unreadable YAML, unknown key, wrong type or refused combination, each with the path
            of the field.
    """
    return _load(Recipe, name_or_path, overrides)


def load_curation(name_or_path: str, overrides: Sequence[str] | Mapping[str, Any] = ()) -> CurationRecipe:
    """Load and validate a curation recipe; shipped ones lie in `recipes/curation/`. See `load_recipe`."""
    return _load(CurationRecipe, name_or_path, overrides)


def load_code_curation(name_or_path: str, overrides: Sequence[str] | Mapping[str, Any] = ()) -> CodeCurationRecipe:
    """Load and validate a recipe for code problems; shipped ones lie in `recipes/curation/code/`. See `load_recipe`."""
    return _load(CodeCurationRecipe, name_or_path, overrides)


def load_grading(name_or_path: str, overrides: Sequence[str] | Mapping[str, Any] = ()) -> GradingRecipe:
    """Load and validate a grading recipe; shipped ones lie in `recipes/grading/`. See `load_recipe`."""
    return _load(GradingRecipe, name_or_path, overrides)


def _load(schema: type[_Schema], name_or_path: str, overrides: Sequence[str] | Mapping[str, Any]) -> _Schema:
    path = _find(schema, name_or_path)
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error
    except (yaml.YAMLError, ValueError) as error:
        raise InputError(f"{path}: not YAML ({_first_line(error)})") from error
    if data is None:
        data = {}
    if not isinstance(data, dict):
        raise InputError(f"{path}: a recipe is a mapping of sections, this is a {type(data).__name__}")
    data.setdefault("name", path.stem)
    return _override(schema, data, overrides, str(path))


def override(data: Mapping[str, Any], overrides: Sequence[str] | Mapping[str, Any], source: str = "settings") -> Recipe:
    """Apply overrides to the raw settings of a recipe and validate them. `source` names them in errors. Raises InputError."""
    return _override(Recipe, data, overrides, source)


def _override(schema: type[_Schema], data: Mapping[str, Any], overrides: Sequence[str] | Mapping[str, Any], source: str) -> _Schema:
    changed = copy.deepcopy(dict(data))
    pairs = overrides.items() if isinstance(overrides, Mapping) else map(parse_override, overrides)
    for dotted, value in pairs:
        _set(changed, dotted, value)
    try:
        return schema.model_validate(changed)
    except ValidationError as error:
        raise InputError(f"{source}: {describe(error, schema)}") from error


def describe(error: ValidationError, schema: type[BaseModel] = Recipe) -> str:
    """One line for a pydantic error: path of the field, what is wrong, and the nearest known key."""
    parts = []
    for item in error.errors(include_url=False):
        location = [str(part) for part in item["loc"]]
        where = ".".join(location) or "recipe"
        if item["type"] == "extra_forbidden":
            parts.append(f"unknown key {where}{_biased(location) or _suggest(schema, location)}")
        elif item["type"] == "value_error":
            parts.append(f"{where}: {item['ctx']['error']}")
        else:
            parts.append(f"{where}: {item['msg'][0].lower()}{item['msg'][1:]}, got {item['input']!r}")
    return "; ".join(parts)


def _biased(location: Sequence[str]) -> str:
    """Why there is no such setting, where it would bias training."""
    if location[0] != "generation" or location[-1] not in _CUTTING:
        return ""
    return (
        ": training draws from the policy's whole distribution, since the trainer's probability of a token would not be that of a "
        "distribution cut or bent by it, and the importance ratio would be biased; remove it"
    )


def _suggest(schema: type[BaseModel], location: Sequence[str]) -> str:
    model = schema
    for part in location[:-1]:
        if part.isdigit():  # an item of a list: the annotation's own
            continue
        annotation = model.model_fields[part].annotation if part in model.model_fields else None
        candidates = [annotation, *getattr(annotation, "__args__", ())]
        found = next((item for item in candidates if isinstance(item, type) and issubclass(item, BaseModel)), None)
        if found is None:
            return ""
        model = found
    known = difflib.get_close_matches(location[-1], model.model_fields, n=1)
    return f" (did you mean {'.'.join([*location[:-1], known[0]])}?)" if known else f" (known here: {', '.join(model.model_fields)})"


def _set(data: dict[str, Any], dotted: str, value: Any) -> None:
    *parents, last = dotted.split(".")
    node = data
    for part in parents:
        child = node.get(part)
        if child is None:
            child = node[part] = {}
        if isinstance(child, list):
            raise InputError(
                f"--set {dotted}: {part} is a list; set the whole of it, as in --set '{dotted.partition(f'.{part}.')[0]}.{part}=[...]'"
            )
        if not isinstance(child, dict):
            raise InputError(f"--set {dotted}: {part} is a value, not a section")
        node = child
    node[last] = value


def _folders(schema: type[BaseModel]) -> list[Path]:
    return [folder / _KINDS[schema] for folder in _FOLDERS]


def _find(schema: type[BaseModel], name_or_path: str) -> Path:
    path = Path(name_or_path)
    if path.suffix in {".yaml", ".yml"} or path.parent != Path():
        if path.is_file():
            return path
        raise InputError(f"recipe {name_or_path}: no such file")
    for folder in _folders(schema):
        candidate = folder / f"{name_or_path}.yaml"
        if candidate.is_file():
            return candidate
    raise InputError(f"unknown recipe {name_or_path!r}; known: {', '.join(recipe_names(schema))}; or give the path of a .yaml file")


def _first_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
