"""A task that a tiny model learns in seconds: the response is each prompt token's successor, then the end."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from magistral_core.sft import SftExample, train_sft

END, SYMBOLS = 31, 8


def examples(count: int) -> list[SftExample]:
    rng = np.random.default_rng(0)
    prompts = [rng.integers(0, SYMBOLS, rng.integers(1, 6)).astype(np.int32) for _ in range(count)]
    return [SftExample(prompt, np.append((prompt[-1] + 1) % SYMBOLS, END).astype(np.int32)) for prompt in prompts]


if __name__ == "__main__":  # a training that somebody else will kill
    train_sft(Path(sys.argv[1]), examples(64), Path(sys.argv[2]), steps=10_000, batch=8, learning_rate=1e-3, ranks=2)
