"""The house rules: which room may import which, and what the light ones must not load."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import magistral_core

ROOT = Path(magistral_core.__file__).parent
#: Small modules at the top that anyone may import.
LIGHT = {"errors", "boxed", "paths", "processes", "__version__"}
#: What may import anything.
FREE = {"api", "cli", "__init__"}
_BASE = {"config", "records"}
ALLOWED: dict[str, set[str]] = {
    "config": set(),
    "records": set(),
    "storage": {"config"},
    "tracking": {"config"},
    "problems": {*_BASE, "storage"},
    "sandbox": {"config"},
    "rewards": {*_BASE, "sandbox"},
    "generation": {*_BASE, "storage"},
    "training": _BASE,
    "curation": {*_BASE, "problems", "rewards", "sandbox", "generation", "storage", "tracking"},
    "sft": {*_BASE, "training", "problems", "storage", "tracking"},
    "pipeline": {*_BASE, "storage", "tracking", "problems", "sandbox", "rewards", "generation", "training"},
    "evaluation": {*_BASE, "generation", "rewards", "problems", "storage", "tracking"},
    "tiny": {*_BASE, "problems", "sft"},
}
#: One import each that the table does not foresee, with the reason.
EXCEPTIONS = {("evaluation", "tiny"): "the tiny suite generates its own held-out problems"}
#: Each engine behind one door. The command and the front door may look at any, to tell what is installed.
ENGINES = {
    "ray": ("pipeline/on_ray.py", "pipeline/runtime_ray.py", "pipeline/sampling_ray.py"),
    "vllm": "generation/",
    "deepspeed": "training/",
    "mlflow": "tracking/",
}
HEAVY = {"torch", "vllm", "ray", "prefect", "mlflow", "transformers", "deepspeed"}


def modules() -> list[Path]:
    return sorted(path.relative_to(ROOT) for path in ROOT.rglob("*.py"))


def imports(path: Path) -> Iterator[tuple[str, int]]:
    """Every module that a file imports anywhere, functions and type checking included, with the line."""
    for node in ast.walk(ast.parse((ROOT / path).read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative import"
            assert node.module is not None
            if node.module == "magistral_core":
                yield from ((f"magistral_core.{alias.name}", node.lineno) for alias in node.names)
            else:
                yield node.module, node.lineno


def room(path: Path) -> str:
    return path.parts[0].removesuffix(".py")


def test_rooms_import_only_what_they_may() -> None:
    wrong = []
    for path in modules():
        mine = room(path)
        if mine in FREE:
            continue
        allowed = LIGHT if mine in LIGHT else LIGHT | ALLOWED[mine] | {mine} | {to for at, to in EXCEPTIONS if at == mine}
        for name, line in imports(path):
            parts = name.split(".")
            if parts[0] == "magistral_core" and (len(parts) == 1 or parts[1] not in allowed):
                wrong.append(f"{path}:{line}: {mine} may not import {name}")
    assert wrong == []


def test_every_room_is_in_the_table() -> None:
    assert {room(path) for path in modules()} == (ALLOWED.keys() | LIGHT | FREE) - {"__version__"}  # a name of the package's own


def test_the_page_tells_the_same_table() -> None:
    page = (ROOT.parent / "docs" / "architecture.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+)` \|[^|]*\|([^|]*)\|", page, re.MULTILINE)
    told: dict[str, set[str]] = {}
    for name, may in rows:
        if "all above" in may:
            told[name] = told.keys() - set(re.findall(r"\w+", may.partition("but")[2])) - {"and"}
        elif name not in FREE:
            told[name] = set(re.findall(r"\w+", may))
    assert told == ALLOWED


def test_the_table_has_no_circles() -> None:
    done: set[str] = set()
    table = {name: needs | {to for at, to in EXCEPTIONS if at == name} for name, needs in ALLOWED.items()}
    while ready := {name for name, needs in table.items() if name not in done and needs <= done}:
        done |= ready
    assert done == ALLOWED.keys()


def test_each_engine_appears_behind_its_own_door_only() -> None:
    wrong = []
    for path in modules():
        for name, line in imports(path):
            door = ENGINES.get(name.split(".")[0])
            if door is not None and room(path) not in FREE and not path.as_posix().startswith(door):
                wrong.append(f"{path}:{line}: {name} belongs in {door}")
    assert wrong == []


@pytest.mark.parametrize("name", ["config", "records", "problems", "rewards"])
def test_light_rooms_load_no_engine(name: str) -> None:
    code = f"import sys, magistral_core.{name}; print(*({HEAVY!r} & set(sys.modules)))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT.parent, timeout=120)
    assert loaded.stdout.strip() == ""


@pytest.mark.parametrize("name", ["config", "records"])
def test_config_and_records_need_little(name: str) -> None:
    """Every process of a run imports these two first."""
    light = {"pydantic", "yaml", "numpy", "magistral_core"}
    for path in modules():
        if room(path) == name:
            outside = {module.split(".")[0] for module, _ in imports(path)} - set(sys.stdlib_module_names)
            assert outside <= light, path
