"""Checkpoints on their way to S3: upload against a plain multipart PUT of the same bytes, and what it costs the trainer.

The files are a real trainer's: DeepSpeed's state and the exported model. The plain side puts the same bytes as one object with boto3's own
`upload_file`, in parts of the store's size, as many at once as all of ours together, to the same server (the stack's embedded Swift). Ours
hashes every file, keeps to the order "objects first, manifest last", and commits. Reading everything back before old checkpoints go is
stated apart: a plain PUT has no such thing.

The trainer waits while it writes its files to the local disk and hands the folder over. The upload then runs beside it: how much that slows
its steps is measured with the trainer on the first core, upload and server on the last.
"""

from __future__ import annotations

import os
import shutil
import statistics
import tempfile
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from unittest import mock

from benchmarks.common import Headline, Options, Result, cores, in_child, in_turn, pin, pinned, timed
from benchmarks.random_model import SHAPES, random_sequences, write_random_model

SUMMARY = "checkpoint upload against a plain multipart PUT, and the share of step time it costs"

_SEQUENCE = 512
#: Checkpoints of which the writing is timed.
_SAVES = 5


@dataclass(frozen=True)
class Settings:
    """Models in millions of parameters; uploads that are compared; steps of the trainer, of so many tokens; steps between checkpoints."""

    millions: tuple[int, ...] = (10,)
    repetitions: int = 3
    steps: int = 5
    step_tokens: int = 4096
    every: int = 20


def run(options: Options) -> Result:
    """See the module."""
    settings = options.over(Settings(millions=(10, 50), repetitions=7) if options.full else Settings())
    repetitions: list[dict[str, Any]] = []
    table = []
    with tempfile.TemporaryDirectory(prefix="checkpoint-") as folder, _s3(Path(folder) / "s3") as server:
        for size in settings.millions:
            row, measured = _measure(size, Path(folder) / str(size), server, settings)
            table.append(row)
            repetitions += measured
    worst = min(row["upload / plain (%)"] for row in table)
    blocked = max(row["blocked (% of step time)"] for row in table)
    return Result(
        Headline("upload over plain multipart PUT, worst", worst, "%", higher_is_better=True),
        asdict(settings),
        table,
        repetitions,
        [
            f"With a checkpoint every {settings.every} steps the trainer waits for at most {blocked:.2g}% of its time, MLflow's part apart "
            "(at most 15 s where it is away). 'slowed' is what the upload beside it costs on top.",
        ],
    )


@contextmanager
def _s3(folder: Path) -> Iterator[Any]:
    """The embedded server, with this process's environment pointing at it."""
    from infra.s3 import S3Server

    clean = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    with (
        S3Server(folder, "magistral:admin", "a-secret-for-benchmarks") as server,
        mock.patch.dict(os.environ, {**clean, **server.environment()}, clear=True),
    ):
        yield server


def _measure(size: int, folder: Path, server: Any, settings: Settings) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    from boto3.s3.transfer import TransferConfig

    from magistral_core.storage import CheckpointStore, CheckpointWriter, open_store
    from magistral_core.storage.checkpoints import _THREADS
    from magistral_core.storage.s3 import S3Store

    model = write_random_model(folder / "model", SHAPES[size])
    trainer: dict[str, Any] = {"model": str(model), "size": size, "steps": settings.steps, "tokens": settings.step_tokens}
    with pinned(cores()[:1]):
        alone = in_child("benchmarks.checkpoint:train_and_save", saved=str(folder / "saved"), **trainer)
    store = open_store(f"s3://bucket/{size}")
    assert isinstance(store, S3Store)
    store.check()
    checkpoints = CheckpointStore(store, "run")
    files = sorted(path for path in (folder / "saved").rglob("*") if path.is_file())
    size_bytes = sum(path.stat().st_size for path in files)
    whole_file = folder / "whole"
    with open(whole_file, "wb") as whole:
        for path in files:
            with path.open("rb") as part:
                shutil.copyfileobj(part, whole)
    numbers = iter(range(1, 1_000_000))
    submit_seconds = []

    def ours() -> float:
        step = next(numbers)
        staging = folder / f"step-{step}"
        shutil.copytree(folder / "saved", staging, copy_function=os.link)  # the writer deletes its folder
        with CheckpointWriter(checkpoints) as writer:
            began = timed(lambda: writer.submit(step, staging))
            submit_seconds.append(began)
            return began + timed(writer.wait)

    one_file = store._transfer
    as_many = TransferConfig(
        multipart_threshold=one_file.multipart_threshold,
        multipart_chunksize=one_file.multipart_chunksize,
        max_concurrency=_THREADS * one_file.max_request_concurrency,
        preferred_transfer_client="classic",
    )

    def plain() -> float:
        key = f"plain/{next(numbers)}"
        seconds = timed(lambda: store._client.upload_file(str(whole_file), "bucket", key, Config=as_many))
        store._client.delete_object(Bucket="bucket", Key=key)
        return seconds

    pairs = in_turn(ours, plain, settings.repetitions, warm_ups=1)
    checkpoints.prune(1, read_back=False)
    read_back = timed(lambda: checkpoints.verify(checkpoints.steps()[-1]))
    slowed = _beside(trainer, server, ours, alone)
    span = settings.every * alone["step_s"]
    shares = [b / a for a, b in zip(pairs.a, pairs.b, strict=True)]
    blocked = alone["save_s"] + statistics.median(submit_seconds)
    row = {
        "million parameters": size,
        "MB": round(size_bytes / 1e6),
        "upload (MB/s)": size_bytes / 1e6 / pairs.median_a,
        "plain PUT (MB/s)": size_bytes / 1e6 / pairs.median_b,
        "upload / plain (%)": 100 / pairs.ratio,
        "pair by pair (%)": f"{100 * min(shares):.0f} to {100 * max(shares):.0f}",
        "read back (s)": read_back,
        "step (s)": alone["step_s"],
        "written locally (s)": alone["save_s"],
        "handed over (ms)": 1000 * statistics.median(submit_seconds),
        "blocked (% of step time)": 100 * blocked / span,
        "slowed (% of step time)": 100 * (slowed - 1) * min(pairs.median_a, span) / span,
    }
    measured = [{"size": size, "upload_s": a, "plain_s": b} for a, b in zip(pairs.a, pairs.b, strict=True)]
    return row, [*measured, {"size": size, "alone": alone["seconds"], "saves": alone["saves"], "beside_over_alone": slowed}]


def _beside(trainer: dict[str, Any], server: Any, upload: Any, alone: dict[str, Any]) -> float:
    """A step's time while uploads run, over its time alone."""
    pin(server.pid, cores()[-1:])
    ended = threading.Event()

    def train() -> dict[str, Any]:
        try:
            with pinned(cores()[:1]):
                return in_child("benchmarks.checkpoint:train_and_save", saved=None, **trainer)
        finally:
            ended.set()

    with ThreadPoolExecutor(1) as pool, pinned(cores()[-1:]):
        training = pool.submit(train)
        while not ended.is_set():
            upload()
        return training.result()["step_s"] / alone["step_s"]


def train_and_save(model: str, size: int, steps: int, tokens: int, saved: str | None) -> dict[str, Any]:
    """In a process of its own: some optimiser steps, then what a checkpoint holds of the trainer, if `saved` names a folder."""
    from magistral_core import api
    from magistral_core.pipeline.roles import TrainerRole
    from magistral_core.processes import free_port
    from magistral_core.training.collation import build_row

    recipe = api.load_recipe("tiny", [f"training.token_budget={_SEQUENCE * 2}"])
    role = TrainerRole(recipe, model, None, port=free_port())
    sequences = random_sequences([_SEQUENCE] * (tokens // _SEQUENCE), SHAPES[size])
    rows = [build_row(sequences[start : start + 2]) for start in range(0, len(sequences), 2)]
    seconds = [role.train(rows, step).seconds for step in range(1 + steps)][1:]
    found: dict[str, Any] = {"step_s": statistics.median(seconds), "seconds": seconds}
    if saved is not None:
        found["saves"] = []
        for _ in range(_SAVES):
            shutil.rmtree(saved, ignore_errors=True)
            Path(saved).mkdir()
            found["saves"].append(timed(lambda: role.save(saved)))
        found["save_s"] = statistics.median(found["saves"])
    return found
