"""Curation: noisy problem files in, verifiable problems out, each rejection with its reason (Magistral, section 4)."""

from magistral_core.curation.outputs import OUTPUTS
from magistral_core.curation.reasons import Reason, Stage
from magistral_core.curation.run import curate_math
from magistral_core.curation.translate import TRANSLATION_OUTPUTS, translate_problems
from magistral_core.curation.translating import Models

__all__ = ["OUTPUTS", "TRANSLATION_OUTPUTS", "Models", "Reason", "Stage", "curate_math", "translate_problems"]
