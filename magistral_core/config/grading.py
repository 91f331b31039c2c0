"""The schema of a grading recipe: every setting of `magistral curate grade`.

The paper (arXiv 2506.10910, section 4) prints 16 samples and two passes, and no threshold; the defaults here are explained in
docs/grading.md.
"""

from __future__ import annotations

from typing import Self

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from magistral_core.config.curation import SourceSettings
from magistral_core.config.schema import Fraction, GenerationSettings, PromptSettings, Section, StorageSettings, TrackingSettings


class SamplingSettings(Section):
    """How a grader answers."""

    samples: PositiveInt = Field(16, description="completions a problem")
    temperature: NonNegativeFloat = Field(1.0, description="as in training, so that a pass rate is the one that training meets")
    top_p: Fraction = Field(1.0, gt=0.0, description="share of the probability that is sampled from; training has 1")
    max_tokens: PositiveInt = Field(16_384, description="longest completion; one that is cut is wrong and has no vote")
    seed: NonNegativeInt = 0
    engines: PositiveInt = Field(1, description="vLLM engines that sample at the same time")
    ray_address: str | None = Field(None, description="address of a running Ray cluster that holds the engines; null: this machine")


class VerificationSettings(Section):
    """The worker processes that compare answers."""

    workers: PositiveInt = Field(2, description="worker processes")
    timeout_s: PositiveFloat = Field(3.0, description="limit of one comparison")
    memory_mb: PositiveInt = Field(2048, description="address space of a worker beyond what it starts with")


class PassSettings(Section):
    """What one pass keeps, by the pass rate (right samples of those that were graded) and by the vote."""

    above: Fraction = Field(0.0, description="problems with this pass rate or a lower one are too hard; 0: those never solved")
    below: Fraction = Field(1.0, description="problems with this pass rate or a higher one are too easy; 1: those always solved")
    majority: float | None = Field(
        None,
        ge=0.5,
        lt=1.0,
        description="a larger share of the samples that agrees on another answer outvotes the reference; null: no vote",
    )
    support: Fraction = Field(
        1 / 16,
        description="a reference that a larger share of the samples reaches is not outvoted; 1: by any majority, as the paper has it",
    )

    @model_validator(mode="after")
    def _something_between(self) -> Self:
        if self.above >= self.below:
            raise ValueError(f"above ({self.above}) must be less than below ({self.below}), or nothing is kept")
        return self


class RecheckSettings(Section):
    """Before a pass that votes calls a reference wrong, those are sampled again where more than half of the samples agree on another."""

    samples: NonNegativeInt = Field(0, description="completions a problem, and they alone vote then; 0: those of the pass vote")
    lead: Fraction = Field(0.5, description="a larger share of them that another answer has more than the reference outvotes it")
    temperature: PositiveFloat = Field(
        1.0,
        description="a trained grader repeats its mistakes; above its training's temperature they scatter sooner than what is right",
    )


class GradingRecipe(Section):
    """One grading, whole."""

    name: str = Field("grading", pattern=r"^[a-zA-Z0-9][a-zA-Z0-9._-]*$", description="name of the data set in every place it shows")
    problems: SourceSettings = SourceSettings()
    prompt: PromptSettings = Field(PromptSettings(), description="a problem too long for it is rejected, whatever on_long says")
    sampling: SamplingSettings = SamplingSettings()
    generation: GenerationSettings = Field(
        GenerationSettings(), description="engines; temperature and lengths are those of `sampling` and `prompt`"
    )
    verification: VerificationSettings = VerificationSettings()
    pass_1: PassSettings = Field(PassSettings(below=0.75), description="what the ordinary model's pass keeps")
    pass_2: PassSettings = Field(PassSettings(majority=0.75), description="what the trained grader's pass keeps, of the whole set again")
    recheck: RecheckSettings = RecheckSettings()
    storage: StorageSettings = Field(StorageSettings(), description="where grades are kept; without any, `grades` in the output folder")
    tracking: TrackingSettings = TrackingSettings()

    @model_validator(mode="after")
    def _something_to_look_at(self) -> Self:
        if self.recheck.samples and self.pass_1.majority is None and self.pass_2.majority is None:
            raise ValueError("recheck.samples: no pass votes, so nothing is looked at again; set pass_2.majority, or recheck.samples to 0")
        return self

    def rechecking(self) -> Self:
        """The same recipe, sampling as a second look does: with seeds of its own, or the samples in doubt would judge themselves."""
        update = {**self.recheck.model_dump(exclude={"lead"}), "seed": self.sampling.seed + 1}
        return self.model_copy(update={"sampling": self.sampling.model_copy(update=update)})
