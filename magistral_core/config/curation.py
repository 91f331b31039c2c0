"""The schema of a curation recipe: every setting of `magistral curate`, its default and what it is for.

Rules and thresholds that the paper (arXiv 2506.10910, section 4) does not print are settings here, with the defaults that
docs/curation.md explains.
"""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from magistral_core.config.schema import FieldNames, Fraction, GenerationSettings, PromptSettings, Section, TrackingSettings


class SourceSettings(Section):
    """How the input's rows are read."""

    fields: FieldNames = FieldNames()
    split: str = Field("train", description="split of a hub data set (`hf:NAME`)")


class FormatSettings(Section):
    """The format filter: rules about statement and answer."""

    max_question_chars: PositiveInt = Field(20_000, description="longer statements are rejected: no prompt holds them")
    max_answer_words: PositiveInt = Field(6, description="words outside formulas that an answer may have; more is prose")
    yes_no: Literal["keep", "reject"] = Field("keep", description="problems whose answer is yes or no; half of them are guessed right")
    multiple_choice: Literal["rewrite", "reject"] = Field("rewrite", description="reject: take no multiple choice at all")


class GoldSettings(Section):
    """The check that a reference answer verifies against itself, in killable worker processes."""

    check: bool = Field(True, description="false: take reference answers unseen")
    workers: PositiveInt = Field(2, description="worker processes")
    timeout_s: PositiveFloat = Field(3.0, description="limit of one check")
    memory_mb: PositiveInt = Field(2048, description="address space of a worker beyond what it starts with")


class DuplicateSettings(Section):
    """Merging of duplicates among the survivors; the first is kept. Exact duplicates are always merged."""

    near: bool = Field(True, description="merge near duplicates too (MinHash)")
    threshold: Fraction = Field(0.8, gt=0.0, description="Jaccard similarity of shingle sets from which statements are near duplicates")
    shingle: PositiveInt = Field(3, description="tokens of one shingle")
    permutations: int = Field(128, ge=16, le=1024, description="length of a MinHash signature")
    same_answer: bool = Field(True, description="near duplicates must also have equal answers; false: equal numbers suffice")


class DecontaminationSettings(Section):
    """Removal of problems that evaluation sets hold. Off unless `against` is set."""

    against: tuple[str, ...] = Field((), description="files, folders, `s3://...` or `hf:NAME` with evaluation problems")
    fields: FieldNames = FieldNames()
    split: str = Field("test", description="split of a hub data set (`hf:NAME`)")
    ngram: int = Field(13, ge=5, description="tokens in a row that must not be shared")
    max_items: PositiveInt = Field(3, description="n-grams in more evaluation items than this are set phrases, and do not count")
    threshold: Fraction = Field(0.8, gt=0.0, description="Jaccard similarity from which a problem is a near duplicate of an item")


class AskSettings(Section):
    """How a step asks a language model, by the one sampler."""

    model: str | None = Field(None, description="a model folder or hub name, of a model able to follow instructions; null: skip the step")
    engines: PositiveInt = Field(1, description="vLLM engines that sample at the same time")
    temperature: NonNegativeFloat = 0.0
    max_tokens: PositiveInt = Field(4096, description="longest reply")
    seed: NonNegativeInt = 0
    generation: GenerationSettings = GenerationSettings()
    prompt: PromptSettings = Field(PromptSettings(), description="a problem too long for it stays as it is")


class LlmSettings(AskSettings):
    """The optional step through a language model: rewrites what rules cannot, judges what they doubt. Off without a model."""


class TranslateSettings(AskSettings):
    """Translation of a share of the English problems (sections 2.2.4 and 4). Off without a model."""

    temperature: NonNegativeFloat = Field(0.3, description="above 0 if a translation may be tried more than once")
    share: Fraction = Field(0.1, description="of the English problems, drawn by a hash of seed and id")
    languages: tuple[Literal["fr", "es", "it", "de", "zh", "ru"], ...] = Field(
        ("fr", "es", "it", "de", "zh", "ru"), description="each drawn problem goes into one of them", min_length=1
    )
    keep_english: bool = Field(False, description="true: the translation joins the English problem; false: it takes its place")
    tries: PositiveInt = Field(3, description="replies, each with a seed of its own, before a problem stays English")
    solver: str | None = Field(
        None, description="a model that solves both problems: one it can solve in English only was badly translated; null: no such check"
    )

    @model_validator(mode="after")
    def _another_try_differs(self) -> Self:
        if self.tries > 1 and self.temperature == 0:
            raise ValueError(f"tries ({self.tries}) above 1 need temperature above 0: at 0 every reply is the same")
        return self


class CurationRecipe(Section):
    """One curation, whole."""

    name: str = Field("curation", pattern=r"^[a-zA-Z0-9][a-zA-Z0-9._-]*$", description="name of the data set in every place it shows")
    problems: SourceSettings = SourceSettings()
    format: FormatSettings = FormatSettings()
    gold: GoldSettings = GoldSettings()
    llm: LlmSettings = LlmSettings()
    duplicates: DuplicateSettings = DuplicateSettings()
    decontaminate: DecontaminationSettings = DecontaminationSettings()
    translate: TranslateSettings = TranslateSettings()
    tracking: TrackingSettings = TrackingSettings()
    shard_rows: PositiveInt = Field(10_000, description="rows after which finished work is kept on disk; a killed command goes on there")
