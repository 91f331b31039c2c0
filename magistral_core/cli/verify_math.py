"""`magistral verify math PAIRS.jsonl --out OUT.jsonl`: judge answers as a run would, without a run."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from magistral_core.cli.common import note
from magistral_core.cli.progress import Counter
from magistral_core.errors import InputError

#: Pairs that are graded together: enough to keep every worker busy, few enough for the count to move.
_BATCH = 128


def add(kinds: Any) -> None:
    """Add the command to the parser."""
    math = kinds.add_parser(
        "math",
        help="compare math answers",
        description="Judge pairs of a reference answer and a response. Adds `correct`, `status` and `seconds` to each line.",
    )
    math.add_argument("pairs", metavar="PAIRS.jsonl", help="lines with `gold` and `pred`, a whole response with its answer in \\boxed{}")
    math.add_argument("--out", required=True, metavar="OUT.jsonl", help="where to write the lines with their verdicts")
    math.set_defaults(command=_math)


def _math(options: argparse.Namespace) -> int:
    from magistral_core.config.schema import PromptSettings, RewardSettings
    from magistral_core.rewards import Verifier

    pairs, out = Path(options.pairs), Path(options.out)
    rows = list(_rows(pairs))
    if not out.parent.is_dir():
        raise InputError(f"--out {out}: the folder {out.parent} does not exist; make it first")
    if out.is_dir():
        raise InputError(f"--out {out} is a folder; name a file")
    show = Counter("pairs")
    settings = RewardSettings(language=0.0, workers=len(os.sched_getaffinity(0)))
    lines: list[str] = []
    with Verifier(settings, PromptSettings()) as verifier:
        for start in range(0, len(rows), _BATCH):
            batch = rows[start : start + _BATCH]
            verdicts = verifier.grade_responses([(_text(row["gold"]), _text(row["pred"])) for row in batch])
            for row, verdict in zip(batch, verdicts, strict=True):
                found = {"correct": verdict.correct, "status": verdict.status.value, "seconds": round(verdict.seconds, 6)}
                lines.append(json.dumps(row | found))
            show(len(lines), len(rows))
    _write(out, lines)
    note(f"{sum(json.loads(line)['correct'] for line in lines)} of {len(lines)} correct; verdicts in {out}")
    return 0


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    """The lines of a file of pairs. Raises InputError that names the first bad one."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    lines = content.split(b"\n")
    for number, line in enumerate(lines[:-1] if not lines[-1].strip() else lines, 1):
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise InputError(f"{path}:{number}: not a line of JSON ({error}); each line is one object with `gold` and `pred`") from None
        if not isinstance(row, dict):
            raise InputError(f"{path}:{number}: a {type(row).__name__} instead of an object with `gold` and `pred`")
        for field in ("gold", "pred"):
            if field not in row:
                raise InputError(f"{path}:{number}: the field `{field}` is missing; each line needs `gold` and `pred`")
        yield row


def _text(value: Any) -> str:
    """A field as text; what is neither text nor a number says nothing, like an empty one."""
    return value if isinstance(value, str) else str(value) if isinstance(value, int | float) else ""


def _write(out: Path, lines: list[str]) -> None:
    """Write all lines or none. What is no file, such as /dev/stdout, is written as it is, and a link stays one."""
    text = "".join(line + "\n" for line in lines)
    part = None
    try:
        if out.exists() and not out.is_file():
            out.write_text(text, encoding="utf-8")
            return
        out = out.resolve()
        part = out.with_name(out.name + ".part")
        part.write_text(text, encoding="utf-8")
        part.replace(out)
    except OSError as error:
        if part is not None:
            part.unlink(missing_ok=True)
        raise InputError(f"--out {out}: cannot be written ({error})") from None
