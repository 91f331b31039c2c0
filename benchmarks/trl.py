"""Completions a second against TRL's GRPOTrainer, over a grid of model sizes, lengths and skews, and the time to the same reward.

Both sides train the same model on the same problems in the same order with the same verifier, batch and numbers of generated tokens
(`synthetic`), with float32 weights in the optimiser, on the same two cores. TRL gets what suits it best (`grpo_trl`), its precision tried
in each cell; ours is the product's loop on Ray, asynchronous, with as many generators and trainer ranks as are fastest there. Both stay
warm in their own processes and run in turn, the one that does not run stopped (`sides`). TRL with continuous batching, an option of its,
is a third side where it is faster than TRL's default. The second part is real learning: the tiny recipe, from its base model to a mean
reward.
"""

from __future__ import annotations

import contextlib
import statistics
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, TypeVar

from benchmarks.common import Headline, Options, Pairs, Result, cores, in_turn, pinned
from benchmarks.journal import Journal, without_journal
from benchmarks.machine import processor
from benchmarks.sides import RAY_ENVIRONMENT, Side, Steps
from benchmarks.synthetic import SHAPES, Lengths, recipe
from magistral_core.errors import InputError

K = TypeVar("K")

SUMMARY = "training against TRL's GRPOTrainer: completions a second over a grid of sizes, lengths and skews; time to the same reward"

GROUP_SIZE = 8
#: Completions of an optimiser step: fewer where one step of TRL would take minutes.
BATCHES = {("10M", 256): 16, ("50M", 256): 16}
_BATCH = 64
#: Optimiser steps of a turn: more where they are short. Ours takes more of them, for its steps overlap and one alone says little.
_STEPS = {32: {"trl": 2, "ours": 6}, 256: {"trl": 1, "ours": 3}}
#: Steps before the first turn that counts; their completions are short. TRL tries each number of threads in one of them.
_WARM_UP = 3
#: Generators and trainer ranks that ours tries. Each has one thread, so two of one role share the cores with the other.
_LAYOUTS = ((1, 1), (1, 2), (2, 2))
#: Two generators are not tried for a mean of no more tokens than this, nor for small batches: a step of an engine costs nearly the same
#: for half as many sequences.
_ONE_GENERATOR = 64
#: Each side takes whichever is faster in the cell; the first is its own default, in which ours chooses its layout.
_PRECISIONS = ("bfloat16", "float32")
#: The command's own setting for engines, that idle threads sleep at once, costs TRL's two threads a quarter of their speed.
_TRL_ENVIRONMENT = {"OMP_NUM_THREADS": "2", "OMP_WAIT_POLICY": None}
#: No run of the second part goes on for longer.
_REWARD_LIMIT_S = 900.0
#: Completions over which its reward is averaged, at least: three of TRL's steps.
_REWARD_OVER = 768
_GOAL = 5.0


@dataclass(frozen=True)
class Settings:
    """The grid, its repetitions, those of the time to the same reward, and that reward.

    `rows` and `cache` are TRL's: completions that it trains at once, and `cache_implementation` ("static"; empty: what it does by default).
    `journal` names a file in which each cell is kept as soon as it is done: what it holds is not measured again. With `kept_only` the
    result is of the cells that it holds, and nothing is measured.
    """

    sizes: tuple[str, ...] = ("1M", "10M")
    means: tuple[int, ...] = (32,)
    skews: tuple[float, ...] = (1.0, 5.0)
    repetitions: int = 2
    reward_repetitions: int = 0
    reward: float = 0.7
    rows: int = 16
    cache: str = ""
    journal: str = ""
    kept_only: bool = False


PUBLISHED = Settings(sizes=("1M", "10M", "50M"), means=(32, 256), repetitions=5, reward_repetitions=5)


def run(options: Options) -> Result:
    """See the module."""
    try:
        import trl  # noqa: F401
    except ImportError as error:
        raise InputError(
            f"bench trl: TRL is not installed ({error}); run make setup, or pip install '.[bench]' -c constraints.txt"
        ) from error
    settings = options.over(PUBLISHED if options.full else Settings())
    if unknown := set(settings.sizes) - set(SHAPES):
        raise InputError(f"bench trl: sizes={min(unknown)}: there are models of {', '.join(SHAPES)}")
    journal = Journal(settings.journal, {"rows": settings.rows, "cache": settings.cache})
    with pinned(cores()[:2]):
        cells = [
            journal.once(f"cell/{size}/{mean}/{skew:g}", settings.repetitions, partial(_cell, size, mean, skew, settings))
            for size in settings.sizes
            for mean in settings.means
            for skew in settings.skews
            if not settings.kept_only or journal.has(f"cell/{size}/{mean}/{skew:g}", settings.repetitions)
        ]
        rewards = [
            journal.once(f"to reward/{settings.reward}/{number}", 1, partial(_to_reward, number, settings.reward))
            for number in range(settings.reward_repetitions)
            if not settings.kept_only or journal.has(f"to reward/{settings.reward}/{number}", 1)
        ]
    if not cells:
        raise InputError("bench trl: kept_only: the journal holds no cell with so many repetitions; leave kept_only out to measure them")
    ratios = [Pairs(tuple(cell["ours"]), tuple(cell["trl"])).ratio for cell in cells]
    return Result(
        Headline(
            "completions a second over TRL's, geometric mean of the cells", statistics.geometric_mean(ratios), "x", higher_is_better=True
        ),
        {
            **without_journal(settings),
            "group_size": GROUP_SIZE,
            "batch": _BATCH,
            "batches": _batches(),
            "layouts": {f"{mean}, batch {n}": _layouts(mean, n) for mean in settings.means for n in sorted({_BATCH, *BATCHES.values()})},
        },
        [_row(cell, ratio) for cell, ratio in zip(cells, ratios, strict=True)],
        [*cells, *rewards],
        [*_remarks(cells, ratios), *_reward_remarks(rewards, settings.reward)],
        journal.earlier_seconds,
    )


def _layouts(mean: int, batch: int) -> list[tuple[int, int]]:
    return [layout for layout in _LAYOUTS if layout[0] == 1 or (mean > _ONE_GENERATOR and batch == _BATCH)]


def _batches() -> dict[str, int]:
    return {f"{size}, {mean}": batch for (size, mean), batch in BATCHES.items()}


def _cell(size: str, mean: int, skew: float, settings: Settings) -> dict[str, Any]:
    batch = BATCHES.get((size, mean), _BATCH)
    lengths = Lengths(mean, skew, batch, GROUP_SIZE, settle=_WARM_UP)
    turns: dict[str, list[Steps]] = {"ours": [], "trl": [], "continuous": []}
    with tempfile.TemporaryDirectory() as out, contextlib.ExitStack() as stack:
        steps = _STEPS[mean]["ours"]
        layouts = {layout: stack.enter_context(_ours(size, lengths, layout, _PRECISIONS[0])) for layout in _layouts(mean, batch)}
        layout, first, in_layouts = _fastest(layouts, _WARM_UP + steps, steps)
        others = {name: stack.enter_context(_ours(size, lengths, layout, name)) for name in _PRECISIONS[1:]}
        own_precision, ours, in_precisions = _fastest({_PRECISIONS[0]: first, **others}, _WARM_UP + steps, steps)
        precision, trl, theirs = _fastest(
            {name: stack.enter_context(_trl(size, lengths, name, settings, out)) for name in _PRECISIONS}, _WARM_UP, 1
        )
        sides = {"ours": ours, "trl": trl}
        continuous = stack.enter_context(_trl(size, lengths, "float32", settings, out, continuous=True))
        theirs["continuous"] = _warm_seconds(continuous, _WARM_UP, 1)
        if theirs["continuous"] < theirs[precision]:
            sides["continuous"] = continuous
        else:
            continuous.close()

        def rate(name: str) -> float:
            turn = sides[name].advance(_STEPS[mean]["ours" if name == "ours" else "trl"])
            turns[name].append(turn)
            return batch * len(turn.lines) / turn.seconds

        def theirs_in_turn() -> float:
            default = rate("trl")
            if "continuous" in sides:
                in_continuous.append(rate("continuous"))
            return default

        in_continuous: list[float] = []
        # Ours begins a pair of turns full of brief completions: the pair that warms up has its own lengths, and does not count.
        pairs = in_turn(lambda: rate("ours"), theirs_in_turn, settings.repetitions, warm_ups=1)
    profile = {name: _profile(name, turns[name][1:], batch) for name in sides}
    precisions = {"ours": own_precision, "trl": precision}
    tried = {"ours": {**{f"{g} + {t}": seconds for (g, t), seconds in in_layouts.items()}, **in_precisions}, "trl": theirs}
    return {
        "size": size,
        "mean": mean,
        "skew": skew,
        "batch": batch,
        "layout": layout,
        "precision": precisions,
        "flags": processor()[1],  # a journal may hold cells of several machines
        "ours": pairs.a,
        "trl": pairs.b,
        "continuous": in_continuous[1:],  # none: slower than the default in the warm-up
        "warm_up_seconds": tried,
        "profile": profile,
    }


def _warm_seconds(side: Side, warm_up: int, steps: int) -> float:
    """Seconds of so many steps, after those that warm up."""
    side.advance(warm_up)
    return side.advance(steps).seconds


def _fastest(sides: Mapping[K, Side], warm_up: int, steps: int) -> tuple[K, Side, dict[K, float]]:
    """The side that takes so many steps fastest, warm, with its key and the seconds of each. The others are ended."""
    seconds = {key: _warm_seconds(side, warm_up, steps) for key, side in sides.items()}
    best = min(seconds, key=seconds.__getitem__)
    for key, side in sides.items():
        if key != best:
            side.close()
    return best, sides[best], seconds


def _ours(size: str, lengths: Lengths, layout: tuple[int, int], precision: str) -> Side:
    dtype = {"dtype": precision}
    data = recipe(size, lengths, pipeline={"generators": layout[0], "trainers": layout[1]}, generation=dtype, training=dtype)
    return Side("benchmarks.ours:train", {"recipe": data, "lengths": asdict(lengths)}, RAY_ENVIRONMENT)


def _trl(size: str, lengths: Lengths, precision: str, settings: Settings, out: str, *, continuous: bool = False) -> Side:
    arguments = {
        "recipe": recipe(size, lengths),
        "lengths": asdict(lengths),
        "threads": [1, 2],
        "rows": min(settings.rows, lengths.batch),
        "precision": precision,
        "continuous": continuous,
        "settings": {"cache_implementation": settings.cache} if settings.cache else {},
        "out": out,
    }
    return Side("benchmarks.grpo_trl:train", arguments, _TRL_ENVIRONMENT)


def _profile(name: str, turns: list[Steps], batch: int) -> dict[str, float]:
    """Where a side's time goes: milliseconds of processor time a completion by role, and what the side itself counts."""
    completions = batch * sum(len(turn.lines) for turn in turns)
    lines = [line for turn in turns for line in turn.lines]
    found = {
        f"{role} ms": 1000 * sum(turn.cpu_seconds.get(role, 0.0) for turn in turns) / completions
        for role in sorted({role for turn in turns for role in turn.cpu_seconds})
    }
    found["tokens"] = sum(line["tokens"] for line in lines) / completions
    if name != "ours":
        found["threads"] = lines[-1]["threads"]
    else:
        # The loop's clocks go on while a side is stopped: not the first step of a turn.
        steady = [line["metrics"] for turn in turns for line in turn.lines[1:]]
        for key in ("busy/generators", "busy/trainers", "busy/occupancy"):
            found[key] = statistics.fmean(line[key] for line in steady)
    return found


def _row(cell: Mapping[str, Any], ratio: float) -> dict[str, Any]:
    ours, trl = cell["profile"]["ours"], cell["profile"]["trl"]
    pairs = [a / b for a, b in zip(cell["ours"], cell["trl"], strict=True)]
    return {
        "parameters": cell["size"],
        "mean tokens": cell["mean"],
        "skew": f"{cell['skew']:g}",
        "batch": cell["batch"],
        "generators + ranks": " + ".join(map(str, cell["layout"])),
        "ours in": cell["precision"]["ours"],
        "TRL in": cell["precision"]["trl"],
        "ours (completions/s)": statistics.median(cell["ours"]),
        "TRL (completions/s)": statistics.median(cell["trl"]),
        "TRL, continuous (completions/s)": statistics.median(cell["continuous"]) if cell.get("continuous") else None,
        "ratio": ratio,
        "pair by pair": f"{min(pairs):.3g} to {max(pairs):.3g}",
        "generator ms": ours.get("engine ms", 0.0) + ours.get("generator ms", 0.0),
        "trainers ms": ours.get("trainer ms", 0.0),
        "rest ms": sum(
            value for key, value in ours.items() if key.endswith(" ms") and key not in ("engine ms", "generator ms", "trainer ms")
        ),
        "TRL's ms": sum(value for key, value in trl.items() if key.endswith(" ms")),
    }


def _remarks(cells: list[dict[str, Any]], ratios: list[float]) -> list[str]:
    remarks = ["The columns in ms are processor time of a completion, of all threads; two cores give 2,000 ms a second."]
    short = [(cell, ratio) for cell, ratio in zip(cells, ratios, strict=True) if ratio < _GOAL]
    if short:
        names = ", ".join(_name(cell) for cell, _ in short)
        shares = [_trainer_share(cell) for cell, _ in short]
        remarks.append(
            f"Below {_GOAL:g}x (parameters/mean/skew): {names}. The trainers take "
            f"{100 * min(shares):.0f} to {100 * max(shares):.0f}% of our processor time there."
        )
    return [*remarks, *_continuous_remarks(cells, ratios)]


def _continuous_remarks(cells: list[dict[str, Any]], ratios: list[float]) -> list[str]:
    tried = [cell for cell in cells if "continuous" in cell]
    if not tried:
        return []
    faster = {_name(cell): Pairs(tuple(cell["ours"]), tuple(cell["continuous"])).ratio for cell in tried if cell["continuous"]}
    # One that was not tried says nothing of the faster way.
    own = [ratio for cell, ratio in zip(cells, ratios, strict=True) if "continuous" in cell]
    best = [min(ratio, faster.get(_name(cell), ratio)) for cell, ratio in zip(tried, own, strict=True)]
    return [
        "TRL is measured as it comes, sampling with `generate`. Its option `use_transformers_continuous_batching`, in float32, "
        f"was tried in {len(tried)} of {len(cells)} cells, and faster in the warm-up of {len(faster)}; ours over it there: "
        f"{', '.join(f'{name} {ratio:.3g}x' for name, ratio in faster.items()) or 'nowhere'}. Against the faster of the two in each "
        f"cell tried the geometric mean is {statistics.geometric_mean(best):.2f}x; "
        f"against the default {statistics.geometric_mean(own):.2f}x there."
    ]


def _name(cell: Mapping[str, Any]) -> str:
    return f"{cell['size']}/{cell['mean']}/{cell['skew']:g}"


def _trainer_share(cell: Mapping[str, Any]) -> float:
    times = {key: value for key, value in cell["profile"]["ours"].items() if key.endswith(" ms")}
    return times["trainer ms"] / sum(times.values())


def _to_reward(number: int, target: float) -> dict[str, Any]:
    """Training until the mean reward of the last completions reaches the target; both sides alone, the order alternating."""
    data = {"name": "bench", "seed": number, **_learning()}

    def ours() -> dict[str, Any]:
        with Side("benchmarks.ours:train", {"recipe": data, "lengths": None}, RAY_ENVIRONMENT) as side:
            return _until(side, target, _rewards)

    def trl() -> dict[str, Any]:
        with tempfile.TemporaryDirectory() as out:
            arguments = {"recipe": data, "lengths": None, "threads": [2], "rows": 64, "settings": {}, "out": out}
            with Side("benchmarks.grpo_trl:train", arguments, _TRL_ENVIRONMENT) as side:
                return _until(side, target, lambda line: (line["reward"], batch))

    batch, group_size = data["pipeline"]["n_minibatch"], data["pipeline"]["group_size"]

    def _rewards(line: Mapping[str, Any]) -> tuple[float, int]:
        """A step of ours trains a batch, but what was sampled since the last one may be more, or less, or nothing."""
        return line["metrics"]["reward/mean"], round(line["metrics"]["groups/verified"]) * group_size

    sides = {"ours": ours, "trl": trl}
    order = list(sides) if number % 2 == 0 else list(sides)[::-1]
    return {"reward": target, "seed": number, **{name: sides[name]() for name in order}}


def _learning() -> dict[str, Any]:
    """The tiny recipe, as data, without an end."""
    from magistral_core.config.load import load_recipe

    data = load_recipe("tiny").model_dump(mode="json", exclude={"name", "seed", "evaluation"})
    data["training"]["max_steps"] = data["checkpoints"]["every"] = 1_000_000
    data["pipeline"]["stall_timeout_s"] = data["pipeline"]["update_timeout_s"] = 86_400.0  # clocks go on while a side stands still
    return data


def _until(side: Side, target: float, rewards: Callable[[dict[str, Any]], tuple[float, int]]) -> dict[str, Any]:
    """Seconds of running until the target, None if that took too long; and the curve: seconds, reward and completions of every step.

    Counted from the end of the first step, in which engines and libraries still warm up.
    """
    curve = [(0.0, *rewards(side.advance(1).lines[0]))]
    while curve[-1][0] < _REWARD_LIMIT_S:
        turn = side.advance(1)
        curve.append((curve[-1][0] + turn.seconds, *rewards(turn.lines[0])))
        if (recent := _recent(curve)) is not None and recent >= target:
            return {"seconds": curve[-1][0], "curve": curve}
    return {"seconds": None, "curve": curve}


def _recent(curve: Sequence[tuple[float, float, int]]) -> float | None:
    """Mean reward of the last completions, as many as are wanted or a few more; None where there are fewer."""
    total, count = 0.0, 0
    for _, reward, completions in reversed(curve):
        total, count = total + reward * completions, count + completions
        if count >= _REWARD_OVER:
            return total / count
    return None


def _reward_remarks(rewards: list[dict[str, Any]], target: float) -> list[str]:
    if not rewards:
        return []
    remarks = [_not_reached(entry, name, label) for entry in rewards for name, label in (("ours", "ours"), ("trl", "TRL"))]
    # A side that did not arrive took the limit, and really more.
    ours, trl = ([entry[name]["seconds"] or _REWARD_LIMIT_S for entry in rewards] for name in ("ours", "trl"))
    steps = [statistics.median(len(entry[name]["curve"]) for entry in rewards) for name in ("ours", "trl")]
    remarks.append(
        f"Real learning: the tiny recipe (0.8M parameters, 256 completions a step) to a mean reward of {target:g} "
        f"over {_REWARD_OVER} completions: "
        f"{statistics.median(ours):.0f} s and {steps[0]:g} steps, TRL {statistics.median(trl):.0f} s and {steps[1]:g} steps, "
        f"{Pairs(tuple(trl), tuple(ours)).ratio:.2f}x (medians of {len(rewards)} seeds; seed by seed "
        f"{', '.join(f'{b / a:.2f}' for a, b in zip(ours, trl, strict=True))}; starts and the first step left out)."
    )
    return [remark for remark in remarks if remark]


def _not_reached(entry: Mapping[str, Any], name: str, label: str) -> str:
    if entry[name]["seconds"] is not None:
        return ""
    curve = entry[name]["curve"]
    best = max((_recent(curve[:end]) or 0.0 for end in range(1, len(curve) + 1)), default=0.0)
    return (
        f"Seed {entry['seed']}: {label} did not reach a mean reward of {entry['reward']:g} within {_REWARD_LIMIT_S:g} s "
        f"({len(curve)} steps, {best:.2f} at best); it is counted with that time."
    )
