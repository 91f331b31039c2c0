"""One trainer rank in a process of its own: runs every case one after the other, because a process takes ten seconds to start.

    rank_program.py RANK WORLD PORT FOLDER [SAVED]

reads models and batch from FOLDER and writes `rank{RANK}of{WORLD}.pt` there. With SAVED it goes on from what so many ranks saved, and
writes `rank{RANK}of{WORLD}from{SAVED}.pt`. It judges nothing; the tests do.
"""

from __future__ import annotations

import gc
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from deepspeed.utils import safe_get_full_optimizer_state
from training_world import BUDGET, LOSS, OFF_POLICY, SEED, SETTINGS, STAGE_CHANGES, STEPS, read_batch

from magistral_core.errors import InfrastructureError, InputError
from magistral_core.processes import die_with_parent
from magistral_core.records import Microbatch
from magistral_core.training.collation import build_row, collate, prompt_row
from magistral_core.training.trainer import Trainer, join_group, leave_group

MOMENTS = ("exp_avg", "exp_avg_sq")


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


def moments(of: Trainer) -> dict[str, torch.Tensor]:
    """Both moments of every parameter, whole. All ranks must call."""
    engine = of._engine
    if of.settings.zero_stage == 0:
        return {f"{name}.{key}": engine.optimizer.state[p][key].clone() for name, p in engine.module.named_parameters() for key in MOMENTS}
    return {
        f"{name}.{key}": safe_get_full_optimizer_state(p, key).clone() for name, p in engine.module.named_parameters() for key in MOMENTS
    }


def stage_case(folder: Path, stage: int, rows: list[Microbatch]) -> dict[str, Any]:
    """Gradient (twice), some steps, then one more step before and after a restart."""
    saved = folder / f"saved-{stage}-{os.environ['WORLD_SIZE']}"
    with trainer(folder / "tied", zero_stage=stage) as policy:
        result: dict[str, Any] = {"parameters": policy.parameter_count, "initial": weights(policy)}
        result["gradient"] = policy.gradients(rows, LOSS)
        result["gradient_again"] = policy.gradients(rows, LOSS)
        result["reports"] = [policy.step_rl(rows, LOSS, step=step) for step in range(STEPS)]
        result["weights"] = weights(policy)
        result["moments"] = moments(policy)
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


def resharded_case(folder: Path, saved: int, before: int, after: int, rows: list[Microbatch]) -> dict[str, Any]:
    """One more step from what other ranks saved, at another ZeRO stage perhaps."""
    copy = folder / f"copy-{before}-{saved}-at-{after}-{os.environ['WORLD_SIZE']}"  # it is changed by reading it
    if dist.get_rank() == 0:
        shutil.copytree(folder / f"saved-{before}-{saved}", copy)
    dist.barrier()
    with trainer(folder / "tied", zero_stage=after) as policy:
        policy.load(copy)
        result: dict[str, Any] = {"weights": weights(policy), "moments": moments(policy)}
        result["report"] = policy.step_rl(rows, LOSS, step=STEPS)
        result["next_weights"] = weights(policy)
        policy.save(copy)  # goes on as any other
    with trainer(folder / "tied", zero_stage=after) as policy:
        policy.load(copy)
        result["loaded_weights"] = weights(policy)
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


def sharing_case(folder: Path) -> dict[str, Any]:
    """Completions with their prompts shared and each alone; and with each of the other completions changed."""
    rng = np.random.default_rng(2)
    lengths = [(5, [20, 1, 17, 31]), (3, [9]), (1, [4, 30])]
    prompts = [rng.integers(0, 64, p) for p, _ in lengths]

    def draw() -> list[list[Microbatch]]:
        return [[_completion(rng, prompt, t) for t in mine] for prompt, (_, mine) in zip(prompts, lengths, strict=True)]

    def shared(groups: list[list[Microbatch]]) -> Microbatch:
        return build_row(
            [
                prompt_row(
                    prompt,
                    [alone.token_ids[len(prompt) :] for alone in group],
                    weights=[alone.weights[-1] for alone in group],
                    advantages=[alone.advantages[-1] for alone in group],
                )
                for group, prompt in zip(groups, prompts, strict=True)
            ]
        )

    def only(g: int, i: int) -> list[list[Microbatch]]:
        return [[part if (g, i) == (h, j) else changed[h][j] for j, part in enumerate(group)] for h, group in enumerate(parts)]

    parts, changed = draw(), draw()
    alone = [part for group in parts for part in group]
    result: dict[str, Any] = {"lengths": [t for _, mine in lengths for t in mine], "tokens": len(shared(parts).token_ids)}
    with trainer(folder / "tied") as policy:
        result["shared"], result["alone"] = policy.logprobs(shared(parts)), [policy.logprobs(part) for part in alone]
        result["changed"] = policy.logprobs(shared(changed))
        result["among_others"] = [policy.logprobs(shared(only(g, i))) for g, group in enumerate(parts) for i in range(len(group))]
        result["gradient"], result["gradient_alone"] = policy.gradients([shared(parts)], LOSS), policy.gradients(alone, LOSS)
    with trainer(folder / "tied", attention="sdpa") as policy:
        try:
            policy.logprobs(shared(parts))
        except ValueError as error:
            result["refused"] = str(error)
    return result


def _completion(rng: np.random.Generator, prompt: np.ndarray, response: int) -> Microbatch:
    return prompt_row(prompt, [rng.integers(0, 64, response)], weights=[0.1], advantages=[rng.normal()])


def _random_row(rng: np.random.Generator, prompt: int, response: int) -> Microbatch:
    return prompt_row(rng.integers(0, 64, prompt), [rng.integers(0, 64, response)], weights=[0.1], advantages=[1.0])


def refusal(folder: Path) -> str:
    try:
        Trainer(folder, SETTINGS)
    except InputError as error:
        return str(error)
    return "accepted"


def not_finite_case(folder: Path, stage: int, rows: list[Microbatch]) -> dict[str, Any]:
    """A step whose gradient is not finite, as an overflow makes it."""
    overflown = [replace(row, weights=row.weights * np.float32(np.inf)) for row in rows]
    with trainer(folder / "tied", zero_stage=stage) as policy:
        before = weights(policy)
        try:
            policy.step_rl(overflown, LOSS, step=6)
        except InfrastructureError as error:
            return {"error": str(error), "before": before, "after": weights(policy)}
    return {"error": ""}


def single_rank_cases(folder: Path, rows: list[Microbatch]) -> dict[str, Any]:
    result: dict[str, Any] = {"refused": {path.name: refusal(path) for path in sorted((folder / "refused").iterdir())}}
    result["refused"]["missing"] = refusal(folder / "refused" / "missing")
    result["packing"] = {attention: packing_case(folder, attention) for attention in ("varlen", "sdpa")}
    result["sharing"] = sharing_case(folder)
    with trainer(folder / "tied", temperature=0.6) as policy:
        result["cool_logprobs"] = [policy.logprobs(row) for row in rows]
        result["cool_gradient"] = policy.gradients(rows, LOSS)
    with trainer(folder / "tied", gradient_checkpointing=True) as policy:
        result["checkpointed_gradient"] = policy.gradients(rows, LOSS)
    with trainer(folder / "tied", dtype="bfloat16", zero_stage=2) as policy:
        result["bfloat16_gradient"] = policy.gradients(rows, LOSS)
        result["bfloat16_report"] = policy.step_rl(rows, LOSS, step=0)
    result["not_finite"] = {stage: not_finite_case(folder, stage, rows) for stage in range(4)}
    with trainer(folder / "tied") as policy:
        result["sft_report"] = policy.step_sft(rows, step=0)
        empty = folder / "empty"
        empty.mkdir(exist_ok=True)
        try:
            policy.load(empty)
        except InputError as error:
            result["load_refused"] = str(error)
    return result


def main(rank: int, world: int, port: int, folder: Path, saved: int | None) -> None:
    die_with_parent()
    gc.freeze()  # what the imports made need not be looked through at every collection
    join_group(rank, world, "127.0.0.1", port, local_rank=rank)
    rows = collate(read_batch(folder), ranks=world, budget=BUDGET, seed=SEED, share_prompts=True)[rank]
    if saved is not None:
        cases = {(before, after): resharded_case(folder, saved, before, after, rows) for before, after in STAGE_CHANGES}
        torch.save(cases, folder / f"rank{rank}of{world}from{saved}.pt")
        leave_group()
        return
    result: dict[str, Any] = {"stages": {}, "untied": {}}
    if world == 1:
        result["single"] = single_rank_cases(folder, rows)
    for stage in range(4):
        result["stages"][stage] = stage_case(folder, stage, rows)
    with trainer(folder / "tied") as policy:
        result["off_policy"] = {name: policy.gradients(rows, loss) for name, loss in OFF_POLICY.items()}
    for stage in (0, 3):
        with trainer(folder / "untied", zero_stage=stage) as policy:
            result["untied"][stage] = policy.gradients(rows, LOSS)
    torch.save(result, folder / f"rank{rank}of{world}.pt")
    leave_group()


if __name__ == "__main__":
    main(*map(int, sys.argv[1:4]), Path(sys.argv[4]), int(sys.argv[5]) if len(sys.argv) > 5 else None)
