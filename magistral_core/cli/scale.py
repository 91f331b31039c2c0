"""`magistral scale RUN --generators N`: have generators join or leave a run, while it runs or before it is resumed.

The wish is written beside the run's checkpoints; the run looks there every few seconds.
"""

from __future__ import annotations

import argparse
from typing import Any

from magistral_core.cli.common import add_json, add_storage, open_storage, print_json
from magistral_core.errors import InputError


def add(commands: Any) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser("scale", help="change the number of generators of a run", description=__doc__)
    parser.add_argument("run", metavar="RUN", help="a run's id, or the name of a recipe where only one run has it")
    parser.add_argument("--generators", type=int, required=True, metavar="N", help="how many there shall be")
    add_storage(parser)
    add_json(parser)
    parser.set_defaults(command=_scale)


def _scale(options: argparse.Namespace) -> int:
    if options.generators < 1:
        raise InputError(f"--generators {options.generators}: a run needs at least one")
    from magistral_core.storage import RunIndex

    run = RunIndex(open_storage(options.storage)).open(options.run)
    if run.finished:
        raise InputError(f"run {run.run_id} has finished; nothing of it can be scaled")
    if run.recipe()["pipeline"]["runtime"] != "ray":
        raise InputError(f"run {run.run_id} is one process (pipeline.runtime: local), which has one generator; use pipeline.runtime: ray")
    run.ask_for_generators(options.generators)
    if options.json:
        print_json({"run": run.run_id, "generators": options.generators})
    else:
        print(f"run {run.run_id}: {options.generators} generators wanted; a run that goes on follows within seconds")
    return 0
