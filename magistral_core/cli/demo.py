"""`magistral demo`: the whole system once, with the tiny recipe, through its Prefect deployment."""

from __future__ import annotations

import argparse
import os
import time
from typing import Any

from magistral_core.cli.common import add_json, add_set, local_stack, note, print_json, print_table, use_stack
from magistral_core.cli.run import absolute_paths
from magistral_core.config import load_recipe

_RECIPE = "tiny"
_COMPARED = ("pass_at_1", "pass_at_1_valid", "valid_format", "by_level")


def add(commands: Any) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser("demo", help="start the stack, train the tiny model, show what changed", description=__doc__)
    parser.add_argument("--seed", type=int, metavar="N", help="of problems' order and of sampling")
    parser.add_argument("--fresh", action="store_true", help="begin anew where an unfinished demo exists")
    add_set(parser)
    add_json(parser)
    parser.set_defaults(command=_demo)


def _demo(options: argparse.Namespace) -> int:
    began = time.monotonic()
    recipe = load_recipe(_RECIPE, [*options.overrides, *([] if options.seed is None else [f"seed={options.seed}"])])
    form: dict[str, Any] = {"recipe": _RECIPE, "overrides": [*options.overrides, *absolute_paths(recipe)], "fresh": options.fresh}
    if options.seed is not None:
        form["seed"] = options.seed
    status = local_stack().up(note)
    use_stack()
    from magistral_core.cli.deployed import run_deployed

    run = run_deployed("demo/demo", {"demonstration": form})
    before, after, training = (run.value[name] for name in ("before", "after", "training"))
    result = {
        "seed": recipe.seed,
        "rewards_shuffled": recipe.rewards.shuffle,
        **{name: {"before": before[name], "after": after[name]} for name in before if name in _COMPARED or name.startswith("maj_at_")},
        "wall_seconds": round(time.monotonic() - began, 1),
        "weight_updates": training["weight_updates"],
        "weight_updates_in_flight": training["weight_updates_in_flight"],
        "prefect_run_url": run.url,
        "mlflow_run_url": training["mlflow_url"],
        "checkpoints": training["checkpoints"],
        "ledger": training["ledger"],
    }
    if options.json:
        print_json(result)
    else:
        _show(result, run.value["table"], status)
    return 0


def _show(result: dict[str, Any], table: list[dict[str, Any]], status: dict[str, Any]) -> None:
    print_table([list(table[0]), *(list(row.values()) for row in table)])
    print()
    updates, in_flight = result["weight_updates"], result["weight_updates_in_flight"]
    groups = ", ".join(f"{value} {name}" for name, value in result["ledger"].items() if isinstance(value, int))
    rows = [
        ("weight updates", f"{updates}, {in_flight} of them while sequences were being generated"),
        ("groups of completions", groups),
        ("wall time", f"{result['wall_seconds']:.0f} s"),
        ("the run in Prefect", result["prefect_run_url"]),
        ("its curves in MLflow", result["mlflow_run_url"]),
        *(("checkpoint", uri) for uri in result["checkpoints"]),
        ("S3", status["services"]["s3"]["url"] or os.environ["MAGISTRAL_STORAGE_URI"]),
        ("the stack stays up", "magistral stack down ends it; data stay"),
    ]
    print_table(rows)
