"""Make the README's pictures and its table from what really ran.

    .venv/bin/python docs/figures.py                                 pictures of the newest finished demo of the local stack
    .venv/bin/python docs/figures.py --mlflow-run ID ID ID           several runs (seeds) in one curve; the first one's charts
    .venv/bin/python docs/figures.py --table 0.json 1.json 2.json    only the table, from the output of `magistral demo --json`

Pictures need Debian's chromium and the stack that the runs are in (`magistral stack up`).
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from websockets.sync.client import connect

from benchmarks.page import put_between
from infra.stack import environment, status

ROOT = Path(__file__).resolve().parents[1]
IMAGES = ROOT / "docs" / "images"
TABLE = "demo-table"
_PATIENCE_S = 60.0

# -- the curve ------------------------------------------------------------------------------------------------------------

#: Metric, label, colour.
_UPPER = (("reward/mean", "reward", "#c2410c"), ("pass/rate", "pass rate", "#1d4ed8"), ("pass/valid_format", "valid format", "#15803d"))
_LOWER = (("policy/entropy", "entropy (nats)", "#7c3aed"), ("length/mean", "length (tokens)", "#475569"))


def curve(client: Any, run_ids: Sequence[str], path: Path) -> None:
    """Reward, pass rate and valid format over optimiser steps, above entropy and length; a line for each run."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    plt.rcParams.update(
        {"font.size": 10, "axes.spines.top": False, "axes.grid": True, "grid.color": "#e5e7eb", "axes.edgecolor": "#9ca3af"}
    )
    figure, (upper, lower) = plt.subplots(2, 1, figsize=(8, 5.4), sharex=True, height_ratios=(3, 1.4), layout="constrained")
    right = lower.twinx()
    right.grid(visible=False)
    thin = {"linewidth": 1.8} if len(run_ids) == 1 else {"linewidth": 1.1, "alpha": 0.75}
    for axes, (name, label, colour) in [*((upper, item) for item in _UPPER), (lower, _LOWER[0]), (right, _LOWER[1])]:
        for number, run_id in enumerate(run_ids):
            points = sorted((point.step, point.value) for point in client.get_metric_history(run_id, name))
            axes.plot(*zip(*points, strict=True), color=colour, label=None if number else label, **thin)
    for axes, (_, label, colour) in zip((lower, right), _LOWER, strict=True):
        axes.set_ylabel(label, color=colour)
        axes.set_ylim(bottom=0)
    upper.set_ylim(0, 1.02)
    upper.set_ylabel("share of completions; reward")
    upper.legend(loc="lower right", frameon=False)
    upper.spines.right.set_visible(False)
    seeds = ", ".join(client.get_run(run_id).data.params["seed"] for run_id in run_ids)
    recipe = client.get_run(run_ids[0]).data.params["name"]
    upper.set_title(
        f"Recipe {recipe}, seed{'s' if len(run_ids) > 1 else ''} {seeds}: training problems, sampled while training",
        fontsize=10,
        loc="left",
    )
    lower.set_xlabel("optimiser step")
    lower.xaxis.get_major_locator().set_params(integer=True)
    figure.savefig(path, dpi=130, facecolor="white")
    plt.close(figure)


# -- the screenshots ------------------------------------------------------------------------------------------------------

_FLAGS = (
    *("headless=new", "no-sandbox", "disable-gpu", "disable-quic", "no-first-run", "disable-background-networking", "lang=en"),
    *("disable-component-update", "disable-sync", "hide-scrollbars", "force-prefers-reduced-motion", "remote-debugging-port=0"),
    "blink-settings=primaryHoverType=2,availableHoverTypes=2",  # a mouse, else plots show their tool bars
)


class Page:
    """A tab of Chromium, through its DevTools protocol."""

    def __init__(self, socket: Any) -> None:
        self._socket = socket
        self._calls = 0

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """One command of the protocol; its result."""
        self._calls += 1
        self._socket.send(json.dumps({"id": self._calls, "method": method, "params": parameters}))
        while True:
            answer = json.loads(self._socket.recv(timeout=_PATIENCE_S))
            if answer.get("id") == self._calls:
                break
        if "error" in answer:
            raise RuntimeError(f"{method}: {answer['error']}")
        result: dict[str, Any] = answer["result"]
        return result

    def run(self, script: str) -> Any:
        """The value of a JavaScript expression; of what it promises, if it is a promise."""
        result = self.call("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        if "exceptionDetails" in result:
            raise RuntimeError(f"{script}: {result['exceptionDetails']}")
        return result["result"].get("value")

    def open(self, url: str, until: str) -> None:
        """Load a page and wait until an expression is true, and then until nothing has changed for two seconds."""
        self.call("Page.navigate", url=url)
        deadline = time.monotonic() + _PATIENCE_S
        while not self.run(f"document.readyState === 'complete' && Boolean({until})"):
            if time.monotonic() > deadline:
                raise SystemExit(f"figures: {url} did not show what was expected within {_PATIENCE_S:.0f} s")
            time.sleep(0.2)
        self.settle()

    def settle(self) -> None:
        """Wait until nothing on the page has changed for two seconds."""
        self.run(
            "new Promise(done => { let timer = setTimeout(done, 2000);"
            " new MutationObserver(() => { clearTimeout(timer); timer = setTimeout(done, 2000); })"
            ".observe(document.body, {childList: true, subtree: true}); })"
        )

    def save(self, path: Path) -> None:
        """What is seen, as PNG."""
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"]))


@contextmanager
def browser(width: int, height: int) -> Iterator[Page]:
    """Debian's headless Chromium with one tab of so many pixels."""
    program = shutil.which("chromium")
    if program is None:
        raise SystemExit("figures: no chromium; as root run: apt-get install chromium fonts-dejavu-core")
    with tempfile.TemporaryDirectory(prefix="figures-", ignore_cleanup_errors=True) as profile:
        command = [program, *(f"--{flag}" for flag in _FLAGS), f"--user-data-dir={profile}", "about:blank"]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
        try:
            with connect(_tab(Path(profile) / "DevToolsActivePort"), max_size=None) as socket:
                page = Page(socket)
                page.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
                yield page
        finally:
            os.killpg(process.pid, signal.SIGTERM)
            process.wait()


def _tab(port_file: Path) -> str:
    """Where the first tab listens, once Chromium has said so."""
    deadline = time.monotonic() + _PATIENCE_S
    while time.monotonic() < deadline:
        if port_file.exists() and (port := port_file.read_text().partition("\n")[0]):
            tabs = [target for target in fetch(f"http://127.0.0.1:{port}/json/list") if target["type"] == "page"]
            if tabs:
                return str(tabs[0]["webSocketDebuggerUrl"])
        time.sleep(0.1)
    raise SystemExit(f"figures: chromium did not start within {_PATIENCE_S:.0f} s")


def prefect_form(url: str, deployment: str, path: Path) -> None:
    """The form in which a person starts a run."""
    with browser(1240, 1180) as page:
        page.open(f"{url}/deployments/deployment/{deployment}/run", until="document.body.innerText.includes('Submit')")
        page.save(path)


def prefect_run(url: str, run_id: str, path: Path) -> None:
    """A flow run: what ran when, and its artifacts."""
    tab = "[...document.querySelectorAll('[role=tablist] li')].find(item => item.innerText.trim() === 'Artifacts')"
    with browser(1240, 1000) as page:
        page.open(f"{url}/runs/flow-run/{run_id}", until=tab)
        page.run(f"{tab}.click()")
        page.settle()
        page.save(path)


def mlflow_charts(url: str, experiment: str, run_id: str, path: Path) -> None:
    """The charts of a run's metrics."""
    field = "document.querySelector('input[placeholder=\"Search metric charts\"]')"
    settings = {"mlflow.workflowType_v1": '"machine_learning"', "mlflow.assistant.fab.autoOpenedOnFirstLoad_v1": "true"}
    with browser(1400, 970) as page:
        page.open(f"{url}/version", until="document.body")
        for key, value in settings.items():
            page.run(f"localStorage.setItem({json.dumps(key)}, {json.dumps(value)})")
        page.open(f"{url}/#/experiments/{experiment}/runs/{run_id}/model-metrics", until=field)
        page.run(f"{field}.focus()")
        page.call("Input.insertText", text="^(pass/|reward/(mean|correct|format)$)")
        page.settle()
        page.run(f"{field}.blur()")
        page.save(path)


def fetch(url: str, body: Any = None) -> Any:
    """JSON from a server of the stack; POST where there is a body."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"})  # noqa: S310  (addresses of our own stack)
    with urllib.request.urlopen(request, timeout=_PATIENCE_S) as answer:  # noqa: S310
        return json.load(answer)


# -- the table ------------------------------------------------------------------------------------------------------------


def table(results: Sequence[dict[str, Any]]) -> str:
    """Markdown: one line for each demo, from the objects that `magistral demo --json` printed; runs with shuffled rewards last."""
    levels = sorted({level for result in results for level in result["by_level"]["after"]})
    names = (
        "valid format",
        "pass@1",
        "pass@1 if valid",
        "maj@8",
        f"pass@1 by level {', '.join(levels)}, after",
        "weight updates (in flight)",
        "seconds",
    )
    lines = [("seed", *names), ["---"] * (len(names) + 1)]
    for result in sorted(results, key=lambda item: (item["rewards_shuffled"], item["seed"])):
        measures = [result[name] for name in ("valid_format", "pass_at_1", "pass_at_1_valid", "maj_at_8")]
        by_level = [result["by_level"]["after"][level]["pass_at_1"] for level in levels]
        lines.append(
            (
                f"{result['seed']}{', rewards shuffled' if result['rewards_shuffled'] else ''}",
                *(f"{_share(measure['before'])} -> {_share(measure['after'])}" for measure in measures),
                " ".join(map(_share, by_level)),
                f"{result['weight_updates']} ({result['weight_updates_in_flight']})",
                f"{result['wall_seconds']:.0f}",
            )
        )
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def put_table(text: str, page: Path) -> None:
    """Replace the table of a page."""
    try:
        page.write_text(put_between(page.read_text(encoding="utf-8"), TABLE, text), encoding="utf-8")
    except ValueError as error:
        raise SystemExit(f"figures: {page}: {error}") from error


# -- the command ----------------------------------------------------------------------------------------------------------


def main() -> None:
    """Make the table, or the pictures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", nargs="+", type=Path, metavar="RESULT.json", help="put the table of these results into README.md")
    parser.add_argument("--mlflow-run", nargs="+", metavar="ID", help="runs of the curve; without it the newest finished one")
    parser.add_argument("--prefect-run", metavar="ID", help="flow run to show; without it the newest completed demo")
    parser.add_argument("--mlflow-url", help="without it the local stack's")
    parser.add_argument("--prefect-url", help="without it the local stack's")
    options = parser.parse_args()
    if options.table:
        put_table(table([json.loads(path.read_text()) for path in options.table]), ROOT / "README.md")
        return
    services = status()["services"]
    mlflow_url, prefect_url = (
        given or services[name]["url"] for given, name in ((options.mlflow_url, "mlflow"), (options.prefect_url, "prefect"))
    )
    if not (mlflow_url and prefect_url):
        raise SystemExit("figures: the stack is down; start it with magistral stack up, or give --mlflow-url and --prefect-url")
    os.environ |= environment()
    from mlflow import MlflowClient

    client = MlflowClient(mlflow_url)
    runs = options.mlflow_run or [_newest_run(client)]
    IMAGES.mkdir(exist_ok=True)
    curve(client, runs, IMAGES / "curve.png")
    mlflow_charts(mlflow_url, client.get_run(runs[0]).info.experiment_id, runs[0], IMAGES / "mlflow.png")
    prefect_run(prefect_url, options.prefect_run or _newest_demo(prefect_url), IMAGES / "prefect-run.png")
    prefect_form(prefect_url, fetch(f"{prefect_url}/api/deployments/name/demo/demo")["id"], IMAGES / "prefect-form.png")


def _newest_run(client: Any) -> str:
    found = client.search_runs(
        [experiment.experiment_id for experiment in client.search_experiments()],
        "attributes.status = 'FINISHED' AND tags.`magistral.recipe` = 'tiny'",
        max_results=1,
        order_by=["attributes.start_time DESC"],
    )
    if not found:
        raise SystemExit("figures: MLflow has no finished run of the recipe tiny; run magistral demo, or give --mlflow-run ID")
    return str(found[0].info.run_id)


def _newest_demo(prefect_url: str) -> str:
    wanted = {"flows": {"name": {"any_": ["demo"]}}, "flow_runs": {"state": {"type": {"any_": ["COMPLETED"]}}}}
    found = fetch(f"{prefect_url}/api/flow_runs/filter", {**wanted, "sort": "START_TIME_DESC", "limit": 1})
    if not found:
        raise SystemExit("figures: Prefect has no completed demo; run magistral demo, or give --prefect-run ID")
    return str(found[0]["id"])


if __name__ == "__main__":
    main()
