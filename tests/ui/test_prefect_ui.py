"""The Prefect UI as a person meets it: the deployments, and the form that starts a run (needs Debian's chromium)."""

import json
import os
import shutil
import subprocess
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from infra import stack

pytestmark = [
    pytest.mark.ui,
    pytest.mark.skipif(not shutil.which("chromium"), reason="chromium is not installed (apt-get install chromium)"),
]


@pytest.fixture(scope="module")
def prefect(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The server's address."""
    patch = pytest.MonkeyPatch()
    for name in [name for name in os.environ if name.startswith(("PREFECT_", "MLFLOW_", "AWS_", "MAGISTRAL_"))]:
        patch.delenv(name)
    patch.setenv("MAGISTRAL_HOME", str(tmp_path_factory.mktemp("stack")))
    try:
        yield stack.up()["services"]["prefect"]["url"]
    finally:
        stack.down()
        patch.undo()


@pytest.fixture
def page(tmp_path: Path):
    """The text of a page once its scripts have run."""

    def read(url: str) -> str:
        command = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=30000", f"--user-data-dir={tmp_path}"]
        return subprocess.run([*command, "--dump-dom", url], capture_output=True, text=True, timeout=180, check=True).stdout

    return read


def deployments(prefect: str) -> dict[str, Any]:
    request = urllib.request.Request(f"{prefect}/api/deployments/filter", b"{}", {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=30) as answer:
        return {item["name"]: item for item in json.load(answer)}


def test_deployments_are_listed(prefect: str, page: Any) -> None:
    text = page(f"{prefect}/deployments")
    for name in ("train", "evaluate", "demo", "curate-math", "curate-code", "grade-difficulty", "nightly"):
        assert f">{name}<" in text or f" {name} " in text


def test_the_form_of_a_training_run(prefect: str, page: Any) -> None:
    text = page(f"{prefect}/deployments/deployment/{deployments(prefect)['train']['id']}/run")
    for title in ("Recipe", "Seed", "Settings to change", "Begin anew", "Whole recipe"):
        assert title in text
    assert "Do not resume an unfinished run" in text  # a field's description
