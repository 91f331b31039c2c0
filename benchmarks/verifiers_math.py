"""Speed of the math and language verifiers, on one core.

Plain answers are decided in the process that trains; hard pairs go through the pool as in production, with one worker pinned to one
core. Rates are per second of CPU time where one process does the work, so that other programs of the machine do not count; the
pool's is per second of wall time.
"""

from __future__ import annotations

import json
import os
import random
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from magistral_core.boxed import extract_boxed
from magistral_core.config.schema import PromptSettings, RewardSettings
from magistral_core.errors import InputError
from magistral_core.rewards import Verifier, answer_part, language
from magistral_core.rewards.math import quick_verdict
from magistral_core.rewards.math.reader import read

ROOT = Path(__file__).resolve().parents[1]
GSM8K = ROOT.parent / "shared/data/gsm8k/test.jsonl"
PAIRS = ROOT / "tests/rewards/data/math_pairs.jsonl"
#: Ways to write a whole number differently.
SPELLINGS: tuple[Callable[[int], str], ...] = (
    lambda n: f"{n:,}", lambda n: f"{n}.0", lambda n: f"\\${n}", lambda n: f"{n} \\text{{ dollars}}", lambda n: f"\\frac{{{2 * n}}}{{2}}",
    lambda n: f"x = {n}", lambda n: f"${n}$", lambda n: f"{n}.", lambda n: f"{n}\\text{{ apples}}", lambda n: f"{n // 10}{n % 10}.00",
)  # fmt: skip
TEXT_CHARS = 20_000
PROSE = (
    "First we need to find out how many apples are left after she has given some of them away to her friend. ",
    "Let $x^2+1$ be \\frac{1}{2}; then \\( y = 3x \\) and it follows that the two lines must meet in exactly one point of the plane. ",
    "Il faut d'abord trouver combien de pommes il reste après en avoir donné quelques-unes à son ami de l'école. ",
    "首先我们需要算出她送给朋友一些苹果以后还剩下多少个苹果。",
)


def measure(full: bool) -> dict[str, Any]:
    """Medians of several repetitions, every repetition, and what was measured. Raises InputError without GSM8K."""
    repetitions = 9 if full else 5
    results: dict[str, list[float]] = {}
    plain = plain_answers()
    kinds = {
        "plain_answers_per_second": plain,
        "plain_answers_not_identical_per_second": [pair for pair in plain if pair[0] != pair[1]],
        "plain_answers_identical_per_second": [pair for pair in plain if pair[0] == pair[1]],
    }
    for _ in range(repetitions):
        for name, pairs in kinds.items():
            results.setdefault(name, []).append(_rate_of_plain(pairs))
        for text in PROSE:
            results.setdefault("language_ms", []).append(_language_ms(text))
    hard = hard_pairs()
    results["hard_pairs_per_second"] = [_rate_of_pool(hard) for _ in range(repetitions)]
    medians = {name: statistics.median(values) for name, values in results.items()}
    return {**medians, "pairs": {"plain": len(plain), "hard": len(hard)}, "repetitions": results}


def plain_answers(seed: int = 0) -> list[tuple[str, str]]:
    """GSM8K's references with answers: half of them wrong, a third written differently."""
    if not GSM8K.is_file():
        raise InputError(f"{GSM8K} is not here; the benchmark takes its plain answers from GSM8K's references")
    draw = random.Random(seed)
    pairs = []
    for line in GSM8K.read_text(encoding="utf-8").splitlines():
        gold = json.loads(line)["answer"].rpartition("####")[2].strip()
        number = int(gold.replace(",", ""))
        number += draw.randint(1, 9) if draw.random() < 1 / 2 else 0
        pairs.append((gold, draw.choice(SPELLINGS)(number) if draw.random() < 1 / 3 else str(number)))
    return pairs


def hard_pairs() -> list[tuple[str, str]]:
    """The labelled pairs that are not plain whole numbers, as references and the answers of their boxes."""
    pairs = []
    for line in PAIRS.read_text(encoding="utf-8").splitlines():
        pair = json.loads(line)
        answer = extract_boxed(answer_part(pair["pred"]), bare=True) or ""
        if answer != pair["gold"] and not (pair["gold"].isdecimal() and answer.isdecimal()):
            pairs.append((pair["gold"], answer))
    return pairs


def _rate_of_plain(pairs: list[tuple[str, str]]) -> float:
    read.cache_clear()
    started = time.process_time()
    undecided = sum(quick_verdict(gold, answer) is None for gold, answer in pairs)
    seconds = time.process_time() - started
    assert undecided == 0, "a plain answer that the training process does not decide"
    return len(pairs) / seconds


def _rate_of_pool(pairs: list[tuple[str, str]]) -> float:
    """Pairs a second through a verifier that has one core for itself and its worker; starting it is not counted."""
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(cores)})
    try:
        read.cache_clear()
        with Verifier(RewardSettings(language=0.0, workers=1), PromptSettings()) as verifier:
            started = time.perf_counter()
            verifier.answers_equal(pairs)
            return len(pairs) / (time.perf_counter() - started)
    finally:
        os.sched_setaffinity(0, cores)


def _language_ms(prose: str) -> float:
    language.load()
    text = (prose * (TEXT_CHARS // len(prose) + 1))[:TEXT_CHARS]
    started = time.process_time()
    found = language.classify(text)
    seconds = time.process_time() - started
    assert found.code, "a text in one language that was not recognised"
    return 1000 * seconds


if __name__ == "__main__":
    print(json.dumps({name: value for name, value in measure(full=False).items() if name != "repetitions"}, indent=2))
