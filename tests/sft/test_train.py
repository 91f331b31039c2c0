"""Supervised fine-tuning in real rank processes: it learns, any number of ranks learns the same, and nothing is left behind."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from multiprocessing.process import BaseProcess
from pathlib import Path

import psutil
import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).parent))  # sft_world.py; importmode=importlib adds no folder

import numpy as np
import torch
from safetensors.torch import load_file
from sft_world import END, SYMBOLS, examples
from tokenizers import Tokenizer, models
from transformers import AutoModelForCausalLM, MistralConfig, MistralForCausalLM, PreTrainedTokenizerFast

from magistral_core.errors import InfrastructureError, InputError
from magistral_core.sft import SftExample, train_sft

#: Starting ranks is half a minute of pure computing; on an overloaded machine that becomes minutes.
pytestmark = pytest.mark.timeout(900)
_PATIENCE_S = 240


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    torch.manual_seed(0)
    config = MistralConfig(
        vocab_size=32,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        sliding_window=None,
        tie_word_embeddings=True,
        initializer_range=0.2,
    )
    MistralForCausalLM(config).save_pretrained(folder)
    words = {f"w{i}": i for i in range(32)}
    PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel(words, "w0")), unk_token="w0").save_pretrained(folder)
    return folder


def children(pid: int) -> list[psutil.Process]:
    """Processes that a process spawned with `multiprocessing`, oldest first; so without Python's resource tracker."""
    found = []
    for child in psutil.Process(pid).children():
        with suppress(psutil.NoSuchProcess):
            if "spawn_main" in " ".join(child.cmdline()):
                found.append(child)
    return sorted(found, key=psutil.Process.create_time)


def has_torch(process: psutil.Process) -> bool:
    return any("libtorch" in mapped.path for mapped in process.memory_maps())


def wait_for(condition: object, what: str) -> None:
    assert callable(condition)
    end = time.monotonic() + _PATIENCE_S
    while not condition():
        assert time.monotonic() < end, f"waited {_PATIENCE_S} s for {what}"
        time.sleep(0.02)


def learn(model_folder: Path, out: Path, ranks: int) -> list[tuple[int, dict[str, float]]]:
    seen: list[tuple[int, dict[str, float]]] = []
    train_sft(
        model_folder,
        examples(100),  # fewer than 36 * 32: they are visited again
        out,
        steps=36,
        batch=32,
        learning_rate=1e-2,
        ranks=ranks,
        token_budget=24,
        warmup_steps=2,
        on_progress=lambda step, metrics: seen.append((step, metrics)),
    )
    return seen


def test_learns_and_any_number_of_ranks_learns_the_same(model_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "two").mkdir()
    (tmp_path / "two" / "stale").touch()  # what an earlier training left is replaced
    with ThreadPoolExecutor() as pool:  # at the same time: starting takes far longer than learning
        runs = [pool.submit(learn, model_folder, tmp_path / name, ranks) for name, ranks in (("one", 1), ("two", 2))]
        one, two = (run.result() for run in runs)

    assert [step for step, _ in one] == [step for step, _ in two] == [1, 10, 20, 30, 36]
    losses = [metrics["loss"] for _, metrics in one]
    assert losses[0] > 3  # the uniform distribution has 3.5
    assert losses[-1] < 0.6
    assert [m["grad_norm"] for _, m in two] == pytest.approx([m["grad_norm"] for _, m in one], rel=1e-3)

    first, second = (load_file(tmp_path / name / "model.safetensors") for name in ("one", "two"))
    start = load_file(model_folder / "model.safetensors")
    assert set(first) == set(second) == set(start)
    for name, tensor in first.items():
        assert (second[name] - tensor).abs().max() < 1e-4, name
        assert (tensor - start[name]).abs().max() > 1e-2, name

    model = AutoModelForCausalLM.from_pretrained(tmp_path / "two")
    prompt = torch.arange(SYMBOLS)[:, None]
    successors = model(prompt).logits[:, -1].argmax(-1)
    assert (successors == (torch.arange(SYMBOLS) + 1) % SYMBOLS).float().mean() >= 0.75
    assert (model(torch.cat([prompt, successors[:, None]], 1)).logits[:, -1].argmax(-1) == END).float().mean() >= 0.75
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one", "two"]
    assert not (tmp_path / "two" / "stale").exists()


def test_a_rank_that_cannot_be_started_is_one_as_well(model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    starts: list[BaseProcess] = []
    start = BaseProcess.start

    def only_one(process: BaseProcess) -> None:
        if starts:
            raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        starts.append(process)
        start(process)

    monkeypatch.setattr(BaseProcess, "start", only_one)
    with pytest.raises(InfrastructureError, match="rank 1 of the fine-tuning could not be started .*temporarily unavailable"):
        train_sft(model_folder, examples(8), tmp_path / "out", steps=1000, batch=4, learning_rate=1e-3, ranks=2)
    assert [process.exitcode for process in starts] == [-signal.SIGKILL]


def test_a_rank_that_dies_is_an_infrastructure_error(model_folder: Path, tmp_path: Path) -> None:
    others = children(os.getpid())  # of engines and pools that other tests of the session started
    ranks: list[psutil.Process] = []

    def new() -> list[psutil.Process]:
        return [child for child in children(os.getpid()) if child not in others]

    def kill_one() -> None:
        wait_for(lambda: len(new()) == 2, "two ranks")
        ranks.extend(new())
        wait_for(lambda: all(map(has_torch, ranks)), "torch in both ranks")
        ranks[1].kill()

    with ThreadPoolExecutor() as pool:
        killed = pool.submit(kill_one)
        with pytest.raises(InfrastructureError, match=r"^rank 1 of the fine-tuning ended with exit code -9"):
            train_sft(model_folder, examples(8), tmp_path / "out", steps=1000, batch=4, learning_rate=1e-3, ranks=2)
        killed.result()
    assert not [rank for rank in ranks if rank.is_running()]
    assert new() == []
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("moment", ["as they start", "once they have loaded torch"])
def test_a_killed_parent_leaves_no_ranks(model_folder: Path, tmp_path: Path, moment: str) -> None:
    program = Path(__file__).parent / "sft_world.py"
    environment = {**os.environ, "PYTHONPATH": str(program.parents[2])}
    with (tmp_path / "log").open("wb") as log:
        command = [sys.executable, str(program), str(model_folder), str(tmp_path / "out")]
        parent = subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT)
    ranks: list[psutil.Process] = []
    try:
        wait_for(lambda: parent.poll() is not None or len(children(parent.pid)) == 2, "two ranks")
        ranks = children(parent.pid)
        assert len(ranks) == 2, (tmp_path / "log").read_text()
        if moment != "as they start":
            wait_for(lambda: all(map(has_torch, ranks)), "torch in both ranks")
        parent.kill()
        parent.wait()
        assert psutil.wait_procs(ranks, timeout=_PATIENCE_S)[1] == []
    finally:
        for process in (parent, *ranks):
            if process.poll() is None if isinstance(process, subprocess.Popen) else process.is_running():
                process.kill()
        parent.wait()


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ([], r"^supervised fine-tuning needs at least one example, got none$"),
        ([SftExample(np.array([1], np.int32), np.zeros(0, np.int32))], r"^example 0 .*no response"),
        ([*examples(2), SftExample(np.zeros(0, np.int32), np.array([1], np.int32))], r"^example 2 .*no prompt"),
    ],
)
def test_unusable_examples_are_refused_before_anything_starts(tmp_path: Path, given: list[SftExample], reason: str) -> None:
    with pytest.raises(InputError, match=reason):
        train_sft(tmp_path / "no such model", given, tmp_path / "out", steps=1, batch=1, learning_rate=1e-3)
