"""`magistral run RECIPE`: train, through Prefect or directly; or only check everything and print the plan."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from magistral_core.cli.common import (
    absolute_uri,
    add_json,
    add_set,
    local_stack,
    note,
    print_json,
    print_table,
    quiet_engines,
    results_only,
    use_stack,
)
from magistral_core.cli.progress import EventWriter, RunView
from magistral_core.config import Recipe, load_recipe, recipe_names
from magistral_core.errors import InputError


def add(commands: Any) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser("run", help="train a recipe", description=__doc__)
    parser.add_argument("recipe", metavar="RECIPE", help=f"name ({', '.join(recipe_names())}) or .yaml file")
    add_set(parser)
    parser.add_argument("--direct", action="store_true", help="in this process, without Prefect")
    parser.add_argument("--dry-run", action="store_true", help="read and check everything, print the plan, train nothing")
    parser.add_argument("--stages", action="store_true", help="print the curriculum's stages and how far an unfinished run has come")
    parser.add_argument("--until", choices=("end", "stage"), default="end", help="with --direct: where to end; default: end")
    parser.add_argument("--fresh", action="store_true", help="begin anew where an unfinished run of this recipe exists")
    parser.add_argument("--events", metavar="FILE", help="with --direct: append progress to FILE, one JSON object a line")
    add_json(parser)
    parser.set_defaults(command=_run)


def _run(options: argparse.Namespace) -> int:
    recipe = load_recipe(options.recipe, options.overrides)
    if options.events and not options.direct:
        raise InputError("--events goes with --direct; through Prefect the flow run's own folder has the events")
    if options.dry_run:
        return _plan(recipe, options.json)
    if options.stages:
        return _stages(recipe, options)
    if options.until == "stage" and not options.direct:
        raise InputError("--until stage goes with --direct; through Prefect every stage is a subflow anyhow")
    summary = _direct(recipe, options) if options.direct else _deployed(recipe, options)
    if options.json:
        print_json(summary)
    else:
        _print_summary(summary)
    return 0


def _plan(recipe: Recipe, as_json: bool) -> int:
    use_stack()
    quiet_engines()
    from magistral_core import api

    with results_only():
        plan = api.plan(recipe)
    if as_json:
        print_json(plan.to_json())
    else:
        print(plan.to_text())
    return 0


def _stages(recipe: Recipe, options: argparse.Namespace) -> int:
    use_stack()
    quiet_engines()
    from magistral_core import api

    with results_only():
        rows = api.stages(recipe, fresh=options.fresh)
    if options.json:
        print_json({"stages": rows})
    else:
        print_table([list(rows[0]), *([("" if value is None else value) for value in row.values()] for row in rows)])
    return 0


def _direct(recipe: Recipe, options: argparse.Namespace) -> dict[str, Any]:
    use_stack()
    quiet_engines()
    from magistral_core import api

    with results_only(), EventWriter(options.events) as events, RunView() as view:

        def on_event(event: dict[str, Any]) -> None:
            events(event)
            view(event)

        return api.run(recipe, fresh=options.fresh, until=options.until, on_event=on_event)


def _deployed(recipe: Recipe, options: argparse.Namespace) -> dict[str, Any]:
    local_stack().up(note)
    use_stack()
    from magistral_core.cli.deployed import run_deployed

    form: dict[str, Any] = {"fresh": options.fresh}
    if options.recipe in recipe_names():
        form |= {"recipe": options.recipe, "overrides": [*options.overrides, *absolute_paths(recipe)]}
    else:
        form["settings"] = load_recipe(options.recipe, [*options.overrides, *absolute_paths(recipe)]).model_dump(mode="json")
    result = run_deployed("train/train", {"training": form})
    return {**result.value, "prefect_run_url": result.url}


def absolute_paths(recipe: Recipe) -> list[str]:
    """Overrides that make local paths absolute: a flow run has another working folder than the command."""
    import magistral_core.tiny  # noqa: F401  (its names are no paths)
    from magistral_core.problems.load import registered_sources

    found = {}
    if recipe.rewards.extra:
        found["rewards.extra_folder"] = recipe.rewards.extra_folder
    if recipe.pipeline.weights_folder:
        found["pipeline.weights_folder"] = recipe.pipeline.weights_folder
    paths = {"problems.path": recipe.problems.path, "model.path": recipe.model.path}
    if recipe.validation is not None:
        paths["validation.problems.path"] = recipe.validation.problems.path
    for field, value in paths.items():
        if Path(value).expanduser().exists() and value not in ({"tiny"} if field == "model.path" else registered_sources()):
            found[field] = value
    places = {field: str(Path(value).expanduser().absolute()) for field, value in found.items()}
    for field, uri in (("storage.uri", recipe.storage.uri), ("tracking.uri", recipe.tracking.uri)):
        if absolute_uri(uri) != uri:
            places[field] = absolute_uri(uri)
    # Quoted: an override is read as YAML, in which `#` and `: ` in a folder's name mean something.
    return [f"{field}={json.dumps(place, ensure_ascii=False)}" for field, place in places.items()]


def _print_summary(summary: dict[str, Any]) -> None:
    rows: Sequence[tuple[str, Any]] = [
        ("run", summary["run_id"]),
        ("steps", summary["steps"]),
        *(
            (f"stage {row['stage']}", f"steps {row['begun']} to {row['ended'] or summary['steps']}, {row['ended_by'] or row['state']}")
            for row in summary.get("stages", ())
            if row["begun"] is not None
        ),
        ("pass rate", f"{summary['pass_rate']:.1%} of {summary['graded']:,} graded completions"),
        ("weight updates", f"{summary['weight_updates']}, {summary['weight_updates_in_flight']} with sequences in flight"),
        ("groups", ", ".join(f"{value} {name}" for name, value in summary["ledger"].items() if isinstance(value, int))),
        ("metrics", summary["mlflow_url"]),
        *([("Prefect", summary["prefect_run_url"])] if "prefect_run_url" in summary else []),
        *[("checkpoint", uri) for uri in summary["checkpoints"]],
    ]
    for name, value in rows:
        print(f"{name:<14}  {value}")
