"""The schema of a recipe for `magistral curate code`: every setting, its default and what it is for.

The paper (arXiv 2506.10910, section 4) prints no threshold; those here are ours, and docs/code-curation.md says what they do.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from magistral_core.config.curation import LlmSettings, SourceSettings
from magistral_core.config.schema import Fraction, Section, TrackingSettings


class RunSettings(Section):
    """Running solutions in the sandbox. A problem's own limits come first; these are for problems without."""

    sandbox: Literal["auto", "bubblewrap", "landlock"] = Field("auto", description="as `rewards.code.sandbox`")
    workers: PositiveInt = Field(2, description="solutions that run at the same time, never more than cores")
    time_limit_s: PositiveFloat = Field(4.0, description="CPU seconds of one test")
    memory_mb: PositiveInt = Field(300, description="resident memory of one test, in MiB")
    output_mb: PositiveInt = Field(16, description="longest output of one test, in MiB")
    compile_s: PositiveFloat = Field(60.0, description="CPU seconds of compiling")
    max_late: PositiveInt = Field(3, description="timeouts after which a solution is not run on the rest of the tests")


class AgreementSettings(Section):
    """When solutions agree enough. Probabilities are those that the votes give an output; see `curation/code/votes.py`."""

    keep: Fraction = Field(0.5, description="least probability of an expected output that stays as it is")
    repair: Fraction = Field(0.9, description="least probability of the output that replaces or supplies one")
    share: Fraction = Field(0.5, description="least share of the solutions that must agree on such an output")
    solutions: PositiveInt = Field(2, description="least number of solutions that must agree on such an output")
    file_accuracy: Fraction = Field(0.9, description="share of a file's outputs that are believed to be right before any vote")
    trust_accepted: bool = Field(False, description="solutions labelled as other than accepted have no say")

    @model_validator(mode="after")
    def _repair_is_harder(self) -> AgreementSettings:
        if self.repair < self.keep:
            raise ValueError("repair must not be below keep: a changed output needs more agreement than one that stays")
        return self


class GenerateSettings(Section):
    """Inputs of new tests, for problems that have too few. Their outputs are voted like all others."""

    wanted: NonNegativeInt = Field(0, description="tests that a problem should have; where there are fewer, inputs are made; 0: never")
    scripts: bool = Field(True, description="use the generator scripts that come with a problem; a language model only for what they leave")
    seed: NonNegativeInt = Field(1, description="first seed, which a script gets as its last argument")


class CodeCurationRecipe(Section):
    """One curation of code problems, whole."""

    name: str = Field("code", pattern=r"^[a-zA-Z0-9][a-zA-Z0-9._-]*$", description="name of the data set in every place it shows")
    problems: SourceSettings = SourceSettings()
    run: RunSettings = RunSettings()
    agreement: AgreementSettings = AgreementSettings()
    generate: GenerateSettings = GenerateSettings()
    min_tests: PositiveInt = Field(3, description="a problem with fewer settled tests is rejected")
    min_solutions: PositiveInt = Field(1, description="a problem with fewer solutions that pass every settled test is rejected")
    languages: tuple[Literal["python", "c++"], ...] = Field(
        ("python", "c++"), min_length=1, description="each kept statement is written once for each, asking for that language"
    )
    llm: LlmSettings = LlmSettings()
    tracking: TrackingSettings = TrackingSettings()
