"""Verifications a second, of mathematics and of code; each of the two modules says what it compares with."""

from __future__ import annotations

import importlib
from dataclasses import dataclass

from benchmarks.common import Headline, Options, Result
from magistral_core.errors import InputError

SUMMARY = "verifications of mathematics and of code: speed and agreement"
_PARTS = ("math", "code")


@dataclass(frozen=True)
class Settings:
    """Which verifiers; the first of them gives the headline."""

    parts: tuple[str, ...] = _PARTS


def run(options: Options) -> Result:
    """`measure(full)` of each part's module, joined into one table."""
    settings = options.over(Settings())
    results = {part: _measure(part, options.full) for part in settings.parts}
    columns = list(dict.fromkeys(key for result in results.values() for row in result.table for key in row))
    return Result(
        next(iter(results.values())).headline,
        {part: result.settings for part, result in results.items()},
        [{"verifier": part, **{c: row.get(c) for c in columns}} for part, result in results.items() for row in result.table],
        [{"verifier": part, **repetition} for part, result in results.items() for repetition in result.repetitions],
        [remark for part, result in results.items() for remark in (_headline(part, result.headline), *result.remarks)],
    )


def _measure(part: str, full: bool) -> Result:
    try:
        module = importlib.import_module(f"benchmarks.verifiers_{part}")
    except ModuleNotFoundError as error:
        raise InputError(f"benchmarks/verifiers_{part}.py is not there; choose from {', '.join(_PARTS)} with --set parts=") from error
    return module.measure(full)


def _headline(part: str, headline: Headline) -> str:
    from benchmarks.common import short

    return f"{part}: {headline.name} {short(headline.value)} {headline.unit}."
