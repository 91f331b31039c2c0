"""A trainer's state at another number of ranks: which states can go on how, and DeepSpeed's universal form of them.

    saved and wanted layout              how it is read
    the same, or ZeRO stage 0 in both    as it is, to the bit
    stages 1 and 2, any ranks            universal
    stage 3 in both, any ranks           universal
    else                                 refused: DeepSpeed keeps the optimiser in another form

The universal form holds each parameter, and its two moments, whole in a file of its own; whoever reads it takes its share.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path

from magistral_core.errors import InputError

_FILE = "layout.json"


@dataclass(frozen=True)
class Layout:
    """How a trainer's state is shared out.

    Attributes:
        ranks: trainer ranks.
        zero_stage: 0 to 3.
    """

    ranks: int
    zero_stage: int

    @classmethod
    def read(cls, folder: Path) -> Layout:
        """The layout of the state in a folder. Raises InputError if there is none."""
        try:
            return cls(**json.loads((folder / _FILE).read_text(encoding="utf-8")))
        except FileNotFoundError as error:
            raise InputError(f"{folder}: no trainer state here; choose another checkpoint (magistral checkpoints list)") from error

    def write(self, folder: Path) -> None:
        """Write it beside the state."""
        (folder / _FILE).write_text(json.dumps(asdict(self)), encoding="utf-8")

    def converts_to(self, wanted: Layout) -> bool:
        """Whether the state must be read in universal form. Raises InputError if it cannot go on at all."""
        if self == wanted or self.zero_stage == wanted.zero_stage == 0:
            return False
        if self.zero_stage == wanted.zero_stage or {self.zero_stage, wanted.zero_stage} == {1, 2}:
            return True
        raise InputError(
            f"training.zero_stage: {wanted.zero_stage} cannot go on from a checkpoint of stage {self.zero_stage}; "
            f"set training.zero_stage={self.zero_stage}, or begin anew with --fresh"
        )


def to_universal(state: Path, target: Path) -> None:
    """Convert a DeepSpeed checkpoint of ZeRO stage 1 to 3; `target` appears whole, at the end."""
    from deepspeed.checkpoint.ds_to_universal import main

    partial = target.parent.with_name(target.parent.name + ".tmp")
    for leftover in (partial, target.parent):
        shutil.rmtree(leftover, ignore_errors=True)
    partial.mkdir()
    options = argparse.Namespace(
        input_folder=str(state),
        output_folder=str(partial / target.name),
        num_extract_workers=1,  # in this process: others would each hold a share of the model beside the trainer
        num_merge_workers=1,
        keep_temp_folder=False,
        strict=True,
        inject_missing_state=True,
    )
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        main(options)
    partial.rename(target.parent)
