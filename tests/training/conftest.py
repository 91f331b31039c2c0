"""Models, one batch and the trainer ranks that work on them: three processes for all tests of the trainer."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).parent))  # training_world.py; importmode=importlib adds no folder

import pytest
import torch
from training_world import Reference, load_double, make_batch, make_model, make_reference, make_unsupported, write_batch
from transformers import BloomConfig, FalconConfig, Gemma2Config, PhiConfig

from magistral_core.processes import THREAD_ENVIRONMENT, free_port
from magistral_core.records import Batch

WORLDS = (1, 2)
_TIMEOUT_S = 800
_SMALL = {"vocab_size": 64, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}


@dataclass(frozen=True)
class World:
    """The folder that the ranks read, and what they must reproduce."""

    folder: Path
    batch: Batch
    results: Callable[[int], list[dict[str, Any]]]  # by number of ranks: what each rank wrote
    resharded: Callable[[int, int], list[dict[tuple[int, int], Any]]]  # by ranks that saved and ranks that go on, by STAGE_CHANGES


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("training")
    make_model(folder / "tied")
    make_model(folder / "untied", tied=False)
    make_unsupported(folder / "refused" / "softcapped", Gemma2Config(**_SMALL, num_key_value_heads=1, head_dim=8))
    make_unsupported(folder / "refused" / "biased", PhiConfig(**_SMALL))
    make_unsupported(folder / "refused" / "own attention", BloomConfig(vocab_size=64, hidden_size=16, n_layer=1, n_head=2))
    make_unsupported(folder / "refused" / "own table", FalconConfig(**_SMALL, alibi=True))
    batch = make_batch(load_double(folder / "tied"))
    write_batch(folder, batch)
    processes: dict[Any, list[subprocess.Popen[bytes]]] = {count: _start(folder, count) for count in WORLDS}
    finished: dict[int, list[dict[str, Any]]] = {}

    def results(count: int) -> list[dict[str, Any]]:
        if count not in finished:
            finished[count] = [_result(process, folder, rank, count) for rank, process in enumerate(processes[count])]
        return finished[count]

    later: dict[tuple[int, int], list[dict[tuple[int, int], Any]]] = {}

    def resharded(saved: int, count: int) -> list[dict[tuple[int, int], Any]]:
        if (saved, count) not in later:
            results(saved)
            started = processes[saved, count] = _start(folder, count, saved)
            later[saved, count] = [_result(process, folder, rank, count, saved) for rank, process in enumerate(started)]
        return later[saved, count]

    yield World(folder, batch, results, resharded)
    for process in (process for ranks in processes.values() for process in ranks):
        process.kill()
        process.wait()


@pytest.fixture(scope="session")
def reference(world: World) -> Reference:
    return make_reference(world.folder / "tied", world.batch)


def _name(rank: int, world: int, saved: int | None) -> str:
    return f"rank{rank}of{world}" + (f"from{saved}" if saved else "")


def _start(folder: Path, world: int, saved: int | None = None) -> list[subprocess.Popen[bytes]]:
    program, port = Path(__file__).parent / "rank_program.py", free_port()
    started = []
    for rank in range(world):
        with (folder / f"{_name(rank, world, saved)}.log").open("wb") as log:
            command = [sys.executable, str(program), str(rank), str(world), str(port), str(folder), *([str(saved)] if saved else [])]
            paths = os.pathsep.join([str(program.parent), str(program.parents[2])])
            environment = {**os.environ, **THREAD_ENVIRONMENT, "HF_HUB_OFFLINE": "1", "PYTHONPATH": paths}
            started.append(subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=environment))
    return started


def _result(process: subprocess.Popen[bytes], folder: Path, rank: int, world: int, saved: int | None = None) -> Any:
    code, name = process.wait(timeout=_TIMEOUT_S), _name(rank, world, saved)
    log = (folder / f"{name}.log").read_text(errors="replace")
    assert code == 0, f"rank {rank} of {world} ended with {code}:\n{log[-4000:]}"
    return torch.load(folder / f"{name}.pt", weights_only=False)
