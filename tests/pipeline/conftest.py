"""Helpers of this folder can be imported by name; the model of the real runs is made once."""

from __future__ import annotations

import os
import sys
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).parent))  # importmode=importlib adds no folder

import pytest
from random_writer import make_model


@pytest.fixture(scope="session")
def writer_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose completions earn varied rewards."""
    return make_model(tmp_path_factory.mktemp("writer"))
