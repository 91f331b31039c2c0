"""Helpers of this folder can be imported by name; the small base model is made once."""

from __future__ import annotations

import os
import sys
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).parent))  # importmode=importlib adds no folder

import pytest


@pytest.fixture(scope="session")
def base_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model that writes mostly well-formed answers, some of them right: rewards vary."""
    from magistral_core.config.schema import TinySettings
    from magistral_core.tiny.base import ensure_base_model

    return ensure_base_model(TinySettings(sft_steps=200, sft_batch=36, sft_ranks=2))
