"""The benchmarks that need engines, once through in small: they end, and what they say is about what they ran."""

from __future__ import annotations

import json
import signal
import statistics
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


def bench(name: str, out: Path, *settings: str) -> dict[str, Any]:
    arguments = [part for setting in settings for part in ("--set", setting)]
    command = [sys.executable, "-m", "magistral_core.cli", "bench", name, "--out", str(out), *arguments]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        try:
            said = process.communicate(timeout=900)[1]
        except BaseException:
            process.send_signal(signal.SIGINT)  # it has a stack of servers to end, which a kill would leave
            with suppress(subprocess.TimeoutExpired):
                process.wait(120)
            process.kill()
            raise
    assert process.returncode == 0, said
    return json.loads(out.read_text())


def test_handover(tmp_path: Path) -> None:
    content = bench("handover", tmp_path / "out.json", "millions=10", "repetitions=2", "sequences=4")
    assert len(content["repetitions"]) == 2
    for item in content["repetitions"]:
        assert 9e6 * 4 < item["bytes"] < 14e6 * 4
        assert item["in_flight"] == 4, "generation stood still before the hand-over"
        assert 0 < item["load_s"] < item["pause_s"] < item["whole_s"]
    assert not list(Path("/dev/shm").glob("handover-copy-*"))


def test_checkpoint(tmp_path: Path) -> None:
    content = bench("checkpoint", tmp_path / "out.json", "repetitions=2", "steps=1", "step_tokens=512")
    [row] = content["table"]
    assert row["MB"] > 100 and row["read back (s)"] > 0
    assert row["upload / plain (%)"] == pytest.approx(content["headline"]["value"])
    assert sum("upload_s" in item for item in content["repetitions"]) == 2


def test_packing(tmp_path: Path) -> None:
    small = ("sequences=12", "longest=64", "repetitions=1", "rows=1024", "chunk=64", "sizes=1M", "completions=32")
    content = bench("packing", tmp_path / "out.json", *small)
    *speeds, memory = content["table"]
    assert sum(row["measured"].startswith("tokens/s") for row in speeds) == 5
    assert sum(row["measured"].startswith("completions/CPU s") for row in speeds) == 1 and all(row["ours"] > 0 for row in speeds)
    assert memory["ratio"] < 1, "chunks need no less memory than all logits"


def test_overhead(tmp_path: Path) -> None:
    content = bench("overhead", tmp_path / "out.json", "starts=2", "repetitions=2", "steps=4", "settle=1", "completions=64")
    sides = [((item["million parameters"], item["side"]), item) for item in content["repetitions"]]
    assert sorted(side for side, _ in sides) == sorted(2 * [(size, side) for size in (0.8, 10.0) for side in ("with", "without")])
    assert all(len(item["turns"]) == 2 and item["start_s"] > 0 for _, item in sides)
    for (size, _), item in sides:  # a step in which it stood still would be six times as long
        seconds = [step["seconds"] for turn in item["turns"] for step in turn["steps"]]
        assert len(seconds) == 2 * (4 if size < 1 else 1)
        assert size > 1 or max(seconds) < 4 * statistics.median(seconds)
    rows = {(row["million parameters"], row["side"]): row for row in content["table"]}
    # The larger model says the same with more work; what the stack's processes do is in the processor time of that side alone.
    assert rows[10.0, "without"]["time a generated token (us)"] > 2 * rows[0.8, "without"]["time a generated token (us)"]
    assert rows[0.8, "with"]["of processors (us)"] > rows[0.8, "without"]["of processors (us)"] > 0


def test_the_script_for_a_gpu_works_on_a_cpu(tmp_path: Path) -> None:
    out = tmp_path / "gpu.json"
    command = [sys.executable, "-m", "benchmarks.gpu.run", "--cpu-smoke", "--out", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr
    content = json.loads(out.read_text())
    assert content["cpu_smoke"] and not content["full"]
    values = {(row["part"], row["measured"]): row["value"] for row in content["table"]}
    assert values["trainer smoke, varlen", "trained"] > 0
    assert values["parity smoke, varlen", "largest difference of log-probabilities"] < 1e-4
    assert values["generator smoke", "weights taken, generation paused"] > 0
