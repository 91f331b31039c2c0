"""What setup pins, for machines without and with a GPU."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def pins(*names: str) -> list[Requirement]:
    lines = [line for name in names for line in (ROOT / name).read_text(encoding="utf-8").splitlines()]
    return [Requirement(line) for line in lines if not line.startswith("#")]


@pytest.mark.parametrize("backend", ["cpu", "gpu"])
def test_each_package_that_is_asked_for_is_pinned_once_to_a_version_that_fits(backend: str) -> None:
    """pip takes all constraints together: of two for one package, no version fits."""
    found = {canonicalize_name(pin.name): pin for pin in pins("constraints.txt", f"constraints-{backend}.txt")}
    assert len(found) == len(pins("constraints.txt", f"constraints-{backend}.txt"))
    wanted = [
        *PROJECT["dependencies"],
        *(line for extra in (backend, "stack", "bench", "dev") for line in PROJECT["optional-dependencies"][extra]),
    ]
    for requirement in map(Requirement, wanted):
        (version,) = found[canonicalize_name(requirement.name)].specifier
        assert requirement.specifier.contains(version.version)


def test_what_torch_for_cuda_pins_itself_is_not_pinned_for_both() -> None:
    """The CPU's torch has no word on triton, so that freezing its environment pins another than CUDA's torch asks for."""
    common = {canonicalize_name(pin.name) for pin in pins("constraints.txt")}
    assert {"torch", "xgrammar"} <= common
    assert not {name for name in common if name == "triton" or name.startswith(("nvidia-", "cuda-"))}
