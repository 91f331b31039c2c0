"""Speed and agreement of the verifiers: `measure(full)` of `verifiers_math` and `verifiers_code`, each of which says what it measures.

A part gives a dict: numbers by name, `repetitions` (every measurement), and under other names what it was measured on.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from benchmarks.common import Headline, Options, Result
from magistral_core.errors import InputError

SUMMARY = "verifications of mathematics and of code: how many a second, and other figures of the two verifiers"
_PARTS = ("math", "code")
#: What the end of a measure's name says: unit, and whether more is better.
_UNITS = {
    "_per_second": ("a second", True),
    "_ms": ("ms", False),
    "_seconds": ("s", False),
    "_share": ("share", True),
    "_ratio": ("times", True),
}


@dataclass(frozen=True)
class Settings:
    """Which verifiers; the first measure of the first gives the headline."""

    parts: tuple[str, ...] = _PARTS


def run(options: Options) -> Result:
    """See the module."""
    settings = options.over(Settings())
    return joined({part: _measure(part, options.full) for part in settings.parts})


def joined(found: Mapping[str, Mapping[str, Any]]) -> Result:
    """One result of what the parts measured."""
    table: list[dict[str, Any]] = []
    repetitions: list[dict[str, Any]] = []
    measured_on: dict[str, Any] = {"parts": list(found)}
    for part, values in found.items():
        for name, value in values.items():
            if name == "repetitions":
                repetitions.append({"verifier": part, "measurements": value})
            elif isinstance(value, (int, float)) and not isinstance(value, bool):
                table.append({"verifier": part, "measure": name.replace("_", " "), "value": value})
            else:
                measured_on.setdefault(part, {})[name] = value
    part, name = next((part, name) for part, values in found.items() for name, value in values.items() if isinstance(value, (int, float)))
    unit, more_is_better = next((kind for end, kind in _UNITS.items() if name.endswith(end)), ("", True))
    label = name.removesuffix("_per_second").removesuffix("_ms").replace("_", " ")
    return Result(Headline(f"{part}: {label}", float(found[part][name]), unit, more_is_better), measured_on, table, repetitions)


def _measure(part: str, full: bool) -> Mapping[str, Any]:
    try:
        module = importlib.import_module(f"benchmarks.verifiers_{part}")
    except ModuleNotFoundError as error:
        if error.name != f"benchmarks.verifiers_{part}":
            raise
        raise InputError(f"benchmarks/verifiers_{part}.py is not there; choose from {', '.join(_PARTS)} with --set parts=") from error
    return module.measure(full)  # type: ignore[no-any-return]
