"""Problem packages in the Kattis/ICPC format: a folder with `problem.yaml`, a statement, tests, and perhaps an output validator.

problem.yaml                limits, validation, validator_flags
problem_statement/          problem.en.tex or .md (newer packages: statement/)
data/sample, data/secret    NAME.in with NAME.ans
output_validators/          for problems with several right outputs (newer packages: output_validator/)
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from magistral_core.errors import InputError
from magistral_core.records import Checker, Problem, ProblemKind, TestCase

#: For packages that set no limits of their own: seconds for a multiplier up to 5, MiB.
TIME_LIMIT_S, USUAL_MULTIPLIER, MEMORY_LIMIT_MB = 10.0, 5.0, 2048
_VALIDATOR_SUFFIXES = (".cc", ".cpp", ".cxx", ".c++", ".h", ".hpp", ".hh", ".py")
_COMMENT = re.compile(r"(?<!\\)%.*")


def is_package(folder: Path) -> bool:
    """Whether a folder is a problem package."""
    return (folder / "problem.yaml").is_file()


def find_packages(folder: Path) -> list[Path]:
    """The folder itself, or every package below it, sorted."""
    return [folder] if is_package(folder) else sorted(path.parent for path in folder.rglob("problem.yaml"))


def read_package(folder: Path, *, lenient: bool = False) -> Problem:
    """Read a package. Raises InputError that names the file.

    Args:
        folder: the package.
        lenient: a package without tests, and tests without answers, are no error; `unanswered` has the latter.
    """
    if not is_package(folder):
        raise InputError(f"{folder}: not a problem package, it has no problem.yaml")
    settings = _settings(folder / "problem.yaml")
    limits = _mapping(settings.get("limits"), f"{folder}/problem.yaml: limits")
    multiplier = _number(limits.get("time_multiplier", USUAL_MULTIPLIER), f"{folder}/problem.yaml: limits.time_multiplier")
    return Problem(
        id=folder.name,
        question=_statement(folder),
        kind=ProblemKind.CODE,
        tests=_tests(folder, lenient),
        checker=_checker(folder, settings),
        time_limit_s=TIME_LIMIT_S * max(1.0, multiplier / USUAL_MULTIPLIER),
        memory_limit_mb=int(_number(limits.get("memory", MEMORY_LIMIT_MB), f"{folder}/problem.yaml: limits.memory")),
        source=str(folder),
    )


def _settings(path: Path) -> Mapping[str, Any]:
    try:
        return _mapping(yaml.safe_load(path.read_text(encoding="utf-8")), str(path))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not YAML ({' '.join(str(error).split())[:200]})") from error


def _mapping(value: Any, place: str) -> Mapping[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise InputError(f"{place}: expected a mapping, this is a {type(value).__name__}")
    return value


def _number(value: Any, place: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < float("inf"):
        raise InputError(f"{place}: expected a number above 0, this is {value!r}")
    return float(value)


def _statement(folder: Path) -> str:
    """The statement, English first (a name without a language is), without TeX's comments; the package's name if it has none."""
    found = [
        path for name in ("problem_statement", "statement") for path in (folder / name).glob("problem*") if path.suffix in {".tex", ".md"}
    ]
    if not found:
        return folder.name
    best = min(found, key=lambda path: (".en." not in path.name, path.name.count("."), path.name))
    text = best.read_text(encoding="utf-8", errors="replace")
    return (_COMMENT.sub("", text) if best.suffix == ".tex" else text).strip() or folder.name


def unanswered(folder: Path) -> tuple[TestCase, ...]:
    """Tests of a package that have an input and no answer; their output is empty."""
    return tuple(TestCase(_text(path), name=name) for name, path in _inputs(folder) if not path.with_suffix(".ans").is_file())


def _inputs(folder: Path) -> Iterator[tuple[str, Path]]:
    """Names and files of the inputs, samples first."""
    for part in ("sample", "secret"):
        for path in sorted((folder / "data" / part).rglob("*.in")):
            yield path.relative_to(folder / "data").with_suffix("").as_posix(), path


def _tests(folder: Path, lenient: bool) -> tuple[TestCase, ...]:
    cases = []
    for name, path in _inputs(folder):
        answer = path.with_suffix(".ans")
        if answer.is_file():
            cases.append(TestCase(_text(path), _text(answer), name=name))
        elif not lenient:
            raise InputError(f"{path}: no answer file {answer.name} beside it")
    if not cases and not lenient:
        raise InputError(f"{folder}/data: no tests (sample/NAME.in and secret/NAME.in, each with NAME.ans)")
    return tuple(cases)


def _text(path: Path) -> str:
    """A test's bytes, whatever their encoding: they come out as they went in."""
    return path.read_bytes().decode("utf-8", "surrogateescape")


def _checker(folder: Path, settings: Mapping[str, Any]) -> Checker:
    validation = _words(settings.get("validation")) or ["default"]
    kinds = _words(settings.get("type"))
    if "interactive" in validation or "interactive" in kinds or "multi-pass" in kinds:
        raise InputError(f"{folder}/problem.yaml: interactive problems are not supported")
    flags = tuple(_words(settings.get("validator_flags")))
    _refuse_flags_of_groups(folder, flags)
    if validation[0] == "default" and not (folder / "output_validator").is_dir():
        return Checker(flags=flags)
    files = _validator_files(folder)
    mains = [name for name in files if name.endswith(".py")]
    if mains and len(mains) < sum(not name.endswith((".h", ".hpp", ".hh")) for name in files):
        raise InputError(f"{folder}/output_validators: more than one language in one validator")
    usual = [name for name in mains if Path(name).stem in {"main", "validator", "validate", "__main__"}]
    return Checker(flags, files, (usual or mains or [""])[0])


def _refuse_flags_of_groups(folder: Path, flags: tuple[str, ...]) -> None:
    """Tests are compared alike: a group of them that asks for other flags would be judged wrongly."""
    for path in sorted(path for name in ("testdata.yaml", "test_group.yaml") for path in (folder / "data").rglob(name)):
        settings = _settings(path)
        for name in ("output_validator_flags", "output_validator_args"):
            own = tuple(_words(settings.get(name)))
            if own and own != flags:
                raise InputError(
                    f"{path}: {name} {' '.join(own)!r} of a test group; where all tests share it, set validator_flags in problem.yaml"
                )


def _words(value: Any) -> list[str]:
    """A setting of several words: one text, or a list of texts."""
    return [word for item in (value if isinstance(value, list) else [value or ""]) for word in str(item).split()]


def _validator_files(folder: Path) -> Mapping[str, bytes]:
    """The source files of the one validator, which is a file or a folder of files."""
    places = [path for path in (folder / "output_validators", folder / "output_validator") if path.is_dir()]
    entries = sorted(path for place in places for path in place.iterdir() if not path.name.startswith("."))
    folders = [path for path in entries if path.is_dir()]
    if len(folders) > 1:
        raise InputError(f"{folder}: more than one output validator ({', '.join(path.name for path in folders)})")
    sources = sorted(folders[0].iterdir()) if folders else entries
    files = {path.name: path.read_bytes() for path in sources if path.suffix in _VALIDATOR_SUFFIXES}
    if not any(not name.endswith((".h", ".hpp", ".hh")) for name in files):
        raise InputError(f"{folder}: validation is custom, but there is no output validator in C++ or Python")
    return files
