"""`magistral checkpoints list / show / pull / verify / prune`: what is in storage.

RUN is a run's id, the name of a recipe where only one run has it, or a checkpoint's whole URI.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from magistral_core.cli.common import add_json, add_storage, open_storage, print_json, print_table, use_stack
from magistral_core.errors import InputError

if TYPE_CHECKING:
    from magistral_core.storage import CheckpointStore, Manifest


def add(commands: Any) -> None:
    """Add the group to the parser."""
    group = commands.add_parser("checkpoints", help="list, show, pull, verify or prune checkpoints", description=__doc__)
    actions = group.add_subparsers(title="actions", metavar="ACTION", required=True)

    def action(name: str, command: Any, text: str, run: str | None = None, step: bool = False) -> argparse.ArgumentParser:
        parser: argparse.ArgumentParser = actions.add_parser(name, help=text, description=text)
        parser.add_argument("run", metavar="RUN", nargs=run)
        if step:
            parser.add_argument("--step", type=int, metavar="N", help="which one; the newest without this")
        add_storage(parser)
        add_json(parser)
        parser.set_defaults(command=command)
        return parser

    action("list", _list, "runs and their checkpoints", run="?")
    action("show", _show, "files, sizes and figures of one checkpoint", step=True)
    pull = action("pull", _pull, "fetch one checkpoint, every file verified", step=True)
    pull.add_argument(
        "--format", choices=("hf", "all"), default="all", help="hf: only the model, as transformers and vLLM load it; all: everything"
    )
    pull.add_argument("--out", type=Path, metavar="DIR", help="a folder that does not exist yet, or is empty; without it RUN-step-N")
    action("verify", _verify, "read a checkpoint back and compare every file with its manifest", step=True)
    prune = action("prune", _prune, "delete old checkpoints of a run, once the newest was verified")
    prune.add_argument("--keep", type=int, required=True, metavar="N", help="how many of the newest stay")


def _list(options: argparse.Namespace) -> int:
    from magistral_core.storage import RunIndex

    index = RunIndex(open_storage(options.storage, write=False))
    runs = [index.open(options.run)] if options.run else index.list()
    found = [(run, run.checkpoints().manifests()) for run in runs]
    if options.json:
        rows = [
            {"run": run.run_id, "finished": run.finished, "checkpoints": [_brief(manifest) for manifest in manifests]}
            for run, manifests in found
        ]
        print_json({"runs": rows})
        return 0
    lines = [
        (run.run_id, manifest.step, f"{manifest.size / 1e6:.1f} MB", manifest.created, manifest.uri)
        for run, manifests in found
        for manifest in manifests
    ]
    if lines:
        print_table([("run", "step", "size", "created", "uri"), *lines])
    else:
        print(f"no checkpoints in {index.store.uri}")
    return 0


def _show(options: argparse.Namespace) -> int:
    _, manifest = _find(options)
    if options.json:
        files = [{"path": file.path, "size": file.size, "sha256": file.sha256} for file in manifest.files]
        print_json({**_brief(manifest), "files": files, "metadata": dict(manifest.metadata)})
        return 0
    print(f"{manifest.uri}\nrun {manifest.run_id}, step {manifest.step}, {manifest.size / 1e6:.1f} MB, created {manifest.created}\n")
    print_table([("bytes", "sha256", "file"), *((file.size, file.sha256[:12], file.path) for file in manifest.files)])
    return 0


def _pull(options: argparse.Namespace) -> int:
    from magistral_core.pipeline.state import MODEL_FOLDER

    checkpoints, manifest = _find(options)
    out: Path = options.out or Path(f"{manifest.run_id}-step-{manifest.step}")
    folder = out.absolute()  # `.` has no name of its own
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"--out {out}: exists and is not an empty folder; give another one")
    hf = options.format == "hf"
    try:
        inside = folder.is_dir()  # and empty: perhaps the one that the user is in, or a volume of its own
        place = folder if inside else folder.parent
        place.mkdir(parents=True, exist_ok=True)
        # Beside its place, then renamed: a pull that is cut short leaves no half model under the wanted name.
        with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=place) as work:
            whole = Path(work) / "checkpoint"
            checkpoints.download(manifest.step, whole, f"{MODEL_FOLDER}/" if hf else "")
            ready = whole / MODEL_FOLDER if hf else whole
            for path, target in [(path, folder / path.name) for path in ready.iterdir()] if inside else [(ready, folder)]:
                path.rename(target)
    except OSError as error:
        raise InputError(f"--out {out}: cannot be written ({error.strerror}); give another folder") from error
    if options.json:
        print_json({**_brief(manifest), "folder": str(out.absolute())})
    else:
        print(out)
    return 0


def _verify(options: argparse.Namespace) -> int:
    checkpoints, manifest = _find(options)
    checkpoints.verify(manifest.step)
    if options.json:
        print_json({**_brief(manifest), "valid": True})
    else:
        print(f"{manifest.uri}: all {len(manifest.files)} files are what the manifest says")
    return 0


def _prune(options: argparse.Namespace) -> int:
    from magistral_core.storage import RunIndex

    gone = RunIndex(open_storage(options.storage)).open(options.run).checkpoints().prune(options.keep)
    if options.json:
        print_json({"deleted_steps": gone})
    else:
        print(f"deleted: {', '.join(f'step {step}' for step in gone)}" if gone else "nothing to delete")
    return 0


def _find(options: argparse.Namespace) -> tuple[CheckpointStore, Manifest]:
    from magistral_core.storage import CheckpointStore, RunIndex

    if "/checkpoints/step-" in options.run:
        use_stack()
        checkpoints, step = CheckpointStore.from_uri(options.run)
        checkpoints.store.check(write=False)
        return checkpoints, checkpoints.get(options.step if options.step is not None else step)
    checkpoints = RunIndex(open_storage(options.storage, write=False)).open(options.run).checkpoints()
    if options.step is not None:
        return checkpoints, checkpoints.get(options.step)
    manifest = checkpoints.latest()
    if manifest is None:
        raise InputError(f"run {options.run}: has no checkpoint yet")
    return checkpoints, manifest


def _brief(manifest: Manifest) -> dict[str, Any]:
    return {"run": manifest.run_id, "step": manifest.step, "uri": manifest.uri, "bytes": manifest.size, "created": manifest.created}
