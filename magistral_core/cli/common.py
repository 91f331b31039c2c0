"""What several commands share: the stack's environment, dying with a parent, tables, JSON."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from magistral_core.errors import InputError
from magistral_core.processes import has_gpu_driver

if TYPE_CHECKING:
    from magistral_core.storage import ObjectStore

_QUIET = {
    "VLLM_LOGGING_LEVEL": "ERROR",
    "TRANSFORMERS_VERBOSITY": "error",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
    "DS_LOG_LEVEL": "error",
    "RAY_USAGE_STATS_ENABLED": "0",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "DO_NOT_TRACK": "1",
    "OMP_NUM_THREADS": "1",
    "OMP_WAIT_POLICY": "passive",
}


def add_set(parser: argparse.ArgumentParser) -> None:
    """The option `--set`."""
    parser.add_argument(
        "--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE", help="change a setting: section.key=value; repeatable"
    )


def add_json(parser: argparse.ArgumentParser) -> None:
    """The option `--json`."""
    parser.add_argument("--json", action="store_true", help="print one JSON object on stdout")


def add_storage(parser: argparse.ArgumentParser) -> None:
    """The option `--storage`."""
    parser.add_argument(
        "--storage", metavar="URI", help="s3://bucket/prefix or file:DIR; without it MAGISTRAL_STORAGE_URI or the local stack's"
    )


def open_storage(uri: str | None, *, write: bool = True) -> ObjectStore:
    """The store of `--storage`, checked; without `write` its reader needs no right to write. Raises InputError."""
    use_stack()
    from magistral_core.storage import open_store

    uri = uri or os.environ.get("MAGISTRAL_STORAGE_URI")
    if not uri:
        raise InputError("no storage: give --storage s3://bucket/prefix or file:DIR, or start the local stack (magistral stack up)")
    store = open_store(uri)
    store.check(write=write)
    return store


def bind_to_parent(parent: int) -> None:
    """Ask the kernel for SIGTERM when the parent ends; SIGTERM closes engines in order."""
    from magistral_core.processes import die_with_parent

    die_with_parent(signal.SIGTERM, parent)


def absolute_uri(uri: str) -> str:
    """The URI of a storage or of MLflow; where it names files, it means the same in every working folder."""
    for scheme in ("file:", "sqlite:"):
        if uri.startswith(scheme):
            place = uri.removeprefix(scheme)
            return scheme + str(Path(place.removeprefix("///") if scheme == "sqlite:" else place).expanduser().absolute())
    return uri


def _fix_places() -> None:
    """Files that the environment names are meant as from here; workers and runs have working folders of their own."""
    for name in ("MAGISTRAL_STORAGE_URI", "MLFLOW_TRACKING_URI"):
        if os.environ.get(name):
            os.environ[name] = absolute_uri(os.environ[name])


def use_stack(*, tracking: bool = True) -> None:
    """Point this process at the local stack, if it was ever started, for whatever the environment does not name itself.

    Args:
        tracking: False leaves MLflow out.
    """
    _fix_places()
    try:
        from infra.stack import environment
    except ImportError:  # a wheel without the checkout has no stack
        return
    for name, value in environment().items():
        if name.startswith("AWS_") or (name not in os.environ and (tracking or name != "MLFLOW_TRACKING_URI")):
            os.environ[name] = value


def local_stack() -> Any:
    """The module that runs the local stack. Raises InputError in an installation without the checkout."""
    _fix_places()
    try:
        from infra import stack
    except ImportError as error:
        raise InputError(
            f"the local stack and Prefect runs need the project's checkout ({error}); "
            "run from one after make setup, or use `magistral run RECIPE --direct`"
        ) from error
    return stack


def print_json(value: Any) -> None:
    """One JSON object on stdout."""
    json.dump(value, sys.stdout, indent=2, default=str)
    sys.stdout.write("\n")


def print_table(rows: Sequence[Sequence[Any]]) -> None:
    """Columns, aligned."""
    texts = [[str(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*texts, strict=True)]
    for row in texts:
        print("  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip())


def note(line: str) -> None:
    """A line for people, on stderr, so that stdout stays for results."""
    print(line, file=sys.stderr, flush=True)


@contextlib.contextmanager
def results_only() -> Iterator[None]:
    """Sends what engines and their child processes print on stdout to stderr meanwhile: stdout is for the result."""
    sys.stdout.flush()
    kept = os.dup(1)
    os.dup2(2, 1)
    try:
        yield
    finally:
        sys.stdout.flush()
        os.dup2(kept, 1)
        os.close(kept)


def quiet_engines() -> None:
    """Engines warn and fail in their logs, no more; a variable that is set already wins."""
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)
    if not has_gpu_driver():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")  # else every process of DeepSpeed warns that it found no GPU
