"""How a run shows itself: a progress bar in a terminal, plain lines elsewhere, JSON lines in a file for a program."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from magistral_core.cli.common import note
from magistral_core.errors import InputError

#: Without a terminal, a line at most so often.
_LINE_S = 10.0
#: Without a terminal, a count is a line at most every so many percent.
_LINE_PERCENT = 20
#: The measures that say most, in the order shown.
_SHOWN = {"reward/mean": "reward", "pass/rate": "pass", "pass/valid_format": "format", "length/mean": "tokens"}


class EventWriter:
    """Appends events to a file, each whole at once; does nothing without one."""

    def __init__(self, path: str | None) -> None:
        try:
            self._file = Path(path).open("a", encoding="utf-8") if path else None  # noqa: SIM115  (closed by __exit__)
        except OSError as error:
            raise InputError(f"--events {path}: cannot be written ({error.strerror}); give a file in a folder that exists") from error

    def __call__(self, event: Mapping[str, Any]) -> None:
        if self._file:
            self._file.write(json.dumps(event, default=float) + "\n")
            self._file.flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._file:
            self._file.close()


class Counter:
    """Shows `done of total` on stderr: one line that changes in a terminal, a few lines elsewhere."""

    def __init__(self, noun: str) -> None:
        self._noun = noun
        self._shown = 0

    def __call__(self, done: int, total: int) -> None:
        percent = 100 * done // max(total, 1)
        line = f"{done} of {total} {self._noun} ({percent}%)"
        if sys.stderr.isatty():
            sys.stderr.write(f"\r{line}" + ("\n" if done == total else ""))
        elif percent >= self._shown + _LINE_PERCENT:
            self._shown = percent
            note(line)


class RunView:
    """Shows the events of a run on stderr."""

    def __init__(self) -> None:
        self._bar: Any = None
        self._task: Any = None
        self._last = 0.0
        self._max_steps = 0

    def __call__(self, event: Mapping[str, Any]) -> None:
        """Show one event; kinds that are not known here are for others."""
        handler = getattr(self, f"_on_{event['event']}", None)
        if handler:
            handler(event)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._bar:
            self._bar.stop()

    def _on_restart(self, event: Mapping[str, Any]) -> None:
        note(f"{event['role']} died: {event['cause']}")

    def _on_start(self, event: Mapping[str, Any]) -> None:
        if self._bar:  # the run went back to a checkpoint
            self._bar.stop()
        self._max_steps = event["max_steps"]
        resumed = f", resumed at step {event['resumed_step']}" if event.get("resumed_step") else ""
        note(f"run {event['run_id']}{resumed}; metrics: {event['mlflow_url']}")
        if sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

            columns = (
                TextColumn("step {task.completed:.0f}/{task.total:.0f}"),
                BarColumn(),
                TimeElapsedColumn(),
                TimeRemainingColumn(),
                TextColumn("{task.description}"),
            )
            self._bar = Progress(*columns, console=Console(stderr=True))
            self._task = self._bar.add_task("starting the engines", total=self._max_steps, completed=event.get("resumed_step") or 0)
            self._bar.start()

    def _on_base_model(self, event: Mapping[str, Any]) -> None:
        if event["step"] == event["max_steps"] or time.monotonic() - self._last > _LINE_S:
            self._last = time.monotonic()
            note(f"tiny base model: step {event['step']}/{event['max_steps']}  loss {event['metrics']['loss']:.3f}")

    def _on_stage(self, event: Mapping[str, Any]) -> None:
        for row in event["stages"]:
            if row["state"] == "now":
                note(f"stage {row['stage']} of {len(event['stages'])}: {row['active']} of {row['problems']} problems, until {row['until']}")
            elif row["ended"] == event["step"]:
                note(f"stage {row['stage']} ended after step {row['ended']}: {row['ended_by']}")

    def _on_validation(self, event: Mapping[str, Any]) -> None:
        metrics = event["metrics"]
        figures = {"reward": "reward_mean", "pass": "pass_rate", "tokens": "length_mean"}
        found = {label: metrics[f"validation/{name}"] for label, name in figures.items() if f"validation/{name}" in metrics}
        text = "  ".join(f"{label} {value:.3g}" for label, value in found.items())
        note(f"validation of step {metrics['validation/step']:.0f}: {text or 'nothing could be graded'}")

    def _on_wait(self, event: Mapping[str, Any]) -> None:
        note(f"waiting: {event['message']}")

    def _on_step(self, event: Mapping[str, Any]) -> None:
        metrics = event["metrics"]
        text = "  ".join(f"{label} {metrics[name]:.3g}" for name, label in _SHOWN.items() if name in metrics)
        if self._bar:
            self._bar.update(self._task, completed=event["step"], description=text)
        elif event["step"] == self._max_steps or time.monotonic() - self._last > _LINE_S:
            self._last = time.monotonic()
            note(f"step {event['step']}/{self._max_steps}  {text}")

    def _on_checkpoint(self, event: Mapping[str, Any]) -> None:
        if self._bar is None:
            note(f"checkpoint of step {event['step']}: {event['uri']}")
