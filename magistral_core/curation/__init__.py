"""Curation: noisy problem files in, verifiable problems out, each rejection with its reason (Magistral, section 4)."""

from magistral_core.curation.outputs import OUTPUTS
from magistral_core.curation.reasons import Reason, Stage
from magistral_core.curation.run import curate_math

__all__ = ["OUTPUTS", "Reason", "Stage", "curate_math"]
