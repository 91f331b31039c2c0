"""Where the sandbox works: as root and as an ordinary user, with user namespaces and without."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import magistral_core
from magistral_core.sandbox import BackEnd, SandboxError, seccomp
from magistral_core.sandbox import launch as launching
from magistral_core.sandbox.canary import attempts, check
from magistral_core.sandbox.launch import PYTHON

ORDINARY = 65001
AS_ORDINARY = ("setpriv", f"--reuid={ORDINARY}", f"--regid={ORDINARY}", "--clear-groups", "--")
_FOLDER = Path(__file__).parent
pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become others and make the places")


@pytest.fixture(scope="module")
def place() -> Iterator[Path]:
    """A copy of the package that any user can read."""
    with tempfile.TemporaryDirectory(prefix="magistral-place-", dir="/tmp") as folder:
        package = Path(magistral_core.__file__).parent
        shutil.copytree(package, Path(folder, "magistral_core"), ignore=shutil.ignore_patterns("__pycache__"))
        for name in ("try_place.py", "without_namespaces.py"):
            shutil.copy(_FOLDER / name, folder)
        for path in (Path(folder), *Path(folder).rglob("*")):
            path.chmod(0o755 if path.is_dir() else 0o644)
        yield Path(folder)


def tried(place: Path, *, ordinary: bool, namespaces: bool) -> dict[str, Any]:
    command = [*(AS_ORDINARY if ordinary else ()), PYTHON, "-B", str(place / "try_place.py")]
    if not namespaces:
        command = [PYTHON, str(place / "without_namespaces.py"), *command]
    environment = {"PYTHONPATH": str(place), "HOME": str(place), "PATH": os.environ["PATH"]}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=200, cwd=place)
    if done.returncode == 99:
        pytest.skip("this machine makes no user namespace")
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)


@pytest.mark.parametrize("ordinary", [False, True], ids=["root", "ordinary user"])
def test_with_user_namespaces(place: Path, ordinary: bool, skip_without: Callable[..., None]) -> None:
    report = tried(place, ordinary=ordinary, namespaces=True)
    if report["bubblewrap"] != "holds":
        skip_without(BackEnd.BUBBLEWRAP, report["bubblewrap"], *(AS_ORDINARY if ordinary else ()))
    assert report["uid"] == (ORDINARY if ordinary else 0)
    assert report["chosen"] == "bubblewrap"
    assert report["printed"] == ["42", "1000"]


@pytest.mark.parametrize("ordinary", [False, True], ids=["root", "ordinary user"])
def test_without_user_namespaces(place: Path, ordinary: bool) -> None:
    report = tried(place, ordinary=ordinary, namespaces=False)
    assert report["bubblewrap"] != "holds"
    assert report["chosen"] == "landlock"
    number, uid = report["printed"]
    assert number == "42"
    assert int(uid) == ORDINARY if ordinary else int(uid) in launching._SLOTS


@pytest.mark.parametrize("back_end", list(BackEnd), ids=str)
def test_a_leak_is_noticed_and_nothing_is_run(
    monkeypatch: pytest.MonkeyPatch, back_end: BackEnd, skip_without: Callable[..., None]
) -> None:
    """The canary is tried itself: with a filter that lets `clone` through, it reports that and nothing else."""
    try:
        check(back_end)
    except SandboxError as error:
        skip_without(back_end, error)
    monkeypatch.setattr(seccomp, "_CHECKED", {name: tests for name, tests in seccomp._CHECKED.items() if name != "clone"})
    monkeypatch.setattr(seccomp, "_PLAIN", [*seccomp._PLAIN, "clone", "wait4"])
    launching._filters.cache_clear()
    try:
        assert attempts(back_end) == {"fork"}
        with pytest.raises(SandboxError, match="the canary could: .*fork"):
            check(back_end)
    finally:
        launching._filters.cache_clear()


def test_a_slot_is_nobody_elses(tmp_path: Path) -> None:
    with launching._slot() as one, launching._slot() as other:
        assert one != other
        script = "from magistral_core.sandbox.launch import _slot\nwith _slot() as uid: print(uid)"
        third = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=_FOLDER.parents[1])
        assert int(third.stdout) not in {one, other}
    with launching._slot() as again:
        assert again == one
