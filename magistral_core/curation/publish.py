"""A curated set in MLflow: a run with its sources and itself as data sets, counts as metrics, report, card and problems as artifacts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from magistral_core.tracking import Tracker

#: Larger files stay where they are; the run names their place.
_LARGEST_ARTIFACT = 256 * 2**20


def publish(report: Mapping[str, Any], out: Path, outputs: Sequence[str], uri: str, experiment: str, *, work: str = "curate") -> str:
    """Log a finished curation, or another `work` that ended with such a report; returns the run's page (empty without a server).

    Raises as `Tracker` does.
    """
    tags = {"dataset.version": report["version"], "dataset.code": report["code"], "dataset.path": str(out.resolve())}
    name = f"{work} {report['name']}"
    with Tracker.start(uri, experiment, name, params=report["settings"], tags=tags) as tracker:
        metrics = {"curation/read": report["read"], "curation/kept": report["kept"], **report["measures"]}
        metrics |= {f"rejected/{reason}": count for reason, count in report["reasons"].items()}
        tracker.log(0, metrics)
        for source in report["sources"]:
            tracker.log_dataset(source["file"], source["sha256"], source["file"], source["read"], "curation-input")
        for item in report.get("decontamination", {}).get("against", ()):
            tracker.log_dataset(item["file"], item["sha256"], item["file"], item["rows"], "decontamination")
        kept = out / "kept.jsonl"
        tracker.log_dataset(report["name"], report["version"], str(kept.resolve()), report["rows"], "curated")
        for output in outputs:
            if (out / output).stat().st_size <= _LARGEST_ARTIFACT:
                tracker.log_file(f"curation/{output}", out / output)
        return tracker.run_url
