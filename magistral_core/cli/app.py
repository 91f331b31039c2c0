"""Parse the command line, run the command, and turn every failure into one line and an exit code.

0  done      1  the work failed      2  bad input      3  a service or process broke      130  interrupted
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import traceback
from collections.abc import Sequence
from types import FrameType
from typing import NoReturn

from magistral_core import __version__
from magistral_core.cli import bench, checkpoints, curate, demo, doctor, evaluate, prepare, run, sandbox, scale, stack, verify
from magistral_core.cli.common import bind_to_parent
from magistral_core.errors import MagistralError
from magistral_core.storage.objects import PLACES, disk_full, is_full

_GROUPS = (doctor, stack, demo, run, evaluate, verify, sandbox, curate, checkpoints, scale, bench, prepare)
_INTERRUPTED = 130
_TERMINATED = 143
#: What BrokenPipeError means to a shell: the reader (`| head`) has seen enough.
_PIPE_CLOSED = 141


class _Parser(argparse.ArgumentParser):
    """Errors as one line with exit code 2, without the usage text."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"magistral: {message} (see {self.prog} --help)\n")


def build_parser() -> argparse.ArgumentParser:
    """The parser of all commands."""
    parser = _Parser(prog="magistral", description="Reinforcement learning on verifiable problems.")
    parser.add_argument("--version", action="version", version=f"magistral {__version__}")
    parser.add_argument("--parent", type=int, metavar="PID", help=argparse.SUPPRESS)  # end when that process does
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for group in _GROUPS:
        group.add(commands)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code."""
    options = build_parser().parse_args(arguments)
    signal.signal(signal.SIGTERM, _terminate)
    try:
        if options.parent is not None:
            bind_to_parent(options.parent)
        code = int(options.command(options) or 0)
        sys.stdout.flush()
        return code
    except MagistralError as error:
        return _fail(error, str(error), error.exit_code)
    except KeyboardInterrupt as error:
        return _fail(error, "interrupted", _INTERRUPTED)
    except BrokenPipeError:
        _say_no_more()
        return _PIPE_CLOSED
    except Exception as error:  # noqa: BLE001  (the last line of defence: nobody wants a traceback)
        if is_full(error):  # met where nothing is written but a line, or a folder made
            try:
                sys.stdout.flush()
            except OSError:  # it is what standard output is written to
                _say_no_more()
            full = disk_full(getattr(error, "filename", None) or "this machine", None, "what was being written", f"{PLACES}, TMPDIR")
            return _fail(error, str(full), full.exit_code)
        return _fail(error, f"unexpected {type(error).__name__}: {error}; MAGISTRAL_DEBUG=1 shows where", MagistralError.exit_code)


def _say_no_more() -> None:
    """What standard output still holds would fail again at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _fail(error: BaseException, message: str, code: int) -> int:
    if os.environ.get("MAGISTRAL_DEBUG") == "1":
        traceback.print_exception(error)
    print("magistral:", " ".join(message.split()), file=sys.stderr)
    return code


def _terminate(_signum: int, _frame: FrameType | None) -> None:
    """SIGTERM unwinds the stack as Ctrl-C does, so that engines and servers are closed."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise SystemExit(_TERMINATED)
