"""A model for grading that needs no training."""

from __future__ import annotations

import sys
from pathlib import Path

# importmode=importlib adds no folder
sys.path.insert(0, str(Path(__file__).parents[1] / "pipeline"))

import pytest
from random_writer import make_model


@pytest.fixture(scope="session")
def writer_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that answers 1 to everything, where it ends before it is cut."""
    return make_model(tmp_path_factory.mktemp("writer"))
