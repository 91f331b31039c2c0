"""Completions a second against TRL's GRPOTrainer, over a grid of model sizes, lengths and skews, and the time to the same reward.

Both sides train the same model on the same problems in the same order with the same verifier, batch and numbers of generated tokens
(`synthetic`), in float32, on the same two cores. TRL gets what suits it best (`grpo_trl`); ours is the product's loop on Ray,
asynchronous, one generator and two trainer ranks. Both stay warm in their own processes and run in turn, the one that does not run
stopped (`sides`). The second part is real learning: the tiny recipe, from its base model to a mean reward.
"""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

from benchmarks.common import Headline, Options, Pairs, Result, cores, in_turn, pinned
from benchmarks.journal import Journal
from benchmarks.sides import RAY_ENVIRONMENT, Side, Steps
from benchmarks.synthetic import Lengths, recipe
from magistral_core.errors import InfrastructureError, InputError

SUMMARY = "training against TRL's GRPOTrainer: completions a second over a grid of sizes, lengths and skews; time to the same reward"

GROUP_SIZE = 8
#: Completions of an optimiser step: fewer where one step of TRL would take minutes.
BATCHES = {("10M", 256): 16, ("50M", 256): 16}
_BATCH = 64
#: Optimiser steps of a turn: more where they are short. Ours takes more of them, for its steps overlap and one alone says little.
_STEPS = {32: {"trl": 2, "ours": 6}, 256: {"trl": 1, "ours": 3}}
#: Steps before the first turn that counts; their completions are short. TRL tries each number of threads in one of them.
_WARM_UP = 3
_RANKS = 2
#: No run of the second part goes on for longer.
_REWARD_LIMIT_S = 900.0
_GOAL = 5.0


@dataclass(frozen=True)
class Settings:
    """The grid, its repetitions, those of the time to the same reward, and that reward.

    `rows` and `cache` are TRL's: completions that it trains at once, and `cache_implementation` ("static"; empty: what it does by default).
    `journal` names a file in which each cell is kept as soon as it is done: what it holds is not measured again.
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
    journal = Journal(settings.journal)
    with pinned(cores()[:2]):
        cells = [
            journal.once(f"{size}/{mean}/{skew:g}", settings.repetitions, partial(_cell, size, mean, skew, settings))
            for size in settings.sizes
            for mean in settings.means
            for skew in settings.skews
        ]
        rewards = [
            journal.once(f"reward/{settings.reward}/{number}", 1, partial(_to_reward, number, settings.reward))
            for number in range(settings.reward_repetitions)
        ]
    ratios = [Pairs(tuple(cell["ours"]), tuple(cell["trl"])).ratio for cell in cells]
    return Result(
        Headline(
            "completions a second over TRL's, geometric mean of the cells", statistics.geometric_mean(ratios), "x", higher_is_better=True
        ),
        {**asdict(settings), "group_size": GROUP_SIZE, "batch": _BATCH, "batches": _batches(), "trainers": _RANKS},
        [_row(cell, ratio) for cell, ratio in zip(cells, ratios, strict=True)],
        [*cells, *rewards],
        [*_remarks(cells, ratios), *_reward_remarks(rewards, settings.reward)],
    )


def _batches() -> dict[str, int]:
    return {f"{size}, {mean}": batch for (size, mean), batch in BATCHES.items()}


def _cell(size: str, mean: int, skew: float, settings: Settings) -> dict[str, Any]:
    batch = BATCHES.get((size, mean), _BATCH)
    lengths = Lengths(mean, skew, batch, GROUP_SIZE, settle=_WARM_UP)
    turns: dict[str, list[Steps]] = {"ours": [], "trl": []}
    with tempfile.TemporaryDirectory() as out, _ours(size, lengths) as ours, _trl(size, lengths, settings, out) as trl:
        sides = {"ours": ours, "trl": trl}
        for side in sides.values():
            side.advance(_WARM_UP)

        def rate(name: str) -> float:
            turn = sides[name].advance(_STEPS[mean][name])
            turns[name].append(turn)
            return batch * len(turn.lines) / turn.seconds

        # Ours begins a pair of turns full of brief completions: the pair that warms up has its own lengths, and does not count.
        pairs = in_turn(lambda: rate("ours"), lambda: rate("trl"), settings.repetitions, warm_ups=1)
    profile = {name: _profile(name, done[1:], batch) for name, done in turns.items()}
    return {"size": size, "mean": mean, "skew": skew, "batch": batch, "ours": pairs.a, "trl": pairs.b, "profile": profile}


def _ours(size: str, lengths: Lengths) -> Side:
    data = recipe(size, lengths, pipeline={"trainers": _RANKS})
    return Side("benchmarks.ours:train", {"recipe": data, "lengths": asdict(lengths)}, RAY_ENVIRONMENT)


def _trl(size: str, lengths: Lengths, settings: Settings, out: str) -> Side:
    arguments = {
        "recipe": recipe(size, lengths),
        "lengths": asdict(lengths),
        "threads": [1, 2],
        "rows": min(settings.rows, lengths.batch),
        "settings": {"cache_implementation": settings.cache} if settings.cache else {},
        "out": out,
    }
    return Side("benchmarks.grpo_trl:train", arguments, {"OMP_NUM_THREADS": "2"})


def _profile(name: str, turns: list[Steps], batch: int) -> dict[str, float]:
    """Where a side's time goes: milliseconds of processor time a completion by role, and what the side itself counts."""
    completions = batch * sum(len(turn.lines) for turn in turns)
    lines = [line for turn in turns for line in turn.lines]
    found = {
        f"{role} ms": 1000 * sum(turn.cpu_seconds.get(role, 0.0) for turn in turns) / completions
        for role in sorted({role for turn in turns for role in turn.cpu_seconds})
    }
    if name == "trl":
        found["generating share"] = sum(line["generate_seconds"] for line in lines) / sum(turn.seconds for turn in turns)
        found["threads"] = lines[-1]["threads"]
    else:
        for key in ("busy/generators", "busy/trainers", "busy/occupancy"):
            found[key] = statistics.fmean(line["metrics"][key] for line in lines)
    return found


def _row(cell: Mapping[str, Any], ratio: float) -> dict[str, Any]:
    ours, trl = cell["profile"]["ours"], cell["profile"]["trl"]
    return {
        "parameters": cell["size"],
        "mean tokens": cell["mean"],
        "skew": f"{cell['skew']:g}",
        "batch": cell["batch"],
        "ours (completions/s)": statistics.median(cell["ours"]),
        "TRL (completions/s)": statistics.median(cell["trl"]),
        "ratio": ratio,
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
        names = ", ".join(f"{cell['size']}/{cell['mean']}/{cell['skew']:g}" for cell, _ in short)
        shares = [_trainer_share(cell) for cell, _ in short]
        remarks.append(
            f"Below {_GOAL:g}x (parameters/mean/skew): {names}. The trainers take "
            f"{100 * min(shares):.0f} to {100 * max(shares):.0f}% of our processor time there."
        )
    return remarks


def _trainer_share(cell: Mapping[str, Any]) -> float:
    times = {key: value for key, value in cell["profile"]["ours"].items() if key.endswith(" ms")}
    return times["trainer ms"] / sum(times.values())


def _to_reward(number: int, target: float) -> dict[str, Any]:
    """Seconds of training until the mean reward of three steps in a row reaches the target; both sides alone, the order alternating."""
    data = {"name": "bench", "seed": number, **_learning()}

    def ours() -> float:
        with Side("benchmarks.ours:train", {"recipe": data, "lengths": None}, RAY_ENVIRONMENT) as side:
            return _until(side, target, lambda line: line["metrics"]["reward/mean"])

    def trl() -> float:
        with tempfile.TemporaryDirectory() as out:
            arguments = {"recipe": data, "lengths": None, "threads": [2], "rows": 64, "settings": {}, "out": out}
            with Side("benchmarks.grpo_trl:train", arguments, {"OMP_NUM_THREADS": "2"}) as side:
                return _until(side, target, lambda line: line["reward"])

    sides = {"ours": ours, "trl": trl}
    order = list(sides) if number % 2 == 0 else list(sides)[::-1]
    return {"reward": target, "seed": number, **{f"{name}_seconds": sides[name]() for name in order}}


def _learning() -> dict[str, Any]:
    """The tiny recipe, as data, without an end."""
    from magistral_core.config.load import load_recipe

    data = load_recipe("tiny").model_dump(mode="json", exclude={"name", "seed", "evaluation"})
    data["training"]["max_steps"] = data["checkpoints"]["every"] = 1_000_000
    data["pipeline"]["stall_timeout_s"] = data["pipeline"]["update_timeout_s"] = 86_400.0  # clocks go on while a side stands still
    return data


def _until(side: Side, target: float, reward: Any) -> float:
    seconds = 0.0
    recent: list[float] = []
    while len(recent) < 3 or statistics.fmean(recent[-3:]) < target:
        turn = side.advance(1)
        seconds += turn.seconds
        recent.append(reward(turn.lines[0]))
        if seconds > _REWARD_LIMIT_S:
            raise InfrastructureError(f"no mean reward of {target} within {_REWARD_LIMIT_S:g} s; the last was {recent[-1]:.2f}")
    return seconds


def _reward_remarks(rewards: list[dict[str, Any]], target: float) -> list[str]:
    if not rewards:
        return []
    ours, trl = ([entry[f"{name}_seconds"] for entry in rewards] for name in ("ours", "trl"))
    ratio = Pairs(tuple(trl), tuple(ours)).ratio
    return [
        f"Real learning: the tiny recipe (0.8M parameters, 256 completions a step) to a mean reward of {target:g}: "
        f"{statistics.median(ours):.0f} s, TRL {statistics.median(trl):.0f} s, {ratio:.1f}x (medians of {len(rewards)} seeds; no starts)."
    ]
