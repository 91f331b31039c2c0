"""The format filter on real files: precision and recall against the labels that public sets carry by nature."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

from magistral_core.config.schema import CodeSettings

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT.parent / "shared" / "data"
pytestmark = pytest.mark.skipif(not DATA.is_dir(), reason="the data folder ../shared/data is not here")


def load_script(name: str) -> ModuleType:
    """A script of docs/ as a module."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "docs" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def script() -> ModuleType:
    return load_script("curation_table")


@pytest.mark.parametrize(
    ("packages", "tests"), [("2013/[fp]*", 6), pytest.param("*/*", 20, marks=[pytest.mark.slow, pytest.mark.timeout(3600)])]
)
@pytest.mark.timeout(600)
def test_planted_faults_of_code_problems(packages: str, tests: int) -> None:
    """Wrong outputs and bad solutions in contest packages are repaired or removed, and no right test goes with them."""
    script = load_script("code_curation_table")
    folders = sorted(folder for folder in (DATA / "kth_challenge").glob(packages) if (folder / "problem.yaml").is_file())
    folders = [folder for folder in folders if folder.name != "lightsout"]  # its programs take very long
    counts = script.measure(folders, 0, script.RememberingJudge(CodeSettings(compile_s=60.0)), tests)
    planted = {key: count for key, count in counts.items() if key[0] in (*script.KINDS, "cut", *script.BAD_LABELS)}
    found = sum(count for (_, fate), count in planted.items() if fate in ("repaired", "removed"))
    assert found >= 0.95 * sum(planted.values()) > 0
    assert {fate for what, fate in counts if what == "right test"} == {"kept"}


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
