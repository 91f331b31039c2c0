"""Models of a given size and completions of given lengths: what speed depends on, without having to train anything first.

A model of Mistral's architecture with random weights samples noise and never ends by itself: its output layer holds the end token down.
Lengths come from a plan instead, so that two systems that are compared generate the same numbers of tokens for the same problems.

A batch is as skewed as told: its longest completion has `skew` times the mean, which is what padding a batch to its longest costs. Skew 1
is all equal; above that the lengths are the quantiles of an exponential distribution, cut at the longest, dealt out at random within each
batch.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.random_model import Shape, random_model
from magistral_core.paths import cache_folder

if TYPE_CHECKING:
    from magistral_core.records import Problem

#: Their vocabulary is the tiny tokenizer's.
SHAPES = {
    "0.1M": Shape(2, 64, 128, 2, vocabulary=1),
    "1M": Shape(4, 128, 400, 4, vocabulary=1),
    "10M": Shape(6, 384, 896, 6, vocabulary=1),
    "50M": Shape(8, 768, 1664, 12, vocabulary=1),
}
#: What the chat template writes of the response: a whole answer, so that the format is valid and the rewards are all at work.
PREFILL = r"<think>?</think>\boxed{7}"
_END_LOGIT = -1000.0


def model_folder(size: str) -> Path:
    """A folder that transformers and vLLM load, made on first use. The problems' tokenizer is that of the tiny world."""
    folder = cache_folder() / "benchmarks" / f"random-{size}"
    if not folder.is_dir():
        folder.parent.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(dir=folder.parent))
        try:
            _write_model(work / "model", size)
            os.replace(work / "model", folder)
        finally:
            shutil.rmtree(work, ignore_errors=True)
    return folder


def _write_model(folder: Path, size: str) -> None:
    import torch

    from magistral_core.tiny.tokenizer import train_tokenizer

    tokenizer = train_tokenizer("quick")
    model = random_model(SHAPES[size], tokenizer)
    with torch.no_grad():
        # The first hidden value is the same positive number for every token and layer; the end token alone reads it.
        model.model.embed_tokens.weight[:, 0] = 1.0
        for layer in model.model.layers:
            layer.self_attn.o_proj.weight[0] = 0.0
            layer.mlp.down_proj.weight[0] = 0.0
        model.lm_head.weight[:, 0] = 0.0
        model.lm_head.weight[tokenizer.eos_token_id, 0] = _END_LOGIT
    tokenizer.chat_template = tokenizer.chat_template.replace(
        "'<|assistant|>' }}", "'<|assistant|>" + PREFILL.replace("\\", "\\\\") + "' }}"
    )
    assert PREFILL in tokenizer.apply_chat_template([{"role": "user", "content": "1"}], tokenize=False, add_generation_prompt=True)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


@dataclass(frozen=True)
class Lengths:
    """How many tokens each completion has.

    Attributes:
        mean: tokens.
        skew: longest over mean, in each batch.
        batch: completions of a batch.
        group_size: completions of a group; groups of a batch have consecutive ids.
        settle: the first so many batches are no longer than `brief` tokens a completion, to warm up on.
    """

    mean: int
    skew: float
    batch: int
    group_size: int
    settle: int = 0
    brief: int = 32

    @property
    def longest(self) -> int:
        """Tokens of the longest completion."""
        return round(self.mean * self.skew)

    def of_batch(self, number: int) -> np.ndarray:
        """int [batch], in order of groups and indices."""
        dealt = np.random.default_rng((3, number)).permutation(_quantiles(self.batch, self.mean, self.longest))
        return np.minimum(dealt, self.brief) if number < self.settle else dealt

    def of(self, group_id: int, index: int) -> int:
        """Tokens of one completion."""
        number, place = divmod(group_id * self.group_size + index, self.batch)
        return int(self.of_batch(number)[place])


@cache  # asked for every completion, and the search takes longer than to train one of a small model
def _quantiles(n: int, mean: int, longest: int) -> np.ndarray:
    """`n` lengths from 1 to `longest`, ascending, whose sum is `n * mean` but for rounding."""
    if longest <= mean or n < 2:
        return np.full(n, mean)
    share = np.linspace(0.0, 1.0, n)

    def lengths(scale: float) -> np.ndarray:
        return np.maximum(1.0, -scale * np.log1p(share * np.expm1(-longest / scale)))

    low, high = longest / 100, 100.0 * longest
    for _ in range(60):
        scale = (low * high) ** 0.5
        low, high = (scale, high) if lengths(scale).mean() < mean else (low, scale)
    return np.rint(lengths(low)).astype(int)


def parity(*, problem: Problem, response: str, thoughts: str, answer: str, length: int) -> float:
    """A user's reward function (`rewards.extra`): the share of even bytes. Cheap, and different for each completion."""
    code = np.frombuffer(response.encode(), dtype=np.uint8)
    return float(np.mean(code % 2 == 0))


def recipe(size: str, lengths: Lengths, **changes: Mapping[str, Any]) -> dict[str, Any]:
    """A recipe, as data, for a random model and planned lengths. `changes` are merged into its sections."""
    n, longest = lengths.batch, lengths.longest
    shape = SHAPES[size]
    prompt = 64
    kv_bytes = 2 * n * (prompt + longest) * shape.layers * shape.hidden * 8
    sections: dict[str, dict[str, Any]] = {
        "model": {"path": str(model_folder(size))},
        "prompt": {"system": None, "max_tokens": prompt},
        "problems": {"path": "tiny", "count": 4096, "shuffle": False},
        "rewards": {"language": 0.0, "workers": 1, "extra": ["benchmarks.synthetic:parity"]},
        "generation": {"max_tokens": longest, "dtype": "float32", "max_num_seqs": 2 * n, "kv_cache_gib": max(0.1, kv_bytes / 2**30)},
        "pipeline": {
            "group_size": lengths.group_size,
            "n_async": 2 * n,
            "n_batch": n,
            "n_minibatch": n,
            "queue": 2 * n,
            # Where lengths are skewed, most of what is open are finished completions whose group still waits for its longest.
            "max_open": 12 * n,
            # Clocks go on while a side stands still.
            "stall_timeout_s": 86_400.0,
            "update_timeout_s": 86_400.0,
        },
        "training": {
            "max_steps": 1_000_000,
            "learning_rate": 1e-7,
            "dtype": "float32",
            "zero_stage": 1,
            "token_budget": max(4096, prompt + longest),
        },
        "checkpoints": {"every": 1_000_000},
    }
    for section, values in changes.items():
        sections.setdefault(section, {}).update(values)
    return {"name": "bench", **sections}
