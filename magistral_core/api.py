"""The front door for Python programs: what the `magistral` command does, as functions.

from magistral_core import api
recipe = api.load_recipe("tiny", ["training.max_steps=50", "storage.uri=file:out", "tracking.uri=sqlite:out/mlflow.db"])
summary = api.run(recipe, on_event=print)
"""

from __future__ import annotations

import contextlib
import functools
import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

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
)
from magistral_core.errors import InputError, MagistralError
from magistral_core.paths import cache_folder, scratch_folder
from magistral_core.processes import has_gpu_driver
from magistral_core.records import Problem

if TYPE_CHECKING:
    from magistral_core.config.curation import LlmSettings
    from magistral_core.config.schema import TrackingSettings
    from magistral_core.curation import Models
    from magistral_core.evaluation import EvaluationReport
    from magistral_core.pipeline.prepare import Plan, Prepared
    from magistral_core.pipeline.run import Until

__all__ = [
    "CodeCurationRecipe",
    "CurationRecipe",
    "GradingRecipe",
    "Recipe",
    "curate_code",
    "curate_math",
    "evaluate",
    "grade_difficulty",
    "load_code_curation",
    "load_curation",
    "load_grading",
    "load_recipe",
    "model_folder",
    "plan",
    "prepare",
    "problems",
    "run",
    "stages",
    "translate",
]

OnEvent = Callable[[dict[str, Any]], None]
log = logging.getLogger(__name__)


def problems(recipe: Recipe) -> list[Problem]:
    """Every problem of the recipe, each line validated. Raises InputError with file and line."""
    import magistral_core.tiny  # noqa: F401  (it registers its generated problems)
    from magistral_core.problems import load_problems

    return load_problems(recipe.problems, recipe.seed)


def model_folder(recipe: Recipe, on_event: OnEvent | None = None) -> Path:
    """The model's folder on this machine: the tiny base model is made if it is not cached, a hub name is fetched.

    Raises InputError where the path is neither a model folder nor a name that the hub knows.
    """
    path = recipe.model.path
    if path == "tiny":
        from magistral_core.tiny.base import ensure_base_model

        total = recipe.model.tiny.sft_steps

        def progress(step: int, metrics: dict[str, float]) -> None:
            if on_event is not None:
                on_event({"event": "base_model", "step": step, "max_steps": total, "metrics": metrics})

        return ensure_base_model(recipe.model.tiny, on_progress=progress)
    return _named_model(path, "model.path")


def prepare(recipe: Recipe, on_event: OnEvent | None = None) -> Prepared:
    """Read and check everything that a run needs, problem lines first, then model and prompts."""
    from magistral_core.evaluation import suite_named
    from magistral_core.pipeline.prepare import prepare as check
    from magistral_core.problems import load_problems

    if recipe.evaluation.suite is not None:
        suite_named(recipe.evaluation.suite)  # a stage is evaluated hours later
    found = problems(recipe)
    held_out = []
    if recipe.validation is not None:
        try:
            held_out = load_problems(recipe.validation.problems, recipe.seed)
        except InputError as error:  # its settings have names of their own
            raise InputError(f"validation: {error}") from error
    return check(recipe, model_folder(recipe, on_event), found, held_out)


def plan(recipe: Recipe) -> Plan:
    """Validate and say what the run will do and need. Makes the tiny base model where that is missing, and has a verifier read answers."""
    import torch

    from magistral_core.pipeline.prepare import make_plan

    check_gpus(recipe)
    return make_plan(prepare(recipe), _device(), on_gpu=torch.cuda.is_available())


def stages(recipe: Recipe, *, fresh: bool = False) -> list[dict[str, Any]]:
    """The stages of a recipe's curriculum, as far as its unfinished run has come; see `pipeline.run.stages`."""
    from magistral_core.pipeline.run import stages as rows

    return rows(prepare(recipe), fresh=fresh)


def run(recipe: Recipe, *, fresh: bool = False, until: Until = "end", on_event: OnEvent | None = None) -> dict[str, Any]:
    """Run a recipe on this machine, or on the Ray cluster that it names; see `pipeline.run.run_prepared`."""
    from magistral_core.pipeline.prepare import storage_uri, tracking_uri
    from magistral_core.pipeline.run import run_prepared
    from magistral_core.storage import open_store
    from magistral_core.tracking import Tracker

    # Before minutes go into a base model that could not be used.
    check_gpus(recipe)
    open_store(storage_uri(recipe)).check()
    Tracker.check(tracking_uri(recipe))
    return run_prepared(prepare(recipe, on_event), fresh=fresh, until=until, on_event=on_event)


def evaluate(
    suite: str,
    model: str,
    *,
    recipe: Recipe | None = None,
    overrides: Sequence[str] = (),
    data: str | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> EvaluationReport:
    """Measure a model on a suite; see `evaluation.evaluate`. Killed and called again, it samples only what is missing.

    Args:
        suite: name, such as `tiny`, `gsm8k`, `math500`, `aime24`.
        model: `tiny`, a folder, a hub name, or the URI of a checkpoint.
        recipe: prompt, engine and protocol. By default those of the checkpoint's own run (the protocol: if this suite is its own), of the
            recipe `tiny` for the suite or model `tiny`, and else the schema's defaults.
        overrides: `a.b=value`, applied to the default recipe.
        data: file or folder with the suite's problems.
        on_progress: called with finished and all completions.
    """
    from magistral_core.evaluation import evaluate as measure
    from magistral_core.evaluation import suite_named

    suite_named(suite)
    journals = cache_folder() / "evaluations"
    if not _is_checkpoint(model):
        settings = recipe or (load_recipe("tiny", overrides) if "tiny" in (suite, model) else override({}, overrides))
        folder = model_folder(settings.model_copy(update={"model": settings.model.model_copy(update={"path": model})}))
        return measure(suite, folder, settings, name=model, data=data, journals=journals, on_progress=on_progress)
    with _checkpoint(model) as (of_run, folder):
        settings = recipe or override(_for_suite(of_run, suite), overrides)
        return measure(suite, folder, settings, name=model, data=data, journals=journals, on_progress=on_progress)


def recipe_for_suite(name: str, suite: str, overrides: Sequence[str] = ()) -> Recipe:
    """A recipe to evaluate by: its prompt and engine, and its protocol if it names this suite; the suite's own else."""
    return override(_for_suite(load_recipe(name).model_dump(mode="json"), suite), overrides)


def _for_suite(of_run: Mapping[str, Any], suite: str) -> dict[str, Any]:
    """A run's settings without the fields of the file that it trained on, and without the protocol of another suite."""
    if "problems" in of_run:
        of_run = {**of_run, "problems": {**of_run["problems"], "fields": {}}}
    own = dict(of_run.get("evaluation") or {})
    if own.get("suite") != suite:
        own = {name: value for name, value in own.items() if name not in ("problems", "samples", "temperature", "max_tokens")}
    return {**of_run, "evaluation": own}


def curate_math(inputs: Sequence[str], out: Path, recipe: CurationRecipe, on_event: OnEvent | None = None) -> dict[str, Any]:
    """Curate mathematics problems and, where MLflow is named, log the data set; see `curation.curate_math`.

    Args:
        inputs: files, folders, `s3://...` or `hf:NAME`.
        out: folder for kept.jsonl, rejected.jsonl, the report and the card.
        recipe: settings. MLflow is `tracking.uri`, or the environment's MLFLOW_TRACKING_URI.
        on_event: gets progress.

    Returns:
        The report, and `mlflow_url` of its run (empty without MLflow).
    """
    from magistral_core.curation import OUTPUTS
    from magistral_core.curation import curate_math as curate

    def work() -> dict[str, Any]:
        model, translators = _language_model(recipe.llm), _translators(recipe)
        return curate(inputs, out, recipe, model=model, translators=translators, on_event=on_event or _ignore)

    return _logged(work, out, OUTPUTS, recipe.tracking)


def curate_code(inputs: Sequence[str], out: Path, recipe: CodeCurationRecipe, on_event: OnEvent | None = None) -> dict[str, Any]:
    """Curate code problems and, where MLflow is named, log the data set; see `curation.code.curate_code` and `curate_math`."""
    from magistral_core.curation.code import OUTPUTS
    from magistral_core.curation.code import curate_code as curate

    def work() -> dict[str, Any]:
        return curate(inputs, out, recipe, model=_language_model(recipe.llm), on_event=on_event or _ignore)

    return _logged(work, out, OUTPUTS, recipe.tracking)


def translate(inputs: Sequence[str], out: Path, recipe: CurationRecipe, on_event: OnEvent | None = None) -> dict[str, Any]:
    """Translate a share of the English problems of files and, where MLflow is named, log the data set; arguments as in `curate_math`.

    Raises InputError where `recipe.translate` names no model; see also `curation.translate_problems`.
    """
    from magistral_core.curation import TRANSLATION_OUTPUTS, translate_problems

    def work() -> dict[str, Any]:
        models = _translators(recipe)
        if models is None:
            raise InputError("no model is configured to translate with; set translate.model to a model folder or a hub name")
        return translate_problems(inputs, out, recipe, models, on_event=on_event or _ignore)

    return _logged(work, out, TRANSLATION_OUTPUTS, recipe.tracking)


def grade_difficulty(
    inputs: Sequence[str], out: Path, recipe: GradingRecipe, model: str, grader: str | None = None, on_event: OnEvent | None = None
) -> dict[str, Any]:
    """Grade the difficulty of problems and, where MLflow is named, log the data set; see `curation.grading_run`.

    Args:
        inputs: problem files, folders, `s3://...` or `hf:NAME`, such as the `kept.jsonl` of a curation.
        out: folder for kept.jsonl, rejected.jsonl, the grades, the report and the card.
        recipe: settings. Grades are kept in `storage.uri`, or in the environment's MAGISTRAL_STORAGE_URI, or else in `out`.
        model: of pass 1: `tiny`, a folder, a hub name, or the URI of a checkpoint.
        grader: of pass 2, if there is one: a model trained on what pass 1 kept.
        on_event: gets progress.

    Returns:
        The report, and `mlflow_url` of its run (empty without MLflow).
    """
    from magistral_core.curation.grading_run import grade_difficulty as grade
    from magistral_core.curation.grading_run import output_names
    from magistral_core.curation.grading_samples import Grader
    from magistral_core.storage import open_store

    names = [model, *([grader] if grader is not None else [])]

    def work() -> dict[str, Any]:
        store = open_store(recipe.storage.uri or os.environ.get("MAGISTRAL_STORAGE_URI") or f"file:{out.absolute()}")
        open_engines = None
        if recipe.sampling.ray_address is not None:
            from magistral_core.pipeline.sampling_ray import RayEngines

            open_engines = functools.partial(RayEngines, recipe.sampling.ray_address)
        with contextlib.ExitStack() as folders:
            graders = [Grader(name, folders.enter_context(_model_at(name))) for name in names]
            return grade(inputs, out, recipe, graders, store, open_engines=open_engines, on_event=on_event or _ignore)

    return _logged(work, out, output_names(len(names)), recipe.tracking, "grade")


def _is_checkpoint(name: str) -> bool:
    """Whether this is the URI of a checkpoint; a folder of this name is a model."""
    return "/checkpoints/" in name and not Path(name).expanduser().is_dir()


@contextlib.contextmanager
def _model_at(name: str) -> Iterator[Path]:
    """The folder of a model by any of its names; a checkpoint's is fetched for the time of the block."""
    if not _is_checkpoint(name):
        yield model_folder(override({}, {"model.path": name}))
        return
    with _checkpoint(name) as (_, folder):
        yield folder


@contextlib.contextmanager
def _checkpoint(uri: str) -> Iterator[tuple[Mapping[str, Any], Path]]:
    """The recipe of a checkpoint's run, and the folder of its model for the time of the block."""
    from magistral_core.pipeline.state import MODEL_FOLDER
    from magistral_core.storage import CheckpointStore

    store, step = CheckpointStore.from_uri(uri)
    with scratch_folder("models") as work:  # not /tmp, which may be memory
        manifest = store.download(step, work, f"{MODEL_FOLDER}/")
        yield manifest.metadata["recipe"], work / MODEL_FOLDER


def _language_model(settings: LlmSettings) -> Path | None:
    return None if settings.model is None else _named_model(settings.model, "llm.model")


def _translators(recipe: CurationRecipe) -> Models | None:
    from magistral_core.curation import Models

    settings = recipe.translate
    if settings.model is None:
        return None
    solver = None if settings.solver is None else _named_model(settings.solver, "translate.solver")
    return Models(_named_model(settings.model, "translate.model"), solver)


def _logged(
    work: Callable[[], dict[str, Any]], out: Path, outputs: Sequence[str], tracking: TrackingSettings, kind: str = "curate"
) -> dict[str, Any]:
    """The report of work on a data set, and the page of its MLflow run."""
    from magistral_core.curation.publish import publish
    from magistral_core.tracking import Tracker

    uri = tracking.uri or os.environ.get("MLFLOW_TRACKING_URI", "")
    if uri:
        Tracker.check(uri)  # before minutes go into a set that could not be logged
    report, page = work(), ""
    if uri:
        try:
            page = publish(report, out, outputs, uri, tracking.experiment, work=kind)
        except MagistralError as error:  # what was made is in place, and would be made anew by a repetition
            log.warning("%s is complete, but not logged in MLflow: %s", out, error)
    return {**report, "mlflow_url": page}


def _ignore(event: dict[str, Any]) -> None:
    """Where nobody follows."""


def _named_model(path: str, setting: str) -> Path:
    folder = Path(path).expanduser()
    if folder.exists():
        if (folder / "adapter_config.json").is_file() and not (folder / "config.json").is_file():
            raise InputError(f"{setting} {path}: an adapter (LoRA) alone; merge it into its model (merge_and_unload), and save that")
        if not (folder / "config.json").is_file():
            raise InputError(f"{setting} {path}: no config.json there; give the folder that save_pretrained wrote")
        return folder.absolute()
    return _from_hub(path, setting)


def _from_hub(name: str, setting: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.constants import HF_HUB_CACHE
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    from magistral_core.storage.objects import disk_full, is_full

    try:
        # Mistral's repositories hold the weights a second time, in a form of their own.
        ignored = ["consolidated*"]
        return Path(
            snapshot_download(name, allow_patterns=["*.json", "*.safetensors", "*.model", "*.jinja", "*.txt"], ignore_patterns=ignored)
        )
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        if is_full(error):
            raise disk_full(HF_HUB_CACHE, None, f"the model {name}", "HF_HOME") from error
        offline = " (HF_HUB_OFFLINE is set)" if os.environ.get("HF_HUB_OFFLINE") else ""
        if isinstance(error, GatedRepoError):
            mend = "accept its licence on the hub, and set HF_TOKEN"
        else:
            mend = "check the spelling and the network, or download it and give the folder"
        said = " ".join(str(error).split())[:200]
        raise InputError(f"{setting} {name}: neither a folder here nor a model that the hub gives out{offline}; {mend} ({said})") from error


def check_gpus(recipe: Recipe) -> None:
    """Raise InputError where this machine has GPUs, but not as many as the roles of a run on it need."""
    if recipe.pipeline.runtime != "ray" or recipe.pipeline.ray_address is not None or not has_gpu_driver():
        return
    import torch

    from magistral_core.pipeline.placement import check_fits, place

    if gpus := torch.cuda.device_count():
        check_fits(place(recipe), [gpus])


def _device() -> str:
    import torch

    if torch.cuda.is_available():
        names = {torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())}
        return f"{torch.cuda.device_count()} GPU(s): {', '.join(sorted(names))}"
    return f"CPU, {os.cpu_count()} cores"
