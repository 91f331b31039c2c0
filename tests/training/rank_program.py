"""One trainer rank in a process of its own: runs every case one after the other, because a process takes ten seconds to start.

    rank_program.py RANK WORLD PORT FOLDER

reads models and batch from FOLDER and writes `rank{RANK}of{WORLD}.pt` there. It judges nothing; the tests do.
"""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from training_world import BUDGET, LOSS, SEED, SETTINGS, STEPS, read_batch

from magistral_core.errors import InputError
from magistral_core.processes import die_with_parent
from magistral_core.records import Microbatch
from magistral_core.training.collation import build_row, collate, sequence_row
from magistral_core.training.trainer import Trainer, join_group, leave_group


@contextmanager
def trainer(folder: Path, temperature: float = 1.0, **changes: Any) -> Iterator[Trainer]:
    made = Trainer(folder, SETTINGS.model_copy(update=changes), temperature=temperature)
    yield made
    made.close()
    del made
    gc.collect()  # the mark that tells transformers of ZeRO-3 lives as long as the trainer


def weights(of: Trainer) -> dict[str, torch.Tensor]:
    found = {name: tensor.clone() for name, tensor in of.weights()}
    assert of.layout() == {name: (tensor.dtype, tuple(tensor.shape)) for name, tensor in found.items()}
    return found


def stage_case(folder: Path, stage: int, rows: list[Microbatch]) -> dict[str, Any]:
    """Gradient (twice), some steps, then one more step before and after a restart."""
    saved = folder / f"saved-{stage}-{os.environ['WORLD_SIZE']}"
    with trainer(folder / "tied", zero_stage=stage) as policy:
        result: dict[str, Any] = {"parameters": policy.parameter_count, "initial": weights(policy)}
        result["gradient"] = policy.gradients(rows, LOSS)
        result["gradient_again"] = policy.gradients(rows, LOSS)
        result["reports"] = [policy.step_rl(rows, LOSS, step=step) for step in range(STEPS)]
        result["weights"] = weights(policy)
        policy.save(saved)
        result["next_report"] = policy.step_rl(rows, LOSS, step=STEPS)
        result["next_weights"] = weights(policy)
    with trainer(folder / "tied", zero_stage=stage) as policy:
        policy.load(saved)
        result["loaded_weights"] = weights(policy)
        result["resumed_report"] = policy.step_rl(rows, LOSS, step=STEPS)
        result["resumed_weights"] = weights(policy)
        if stage in (1, 3):
            policy.export(folder / f"export-{stage}-{os.environ['WORLD_SIZE']}")
    return result


def packing_case(folder: Path, attention: str) -> dict[str, Any]:
    """Sequences alone, together in a row, and with each of the others' tokens changed."""
    rng = np.random.default_rng(1)
    lengths = [(3, 20), (5, 17), (1, 1), (4, 9), (2, 31)]
    parts, changed = ([_random_row(rng, p, t) for p, t in lengths] for _ in range(2))
    with trainer(folder / "tied", attention=attention) as policy:
        return {
            "lengths": [t for _, t in lengths],
            "packed": policy.logprobs(build_row(parts)),
            "alone": [policy.logprobs(part) for part in parts],
            "among_others": [
                policy.logprobs(build_row([part if i == j else changed[i] for i in range(len(parts))])) for j, part in enumerate(parts)
            ],
            "changed": policy.logprobs(build_row(changed)),
            "gradient": policy.gradients([build_row(parts)], LOSS),
            "gradient_alone": policy.gradients(parts, LOSS),
            "tokens": [np.split(part.token_ids, [p]) for part, (p, _) in zip(parts, lengths, strict=True)],
        }


def _random_row(rng: np.random.Generator, prompt: int, response: int) -> Microbatch:
    return sequence_row(rng.integers(0, 64, prompt), rng.integers(0, 64, response), weight=0.1, advantage=1.0)


def refusal(folder: Path) -> str:
    try:
        Trainer(folder, SETTINGS)
    except InputError as error:
        return str(error)
    return "accepted"


def single_rank_cases(folder: Path, rows: list[Microbatch]) -> dict[str, Any]:
    result: dict[str, Any] = {"refused": {path.name: refusal(path) for path in sorted((folder / "refused").iterdir())}}
    result["refused"]["missing"] = refusal(folder / "refused" / "missing")
    result["packing"] = {attention: packing_case(folder, attention) for attention in ("varlen", "sdpa")}
    with trainer(folder / "tied", temperature=0.6) as policy:
        result["cool_logprobs"] = [policy.logprobs(row) for row in rows]
        result["cool_gradient"] = policy.gradients(rows, LOSS)
    with trainer(folder / "tied", gradient_checkpointing=True) as policy:
        result["checkpointed_gradient"] = policy.gradients(rows, LOSS)
    with trainer(folder / "tied", dtype="bfloat16", zero_stage=2) as policy:
        result["bfloat16_gradient"] = policy.gradients(rows, LOSS)
        result["bfloat16_report"] = policy.step_rl(rows, LOSS, step=0)
    with trainer(folder / "tied") as policy:
        result["sft_report"] = policy.step_sft(rows, step=0)
        empty = folder / "empty"
        empty.mkdir(exist_ok=True)
        try:
            policy.load(empty)
        except InputError as error:
            result["load_refused"] = str(error)
    return result


def main(rank: int, world: int, port: int, folder: Path) -> None:
    die_with_parent()
    gc.freeze()  # what the imports made need not be looked through at every collection
    join_group(rank, world, "127.0.0.1", port, local_rank=rank)
    rows = collate(read_batch(folder), ranks=world, budget=BUDGET, seed=SEED)[rank]
    result: dict[str, Any] = {"stages": {}, "untied": {}}
    if world == 1:
        result["single"] = single_rank_cases(folder, rows)
    for stage in range(4):
        result["stages"][stage] = stage_case(folder, stage, rows)
    for stage in (0, 3):
        with trainer(folder / "untied", zero_stage=stage) as policy:
            result["untied"][stage] = policy.gradients(rows, LOSS)
    torch.save(result, folder / f"rank{rank}of{world}.pt")
    leave_group()


if __name__ == "__main__":
    main(*map(int, sys.argv[1:4]), Path(sys.argv[4]))
