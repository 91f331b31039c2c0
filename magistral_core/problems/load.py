"""Load every problem of a source: a file, a folder, an object in S3, a Hugging Face data set, or a registered generator."""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

from magistral_core.config.schema import ProblemSettings
from magistral_core.errors import InputError
from magistral_core.problems.fields import parse_problem
from magistral_core.problems.packages import find_packages, read_package
from magistral_core.problems.readers import SUFFIXES, Row, problem_files, read_rows
from magistral_core.records import Problem

Loader = Callable[[ProblemSettings, int], list[Problem]]
_REGISTERED: dict[str, Loader] = {}


def register_source(name: str, loader: Loader) -> None:
    """Let `problems.path: NAME` call `loader(settings, seed)`; how the tiny world offers its generated problems."""
    _REGISTERED[name] = loader


def registered_sources() -> set[str]:
    """The names that `register_source` was given: no paths, whatever lies there."""
    return set(_REGISTERED)


def load_problems(settings: ProblemSettings, seed: int = 0) -> list[Problem]:
    """Read and validate every problem of `settings.path`; the first `settings.limit` are returned.

    Args:
        settings: where, and the names of the fields.
        seed: for sources that generate problems; files do not use it.

    Raises:
        InputError: anything wrong with the source, with file and line and the mend.
        InfrastructureError: an object store that cannot be reached.
    """
    path = settings.path
    if path in _REGISTERED:
        return _REGISTERED[path](settings, seed)
    if path == "tiny":
        raise RuntimeError("the tiny world registers itself: import magistral_core.tiny before loading problems.path=tiny")
    problems: list[Problem] = []
    places: dict[str, str] = {}
    for found in _read(settings):
        problem = with_own_id(found, places)
        if settings.limit is None or len(problems) < settings.limit:
            problems.append(problem)
    return problems


def with_own_id(problem: Problem, places: dict[str, str]) -> Problem:
    """The problem; where its id comes from its file's name, which a file of another folder has as well, with the folder's name before it.

    Args:
        problem: the next one.
        places: file and line of the ids so far; this one is added.

    Raises:
        InputError: another problem has that id.
    """
    file, _, line = problem.source.rpartition(":")
    path = PurePosixPath(file)
    ids = [problem.id, *([f"{path.parent.name}:{problem.id}"] if problem.id == f"{path.stem}-{line}" else [])]
    for id_ in ids:
        if places.setdefault(id_, problem.source) == problem.source:
            return problem if id_ == problem.id else replace(problem, id=id_)
    raise InputError(
        f"{problem.source}: the id {ids[-1]!r} is taken by {places[ids[-1]]}; give each problem its own, or set problems.fields.id"
    )


def _read(settings: ProblemSettings) -> Iterator[Problem]:
    local = Path(settings.path).expanduser()
    packages = find_packages(local) if local.is_dir() else []
    if packages:
        rows = (row for file in files_beside(local, packages) for row in read_rows(file))
        return itertools.chain(map(read_package, packages), (parse_problem(row, settings.fields) for row in rows))
    return (parse_problem(row, settings.fields) for row in source_rows(settings.path, settings.split))


def files_beside(folder: Path, packages: Sequence[Path]) -> list[Path]:
    """The problem files of a folder that lie in none of its packages."""
    try:
        files = problem_files(folder)
    except InputError:  # there are none
        return []
    return [file for file in files if set(packages).isdisjoint(file.parents)]


def source_rows(path: str, split: str = "train") -> Iterator[Row]:
    """Rows of a file, a folder, `s3://...` or `hf:NAME` (there of a split), lazily and in order. Raises as `load_problems` does."""
    if path.startswith("hf:"):
        return _hub(path, split)
    if path.startswith("s3://"):
        return _objects(path)
    local = Path(path).expanduser()
    if not local.is_dir():
        return read_rows(local, path)
    if is_saved_dataset(local):
        return _saved_dataset(local, split)
    return (row for file in problem_files(local) for row in read_rows(file))


def is_saved_dataset(folder: Path) -> bool:
    """Whether `datasets` wrote this folder (`save_to_disk`)."""
    return (folder / "dataset_dict.json").exists() or (folder / "state.json").exists()


def _objects(uri: str) -> Iterator[Row]:
    """Rows of one object, or of every problem file below a prefix; each is fetched to a temporary file first."""
    from magistral_core.storage.objects import MissingObjectError, open_store, replaced_account

    parent, _, last = uri.rstrip("/").rpartition("/")
    single = PurePosixPath(last).suffix in SUFFIXES
    base = parent if single else uri.rstrip("/")
    store = open_store(base)
    keys = [last] if single else [key for key, _ in store.list("") if PurePosixPath(key).suffix in SUFFIXES]
    if not keys:
        raise InputError(f"{uri}: no problem file ({', '.join(SUFFIXES)}) below this prefix")
    with tempfile.TemporaryDirectory(prefix="magistral-problems-") as folder:
        for key in keys:
            file = Path(folder) / f"object{PurePosixPath(key).suffix}"
            try:
                store.get_file(key, file)
            except MissingObjectError as error:
                raise InputError(f"{base}/{key}: no such problem file{replaced_account(uri.split('/')[2])}") from error
            yield from read_rows(file, f"{base}/{key}")


def _hub(path: str, split: str) -> Iterator[Row]:
    """`hf:NAME` or `hf:NAME:CONFIG`, where NAME is a hub name or a local folder that `datasets` can load."""
    from datasets import load_dataset
    from datasets.exceptions import DatasetsError

    name, _, config = path.removeprefix("hf:").partition(":")
    try:
        data = load_dataset(name, config or None, split=split)
    except (DatasetsError, OSError, ValueError, RuntimeError) as error:  # the last: a set that comes with a script
        raise InputError(f"{path} (split {split}): {' '.join(str(error).split())[:300]}") from error
    return _dataset_rows(data, path)


def _saved_dataset(folder: Path, split: str) -> Iterator[Row]:
    from datasets import DatasetDict, load_from_disk

    try:
        data = load_from_disk(str(folder))
    except (FileNotFoundError, ValueError) as error:
        raise InputError(f"{folder}: not a data set saved by save_to_disk ({' '.join(str(error).split())[:200]})") from error
    if isinstance(data, DatasetDict):
        if split not in data:
            raise InputError(f"{folder}: no split {split!r}, only {', '.join(data)}; set problems.split")
        data = data[split]
    return _dataset_rows(data, str(folder))


def _dataset_rows(data: Any, name: str) -> Iterator[Row]:
    if not len(data):
        raise InputError(f"{name}: the data set holds no problems")
    return (Row(name, number, dict(item)) for number, item in enumerate(data, start=1))
