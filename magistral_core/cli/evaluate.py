"""`magistral evaluate SUITE --model M`: measure a model on a suite by the paper's protocol."""

from __future__ import annotations

import argparse
from typing import Any

from magistral_core.cli.common import add_json, add_set, print_json, quiet_engines, results_only, use_stack
from magistral_core.cli.progress import Counter


def add(commands: Any) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser("evaluate", help="measure a model on a suite", description=__doc__)
    parser.add_argument("suite", metavar="SUITE", help="tiny, gsm8k, math500, aime24, aime25 or amc23")
    parser.add_argument("--model", required=True, metavar="M", help="`tiny`, a model folder, a hub name, or a checkpoint's URI")
    parser.add_argument("--data", metavar="PATH", help="file or folder with the suite's problems, in place of its own source")
    parser.add_argument(
        "--recipe",
        metavar="RECIPE",
        help="prompt and engine of this recipe (its protocol, if it names the suite); by default the checkpoint's own",
    )
    add_set(parser)
    add_json(parser)
    parser.set_defaults(command=_evaluate)


def _evaluate(options: argparse.Namespace) -> int:
    use_stack()
    quiet_engines()
    from magistral_core import api

    recipe = api.recipe_for_suite(options.recipe, options.suite, options.overrides) if options.recipe else None
    with results_only():
        report = api.evaluate(
            options.suite, options.model, recipe=recipe, overrides=options.overrides, data=options.data, on_progress=Counter("completions")
        )
    if options.json:
        print_json(report.to_json())
    else:
        print(report.to_markdown())
    return 0
