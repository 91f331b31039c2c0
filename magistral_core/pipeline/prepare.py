"""Everything that is checked before a run starts, and the plan that a dry run prints."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from magistral_core.config.schema import Recipe
from magistral_core.errors import InputError
from magistral_core.generation.arguments import check_cache, check_context
from magistral_core.generation.chat import ChatRenderer
from magistral_core.pipeline.admission import largest_age
from magistral_core.pipeline.curriculum import Curriculum, chosen_by
from magistral_core.problems import ProblemStream
from magistral_core.records import Problem, ProblemKind, Prompt
from magistral_core.rewards import Verifier
from magistral_core.rewards.math import quick_gold_verdict
from magistral_core.training.supported import refuse_unsupported

_GIB = 2**30
#: Reference answers beyond plain numbers that a plan looks at: some seconds.
_FORMULAS = 5000
_BYTES = {"float32": 4, "bfloat16": 2}


@dataclass(frozen=True)
class Prepared:
    """A recipe whose problems, prompts and rewards were read and found usable."""

    recipe: Recipe
    model_dir: Path
    problems: tuple[Problem, ...]
    prompts: dict[str, Prompt]
    skipped: int
    held_out: tuple[tuple[Problem, Prompt], ...] = ()
    held_out_skipped: int = 0

    @property
    def stream(self) -> ProblemStream:
        """The problems in the order of the run."""
        return ProblemStream(self.problems, self.recipe.seed, self.recipe.problems.shuffle)

    def curriculum(self) -> Curriculum | None:
        """The recipe's curriculum at its beginning; None for a recipe without. Raises InputError where a stage has no problems."""
        return None if self.recipe.curriculum is None else Curriculum(self.recipe, self.problems)

    def prompt(self, problem: Problem) -> Prompt:
        """The rendered prompt of one of the problems."""
        return self.prompts[problem.id]

    @property
    def problems_digest(self) -> str:
        """Changes when any question or answer does, or what a curriculum goes by: a run may not go on with other problems."""
        digest, curriculum = hashlib.sha256(), self.recipe.curriculum
        for problem in self.problems:
            chosen = [] if curriculum is None else chosen_by(problem, curriculum)
            digest.update(json.dumps([problem.id, problem.question, problem.answer, *chosen]).encode())
            if problem.kind is ProblemKind.CODE:
                digest.update(repr((problem.tests, problem.entry_point, problem.checker)).encode("utf-8", "surrogatepass"))
        return digest.hexdigest()[:16]


def prepare(recipe: Recipe, model_dir: Path, problems: Sequence[Problem], held_out: Sequence[Problem] = ()) -> Prepared:
    """Render every problem and check rewards and lengths.

    Args:
        recipe: the run.
        model_dir: the model's folder, already resolved.
        problems: already read and validated, every line of them.
        held_out: those of the recipe's `validation`, as well.

    Raises:
        InputError: a prompt too long, a template that strips thoughts, a reward function that cannot be imported, a problem
            that no verifier judges, a stage without problems.
    """
    check_context(model_dir, recipe.max_model_len)
    _check_model(recipe, model_dir)
    renderer = ChatRenderer(model_dir, recipe.prompt, max_prompt_tokens=min(recipe.prompt.max_tokens, recipe.max_model_len - 1))
    verifier = Verifier(recipe.rewards, recipe.prompt)
    verifier.check_supported([*problems, *held_out])
    rendered = renderer.render_all(problems)
    answered = renderer.render_all(held_out) if held_out else []
    prepared = Prepared(
        recipe,
        model_dir,
        tuple(problem for problem, _ in rendered),
        {problem.id: prompt for problem, prompt in rendered},
        skipped=len(problems) - len(rendered),
        held_out=tuple(answered),
        held_out_skipped=len(held_out) - len(answered),
    )
    prepared.curriculum()
    return prepared


def _check_model(recipe: Recipe, model_dir: Path) -> None:
    """What the trainers would refuse; and a sliding window, which packed rows do not know: training would fail at a longer sequence."""
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(model_dir)
    except ValueError as error:
        said = " ".join(str(error).split())[:200]
        raise InputError(f"model.path {recipe.model.path}: Transformers cannot read its config.json ({said})") from error
    refuse_unsupported(config, str(recipe.model.path))
    window = getattr(config.get_text_config(), "sliding_window", None)
    if recipe.training.attention == "varlen" and window is not None and recipe.max_model_len > window:
        raise InputError(
            f"training.attention: varlen has no sliding window, {recipe.model.path} has one of {window} tokens, and sequences may have "
            f"{recipe.max_model_len}; use sdpa, or lower generation.max_tokens or prompt.max_tokens"
        )


@dataclass(frozen=True)
class Plan:
    """What a run will do and need, as figures."""

    name: str
    model: str
    parameters: int
    problems: int
    problems_skipped: int
    problems_unreadable: int
    longest_prompt: int
    max_model_len: int
    max_steps: int
    completions: int
    epochs: float
    policies_per_sequence: float
    largest_age_steps: int
    generator_gib: float
    gpu_share: float | None
    trainer_gib: float
    device: str
    generators: int
    trainers: int
    runtime: str
    storage: str
    tracking: str
    checkpoints: int
    stages: list[dict[str, Any]]
    validation: dict[str, int] | None

    def to_json(self) -> dict[str, Any]:
        """The plan as one JSON object."""
        return asdict(self)

    def to_text(self) -> str:
        """The plan for a terminal."""
        skipped = f", {self.problems_skipped} too long and skipped" if self.problems_skipped else ""
        if self.problems_unreadable:
            skipped += f", {self.problems_unreadable} found with a reference answer that no response can be compared with"
            skipped += " (`magistral curate math` drops them)"
        rows = {
            "recipe": self.name,
            "model": f"{self.model} ({self.parameters / 1e6:,.2f}M parameters)",
            "problems": f"{self.problems:,} read and valid{skipped}; longest prompt {self.longest_prompt} tokens of {self.max_model_len}",
            "steps": f"{self.max_steps} optimiser steps, {self.completions:,} completions trained, {self.epochs:.2f} epochs before filters",
            "staleness": f"a sequence sees about {self.policies_per_sequence:.1f} policies, "
            f"no token is trained more than {self.largest_age_steps} optimiser steps late",
            "memory": f"{self._generator_text()}; "
            f"{self.trainer_gib:.2f} GiB a trainer rank (weights, gradients, optimiser), and its activations",
            "devices": f"{self.device}; {self.generators} generator(s), {self.trainers} trainer rank(s), runtime {self.runtime}",
            "storage": f"{self.storage}, {self.checkpoints} checkpoints",
            "tracking": self.tracking,
            **({"validation": _validation_text(self.validation)} if self.validation else {}),
            **{f"stage {row['stage']}": _stage_text(row) for row in self.stages},
        }
        width = max(map(len, rows))
        return "\n".join(f"{name:<{width}}  {text}" for name, text in rows.items())

    def _generator_text(self) -> str:
        if self.gpu_share is None:
            return f"{self.generator_gib:.2f} GiB a generator (weights, KV cache)"
        return f"{self.gpu_share:.0%} of each GPU of a generator, of which weights {self.generator_gib:.2f} GiB"


def make_plan(prepared: Prepared, device: str, *, on_gpu: bool) -> Plan:
    """Figures of a prepared run. `device` describes what the machine has. Raises InputError where a CPU's engines have no room."""
    recipe, settings, curriculum = prepared.recipe, prepared.recipe.pipeline, prepared.curriculum()
    stages = [stage.pipeline for stage in recipe.stages()]
    parameters = count_parameters(prepared.model_dir)
    if not on_gpu:
        check_cache(prepared.model_dir, recipe.generation, recipe.max_model_len)
    completions = sum(steps * stage.n_minibatch for steps, stage in zip(_planned_steps(recipe), stages, strict=True))
    return Plan(
        name=recipe.name,
        model=recipe.model.path,
        parameters=parameters,
        problems=len(prepared.problems),
        problems_skipped=prepared.skipped,
        problems_unreadable=_unreadable(recipe, prepared.problems),
        longest_prompt=max(len(prompt.token_ids) for prompt in prepared.prompts.values()),
        max_model_len=recipe.max_model_len,
        max_steps=recipe.training.max_steps,
        completions=completions,
        epochs=completions / settings.group_size / len(prepared.problems),
        policies_per_sequence=0.0 if settings.schedule == "sync" else max(stage.n_async / stage.n_batch for stage in stages),
        largest_age_steps=largest_age(*stages),
        generator_gib=parameters * _BYTES[recipe.generation.dtype] / recipe.generation.tensor_parallel / _GIB
        + (0 if on_gpu else recipe.generation.kv_cache_gib),
        gpu_share=recipe.generation.gpu_memory_utilization if on_gpu else None,
        trainer_gib=parameters * _trainer_bytes(recipe) / _GIB,
        device=device,
        generators=settings.generators,
        trainers=settings.trainers,
        runtime=settings.runtime,
        storage=_place(storage_uri, recipe),
        tracking=_place(tracking_uri, recipe),
        checkpoints=-(-recipe.training.max_steps // recipe.checkpoints.every),
        stages=curriculum.table() if curriculum else [],
        validation=_validation(prepared),
    )


def _validation(prepared: Prepared) -> dict[str, int] | None:
    """What a validation consists of, and how many of its problems are trained on all the same."""
    settings = prepared.recipe.validation
    if settings is None:
        return None
    trained = {problem.question.strip() for problem in prepared.problems}
    problems = [problem for problem, _ in prepared.held_out]
    return {
        "problems": len(problems),
        "skipped": prepared.held_out_skipped,
        "unreadable": _unreadable(prepared.recipe, problems),
        "also_trained": sum(problem.question.strip() in trained for problem in problems),
        "samples": settings.samples,
        "every": settings.every,
    }


def _unreadable(recipe: Recipe, problems: Sequence[Problem]) -> int:
    """Problems found whose groups a run would count as failed, as many as it draws; of formulas only so many are looked at."""
    golds = [problem.answer for problem in problems if problem.kind is ProblemKind.MATH]
    verdicts = [quick_gold_verdict(gold) for gold in golds]
    formulas = [gold for gold, verdict in zip(golds, verdicts, strict=True) if verdict is None][:_FORMULAS]
    if formulas:
        with Verifier(recipe.rewards, recipe.prompt) as verifier:
            verdicts += verifier.check_golds(formulas)
    return sum(verdict is not None and not verdict.correct for verdict in verdicts)


def _trainer_bytes(recipe: Recipe) -> float:
    """Of a rank, by the parameter: AdamW's fp32 moments, and fp32 weights where the model's are not; what ZeRO shards is shared."""
    dtype, stage, ranks = recipe.training.dtype, recipe.training.zero_stage, recipe.pipeline.trainers
    parts = {1: 8 if dtype == "float32" else 12, 2: 4, 3: _BYTES[dtype]}  # optimiser, gradients, weights, by the stage that shards them
    return sum(size / ranks if stage >= sharded else size for sharded, size in parts.items())


def _planned_steps(recipe: Recipe) -> list[int]:
    """Optimiser steps of each stage, if no plateau ends it."""
    found, left = [], recipe.training.max_steps
    for stage in recipe.curriculum.stages if recipe.curriculum else ():
        found.append(min(left, stage.steps or left))
        left -= found[-1]
    return found or [left]


def _stage_text(row: dict[str, Any]) -> str:
    share = f", the easiest {row['share']:.0%} to begin with" if row["share"] < 1 else ""
    lengths = f"length penalty from {row['l_max'] - row['l_cache']} to {row['l_max']} tokens" if row["l_max"] else "no length penalty"
    return (
        f"{row['problems']:,} problems (levels {row['levels']}, pass rates {row['pass_rates']}{share}), {lengths}, "
        f"n_async {row['n_async']}, n_batch {row['n_batch']}, n_minibatch {row['n_minibatch']}, until {row['until']}"
    )


def _validation_text(figures: dict[str, int]) -> str:
    faults = {
        "skipped": "too long and skipped",
        "unreadable": "found with a reference answer that no response can be compared with",
        "also_trained": "trained on as well: take them out",
    }
    text = f"{figures['problems']:,} held-out problems, {figures['samples']} completions each, every {figures['every']} steps"
    return "; ".join([text, *(f"{figures[name]:,} {fault}" for name, fault in faults.items() if figures[name])])


def _place(find: Callable[[Recipe], str], recipe: Recipe) -> str:
    """Where a run would write; a plan can be made before that is known."""
    try:
        return find(recipe)
    except InputError as error:
        return str(error)


def storage_uri(recipe: Recipe) -> str:
    """Where checkpoints go: the recipe's, else the environment's. Raises InputError if neither says."""
    uri = recipe.storage.uri or os.environ.get("MAGISTRAL_STORAGE_URI", "")
    if not uri:
        raise InputError("storage.uri is not set; use --set storage.uri=file:DIR, or start the local stack (magistral stack up)")
    return uri


def tracking_uri(recipe: Recipe) -> str:
    """Where metrics go: the recipe's, else the environment's. Raises InputError if neither says."""
    uri = recipe.tracking.uri or os.environ.get("MLFLOW_TRACKING_URI", "")
    if not uri:
        raise InputError("tracking.uri is not set; use --set tracking.uri=sqlite:FILE, or start the local stack (magistral stack up)")
    return uri


def count_parameters(model_dir: Path) -> int:
    """Parameters of a model folder, from the headers of its weight files; nothing is loaded."""
    from safetensors import SafetensorError, safe_open

    total = 0
    for file in sorted(model_dir.glob("*.safetensors")):
        if file.name.startswith("consolidated"):  # Mistral's own form of the same weights
            continue
        try:
            with safe_open(file, framework="numpy") as tensors:
                for name in tensors.keys():  # noqa: SIM118  (not a dict)
                    total += math.prod(tensors.get_slice(name).get_shape())
        except SafetensorError as error:
            raise InputError(f"model.path {file}: not a whole .safetensors file ({error}); fetch it again") from error
    if not total:
        raise InputError(f"model.path {model_dir}: no .safetensors weights there; save the model with save_pretrained")
    return total
