"""Supervised fine-tuning on one machine: prompts and responses in, a model folder out.

The examples are consumed in the given order (a curriculum, if the caller made one), `batch` to an optimiser step, shared by
`ranks` processes that each hold a DeepSpeed trainer. The loss is the mean negative log-likelihood of the response tokens.
"""

from __future__ import annotations

import multiprocessing as mp
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import numpy as np

from magistral_core.config.schema import Dtype, TrainingSettings
from magistral_core.errors import InfrastructureError, InputError
from magistral_core.processes import THREAD_ENVIRONMENT, die_with_parent, free_port

Progress = Callable[[int, dict[str, float]], None]
_REPORT_EVERY = 10


@dataclass(frozen=True, slots=True)
class SftExample:
    """One trace: int32 [P] prompt tokens and int32 [T] response tokens, the end-of-turn token included."""

    prompt_ids: np.ndarray
    response_ids: np.ndarray


@dataclass(frozen=True, slots=True)
class _Job:
    """What a rank process needs; the examples as flat arrays, which cross to another process a hundred times faster."""

    model_dir: str
    out_dir: str
    tokens: np.ndarray
    lengths: np.ndarray  # int [n, 2]: prompt, response
    steps: int
    batch: int
    seed: int
    ranks: int
    port: int
    parent: int
    settings: TrainingSettings


def train_sft(
    model_dir: Path,
    examples: Sequence[SftExample],
    out_dir: Path,
    *,
    steps: int,
    batch: int,
    learning_rate: float,
    ranks: int = 1,
    seed: int = 0,
    dtype: Dtype = "float32",
    token_budget: int = 4096,
    warmup_steps: int = 50,
    on_progress: Progress | None = None,
) -> None:
    """Fine-tune the model in `model_dir` and write it to `out_dir` (created, or replaced when complete).

    Args:
        model_dir: folder with config, weights and tokenizer.
        examples: at least one; visited again from the first when `steps * batch` exceeds them.
        steps, batch: optimiser steps, examples of each.
        ranks: processes that share each step's examples.
        token_budget: tokens of one packed row; raised to the longest example.
        on_progress: called with the step number and `{"loss", "grad_norm"}` now and then.

    Raises:
        InputError: no examples, or one without prompt or response.
        InfrastructureError: a rank ended before its time.
    """
    if not examples:
        raise InputError("supervised fine-tuning needs at least one example, got none")
    lengths = np.array([(len(e.prompt_ids), len(e.response_ids)) for e in examples], dtype=np.int64)
    if (lengths == 0).any():
        i, part = np.argwhere(lengths == 0)[0]
        raise InputError(f"example {i} (counted from 0) has no {('prompt', 'response')[part]}; leave it out")
    settings = TrainingSettings(
        learning_rate=learning_rate,
        dtype=dtype,
        zero_stage=1,
        token_budget=max(token_budget, int(lengths.sum(1).max())),
        warmup_steps=warmup_steps,
        max_steps=steps,
    )
    tokens = np.concatenate([part for e in examples for part in (e.prompt_ids, e.response_ids)]).astype(np.int32)
    partial = out_dir.with_name(out_dir.name + ".partial")
    job = _Job(str(model_dir), str(partial), tokens, lengths, steps, batch, seed, ranks, free_port(), os.getpid(), settings)
    _run_ranks(job, on_progress)
    shutil.rmtree(out_dir, ignore_errors=True)
    partial.rename(out_dir)


def _run_ranks(job: _Job, on_progress: Progress | None) -> None:
    context = mp.get_context("spawn")
    receive, send = context.Pipe(duplex=False)
    ranks = [context.Process(target=_rank_main, args=(job, rank, send if rank == 0 else None), daemon=True) for rank in range(job.ranks)]
    try:
        for rank, process in enumerate(ranks):
            try:
                process.start()
            except OSError as error:
                raise InfrastructureError(f"rank {rank} of the fine-tuning could not be started ({error})") from error
        send.close()
        pending: dict[Any, int] = {process.sentinel: rank for rank, process in enumerate(ranks)}
        sources: list[Any] = [receive, *pending]
        while pending:
            for source in wait(sources):
                if source is receive:
                    try:
                        step, metrics = receive.recv()
                    except EOFError:
                        sources.remove(receive)
                    else:
                        if on_progress:
                            on_progress(step, metrics)
                    continue
                rank = pending.pop(source)
                sources.remove(source)
                ranks[rank].join()
                if ranks[rank].exitcode != 0:
                    raise InfrastructureError(
                        f"rank {rank} of the fine-tuning ended with exit code {ranks[rank].exitcode}; its own words stand above"
                    )
    finally:
        for process in ranks:
            if process.pid is not None:  # it was started
                process.kill()
                process.join()


def _rank_main(job: _Job, rank: int, report: Connection | None) -> None:
    die_with_parent(parent=job.parent)
    os.environ.update(THREAD_ENVIRONMENT)
    from magistral_core.training.collation import build_row, empty_row, pack, prompt_row, rank_shares
    from magistral_core.training.trainer import Trainer, join_group, leave_group

    join_group(rank, job.ranks, "127.0.0.1", job.port, local_rank=rank)
    trainer = Trainer(job.model_dir, job.settings, seed=job.seed)
    starts = np.concatenate([[0], np.cumsum(job.lengths.sum(1))[:-1]])
    for step in range(job.steps):
        chosen = np.arange(step * job.batch, (step + 1) * job.batch) % len(job.lengths)
        weight = 1.0 / job.lengths[chosen, 1].sum()
        per_rank = []
        for share in rank_shares(job.batch, job.ranks, job.seed, step):
            mine = chosen[share]
            per_rank.append([mine[bin_] for bin_ in pack(job.lengths[mine].sum(1).tolist(), job.settings.token_budget)])
        rows = []
        for indices in per_rank[rank]:
            parts = []
            for i in indices:
                start, middle, end = starts[i] + np.array([0, job.lengths[i, 0], job.lengths[i].sum()])
                parts.append(prompt_row(job.tokens[start:middle], [job.tokens[middle:end]], weights=[weight]))
            rows.append(build_row(parts))
        rows += [empty_row()] * (max(map(len, per_rank)) - len(rows))
        result = trainer.step_sft(rows, step=step)
        if report is not None and ((step + 1) % _REPORT_EVERY == 0 or step in (0, job.steps - 1)):
            # The loss of this rank's share stands for the step's: the shares are drawn at random.
            report.send((step + 1, {"loss": result.loss * job.ranks, "grad_norm": result.grad_norm}))
    trainer.export(Path(job.out_dir))
    trainer.close()
    leave_group()
