"""A large file of synthetic problems through `magistral curate math`: throughput, peak memory, and whether planted duplicates are found.

Problems are stories put together from a few hundred phrases and random numbers. Planted among them are exact duplicates in another
presentation (capitals, dollar signs, spaces), near duplicates (one word of a story replaced), and traps: the same story with one number
changed, another problem, that must stay. The command runs in a process of its own; its memory includes that of its verifier workers.
"""

from __future__ import annotations

import json
import random
import resource
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.common import Headline, Options, Result, in_child

SUMMARY = "format filter and near-duplicate step over synthetic problems: throughput, peak memory, planted duplicates found"

_NAMES = [
    "Ana",
    "Boris",
    "Chidi",
    "Dora",
    "Emil",
    "Fatou",
    "Goran",
    "Hana",
    "Ivo",
    "Jun",
    "Kira",
    "Luis",
    "Mara",
    "Nils",
    "Oda",
    "Pavel",
    "Quinn",
    "Rosa",
    "Sami",
    "Tove",
    "Uma",
    "Vera",
    "Wim",
]
_THINGS = [
    "apples",
    "books",
    "coins",
    "desks",
    "eggs",
    "flags",
    "gloves",
    "hats",
    "jars",
    "kites",
    "lamps",
    "maps",
    "nuts",
    "pens",
    "rings",
    "shoes",
    "tents",
    "vases",
    "wheels",
]
_PLACES = [
    "market",
    "harbour",
    "school",
    "station",
    "garden",
    "library",
    "workshop",
    "bakery",
    "museum",
    "forest",
    "village",
    "factory",
    "castle",
    "island",
    "theatre",
]
_KINDS = [
    "red",
    "old",
    "heavy",
    "small",
    "broken",
    "painted",
    "wooden",
    "silver",
    "round",
    "empty",
    "striped",
    "borrowed",
    "polished",
    "narrow",
    "folded",
    "dusty",
]
_DEEDS = [
    "buys",
    "finds",
    "sells",
    "packs",
    "counts",
    "sorts",
    "carries",
    "paints",
    "repairs",
    "borrows",
    "hides",
    "wraps",
    "stacks",
    "collects",
]
_TIMES = (
    "in the morning",
    "after lunch",
    "before the storm",
    "on the first day of the fair",
    "while it rains",
    "late at night",
    "every week",
)


@dataclass(frozen=True)
class Settings:
    """How many problems, and how many of a hundred are exact duplicates, near duplicates and traps."""

    problems: tuple[int, ...] = (50_000,)
    exact: int = 5
    near: int = 5
    traps: int = 5
    repetitions: int = 1
    seed: int = 0


def run(options: Options) -> Result:
    """See the module."""
    settings = options.over(Settings(problems=(100_000, 1_000_000)) if options.full else Settings())
    repetitions = []
    for problems in settings.problems:
        for repetition in range(settings.repetitions):
            seed = settings.seed + repetition
            measured = in_child("benchmarks.dedup:measure", timeout_s=7200.0, problems=problems, seed=seed, settings=asdict(settings))
            repetitions.append(measured)
    table = [_row(measured) for measured in repetitions]
    last = table[-1]
    return Result(
        Headline(f"throughput at {last['problems']:,} problems", last["problems a second"], "problems/s", higher_is_better=True),
        asdict(settings),
        table,
        repetitions,
        [
            f"Peak memory at {last['problems']:,} problems is {last['peak memory (GiB)']:.2f} GiB with workers; the bound is 4 GiB.",
            "Time includes reading the file twice, rules, gold check, duplicates and all outputs, in one process; answers are plain "
            "numbers, whose gold check needs no worker.",
        ],
    )


def _row(measured: dict[str, Any]) -> dict[str, Any]:
    planted, found = measured["planted"], measured["found"]
    return {
        "problems": measured["problems"],
        "seconds": measured["seconds"],
        "problems a second": measured["problems"] / measured["seconds"],
        "peak memory (GiB)": (measured["peak_rss_bytes"] + measured["workers_peak_rss_bytes"]) / 2**30,
        "exact found (%)": 100 * found["exact"] / planted["exact"],
        "near found (%)": 100 * found["near"] / planted["near"],
        "wrongly merged": measured["wrong"],
    }


def measure(problems: int, seed: int, settings: dict[str, Any]) -> dict[str, Any]:
    """Make the file, curate it, and compare what was merged with what was planted."""
    from magistral_core.config import load_curation
    from magistral_core.curation import curate_math

    recipe = load_curation("math", ["gold.workers=1"])
    steps: dict[str, float] = {}
    with tempfile.TemporaryDirectory(prefix="magistral-dedup-") as folder:
        source = Path(folder) / "problems.jsonl"
        planted = Counter(_write(source, problems, seed, settings))
        began = time.perf_counter()

        def on_event(event: dict[str, Any]) -> None:
            steps.setdefault(event["stage"], round(time.perf_counter() - began, 2))

        report = curate_math([str(source)], Path(folder) / "out", recipe, on_event=on_event)
        seconds = time.perf_counter() - began
        found: Counter[str] = Counter()
        with (Path(folder) / "out" / "rejected.jsonl").open(encoding="utf-8") as lines:
            for row in map(json.loads, lines):
                found[row["id"].partition("-")[0]] += 1
    assert report["read"] == problems
    return {
        "problems": problems,
        "seconds": seconds,
        "step_began_s": steps,
        "planted": planted,
        "found": {"exact": found["exact"], "near": found["near"]},
        "wrong": found.total() - found["exact"] - found["near"],
        "reasons": report["reasons"],
        "workers_peak_rss_bytes": resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024,
    }


def _write(path: Path, problems: int, seed: int, settings: dict[str, Any]) -> Iterator[str]:
    """Write the problems; yields the kind of each, which is also the beginning of its id."""
    draw = random.Random(seed)
    recent: list[tuple[str, int]] = []
    with path.open("w", encoding="utf-8") as file:
        for number in range(problems):
            percent = draw.randrange(100)
            kind = "plain"
            text, answer = _story(draw), draw.randrange(2, 100_000)
            if recent and percent < settings["exact"] + settings["near"] + settings["traps"]:
                original, same = recent.pop(draw.randrange(len(recent)))
                if percent < settings["exact"]:
                    kind, text, answer = "exact", _presented(original), same
                elif percent < settings["exact"] + settings["near"]:
                    kind, text, answer = "near", _edited(original, draw), same
                else:
                    kind, text = "trap", _renumbered(original, draw)
            elif len(recent) < 5000:
                recent.append((text, answer))
            file.write(json.dumps({"id": f"{kind}-{number}", "question": text, "answer": str(answer)}) + "\n")
            yield kind


def _story(draw: random.Random) -> str:
    sentences = []
    for _ in range(draw.randrange(3, 6)):
        name, deed, kind, thing, place = (draw.choice(words) for words in (_NAMES, _DEEDS, _KINDS, _THINGS, _PLACES))
        sentences.append(f"{name} {deed} {draw.randrange(2, 900)} {kind} {thing} at the {place} {draw.choice(_TIMES)}.")
    return " ".join(sentences) + f" How many {draw.choice(_THINGS)} are there in the end?"


def _presented(text: str) -> str:
    """The same, as another source might print it."""
    words = [f"${word}$" if word.isdigit() else word for word in text.upper().split()]
    return "  ".join(words).replace(" ARE THERE", " \nARE THERE")


def _edited(text: str, draw: random.Random) -> str:
    """One word replaced that is neither number nor name."""
    words = text.split()
    place = draw.choice([place for place, word in enumerate(words) if word in _KINDS or word in _DEEDS])
    words[place] = draw.choice([word for word in (*_KINDS, *_DEEDS) if word != words[place]])
    return " ".join(words)


def _renumbered(text: str, draw: random.Random) -> str:
    words = text.split()
    place = draw.choice([place for place, word in enumerate(words) if word.isdigit()])
    words[place] = str(int(words[place]) + draw.randrange(1, 50))
    return " ".join(words)
