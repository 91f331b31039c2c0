"""`magistral evaluate SUITE --model M`: measure a model on a suite by the paper's protocol."""

from __future__ import annotations

import argparse
from typing import Any

from magistral_core.cli.common import add_json, add_parent, add_set, bind_to_parent


def add(commands: Any) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser("evaluate", help="measure a model on a suite", description=__doc__)
    parser.add_argument("suite", metavar="SUITE", help="name of the suite")
    parser.add_argument("--model", required=True, metavar="M", help="`tiny`, a model folder, or a checkpoint's URI")
    parser.add_argument("--data", metavar="PATH", help="problems in place of the suite's own: .jsonl, .parquet, s3://...")
    add_set(parser)
    add_json(parser)
    add_parent(parser)
    parser.set_defaults(command=_evaluate)


def _evaluate(options: argparse.Namespace) -> int:
    bind_to_parent(options.parent)
    raise NotImplementedError
