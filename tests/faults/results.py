"""The table of a whole matrix, `tests/faults/RESULTS.md`."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass, field
from pathlib import Path

ROLES = ("generator", "verifier", "trainer", "coordinator", "s3", "mlflow")
STATES = ("generating", "verifying", "training", "handover", "uploading")
_FILE = Path(__file__).with_name("RESULTS.md")
_HEAD = """# Faults: what each strike cost

Written by `make test-faults` when all {count} cells hold. A process is killed with SIGKILL in the midst of a state; S3 and MLflow
are killed, and started again after {outage:g} s. Real engines (Ray, vLLM, DeepSpeed), a real S3 server and a real MLflow server on
one machine ({cores} cores, {system}). Each run came to its last step; the ledger balanced, no group was trained twice or lost,
MLflow has each step once, and no process, port or file of shared memory was left. Seconds: until the run had recovered (generator:
all healthy again; verifier, trainer, coordinator: a step beyond those it had; S3: a checkpoint was committed; MLflow: one of
a later step, for none waits longer than 15 s for it, and what it has not taken lies in the checkpoint).

| struck in the state | outcome | seconds | lost |
|---|---|---|---|
"""


@dataclass
class Results:
    """Rows by cell."""

    rows: dict[tuple[str, str], tuple[str, float, str]] = field(default_factory=dict)
    outage: float = 0.0

    def write(self) -> None:
        """Write the table, if it is whole."""
        cells = [(role, state) for role in ROLES for state in STATES]
        if set(cells) - self.rows.keys():
            return
        head = _HEAD.format(count=len(cells), outage=self.outage, cores=os.cpu_count(), system=platform.system())
        rows = ["| {}-{} | {} | {:.1f} | {} |\n".format(*cell, *self.rows[cell]) for cell in cells]
        _FILE.write_text(head + "".join(rows), encoding="utf-8")
