"""`magistral prepare RECIPE`: have the recipe's model ready (the tiny base model is trained on first use)."""

from __future__ import annotations

import argparse
from typing import Any

from magistral_core.cli.common import add_json, add_set, print_json, quiet_engines, results_only, use_stack
from magistral_core.cli.progress import EventWriter, RunView
from magistral_core.config import load_recipe


def add(commands: Any) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser("prepare", help="have a recipe's model ready before its first run", description=__doc__)
    parser.add_argument("recipe", metavar="RECIPE", help="name or .yaml file")
    add_set(parser)
    add_json(parser)
    parser.add_argument("--events", metavar="FILE", help="append progress to FILE, one JSON object a line")
    parser.set_defaults(command=_prepare)


def _prepare(options: argparse.Namespace) -> int:
    recipe = load_recipe(options.recipe, options.overrides)
    use_stack()
    quiet_engines()
    from magistral_core import api

    with results_only(), EventWriter(options.events) as events, RunView() as view:

        def on_event(event: dict[str, Any]) -> None:
            events(event)
            view(event)

        api.check_gpus(recipe)
        path = api.model_folder(recipe, on_event)
    if options.json:
        print_json({"model": str(path)})
    else:
        print(path)
    return 0
