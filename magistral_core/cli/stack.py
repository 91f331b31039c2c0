"""`magistral stack up / down / status`: the local Prefect, MLflow and S3."""

from __future__ import annotations

import argparse
from typing import Any

from magistral_core.cli.common import add_json, local_stack, note, print_json, print_table


def add(commands: Any) -> None:
    """Add the group to the parser."""
    group = commands.add_parser("stack", help="start, end or describe the local Prefect, MLflow and S3", description=__doc__)
    actions = group.add_subparsers(title="actions", metavar="ACTION", required=True)
    for name, command, text in (
        ("up", _up, "start what does not run yet, on loopback; data of earlier starts are there again"),
        ("down", _down, "end all of it; data stay"),
        ("status", _status, "addresses, processes, health; exit code 1 unless all is well"),
    ):
        action = actions.add_parser(name, help=text, description=text)
        add_json(action)
        action.set_defaults(command=command)


def _up(options: argparse.Namespace) -> int:
    status = local_stack().up(note)
    _show(status, options.json)
    return 0


def _down(options: argparse.Namespace) -> int:
    names = local_stack().down()
    if options.json:
        print_json({"ended": names})
    else:
        print(f"ended: {', '.join(names)}" if names else "nothing was running")
    return 0


def _status(options: argparse.Namespace) -> int:
    status = local_stack().status()
    _show(status, options.json)
    return 0 if status["up"] else 1


def _show(status: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print_json(status)
        return
    rows = [("service", "state", "address", "pid", "log")]
    for name, service in status["services"].items():
        state = "up" if service["healthy"] else "does not answer" if service["pid"] or service["external"] else "down"
        rows.append((name, state, service["url"] or "-", service["pid"] or "-", service["log"] or f"set by {service['external']}"))
    print_table(rows)
