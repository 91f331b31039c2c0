"""No engine outlives its owner, and an owner learns of its engine's death."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from random_model import make_requests

from magistral_core.errors import InfrastructureError
from magistral_core.generation.engine import GeneratorEngine

OWNER = """
import asyncio, multiprocessing, sys
sys.path.insert(0, {helpers!r})
from random_model import GENERATION, MAX_MODEL_LEN
from magistral_core.generation.engine import GeneratorEngine

async def main():
    engine = GeneratorEngine({model!r}, GENERATION, max_model_len=MAX_MODEL_LEN)
    await engine.start()
    print(multiprocessing.active_children()[0].pid, flush=True)
    await asyncio.sleep(600)

if __name__ == "__main__":
    asyncio.run(main())
"""


def lives(process: psutil.Process) -> bool:
    """A zombie holds nothing any more; who reaps it is the business of this machine's first process."""
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_engine_dies_with_a_killed_owner(model_folder: Path, tmp_path: Path) -> None:
    script = tmp_path / "owner.py"
    script.write_text(OWNER.format(helpers=str(Path(__file__).parent), model=str(model_folder)))
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    owner = subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True, env=environment)
    try:
        line = owner.stdout.readline()
        assert line.strip().isdigit(), "the engine did not start"
        engine = psutil.Process(int(line))
        family = [engine, *engine.children(recursive=True)]
        assert engine.memory_info().rss > 100 << 20
    finally:
        owner.kill()
        owner.wait()
    deadline = time.monotonic() + 20.0
    while (alive := [process for process in family if lives(process)]) and time.monotonic() < deadline:
        time.sleep(0.05)
    for process in alive:
        process.kill()
    assert not alive


@pytest.mark.asyncio(loop_scope="session")
async def test_owner_learns_of_a_killed_engine(generator_engine: GeneratorEngine) -> None:
    """The last test that uses the session's engine: files run in alphabetical order."""
    running = asyncio.gather(*(generator_engine.generate(request) for request in make_requests(64, 400)))
    await asyncio.sleep(0)  # all have been handed in, and none can have ended
    assert generator_engine.running == 64
    await asyncio.sleep(0.01)
    (process,) = [child for child in multiprocessing.active_children() if child.name.startswith("EngineCore")]
    os.kill(process.pid, signal.SIGKILL)
    with pytest.raises(InfrastructureError, match="died"):
        await asyncio.wait_for(running, timeout=30)
    with pytest.raises(InfrastructureError, match="died"):
        await generator_engine.generate(make_requests(1, 4)[0])
    with pytest.raises(InfrastructureError, match="died"):
        await generator_engine.update_weights("/dev/shm/none", 1, "0")
