"""Microbatches that greedy collation makes, against the bin-packing lower bound and against arrival order.

A microbatch costs its token budget whether full or not, so the measure is the number of microbatches: budget paid over budget needed.
The lower bound, which no packing can beat, is the better of Martello and Toth's L2 (Knapsack Problems, 1990, chapter 8) and of Fekete and
Schepers's dual feasible functions (New classes of fast lower bounds for bin packing problems, 2001). Arrival order is next-fit: a
microbatch ends where the next sequence does not fit.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from benchmarks.common import Headline, Options, Result, timed
from magistral_core.training.collation import _pack_once, pack

SUMMARY = "greedy collation against arrival order and the bin-packing lower bound, over skewed lengths"

#: Parameters of the lower bound that are tried; any choice gives a valid bound.
_EDGES, _LARGEST_K = 100, 12
#: The longest sequence is so many times the shortest, or the mean (Magistral, section 3).
_SKEW = 5


@dataclass(frozen=True)
class Settings:
    """Sequences of a rank's minibatch; tokens of the longest; token budgets in longest sequences; draws of each cell."""

    sequences: tuple[int, ...] = (64, 256, 1024, 4096)
    longest: int = 32_768
    budgets: tuple[int, ...] = (1, 2, 4)
    repetitions: int = 3
    seed: int = 0


def run(options: Options) -> Result:
    """See the module."""
    settings = options.over(Settings(repetitions=10) if options.full else Settings())
    table, repetitions = [], []
    for name, draw in DISTRIBUTIONS.items():
        for n in settings.sequences:
            row: dict[str, Any] = {"lengths": name, "sequences": n}
            cells = [_cell(name, draw, n, budget, settings) for budget in settings.budgets]
            repetitions += [measured for cell in cells for measured in cell]
            for budget, cell in zip(settings.budgets, cells, strict=True):
                row[_column(budget)] = 100 * (_total(cell, "greedy") / _total(cell, "bound") - 1)
            for budget, cell in zip(settings.budgets, cells, strict=True):
                row[f"gain over arrival, {budget}x (%)"] = 100 * (1 - _total(cell, "greedy") / _total(cell, "arrival"))
            row["ms a minibatch"] = 1000 * statistics.median(measured["seconds"] for cell in cells for measured in cell)
            table.append(row)
    above = 100 * (_total(repetitions, "greedy") / _total(repetitions, "bound") - 1)
    return Result(
        Headline("microbatches above the lower bound, all cells together", above, "%", higher_is_better=False),
        asdict(settings),
        table,
        repetitions,
        _remarks(table, repetitions, settings),
    )


def _cell(name: str, draw: Callable[..., np.ndarray], n: int, budget: int, settings: Settings) -> list[dict[str, Any]]:
    tokens = budget * settings.longest
    measured = []
    for repetition in range(settings.repetitions):
        lengths = draw(np.random.default_rng((settings.seed, repetition)), n, settings.longest)
        bins: list[list[int]] = []

        def pack_all(lengths: np.ndarray = lengths, bins: list[list[int]] = bins) -> None:
            bins.extend(pack(lengths.tolist(), tokens))

        seconds = timed(pack_all)
        counts = {
            "greedy": len(bins),
            "first_fit": len(_pack_once(lengths.tolist(), tokens, draws=0, slack=0)),
            "bound": lower_bound(lengths, tokens),
            "arrival": arrival_order(lengths.tolist(), tokens),
        }
        measured.append(
            {"lengths": name, "sequences": n, "budget": budget, "tokens": int(lengths.sum()), **counts, "seconds": seconds},
        )
    return measured


def _remarks(table: Sequence[dict[str, Any]], repetitions: Sequence[dict[str, Any]], settings: Settings) -> list[str]:
    greedy, arrival, first_fit, bound = (_total(repetitions, key) for key in ("greedy", "arrival", "first_fit", "bound"))
    cells: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for measured in repetitions:
        cells.setdefault((measured["lengths"], measured["sequences"], measured["budget"]), []).append(measured)
    most = max(_total(cell, "first_fit") / _total(cell, "bound") for cell in cells.values())
    exact = sum(cell["greedy"] == cell["bound"] for cell in repetitions)
    worst = {
        n: max(row[_column(budget)] for row in table if row["sequences"] == n for budget in settings.budgets) for n in settings.sequences
    }
    by_size = ", ".join(f"{share:.2f}% at {n} sequences" for n, share in worst.items())
    return [
        f"Worst cell by size: {by_size}. With few microbatches, a single one above the bound is more than 1%.",
        f"{exact} of {len(repetitions)} minibatches are exactly at the bound. Over all cells {100 * (1 - greedy / arrival):.1f}% fewer "
        "microbatches than in arrival order; the larger the budget, the less there is to gain.",
        f"First-fit decreasing alone: {100 * (first_fit / bound - 1):.2f}% above the bound over all cells, {100 * (most - 1):.1f}% in the "
        "worst.",
    ]


def _column(budget: int) -> str:
    return f"above bound, budget {budget}x (%)"


def _total(cells: Sequence[dict[str, Any]], key: str) -> int:
    return sum(cell[key] for cell in cells)


def arrival_order(lengths: Sequence[int], budget: int) -> int:
    """Microbatches of next-fit in the order given."""
    count, room = 0, 0
    for length in lengths:
        if length > room:
            count, room = count + 1, budget
        room -= length
    return count


def lower_bound(lengths: np.ndarray, budget: int) -> int:
    """Microbatches that no packing goes below.

    A dual feasible function maps lengths so that what fits together still does: the sum of the mapped lengths is a bound. Two families,
    one after the other: lengths of at most `e` count as 0 and those above budget - e as the whole budget; and in units of 1/k of the
    budget, lengths are rounded up to floor((k + 1) x) / k, which holds for example that at most four of more than a fifth fit.
    """
    wide = lengths.astype(np.int64)
    best = max(-(-int(wide.sum()) // budget), _l2(wide, budget))
    edges = np.unique(wide[wide <= budget // 2])
    for edge in [0, *edges[:: max(1, len(edges) // _EDGES)]]:
        kept = np.where(wide > budget - edge, budget, np.where(wide < edge, 0, wide))
        for k in range(1, _LARGEST_K + 1):
            scaled = (k + 1) * kept
            mapped = np.where(scaled % budget == 0, k * kept, budget * (scaled // budget))
            best = max(best, -(-int(mapped.sum()) // (k * budget)))
    return best


def _l2(lengths: np.ndarray, budget: int) -> int:
    """Martello and Toth's bound, the best over every k up to half a budget.

    Sequences longer than half a budget have a microbatch each. Those of at most budget - k leave room there, which sequences of k
    tokens to half a budget may fill; what remains of these needs microbatches of its own. Shorter ones are not counted.
    """
    ordered = np.sort(lengths)
    sums = np.concatenate([[0], np.cumsum(ordered)])
    large = int(np.searchsorted(ordered, budget // 2, "right"))
    best = 0
    for k in np.unique(ordered[:large]):
        huge = max(large, int(np.searchsorted(ordered, budget - k, "right")))
        small = int(np.searchsorted(ordered, k, "left"))
        room = (huge - large) * budget - int(sums[huge] - sums[large])
        beyond = int(sums[large] - sums[small]) - room
        best = max(best, len(ordered) - large + max(0, -(-beyond // budget)))
    return best


def _within(
    draw: Callable[[np.random.Generator, int], np.ndarray], rng: np.random.Generator, n: int, low: float, high: float
) -> np.ndarray:
    """`n` values of a distribution, those outside [low, high] drawn again."""
    found = np.empty(0)
    while len(found) < n:
        more = draw(rng, n)
        found = np.concatenate([found, more[(more >= low) & (more <= high)]])
    return np.maximum(1, found[:n].astype(int))


def _uniform(rng: np.random.Generator, n: int, longest: int) -> np.ndarray:
    return rng.integers(longest // _SKEW, longest + 1, n)


def _lognormal(rng: np.random.Generator, n: int, longest: int) -> np.ndarray:
    median = longest * 0.36
    return _within(lambda rng, n: rng.lognormal(np.log(median), 0.45, n), rng, n, longest / _SKEW, longest)


def _pareto(rng: np.random.Generator, n: int, longest: int) -> np.ndarray:
    return _within(lambda rng, n: longest / _SKEW * (1 + rng.pareto(2, n)), rng, n, longest / _SKEW, longest)


def _bimodal(rng: np.random.Generator, n: int, longest: int) -> np.ndarray:
    def draw(rng: np.random.Generator, n: int) -> np.ndarray:
        short, long = rng.normal(0.24, 0.02, n), rng.normal(0.9, 0.08, n)
        return longest * np.where(rng.random(n) < 0.8, short, long)

    return _within(draw, rng, n, longest / _SKEW, longest)


def _exponential(rng: np.random.Generator, n: int, longest: int) -> np.ndarray:
    return _within(lambda rng, n: rng.exponential(longest / _SKEW, n), rng, n, 1, longest)


DISTRIBUTIONS: dict[str, Callable[[np.random.Generator, int, int], np.ndarray]] = {
    "uniform, 5x the shortest": _uniform,
    "log-normal, 5x the shortest": _lognormal,
    "Pareto, 5x the shortest": _pareto,
    "short and long, 5x the shortest": _bimodal,
    "exponential, 5x the mean": _exponential,
}
