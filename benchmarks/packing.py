"""Packed against padded training, shared against repeated prompts, and the memory of log-probabilities in chunks against plain ones.

Speed: one trainer makes the same optimiser step from the same sequences, once packed by the product's collation, once as padded batches:
in arrival order, as many sequences as fit when each is as long as the longest of them. Padding is computed like any token and carries no
weight, which is what a padded batch costs. Counted are real tokens a second.

Sharing: one trainer makes the same optimiser step from the same groups, once with each group's prompt once in a microbatch, once with it in
every sequence. Counted are completions a second of processor time.

Memory: a process of its own for each side takes log-probabilities and their gradient from hidden states, an output layer and targets. Plain
is `log_softmax` over all logits; its peak is stated over what the process held before.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.collation import DISTRIBUTIONS
from benchmarks.common import Headline, Options, Pairs, Result, cores, in_child, in_turn, pinned
from benchmarks.random_model import SHAPES, random_batch, random_sequences, write_random_model

if TYPE_CHECKING:
    from magistral_core.records import Microbatch

SUMMARY = "trainer tokens/s packed against padded; prompts shared against repeated; memory of chunked log-probabilities against plain"

_MIB = 2**20


@dataclass(frozen=True)
class Settings:
    """Speed: millions of parameters, sequences of a step, tokens of the longest, token budget in longest sequences. Sharing: models
    (`benchmarks.synthetic`), groups of a step, their completions, tokens of a prompt and of each completion. Memory: rows of logits, size
    of a hidden state, vocabularies, chunk.
    """

    millions: int = 10
    sequences: int = 24
    longest: int = 256
    budget: int = 4
    repetitions: int = 3
    sizes: tuple[str, ...] = ("1M", "10M")
    groups: int = 4
    group_size: int = 8
    prompt: int = 60
    completions: tuple[int, ...] = (32, 256)
    rows: int = 2048
    hidden: int = 512
    vocabularies: tuple[int, ...] = (32_768,)
    chunk: int = 256


def run(options: Options) -> Result:
    """See the module."""
    full = Settings(sequences=32, longest=512, repetitions=5, rows=4096, vocabularies=(32_768, 131_072))
    settings = options.over(full if options.full else Settings())
    with tempfile.TemporaryDirectory(prefix="packing-") as folder, pinned(cores()[:1]):
        model = write_random_model(Path(folder) / "model", SHAPES[settings.millions])
        speeds = in_child("benchmarks.packing:speeds", model=str(model), settings=asdict(settings))["distributions"]
        shared = [
            in_child("benchmarks.packing:sharing", size=size, tokens=tokens, settings=asdict(settings))
            for size in settings.sizes
            for tokens in settings.completions
        ]
        memory = [_memory(vocabulary, settings) for vocabulary in settings.vocabularies]
    table: list[dict[str, Any]] = []
    repetitions: list[dict[str, Any]] = []
    for item in speeds:
        pairs = Pairs(tuple(item["packed"]), tuple(item["padded"]))
        table.append(
            {
                "measured": f"tokens/s, lengths {item['lengths']}",
                "ours": pairs.median_a,
                "plain": pairs.median_b,
                "ratio": pairs.ratio,
                "note": f"packed {item['packed_rows']} rows, padded {item['padded_rows']}; {100 * item['padding']:.0f}% padding",
            }
        )
        repetitions.append(item)
    for item in shared:
        pairs = Pairs(tuple(item["shared"]), tuple(item["repeated"]))
        table.append(
            {
                "measured": f"completions/CPU s, {item['size']} parameters, {item['tokens']} tokens",
                "ours": pairs.median_a,
                "plain": pairs.median_b,
                "ratio": pairs.ratio,
                "note": f"groups of {settings.group_size}, prompts of {settings.prompt} tokens; {item['shared_tokens']:,} tokens shared, "
                f"{item['repeated_tokens']:,} repeated",
            }
        )
        repetitions.append(item)
    for vocabulary, sides in zip(settings.vocabularies, memory, strict=True):
        chunked, plain = ([side["peak_mib"] for side in sides[name]] for name in ("chunked", "plain"))
        slower = statistics.median(c["seconds"] / p["seconds"] for c, p in zip(sides["chunked"], sides["plain"], strict=True))
        table.append(
            {
                "measured": f"MiB of log-probabilities, vocabulary {vocabulary:,}",
                "ours": statistics.median(chunked),
                "plain": statistics.median(plain),
                "ratio": statistics.median(c / p for c, p in zip(chunked, plain, strict=True)),
                "note": f"{settings.rows:,} tokens, chunks of {settings.chunk}; {slower:.2f} times the time",
            }
        )
        repetitions.append({"vocabulary": vocabulary, **sides})
    worst = min(row["ratio"] for row in table[: len(speeds)])
    return Result(
        Headline("trainer tokens/s packed over padded, worst distribution", worst, "times", higher_is_better=True),
        asdict(settings),
        table,
        repetitions,
    )


def _memory(vocabulary: int, settings: Settings) -> dict[str, list[dict[str, float]]]:
    sides: dict[str, list[dict[str, float]]] = {"chunked": [], "plain": []}

    def side(name: str) -> float:
        found = in_child(
            "benchmarks.packing:logprobs",
            chunk=settings.chunk if name == "chunked" else 0,
            rows=settings.rows,
            hidden=settings.hidden,
            vocabulary=vocabulary,
        )
        peak = (found["peak_rss_bytes"] - found["inputs_rss_bytes"]) / _MIB
        sides[name].append({"peak_mib": peak, "seconds": found["seconds"]})
        return peak

    in_turn(lambda: side("chunked"), lambda: side("plain"), settings.repetitions)
    return sides


def speeds(model: str, settings: dict[str, Any]) -> dict[str, Any]:
    """In a process of its own: real tokens a second, packed and padded, of each distribution of lengths."""
    from magistral_core.config.schema import LossSettings, TrainingSettings
    from magistral_core.processes import free_port
    from magistral_core.training.collation import build_row, pack
    from magistral_core.training.trainer import Trainer, join_group

    budget = settings["budget"] * settings["longest"]
    join_group(0, 1, "127.0.0.1", free_port())
    trainer = Trainer(model, TrainingSettings(dtype="float32", token_budget=budget, zero_stage=1))
    found = []
    for name, draw in DISTRIBUTIONS.items():
        lengths = draw(np.random.default_rng(0), settings["sequences"], settings["longest"]).clip(min=2)
        sequences = random_sequences(lengths.tolist(), SHAPES[settings["millions"]])
        packed = [build_row([sequences[i] for i in bin_]) for bin_ in pack(lengths.tolist(), budget)]
        padded = [build_row([_pad(sequence, width) for sequence in batch]) for batch, width in _padded_batches(sequences, budget)]
        tokens = int(lengths.sum())

        def speed(rows: Sequence[Microbatch], tokens: int = tokens) -> float:
            return tokens / trainer.step_rl(rows, LossSettings(), step=0).seconds

        pairs = in_turn(partial(speed, packed), partial(speed, padded), settings["repetitions"], warm_ups=1)
        found.append(
            {
                "lengths": name,
                "packed": pairs.a,
                "padded": pairs.b,
                "packed_rows": len(packed),
                "padded_rows": len(padded),
                "padding": 1 - tokens / sum(len(row.token_ids) for row in padded),
            }
        )
    return {"distributions": found}


def sharing(size: str, tokens: int, settings: dict[str, Any]) -> dict[str, Any]:
    """In a process of its own: completions a second of processor time, each prompt once in a microbatch and in each sequence."""
    from benchmarks import synthetic
    from magistral_core.config.schema import LossSettings, TrainingSettings
    from magistral_core.processes import free_port
    from magistral_core.training.collation import collate
    from magistral_core.training.trainer import Trainer, join_group

    join_group(0, 1, "127.0.0.1", free_port())
    budget = max(4096, settings["prompt"] + tokens)
    trainer = Trainer(synthetic.model_folder(size), TrainingSettings(dtype="float32", token_budget=budget, zero_stage=1))
    shape = replace(synthetic.SHAPES[size], vocabulary=trainer.layout()["lm_head.weight"][1][0])
    batch = random_batch(settings["groups"], settings["group_size"], settings["prompt"], tokens, shape)
    rows = {share: collate(batch, ranks=1, budget=budget, seed=0, share_prompts=share)[0] for share in (True, False)}

    def speed(share: bool) -> float:
        began = time.process_time()
        trainer.step_rl(rows[share], LossSettings(), step=0)
        return len(batch.weights) / (time.process_time() - began)

    pairs = in_turn(lambda: speed(True), lambda: speed(False), settings["repetitions"], warm_ups=1)
    shared, repeated = (sum(len(row.token_ids) for row in rows[share]) for share in (True, False))
    return {
        "size": size,
        "tokens": tokens,
        "shared": pairs.a,
        "repeated": pairs.b,
        "shared_tokens": shared,
        "repeated_tokens": repeated,
    }


def _padded_batches(sequences: Sequence[Microbatch], budget: int) -> list[tuple[list[Microbatch], int]]:
    """In arrival order, as many sequences as the budget holds at the length of the longest; with that length."""
    batches: list[tuple[list[Microbatch], int]] = []
    for sequence in sequences:
        length = len(sequence.token_ids)
        if batches:
            batch, width = batches[-1]
            wider = max(width, length)
            if wider * (len(batch) + 1) <= budget:
                batches[-1] = ([*batch, sequence], wider)
                continue
        batches.append(([sequence], length))
    return batches


def _pad(sequence: Microbatch, width: int) -> Microbatch:
    """The sequence with tokens that carry no weight up to a length."""
    from magistral_core.records import Microbatch

    missing = width - len(sequence.token_ids)
    values = {name: np.pad(getattr(sequence, name), (0, missing)) for name in Microbatch.__slots__ if name not in {"seq_lens", "prefixes"}}
    values["position_ids"] = np.arange(width, dtype=np.int32)
    return Microbatch(seq_lens=np.array([width], dtype=np.int32), prefixes=sequence.prefixes, **values)


def logprobs(rows: int, hidden: int, vocabulary: int, chunk: int) -> dict[str, Any]:
    """In a process of its own: log-probabilities and their gradient, in chunks or, with chunk 0, plain."""
    import time

    import psutil
    import torch

    from magistral_core.training.logprobs import chunked_logprobs

    generator = torch.Generator().manual_seed(0)
    states = torch.randn(rows, hidden, generator=generator).requires_grad_()
    weight = (torch.randn(vocabulary, hidden, generator=generator) / hidden**0.5).requires_grad_()
    targets = torch.randint(vocabulary, (rows,), generator=generator)
    held = psutil.Process().memory_info().rss
    began = time.perf_counter()
    if chunk:
        values, _ = chunked_logprobs(states, weight, targets, chunk=chunk)
    else:
        log_p = torch.log_softmax((states @ weight.T).float(), dim=-1)
        values = log_p.gather(-1, targets[:, None]).squeeze(-1)
        with torch.no_grad():
            -(log_p.exp() * log_p).sum(-1)  # the entropy, which the other side gives as well
    values.mean().backward()
    return {"seconds": time.perf_counter() - began, "inputs_rss_bytes": held, "sum": float(values.detach().sum())}
