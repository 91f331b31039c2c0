"""A random model, and one engine of each kind for all tests of a session: an engine process takes 15 seconds to start."""

from __future__ import annotations

import os
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).parent))  # random_model.py; importmode=importlib adds no folder

import psutil
import pytest
import pytest_asyncio
from random_model import GENERATION, MAX_MODEL_LEN, make_model

from magistral_core.generation.engine import GeneratorEngine, LocalEngine


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    make_model(folder, seed=0)
    return folder


def shared_memory_of(processes: set[int]) -> set[int]:
    """Inodes that processes map of /dev/shm; not paths, as a semaphore's is that of the file which it was linked from."""
    maps = [line.split() for pid in processes if psutil.pid_exists(pid) for line in Path(f"/proc/{pid}/maps").read_text().splitlines()]
    return {int(fields[4]) for fields in maps if len(fields) > 5 and fields[5].startswith("/dev/shm/")}


@pytest.fixture(scope="session")
def local_engine(model_folder: Path) -> Iterator[LocalEngine]:
    engine = LocalEngine(model_folder, GENERATION, max_model_len=MAX_MODEL_LEN)
    yield engine
    engine.close()


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def generator_engine(model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[GeneratorEngine]:
    sockets = tmp_path_factory.mktemp("s")
    engine = GeneratorEngine(model_folder, GENERATION, max_model_len=MAX_MODEL_LEN, sockets=str(sockets))
    before = {child.pid for child in psutil.Process().children(recursive=True)}
    await engine.start()
    engines = {child.pid for child in psutil.Process().children(recursive=True)} - before
    held = shared_memory_of(engines)  # before a test kills them
    try:
        yield engine
        assert engines
        assert any(path.is_socket() for path in sockets.rglob("*"))
        # Other tests have made semaphores, whose names need not tell whose they are, weight files and rings meanwhile.
        held |= shared_memory_of(engines)
        with os.scandir("/dev/shm") as files:
            left = {file.name for file in files if file.inode() in held or any(f"-{p}-" in file.name for p in engines)}
        assert left == set(), "nothing that a kill would leave in shared memory"
    finally:
        await engine.close()
    assert list(sockets.iterdir()) == [], "vLLM's sockets go with the engine"
