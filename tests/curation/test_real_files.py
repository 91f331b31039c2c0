"""The format filter on real files: precision and recall against the labels that public sets carry by nature."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT.parent / "shared" / "data"
pytestmark = pytest.mark.skipif(not DATA.is_dir(), reason="the data folder ../shared/data is not here")


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("curation_table", ROOT / "docs" / "curation_table.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    import sys

    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("every", [40, pytest.param(1, marks=pytest.mark.slow)])
@pytest.mark.timeout(1200)
def test_precision_and_recall(script: ModuleType, every: int) -> None:
    counts, fates = script.measure(DATA, every)
    whole = script.total(list(counts.values()))
    assert whole.precision >= 0.95
    assert whole.recall >= 0.95
    for (name, label), count in counts.items():
        if label and every == 1:  # a thinned set is too small for a share of its own
            assert count.right >= 0.95 * count.total, (name, label, count, fates[name, label])
    assert sum(fate.total() for fate in fates.values()) == sum(len(rows) for _, rows in script.pool(DATA, every))
