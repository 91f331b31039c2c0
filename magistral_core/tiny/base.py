"""The tiny base model, trained on first use and kept in a cache under the hash of everything that shapes it."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import random
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from magistral_core.config.schema import TinySettings
from magistral_core.errors import InfrastructureError
from magistral_core.paths import cache_folder
from magistral_core.tiny.foreign import foreign_trace
from magistral_core.tiny.model import write_initial_model
from magistral_core.tiny.traces import curriculum
from magistral_core.tiny.version import VERSION

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from magistral_core.sft.train import SftExample

LEARNING_RATE = 2e-3
WARMUP_STEPS = 50
TOKEN_BUDGET = 4096
#: Errors of a cache that cannot be written, or where files cannot be locked.
_UNWRITABLE = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.ENOTDIR, errno.EEXIST, errno.EIO}
_UNWRITABLE |= {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.ESTALE}

Progress = Callable[[int, dict[str, float]], None]


def base_model_path(settings: TinySettings, cache_dir: Path | None = None) -> Path:
    """The folder that holds, or will hold, the base model of these settings."""
    recipe = {"version": VERSION, **settings.model_dump()}
    digest = hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()[:16]
    return (cache_dir or cache_folder()) / "tiny" / f"{settings.world}-{digest}"


def ensure_base_model(settings: TinySettings, cache_dir: Path | None = None, on_progress: Progress | None = None) -> Path:
    """The folder of the base model for these settings; trains it if the cache has none.

    It is built beside its place and renamed when complete, so a build that was killed leaves no half model, and of processes that
    ask at the same time one builds while the others wait. `on_progress` gets the step and `{"loss", "grad_norm"}`. A folder that
    transformers and vLLM load comes back. Raises InfrastructureError where the cache cannot be written.
    """
    return ensure_model(base_model_path(settings, cache_dir), lambda work: _train(settings, work, on_progress))


def ensure_model(path: Path, build: Callable[[Path], Path]) -> Path:
    """A model's folder in the cache. If it is not there, `build` makes it in a folder of its own and returns its place in that.

    See `ensure_base_model` for what else holds.
    """
    if path.is_dir():
        return path
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _lock(path.with_suffix(".lock")):
            if not path.is_dir():
                _build(path, build)
    except OSError as error:
        if error.errno not in _UNWRITABLE:  # of what builds it
            raise
        raise InfrastructureError(
            f"the cache of base models {path.parent} cannot be written ({error.strerror or error}); set MAGISTRAL_CACHE to another folder"
        ) from error
    return path


def sft_examples(settings: TinySettings, tokenizer: PreTrainedTokenizerBase) -> list[SftExample]:
    """The traces of the curriculum as token arrays, in the order of training."""
    from magistral_core.sft.train import SftExample

    rng = random.Random(f"foreign/{settings.seed}")
    pairs = []
    for trace in curriculum(settings.world, settings.sft_steps, settings.sft_batch, settings.seed):
        stranger = foreign_trace(rng) if rng.random() < settings.foreign else None
        pairs.append((stranger.question, stranger.response) if stranger else (trace.exercise.question, trace.response))
    prompts = [
        tokenizer.apply_chat_template([{"role": "user", "content": question}], tokenize=False, add_generation_prompt=True)
        for question, _ in pairs
    ]
    prompt_ids = tokenizer(prompts, add_special_tokens=False)["input_ids"]
    response_ids = tokenizer([response for _, response in pairs], add_special_tokens=False)["input_ids"]
    return [
        SftExample(np.array(prompt, dtype=np.int32), np.array([*response, tokenizer.eos_token_id], dtype=np.int32))
        for prompt, response in zip(prompt_ids, response_ids, strict=True)
    ]


def _build(path: Path, build: Callable[[Path], Path]) -> None:
    for leftover in path.parent.glob(f".{path.name}-*"):  # of a build that was killed; the lock says that none is running
        shutil.rmtree(leftover)
    work = Path(tempfile.mkdtemp(prefix=f".{path.name}-", dir=path.parent))
    try:
        build(work).rename(path)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _train(settings: TinySettings, work: Path, on_progress: Progress | None) -> Path:
    import torch
    from transformers import AutoTokenizer

    from magistral_core.sft.train import train_sft

    write_initial_model(work / "initial", settings)
    train_sft(
        work / "initial",
        sft_examples(settings, AutoTokenizer.from_pretrained(work / "initial")),
        work / "trained",
        steps=settings.sft_steps,
        batch=settings.sft_batch,
        learning_rate=LEARNING_RATE,
        ranks=min(settings.sft_ranks, torch.cuda.device_count() or settings.sft_ranks),
        seed=settings.seed,
        dtype="float32",
        token_budget=TOKEN_BUDGET,
        warmup_steps=WARMUP_STEPS,
        on_progress=on_progress,
    )
    return work / "trained"


@contextmanager
def _lock(path: Path) -> Iterator[None]:
    """Hold an exclusive lock on a file; the system gives it back when the process ends, however it ends."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
