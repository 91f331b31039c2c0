"""The schema of a curation recipe: every setting of `magistral curate`, its default and what it is for.

Rules and thresholds that the paper (arXiv 2506.10910, section 4) does not print are settings here, with the defaults that
docs/curation.md explains.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

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


class LlmSettings(Section):
    """The optional step through a language model: rewrites what rules cannot, judges what they doubt. Off without a model."""

    model: str | None = Field(None, description="a model folder able to follow instructions; null: skip the step")
    engines: PositiveInt = Field(1, description="vLLM engines that sample at the same time")
    temperature: NonNegativeFloat = 0.0
    max_tokens: PositiveInt = Field(4096, description="longest reply")
    seed: NonNegativeInt = 0
    generation: GenerationSettings = GenerationSettings()
    prompt: PromptSettings = Field(PromptSettings(), description="a problem too long for it keeps the decision of the rules")


class CurationRecipe(Section):
    """One curation, whole."""

    name: str = Field("curation", pattern=r"^[a-zA-Z0-9][a-zA-Z0-9._-]*$", description="name of the data set in every place it shows")
    problems: SourceSettings = SourceSettings()
    format: FormatSettings = FormatSettings()
    gold: GoldSettings = GoldSettings()
    llm: LlmSettings = LlmSettings()
    duplicates: DuplicateSettings = DuplicateSettings()
    decontaminate: DecontaminationSettings = DecontaminationSettings()
    tracking: TrackingSettings = TrackingSettings()
    shard_rows: PositiveInt = Field(10_000, description="rows after which finished work is kept on disk; a killed command goes on there")
