"""A cluster as numbers, for the simulator: how fast its roles are, and how long completions become. Pure.

    engine      one decoding step with n sequences takes a + b n seconds: `a` reads the weights, `b` is one sequence's share
    trainers    a rank works through its prompt and completion tokens at a fixed rate; the slowest rank sets the step
    weights     published by the trainers, broadcast while generators go on, then swapped while they stand still

`a` and `b` come from two speeds that are measured in a minute: an engine's tokens/s with one sequence and with all that it takes.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import ValidationError

from magistral_core.config.load import describe
from magistral_core.config.schema import PipelineSettings
from magistral_core.errors import InputError

#: Groups whose lengths and verdicts are drawn at once.
_BLOCK = 1024
#: Standard normal quantile of the 99th percentile, by which the skew of lengths is defined.
_Z99 = 2.3263478740408408
#: The largest 99th percentile over mean that a lognormal can have.
_LARGEST_SKEW = math.exp(_Z99**2 / 2)
#: Columns that hold lengths in tables of samples.
_LENGTH_COLUMNS = ("tokens", "length", "lengths")
#: How much pass rates of prompts differ: the two shapes of their beta distribution add up to this.
_BETA = 2.0


@dataclass(frozen=True)
class Cluster:
    """What a user knows of the own cluster. Seconds, tokens, completions; the defaults are round numbers, nobody's measurements.

    Attributes:
        generators: engines.
        sequences: that one engine decodes at the same time (`generation.max_num_seqs`); more wait in its queue.
        alone_tokens_per_s, full_tokens_per_s: of one engine with one sequence, and with `sequences`.
        prompt_tokens, prefill_tokens_per_s: a prompt is computed once for the completions of its group; decoding stands still meanwhile.
        verify_s: from a complete group to its scores; the pool grows with its backlog, so nothing queues.
        trainers: ranks.
        trainer_tokens_per_s: of one rank, prompts included, each once a microbatch.
        step_s: what an optimiser step takes beside its tokens.
        token_budget: of a packed microbatch (`training.token_budget`).
        publish_s: trainers gather and write their weights, and do nothing else.
        broadcast_s: until the weights are with the generators, which go on meanwhile.
        pause_s: generators stand still while they swap.
        group_size, n_batch, n_minibatch: as in a recipe.
        n_async: as in a recipe; 0: all that the engines take, at most 2 `n_batch` (Magistral, section 6.3).
        max_open: as in a recipe; 0: 4 `n_async` + 2 `n_batch`. A group is open until its longest completion was trained, so groups of
            skewed completions need several times `n_async`, or generators run short of work.
        lengths: `lognormal`, `constant`, or a file of recorded lengths (see `recorded_lengths`).
        mean, skew: of completion lengths: tokens; 99th percentile over mean.
        longest: `generation.max_tokens`; what is longer is cut there.
        pass_rate: mean over prompts, whose own rates vary between 0 and 1; groups with equal verdicts are dropped.
        seed: of all draws; the n-th completion is the same whatever the schedule and the number of engines.
    """

    generators: int = 16
    sequences: int = 64
    alone_tokens_per_s: float = 50.0
    full_tokens_per_s: float = 1600.0
    prompt_tokens: int = 200
    prefill_tokens_per_s: float = 20_000.0
    verify_s: float = 1.0
    trainers: int = 8
    trainer_tokens_per_s: float = 3000.0
    step_s: float = 2.0
    token_budget: int = 32_768
    publish_s: float = 1.0
    broadcast_s: float = 2.0
    pause_s: float = 1.0
    group_size: int = 16
    n_batch: int = 512
    n_minibatch: int = 512
    n_async: int = 0
    max_open: int = 0
    lengths: str = "lognormal"
    mean: float = 2000.0
    skew: float = 5.0
    longest: int = 16_384
    pass_rate: float = 0.5
    seed: int = 0

    def __post_init__(self) -> None:
        """Raises InputError for numbers that no cluster has."""
        for name in ("generators", "sequences", "alone_tokens_per_s", "prefill_tokens_per_s", "trainers", "trainer_tokens_per_s", "mean"):
            if getattr(self, name) <= 0:
                raise InputError(f"{name} ({getattr(self, name)}) must be above 0")
        for name in ("prompt_tokens", "verify_s", "step_s", "publish_s", "broadcast_s", "pause_s", "n_async", "max_open", "seed"):
            if getattr(self, name) < 0:
                raise InputError(f"{name} ({getattr(self, name)}) must not be negative")
        if not self.alone_tokens_per_s <= self.full_tokens_per_s <= self.alone_tokens_per_s * self.sequences:
            raise InputError(
                f"full_tokens_per_s ({self.full_tokens_per_s:g}) must lie between alone_tokens_per_s ({self.alone_tokens_per_s:g}) and "
                f"so many times sequences ({self.sequences}): it is the speed of a whole engine that decodes all of them"
            )
        if self.prompt_tokens + self.longest > self.token_budget:
            raise InputError(f"token_budget ({self.token_budget}) must hold prompt_tokens + longest ({self.prompt_tokens + self.longest})")
        if not 0 < self.pass_rate < 1:
            raise InputError(f"pass_rate ({self.pass_rate}) must lie between 0 and 1: where all verdicts are equal, nothing can be trained")
        if self.lengths == "lognormal" and not 1 <= self.skew < _LARGEST_SKEW:
            raise InputError(f"skew ({self.skew}) must be at least 1 and below {_LARGEST_SKEW:.1f}, the most that a lognormal has")
        self._recorded  # noqa: B018  (read now: a bad file is told of before anything is simulated)

    @property
    def in_flight(self) -> int:
        """`n_async`, given or derived, in completions."""
        return self.n_async or max(self.group_size, min(self.generators * self.sequences, 2 * self.n_batch))

    @property
    def step_seconds(self) -> tuple[float, float]:
        """(a, b): a decoding step of one engine with n sequences takes a + b n."""
        alone, full = 1 / self.alone_tokens_per_s, self.sequences / self.full_tokens_per_s
        share = (full - alone) / (self.sequences - 1) if self.sequences > 1 else 0.0
        return alone - share, share

    def settings(self, schedule: Literal["sync", "async"]) -> PipelineSettings:
        """The recipe's `pipeline` section that the loop's own code goes by. Raises InputError where a recipe would be refused."""
        try:
            return PipelineSettings.model_validate(
                {
                    "schedule": schedule,
                    "generators": self.generators,
                    "trainers": self.trainers,
                    "group_size": self.group_size,
                    "n_async": self.in_flight,
                    "n_batch": self.n_batch,
                    "n_minibatch": self.n_minibatch,
                    "queue": 2 * self.n_batch,
                    "max_open": self.max_open or 4 * self.in_flight + 2 * self.n_batch,
                    "allow_stale": True,
                }
            )
        except ValidationError as error:
            raise InputError(describe(error)) from error

    @cached_property
    def _recorded(self) -> np.ndarray | None:
        return None if self.lengths in ("lognormal", "constant") else recorded_lengths(Path(self.lengths))

    @cached_property
    def _lognormal(self) -> tuple[float, float]:
        """(mu, sigma) with this mean and 99th percentile: ln skew = z sigma - sigma^2 / 2."""
        sigma = _Z99 - math.sqrt(_Z99**2 - 2 * math.log(self.skew))
        return math.log(self.mean) - sigma**2 / 2, sigma

    def draw(self, block: int) -> tuple[np.ndarray, np.ndarray]:
        """Lengths (int [groups, group_size]) and verdicts (bool, the same shape) of a block of prompts."""
        rng = np.random.default_rng((self.seed, block))
        shape = (_BLOCK, self.group_size)
        if self._recorded is not None:
            lengths = rng.choice(self._recorded, shape)
        elif self.lengths == "constant":
            lengths = np.full(shape, self.mean)
        else:
            lengths = rng.lognormal(*self._lognormal, shape)
        rates = rng.beta(_BETA * self.pass_rate, _BETA * (1 - self.pass_rate), (_BLOCK, 1))
        return np.clip(np.rint(lengths), 1, self.longest).astype(int), rng.random(shape) < rates


class Draws:
    """Lengths and verdicts of any group of a cluster, drawn when they are asked for."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._blocks: dict[int, tuple[list[list[int]], list[list[bool]]]] = {}

    def lengths(self, group_id: int) -> list[int]:
        """Tokens of each completion."""
        return self._block(group_id)[0][group_id % _BLOCK]

    def verdicts(self, group_id: int) -> list[bool]:
        """Which completions are right."""
        return self._block(group_id)[1][group_id % _BLOCK]

    def _block(self, group_id: int) -> tuple[list[list[int]], list[list[bool]]]:
        number = group_id // _BLOCK
        if number not in self._blocks:
            lengths, verdicts = self._cluster.draw(number)
            self._blocks[number] = lengths.tolist(), verdicts.tolist()
        return self._blocks[number]


def recorded_lengths(path: Path) -> np.ndarray:
    """Completion lengths from a file: one number a line, or a table of samples as a run logs it to MLflow (`samples/step-*.json`).

    Raises:
        InputError: no such file, or no lengths in it.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"lengths {path}: cannot be read ({error}); give lognormal, constant, or a file of lengths") from error
    try:
        values = _column(json.loads(text), path) if text.lstrip().startswith("{") else _numbers(text, path)
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise InputError(f"lengths {path}: no table with `columns` and `data` ({type(error).__name__}: {error})") from error
    if not values or min(values) < 1:
        raise InputError(f"lengths {path}: {'a length below 1' if values else 'empty'}; lengths are numbers of tokens from 1")
    return np.array(values)


def _column(table: dict[str, list[object]], path: Path) -> list[int]:
    columns = table.get("columns", [])
    name = next((name for name in _LENGTH_COLUMNS if name in columns), None)
    if name is None:
        raise InputError(f"lengths {path}: a table needs a column of {', '.join(_LENGTH_COLUMNS)}; it has: {', '.join(map(str, columns))}")
    place = columns.index(name)
    return [int(row[place]) for row in table["data"]]  # type: ignore[index]


def _numbers(text: str, path: Path) -> list[int]:
    values = []
    for number, line in enumerate(text.split("\n"), 1):
        try:
            values += [int(line)] if line.strip() else []
        except ValueError as error:
            raise InputError(f"lengths {path}, line {number}: {line[:40]!r} is no number of tokens") from error
    return values
