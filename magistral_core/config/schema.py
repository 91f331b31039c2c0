"""The schema of a recipe: every setting of a run, its default, its range, and what it is for.

Unknown keys are forbidden; rules that join several fields are checked at the end of each section or of the recipe, so that
a wrong combination is refused before anything starts. Defaults follow the paper (arXiv 2506.10910) where it prints a
figure; a setting that the paper leaves open says so.
"""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

Dtype = Literal["float32", "bfloat16"]
Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
_Beta = Annotated[float, Field(ge=0.0, lt=1.0)]


class Section(BaseModel):
    """A part of a recipe. Immutable; an unknown key is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    @field_validator("*", mode="before")
    @classmethod
    def _flags_are_no_numbers(cls, value: object, info: ValidationInfo) -> object:
        # pydantic takes true for 1, and YAML takes `on`, `yes` and `y` for true.
        if isinstance(value, bool) and info.field_name and cls.model_fields[info.field_name].annotation is not bool:
            raise ValueError(f"{str(value).lower()} is not a value for this field")
        return value


class TinySettings(Section):
    """The embedded tiny world: which problems, and how its base model is made. Read only where a path is `tiny`."""

    world: Literal["quick", "multilingual"] = Field("quick", description="quick: column work; multilingual: sentences in seven languages")
    seed: NonNegativeInt = Field(0, description="seed of the base model's traces and initialisation")
    sft_steps: PositiveInt = Field(2200, description="optimiser steps that train the base model")
    sft_batch: PositiveInt = Field(36, description="traces per optimiser step of the base model's training")
    foreign: Fraction = Field(0.0, description="share of traces that answer any text in the right form, for runs on real problem files")
    sft_ranks: PositiveInt = Field(2, description="processes that train the base model together")


class ModelSettings(Section):
    """The model that is trained."""

    path: str = Field("tiny", description="`tiny`, a folder with config, weights and tokenizer, or a hub name")
    tiny: TinySettings = TinySettings()


class PromptSettings(Section):
    """How a problem becomes a prompt."""

    system: str | None = Field("default", description="system prompt: `default` (our own words), a text, or null for none")
    think_open: str = Field("<think>", min_length=1, description="opens the thoughts")
    think_close: str = Field("</think>", min_length=1, description="closes the thoughts")
    max_tokens: PositiveInt = Field(2048, description="longest prompt in tokens; longer ones are refused when the run is planned")
    on_long: Literal["refuse", "skip"] = Field("refuse", description="what happens to a problem whose prompt is longer")

    @model_validator(mode="after")
    def _tags_differ(self) -> Self:
        if self.think_open == self.think_close:
            raise ValueError("think_open and think_close must differ")
        return self


class FieldNames(Section):
    """The names of a problem file's fields. Empty means: found by the usual names."""

    question: str = ""
    answer: str = ""
    choices: str = ""
    id: str = ""
    language: str = ""
    level: str = ""


class ProblemSettings(Section):
    """Where problems come from."""

    path: str = Field("tiny", description="`tiny`, `tiny-multilingual`, a .jsonl/.parquet file, a folder, `s3://...` or `hf:NAME`")
    split: str = Field("train", description="split of a hub data set; `train` or `heldout` of a tiny world")
    fields: FieldNames = FieldNames()
    limit: PositiveInt | None = Field(None, description="use only the first so many problems")
    count: PositiveInt = Field(20_000, description="problems generated where path is `tiny`")
    levels: tuple[PositiveInt, ...] = Field((1, 2, 3, 4), description="levels generated where path is `tiny`", min_length=1)
    shuffle: bool = Field(True, description="visit the problems in an order drawn from the seed, a new one each epoch")


class LengthReward(Section):
    """Soft length penalty (section 2.2): 0 up to `l_max - l_cache`, then linear down to `-penalty` at `l_max`. In tokens."""

    l_max: PositiveInt
    l_cache: PositiveInt
    penalty: NonNegativeFloat = 0.1

    @model_validator(mode="after")
    def _cache_below_max(self) -> Self:
        if self.l_cache >= self.l_max:
            raise ValueError(f"l_cache ({self.l_cache}) must be below l_max ({self.l_max})")
        return self


class CodeSettings(Section):
    """Judging code (section 2.2). The limits are the paper's where it prints them, and hold in training whatever a problem says itself."""

    sandbox: Literal["auto", "bubblewrap", "landlock"] = Field(
        "auto", description="how untrusted code is isolated; auto: the first that holds"
    )
    workers: PositiveInt = Field(2, description="sandboxes at the same time; more than cores makes right programs late")
    tests: PositiveInt = Field(20, description="tests of a problem, drawn at random, the same ones for its whole group")
    time_limit_s: PositiveFloat = Field(4.0, description="CPU seconds of one test")
    memory_mb: PositiveInt = Field(300, description="resident memory of one test, in MiB")
    compile_s: PositiveFloat = Field(10.0, description="CPU seconds of compiling")
    compile_memory_mb: PositiveInt = Field(2048, description="memory of compiling, in MiB")
    output_mb: PositiveInt = Field(16, description="longest output of one test, in MiB")
    proportional: bool = Field(False, description="reward the share of tests passed (section 7.4.1) instead of all or nothing")


class RewardSettings(Section):
    """The reward of a completion (section 2.2): the sum of its parts."""

    format: NonNegativeFloat = Field(0.1, description="for a valid format; without it the total is 0")
    correct: NonNegativeFloat = Field(0.9, description="for a right answer; 0 grades the answer without rewarding it")
    language: NonNegativeFloat = Field(0.1, description="for problem, thoughts and answer in one language; 0 turns it off")
    length: LengthReward | None = Field(None, description="soft length penalty; null for none")
    extra: tuple[str, ...] = Field((), description="own reward functions, `module:function`, run in the worker pool")
    extra_folder: str = Field("", description="folder that their modules lie in; empty: where the command is started")
    workers: PositiveInt = Field(2, description="verifier worker processes of one verifier, at least")
    max_workers: PositiveInt | None = Field(
        None, description="at most, while many verifications wait; null: one a core of the verifier's machine, or `workers` if more"
    )
    timeout_s: PositiveFloat = Field(3.0, description="limit of one verification")
    memory_mb: PositiveInt = Field(2048, description="address space of a verifier worker beyond what it starts with")
    retries: NonNegativeInt = Field(1, description="times that a verification is tried again after its worker broke")
    code: CodeSettings = CodeSettings()
    shuffle: bool = Field(False, description="control experiment: permute rewards across the groups of a batch")

    @model_validator(mode="after")
    def _pool_bounds(self) -> Self:
        if self.max_workers is not None and self.max_workers < self.workers:
            raise ValueError(f"max_workers ({self.max_workers}) must be at least workers ({self.workers})")
        return self


class GenerationSettings(Section):
    """The generators (vLLM)."""

    temperature: float = Field(1.0, ge=0.01, le=2.0, description="sampling temperature; the trainer applies the same")
    max_tokens: PositiveInt = Field(1024, description="longest completion in tokens")
    max_model_len: PositiveInt | None = Field(None, description="longest sequence; null: prompt.max_tokens + max_tokens")
    dtype: Dtype = "bfloat16"
    max_num_seqs: PositiveInt = Field(256, description="sequences that one engine decodes at the same time")
    tensor_parallel: PositiveInt = 1
    kv_cache_gib: PositiveFloat = Field(1.0, description="KV cache of one engine on a CPU, in GiB")
    gpu_memory_utilization: Fraction = Field(0.85, description="share of a GPU's memory that one engine takes")
    enforce_eager: bool = Field(True, description="no graph capture or compilation: starts faster, runs slower on GPUs; CPUs never compile")


class PipelineSettings(Section):
    """The loop that joins generators, verifiers and trainers (section 3). Numbers of completions throughout."""

    schedule: Literal["async", "sync"] = Field("async", description="async: generators never wait; sync: generate, verify, train in turn")
    runtime: Literal["ray", "local"] = Field("ray", description="ray: processes on one or many machines; local: one process, sync only")
    ray_address: str | None = Field(None, description="address of a running Ray cluster; null starts one on this machine")
    weights_folder: str | None = Field(
        None, description="folder that all machines of a cluster see, for new weights on their way; null: shared memory, one machine"
    )
    handover: Literal["auto", "shared_memory", "files", "nccl"] = Field(
        "auto", description="way of new weights; auto: files if weights_folder is set, else shared_memory; nccl: GPU to GPU, never run"
    )
    placement: Literal["split", "colocated"] = Field(
        "split", description="split: each role has GPUs of its own; colocated: generator and trainer share one"
    )
    generators: PositiveInt = 1
    trainers: PositiveInt = Field(1, description="trainer ranks")
    verifiers: PositiveInt = Field(1, description="verifiers, each with a worker pool of its own; more than one is for clusters")
    group_size: int = Field(16, ge=2, description="G, completions of one prompt")
    n_async: PositiveInt = Field(256, description="completions generated at the same time, over all generators")
    n_batch: PositiveInt = Field(256, description="completions between two weight updates")
    n_minibatch: PositiveInt = Field(256, description="completions per optimiser step")
    queue: PositiveInt = Field(512, description="verified completions that may wait for the trainers")
    max_open: PositiveInt = Field(768, description="completions admitted and not yet trained; bounds their age")
    allow_stale: bool = Field(False, description="permit n_async > 2 * n_batch")
    max_filtered_groups: PositiveInt = Field(2000, description="groups dropped or failed in a row without a step before the run stops")
    stall_timeout_s: PositiveFloat = Field(600.0, description="time without any progress before the run stops")
    start_timeout_s: PositiveFloat = Field(3600.0, description="deadline of starting all roles, or of replacing trainers or all generators")
    update_timeout_s: PositiveFloat = Field(60.0, description="deadline of one weight update of one generator")
    max_restarts: NonNegativeInt = Field(3, description="restarts of a dead role in a row, without work done, before the run stops")

    @model_validator(mode="after")
    def _combinations(self) -> Self:
        for name in ("n_batch", "n_minibatch"):
            if getattr(self, name) % self.group_size:
                raise ValueError(f"group_size ({self.group_size}) must divide {name} ({getattr(self, name)})")
        if self.n_batch % self.n_minibatch:
            raise ValueError(f"n_minibatch ({self.n_minibatch}) must divide n_batch ({self.n_batch})")
        if self.n_minibatch % self.trainers:
            raise ValueError(f"trainers ({self.trainers}) must divide n_minibatch ({self.n_minibatch})")
        if self.queue < self.n_batch:
            raise ValueError(f"queue ({self.queue}) must be at least n_batch ({self.n_batch})")
        if self.schedule == "async":
            if self.max_open < self.n_async + self.n_batch:
                raise ValueError(f"max_open ({self.max_open}) must be at least n_async + n_batch ({self.n_async + self.n_batch})")
            if self.n_async > 2 * self.n_batch and not self.allow_stale:
                raise ValueError(
                    f"n_async ({self.n_async}) above 2 * n_batch ({2 * self.n_batch}) trains on stale policies; "
                    "set allow_stale: true if meant"
                )
        if self.handover == "files" and self.weights_folder is None:
            raise ValueError("handover: files needs weights_folder, a folder that all machines see")
        if self.handover in {"shared_memory", "nccl"} and self.weights_folder is not None:
            raise ValueError(f"handover: {self.handover} uses no weights_folder; unset it, or use handover: files")
        if self.handover == "nccl" and (self.placement == "colocated" or self.runtime == "local"):
            raise ValueError("handover: nccl needs placement: split and runtime: ray, since NCCL has one rank a GPU; use shared_memory")
        if self.runtime == "local":
            if self.schedule != "sync":
                raise ValueError("runtime: local runs schedule: sync only")
            if self.generators != 1 or self.trainers != 1:
                raise ValueError("runtime: local has one generator and one trainer rank")
        return self


class LossSettings(Section):
    """The objective (section 2.1)."""

    eps_low: Fraction = Field(0.2, description="lower clip; not printed in the paper")
    eps_high: PositiveFloat = Field(0.28, description="upper clip (clip-higher)")
    normalisation: Literal["minibatch", "group", "none"] = Field("minibatch", description="of the advantages")
    denominator: Literal["group", "step"] = Field("group", description="group: each group counts the same; step: each token does")
    ratio: Literal["token", "sequence"] = Field(
        "token", description="importance ratio; sequence: one a completion, exp(mean log ratio), as in GSPO, with much narrower clips"
    )
    truncated_is: PositiveFloat | None = Field(
        None, description="truncated importance sampling: largest weight of a policy gradient, in place of the clip; null: clip"
    )


class TrainingSettings(Section):
    """The trainers (DeepSpeed)."""

    max_steps: PositiveInt = Field(100, description="optimiser steps of the run")
    learning_rate: NonNegativeFloat = Field(1e-6, description="0 measures without learning")
    betas: tuple[_Beta, _Beta] = (0.9, 0.95)
    weight_decay: NonNegativeFloat = 0.0
    warmup_steps: NonNegativeInt = Field(0, description="linear warm-up of the learning rate")
    grad_clip: PositiveFloat = Field(1.0, description="largest norm of the gradient")
    zero_stage: Literal[0, 1, 2, 3] = 1
    dtype: Dtype = "bfloat16"
    token_budget: PositiveInt = Field(16_384, description="tokens of one packed microbatch")
    logprob_chunk: PositiveInt = Field(1024, description="tokens whose logits exist at the same time")
    gradient_checkpointing: bool = False
    attention: Literal["varlen", "sdpa", "flash_attention_2"] = Field("varlen", description="attention over packed rows")
    share_prompts: bool = Field(True, description="a group's prompt goes through the model once a microbatch; attention: varlen only")

    @model_validator(mode="after")
    def _bf16_needs_zero(self) -> Self:
        if self.dtype == "bfloat16" and self.zero_stage == 0:
            raise ValueError("zero_stage: 0 with dtype: bfloat16 is wrong on its first step in DeepSpeed; use zero_stage >= 1")
        return self

    @property
    def shares_prompts(self) -> bool:
        """Whether microbatches hold the prompt of completions side by side once: the other attentions cannot."""
        return self.share_prompts and self.attention == "varlen"


class CheckpointSettings(Section):
    """What is kept, and how often."""

    every: PositiveInt = Field(20, description="optimiser steps between two checkpoints; the last step always has one")
    keep: PositiveInt = Field(3, description="how many of the newest are kept")


class StorageSettings(Section):
    """Where checkpoints live."""

    uri: str = Field("", description="`s3://bucket/prefix` or `file:DIR`; empty: the environment's MAGISTRAL_STORAGE_URI")


class TrackingSettings(Section):
    """Where metrics go."""

    uri: str = Field("", description="MLflow: `http://...` or `sqlite:FILE`; empty: the environment's MLFLOW_TRACKING_URI")
    experiment: str = Field("magistral", min_length=1)
    samples_every: PositiveInt = Field(10, description="optimiser steps between two tables of sample completions")
    samples: NonNegativeInt = Field(8, description="completions in such a table")


class EvaluationSettings(Section):
    """Evaluation of the model before and after training, and by `magistral evaluate` (section 5.1)."""

    suite: str | None = Field(None, description="suite that the demo flow, and the end of each curriculum stage, evaluate; null for none")
    problems: PositiveInt | None = Field(None, description="only the first so many problems of the suite; null: all")
    samples: PositiveInt | None = Field(None, description="completions per problem; null: the suite's own number")
    temperature: NonNegativeFloat | None = Field(None, description="null: the suite's own")
    max_tokens: PositiveInt | None = Field(None, description="longest completion; null: the suite's own, at most the model's context")
    engines: PositiveInt = Field(1, description="vLLM engines that sample at the same time")


class ValidationSettings(Section):
    """Held-out problems that the generators answer while the run trains, sampled as in training."""

    problems: ProblemSettings = Field(description="as the recipe's own `problems`; none of them is trained on")
    every: PositiveInt = Field(50, description="optimiser steps from one validation to the next; one is at the beginning, one at the end")
    samples: PositiveInt = Field(1, description="completions per problem")


class Plateau(Section):
    """When a measure has stopped rising: the mean over its last `window` batches is less than `rise` above that of the `window` before."""

    window: PositiveInt = Field(10, description="batches (weight updates) of each of the two means")
    rise: NonNegativeFloat = Field(0.02, description="as a share of the earlier mean")


class StageSettings(Section):
    """One stage of a curriculum (section 5). What is null is as in the recipe's own sections. See docs/curriculum.md."""

    levels: tuple[NonNegativeInt, NonNegativeInt] | None = Field(None, description="problems from one level to another; null: all")
    pass_rates: tuple[Fraction, Fraction] | None = Field(None, description="problems whose graded pass rate lies between these; null: all")
    share: Fraction = Field(1.0, gt=0.0, description="of these problems to begin with, easiest first; each that retires lets one in")
    l_max: PositiveInt | None = Field(None, description="rewards.length.l_max")
    l_cache: PositiveInt | None = Field(None, description="rewards.length.l_cache")
    max_tokens: PositiveInt | None = Field(None, description="generation.max_tokens; at most that, for which the engines are made")
    n_async: PositiveInt | None = Field(None, description="pipeline.n_async")
    n_batch: PositiveInt | None = Field(None, description="pipeline.n_batch")
    n_minibatch: PositiveInt | None = Field(None, description="pipeline.n_minibatch")
    queue: PositiveInt | None = Field(None, description="pipeline.queue")
    max_open: PositiveInt | None = Field(None, description="pipeline.max_open")
    steps: PositiveInt | None = Field(None, description="optimiser steps after which the stage ends")
    reward_plateau: Plateau | None = Field(None, description="the stage ends when the mean reward of its rollouts stops rising")
    length_plateau: Plateau | None = Field(None, description="the stage ends when the mean length of its rollouts stops rising")

    @model_validator(mode="after")
    def _ranges(self) -> Self:
        for name in ("levels", "pass_rates"):
            if (found := getattr(self, name)) is not None and found[0] > found[1]:
                raise ValueError(f"{name} ({list(found)}): the lower end comes first")
        return self

    def settings(self) -> dict[str, dict[str, int]]:
        """The recipe's settings that the stage replaces, by section."""
        sections = {
            "pipeline": ("n_async", "n_batch", "n_minibatch", "queue", "max_open"),
            "length": ("l_max", "l_cache"),
            "generation": ("max_tokens",),
        }
        found = {section: {name: getattr(self, name) for name in names} for section, names in sections.items()}
        return {section: {k: v for k, v in values.items() if v is not None} for section, values in found.items()}


class CurriculumSettings(Section):
    """Training in stages (section 5, Medium). The paper prints no thresholds of its rules; these are ours."""

    stages: tuple[StageSettings, ...] = Field(description="in their order; each but the last needs a rule that ends it")
    pass_rate_field: str = Field("pass_rate", min_length=1, description="field of the problem file with a graded pass rate in [0, 1]")
    retire_after: PositiveInt | None = Field(
        1, description="a problem leaves after so many groups in a row that were all right; null: never"
    )
    defer_after: PositiveInt | None = Field(
        None, description="a problem waits for the next stage after so many groups in a row that were all wrong; null: never"
    )

    @model_validator(mode="after")
    def _stages_end(self) -> Self:
        if not self.stages:
            raise ValueError("stages is empty; list at least one, or leave the section out")
        for number, stage in enumerate(self.stages[:-1]):
            if stage.steps is None and stage.reward_plateau is None and stage.length_plateau is None:
                raise ValueError(f"stages.{number} never ends; give it steps, reward_plateau or length_plateau")
        return self


class Recipe(Section):
    """One run, whole."""

    name: str = Field("run", pattern=r"^[a-zA-Z0-9][a-zA-Z0-9._-]*$", description="name of the run in every place it shows")
    seed: int = Field(0, ge=0, lt=2**32)
    model: ModelSettings = ModelSettings()
    prompt: PromptSettings = PromptSettings()
    problems: ProblemSettings = ProblemSettings()
    rewards: RewardSettings = RewardSettings()
    generation: GenerationSettings = GenerationSettings()
    pipeline: PipelineSettings = PipelineSettings()
    loss: LossSettings = LossSettings()
    training: TrainingSettings = TrainingSettings()
    checkpoints: CheckpointSettings = CheckpointSettings()
    storage: StorageSettings = StorageSettings()
    tracking: TrackingSettings = TrackingSettings()
    evaluation: EvaluationSettings = EvaluationSettings()
    validation: ValidationSettings | None = Field(None, description="of held-out problems while training; null: none")
    curriculum: CurriculumSettings | None = Field(None, description="training in stages; null: one stage, the recipe as it is")

    def stages(self) -> tuple[Recipe, ...]:
        """The recipe as it holds in each stage of its curriculum; itself if it has none. Raises ValueError that names the stage."""
        if self.curriculum is None:
            return (self,)
        found = []
        for number, stage in enumerate(self.curriculum.stages):
            data, changes = self.model_dump(mode="json", exclude={"curriculum"}), stage.settings()
            data["pipeline"] |= changes["pipeline"]
            data["generation"] |= changes["generation"]
            if changes["length"]:
                data["rewards"]["length"] = (data["rewards"]["length"] or {}) | changes["length"]
            try:
                found.append(Recipe.model_validate(data))
            except ValidationError as error:
                raise ValueError(f"curriculum.stages.{number}: {_reason(error)}") from error
        return tuple(found)

    @property
    def max_model_len(self) -> int:
        """Longest sequence, prompt and completion, in tokens."""
        return self.generation.max_model_len or self.prompt.max_tokens + self.generation.max_tokens

    @model_validator(mode="after")
    def _lengths(self) -> Self:
        if self.max_model_len <= self.generation.max_tokens:
            raise ValueError(
                f"generation.max_model_len ({self.max_model_len}) leaves no room for a prompt beside "
                f"generation.max_tokens ({self.generation.max_tokens})"
            )
        if self.training.token_budget < self.max_model_len:
            raise ValueError(
                f"training.token_budget ({self.training.token_budget}) must hold the longest sequence ({self.max_model_len} tokens)"
            )
        if self.pipeline.placement == "colocated" and self.generation.tensor_parallel > 1:
            raise ValueError(
                f"generation.tensor_parallel ({self.generation.tensor_parallel}): with pipeline.placement: colocated a generator shares "
                "one GPU with one trainer rank; use placement: split"
            )
        length = self.rewards.length
        if length is not None and length.l_max > self.generation.max_tokens:
            raise ValueError(
                f"rewards.length.l_max ({length.l_max}) is never reached: generation.max_tokens is {self.generation.max_tokens}"
            )
        return self

    @model_validator(mode="after")
    def _stages_hold(self) -> Self:
        for number, stage in enumerate(self.stages() if self.curriculum is not None else ()):
            if stage.generation.max_tokens > self.generation.max_tokens:
                raise ValueError(
                    f"curriculum.stages.{number}: max_tokens ({stage.generation.max_tokens}) is above generation.max_tokens "
                    f"({self.generation.max_tokens}), for which the engines are made; raise that"
                )
        return self


def _reason(error: ValidationError) -> str:
    """What pydantic says is wrong first, with the field where it is no rule of several."""
    item = error.errors(include_url=False)[0]
    return str(item["ctx"]["error"]) if item["type"] == "value_error" else f"{'.'.join(map(str, item['loc']))}: {item['msg'].lower()}"
