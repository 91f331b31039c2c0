"""Curation of code problems: noisy tests and solutions in, problems whose tests the solutions agree on out (Magistral, section 4)."""

from magistral_core.curation.code.outputs import OUTPUTS
from magistral_core.curation.code.run import curate_code

__all__ = ["OUTPUTS", "curate_code"]
