"""What every benchmark shares: its options and its result, two sides measured in turn, cores pinned, fresh processes."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, TypeVar

import psutil

from benchmarks.machine import machine_facts
from magistral_core.errors import InfrastructureError, InputError

T = TypeVar("T")
_ROOT = Path(__file__).resolve().parents[1]
_TRUTH = {"true": True, "1": True, "false": False, "0": False}


@dataclass(frozen=True, slots=True)
class Headline:
    """The one number of a benchmark."""

    name: str
    value: float
    unit: str
    higher_is_better: bool


@dataclass(frozen=True, slots=True)
class Options:
    """How a benchmark was asked to run.

    Attributes:
        full: make the published result, however long it takes; otherwise end within 8 minutes on two quiet cores.
        settings: `--set` of the command, key to text.
    """

    full: bool = False
    settings: Mapping[str, str] = field(default_factory=dict)

    def over(self, defaults: T) -> T:
        """A benchmark's settings (a dataclass of bool, int, float, str and tuples of them) with what `--set` changes.

        A tuple is given as `a,b,c`, in brackets or not. Raises InputError for an unknown key or a value of another type.
        """
        known = {item.name: getattr(defaults, item.name) for item in fields(defaults)}  # type: ignore[arg-type]
        changes = {}
        for key, text in self.settings.items():
            if key not in known:
                raise InputError(f"--set {key}: unknown; this benchmark has: {', '.join(known)}")
            changes[key] = _parse(key, text, known[key])
        return replace(defaults, **changes)  # type: ignore[type-var]


def _parse(key: str, text: str, default: Any) -> Any:
    if isinstance(default, tuple):
        return tuple(_parse(key, part.strip(), default[0]) for part in text.strip("[] ").split(","))
    try:
        return _TRUTH[text.lower()] if isinstance(default, bool) else type(default)(text)
    except (ValueError, KeyError) as error:
        raise InputError(f"--set {key}={text}: not of type {type(default).__name__}; the default is {default}") from error


@dataclass(frozen=True, slots=True)
class Result:
    """What a benchmark found.

    Attributes:
        headline: the one number.
        settings: all that the result depends on, defaults too.
        table: rows of the table in docs/performance.md, all with the same columns.
        repetitions: every measurement, as taken.
        remarks: sentences that belong beneath the table: what falls short, and why.
        earlier_seconds: that parts took which an earlier call had measured.
    """

    headline: Headline
    settings: Mapping[str, Any]
    table: Sequence[Mapping[str, Any]]
    repetitions: Sequence[Mapping[str, Any]]
    remarks: Sequence[str] = ()
    earlier_seconds: float = 0.0

    def to_json(self, name: str, *, full: bool, seconds: float) -> dict[str, Any]:
        """The result file's content, with the machine it was made on."""
        content = _plain(asdict(self))
        seconds += content.pop("earlier_seconds")
        return {"benchmark": name, "full": full, "seconds": round(seconds, 1), **content, "machine": machine_facts()}


def _plain(value: Any) -> Any:
    """Numbers of numpy as Python's, floats with seven digits: what is beyond them is noise."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    value = value.item() if hasattr(value, "item") else value
    return float(f"{value:.7g}") if isinstance(value, float) else value


def short(value: Any) -> str:
    """A value as tables show it: numbers with three digits, nothing as a dash."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
    return f"{value:,}" if isinstance(value, int) else str(value)


@dataclass(frozen=True, slots=True)
class Pairs:
    """Two sides measured alternately: `a[i]` and `b[i]` were taken one right after the other."""

    a: tuple[float, ...]
    b: tuple[float, ...]

    @property
    def median_a(self) -> float:
        return statistics.median(self.a)

    @property
    def median_b(self) -> float:
        return statistics.median(self.b)

    @property
    def ratios(self) -> tuple[float, ...]:
        """a / b of each pair."""
        return tuple(a / b for a, b in zip(self.a, self.b, strict=True))

    @property
    def ratio(self) -> float:
        """Median of the ratios: what slows the machine for a while slows both sides of a pair."""
        return statistics.median(self.ratios)


def in_turn(a: Callable[[], float], b: Callable[[], float], repetitions: int, *, warm_ups: int = 0) -> Pairs:
    """Measure two sides alternately, a-b, then b-a, and so on, so that neither always goes first.

    Args:
        a, b: do the work once and return what was measured (seconds, or a rate).
        repetitions: pairs that count.
        warm_ups: pairs before them that do not.
    """
    pairs: list[tuple[float, float]] = []
    for number in range(warm_ups + repetitions):
        if number % 2 == 0:
            first = a()
            pairs.append((first, b()))
        else:
            second = b()
            pairs.append((a(), second))
    counted = pairs[warm_ups:]
    return Pairs(tuple(pair[0] for pair in counted), tuple(pair[1] for pair in counted))


def timed(work: Callable[[], object]) -> float:
    """Seconds that a call takes."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def cores() -> tuple[int, ...]:
    """The cores that this process may use."""
    return tuple(sorted(os.sched_getaffinity(0)))


@contextmanager
def pinned(to: Sequence[int]) -> Iterator[None]:
    """The calling thread, and threads and processes that it starts meanwhile, run on these cores only. Threads that exist are not moved."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, to)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def pin(pid: int, to: Sequence[int]) -> None:
    """Move a process with all its threads and descendants to these cores."""
    root = psutil.Process(pid)
    for process in (root, *root.children(recursive=True)):
        try:
            for thread in process.threads():
                os.sched_setaffinity(thread.id, to)
        except (psutil.NoSuchProcess, ProcessLookupError):  # ended meanwhile
            continue


def in_child(function: str, *, environment: Mapping[str, str] | None = None, timeout_s: float = 1800.0, **arguments: Any) -> dict[str, Any]:
    """Call `module:function(**arguments)` in a process of its own, which inherits the cores that this thread is pinned to.

    Arguments and the result, a dict, pass as JSON. `peak_rss_bytes`, the most memory that the process held, is added to it, and
    `start_rss_bytes`, what it held before the call.

    Raises:
        InfrastructureError: the process failed; with the end of what it said.
    """
    command = [sys.executable, "-m", "benchmarks.child", function, json.dumps(arguments)]
    child = subprocess.run(
        command, cwd=_ROOT, env={**os.environ, **(environment or {})}, capture_output=True, text=True, timeout=timeout_s, check=False
    )
    if child.returncode != 0:
        raise InfrastructureError(f"{function} failed in its process ({child.returncode}): {child.stderr.strip()[-1500:]}")
    return json.loads(child.stdout.splitlines()[-1])  # type: ignore[no-any-return]
