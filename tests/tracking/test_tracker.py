"""A run in a real MLflow, over sqlite and over a server."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from magistral_core.errors import InputError
from magistral_core.tracking import KEY_TAG, Tracker, flatten
from magistral_core.tracking.outbox import RefusedError
from magistral_core.tracking.server import connect, locate, mlflow_error

CHECKOUT = Path(__file__).resolve().parents[2]


def curve(client: MlflowClient, run_id: str, key: str) -> list[tuple[int, float]]:
    return [(point.step, point.value) for point in client.get_metric_history(run_id, key)]


def table(client: MlflowClient, run_id: str, path: str, folder: Path) -> Any:
    return json.loads(Path(client.download_artifacts(run_id, path, str(folder))).read_text())


def test_a_run_with_everything_in_it(uri: str, tmp_path: Path) -> None:
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    settings = {"seed": 0, "model": {"path": "tiny"}, "levels": (1, 2), "none": None}
    with Tracker.start(uri, "exp", "tiny", settings, {"commit": "abc"}) as tracker:
        for step in range(1, 121):
            tracker.log(step, {"train/loss": 1 / step, "reward/mean": math.nan})
        tracker.log_samples(10, [{"question": "1 + 1", "reward": 1.0}, {"question": "é", "versions": [1, 2]}])
        tracker.log_checkpoint(100, "s3://bucket/runs/x/checkpoints/step-00000100/001-a", {"pass_rate": 0.5})
        figure, axes = pyplot.subplots()
        axes.plot([1, 2])
        tracker.log_figure("plots/curve.png", figure)
        pyplot.close(figure)
        tracker.log_dict("ledger.json", {"trained": 3})
        tracker.set_tags({"stage": "0"})
        assert tracker.flush(60)
        client = connect(locate(uri))
        assert client.get_run(tracker.run_id).info.status == "RUNNING"
    run = client.get_run(tracker.run_id)
    assert run.info.status == "FINISHED"
    assert run.info.run_name == "tiny"
    assert run.data.params == {"seed": "0", "model.path": "tiny", "levels": "[1, 2]", "none": "None"}
    assert {"commit": "abc", "stage": "0"}.items() <= run.data.tags.items()
    assert curve(client, tracker.run_id, "train/loss") == [(step, 1 / step) for step in range(1, 121)]
    assert math.isnan(curve(client, tracker.run_id, "reward/mean")[0][1])
    assert table(client, tracker.run_id, "samples/step-00000010.json", tmp_path) == {
        "columns": ["question", "reward", "versions"],
        "data": [["1 + 1", 1.0, None], ["é", None, "[1, 2]"]],
    }
    assert json.loads(run.data.tags["mlflow.loggedArtifacts"]) == [{"path": "samples/step-00000010.json", "type": "table"}]
    assert table(client, tracker.run_id, "ledger.json", tmp_path) == {"trained": 3}
    assert Path(client.download_artifacts(tracker.run_id, "plots/curve.png", str(tmp_path))).read_bytes().startswith(b"\x89PNG")
    [output] = run.outputs.model_outputs
    model = client.get_logged_model(output.model_id)
    assert (output.step, model.name, model.status) == (100, "step-100", "READY")
    assert model.params["checkpoint_uri"] == model.tags["checkpoint_uri"] == "s3://bucket/runs/x/checkpoints/step-00000100/001-a"
    assert [(metric.key, metric.value, metric.step) for metric in model.metrics] == [("checkpoint/pass_rate", 0.5, 100)]
    place = locate(uri)
    assert tracker.run_url == (f"{place.uri}/#/experiments/{run.info.experiment_id}/runs/{tracker.run_id}" if place.ui else "")


def test_what_is_told_again_because_its_answer_was_lost_is_there_once(uri: str) -> None:
    with Tracker.start(uri, "again", "tiny") as tracker:
        for _ in range(2):
            tracker.log_checkpoint(10, "s3://b/step-10", {"loss": 0.5})
            tracker.log_dataset("problems", "abc", "s3://b/problems", 3, "training")
            tracker.log_samples(10, [{"reward": 1.0}])
    client = connect(locate(uri))
    run = client.get_run(tracker.run_id)
    assert len(run.outputs.model_outputs) == len(run.inputs.dataset_inputs) == 1
    assert [item.name for item in client.search_logged_models([run.info.experiment_id])] == ["step-10"]
    assert len(json.loads(run.data.tags["mlflow.loggedArtifacts"])) == 1
    assert {point.value for point in client.get_metric_history(tracker.run_id, "checkpoint/loss")} == {0.5}


def make_run(uri: str, experiment: str, last: int, **resume: Any) -> Tracker:
    """Steps up to `last`, with samples every 5 and a checkpoint at 10, as an attempt that is then killed."""
    tracker = Tracker.start(uri, experiment, "tiny", {"seed": 0}, {"magistral.run": "tiny-1-001", KEY_TAG: "k1"}, **resume)
    for step in range((resume.get("resume_step") or 0) + 1, last + 1):
        tracker.log(step, {"loss": float(step), "reward": -float(step)})
        if step % 5 == 0:
            tracker.log_samples(step, [{"step": step}])
        if step % 10 == 0:
            tracker.log_checkpoint(step, f"s3://b/step-{step}", {"loss": float(step)})
    assert tracker.flush(60)
    return tracker


def test_a_long_run_is_resumed_and_goes_on_logging_tables(uri: str) -> None:
    """The tag that names them holds 8,000 characters: with all 150 in it, MLflow would cut it, and no table could be added."""
    tracker = Tracker.start(uri, "long", "tiny", {"seed": 0}, {"magistral.run": "tiny-1-003"})
    for step in range(1, 151):
        tracker.log_samples(step, [{"step": step}])
    tracker.log(151, {"loss": 1.0})
    assert tracker.flush(120)
    again = Tracker.start(uri, "long", "tiny", {"seed": 0}, {"magistral.run": "tiny-1-003"}, resume_run_id=tracker.run_id, resume_step=150)
    again.log_samples(160, [{"step": 160}])
    assert again.flush(60)
    client = connect(locate(uri))
    listed = json.loads(client.get_run(again.run_id).data.tags["mlflow.loggedArtifacts"])
    assert [item["path"] for item in listed] == [f"samples/step-{step:08d}.json" for step in (*range(52, 151), 160)]
    assert len(client.list_artifacts(again.run_id, "samples")) == 151


def test_replayed_steps_appear_once(uri: str, tmp_path: Path) -> None:
    client = connect(locate(uri))
    first = make_run(uri, "replay", 23)
    # Killed at 23; the last checkpoint is of 10.
    second = make_run(uri, "replay", 17, resume_run_id=first.run_id, resume_step=10)
    assert second.run_id != first.run_id
    old = client.get_run(first.run_id)
    assert old.info.lifecycle_stage == "deleted"
    assert old.data.tags["magistral.superseded_by"] == second.run_id
    # Killed again before another checkpoint: the checkpoint of 10 still names the first run.
    third = make_run(uri, "replay", 30, resume_run_id=first.run_id, resume_step=10)
    assert len({first.run_id, second.run_id, third.run_id}) == 3
    for key, sign in (("loss", 1), ("reward", -1)):
        assert curve(client, third.run_id, key) == [(step, float(sign * step)) for step in range(1, 31)]
    assert curve(client, third.run_id, "checkpoint/loss") == [(10, 10.0), (20, 20.0), (30, 30.0)]
    run = client.get_run(third.run_id)
    assert run.data.params == {"seed": "0"}
    assert run.info.run_name == "tiny"
    assert sorted(output.step for output in run.outputs.model_outputs) == [10, 20, 30]
    experiment = run.info.experiment_id
    assert [found.info.run_id for found in client.search_runs([experiment])] == [third.run_id]
    assert sorted(model.name for model in client.search_logged_models([experiment])) == ["step-10", "step-20", "step-30"]
    names = [f"samples/step-{step:08d}.json" for step in range(5, 31, 5)]
    assert [item.path for item in client.list_artifacts(third.run_id, "samples")] == names
    assert [item["path"] for item in json.loads(run.data.tags["mlflow.loggedArtifacts"])] == names
    assert table(client, third.run_id, names[0], tmp_path)["data"] == [[5]]
    for step in (10, 20, 30):  # once more, as a resume does: of the moved one and of its own
        third.log_checkpoint(step, f"s3://b/step-{step}")
    third.log_checkpoint(25, "s3://b/step-25")  # one of which MLflow had not heard
    assert third.flush(60)
    assert sorted(output.step for output in client.get_run(third.run_id).outputs.model_outputs) == [10, 20, 25, 30]
    assert len(client.search_logged_models([experiment])) == 4
    assert Tracker.find(uri, "replay", "k1") == third.run_id
    third.finish()


def test_without_later_points_the_same_run_goes_on(sqlite_uri: str) -> None:
    first = make_run(sqlite_uri, "exp", 10)
    first.finish("KILLED")
    second = make_run(sqlite_uri, "exp", 12, resume_run_id=first.run_id, resume_step=10)
    second.finish()
    assert second.run_id == first.run_id
    client = connect(locate(sqlite_uri))
    assert client.get_run(first.run_id).info.status == "FINISHED"
    assert curve(client, first.run_id, "loss") == [(step, float(step)) for step in range(1, 13)]


def test_a_run_killed_before_its_first_checkpoint_is_found_and_begins_anew(sqlite_uri: str) -> None:
    first = make_run(sqlite_uri, "exp", 3)
    assert Tracker.find(sqlite_uri, "exp", "k1") == first.run_id
    assert Tracker.find(sqlite_uri, "exp", "another") is None
    assert Tracker.find(sqlite_uri, "none", "k1") is None
    second = make_run(sqlite_uri, "exp", 4, resume_run_id=first.run_id)
    client = connect(locate(sqlite_uri))
    assert curve(client, second.run_id, "loss") == [(step, float(step)) for step in range(1, 5)]
    assert [run.info.run_id for run in client.search_runs([client.get_run(second.run_id).info.experiment_id])] == [second.run_id]


def test_a_copy_is_found_also_when_its_original_was_deleted_for_good(sqlite_uri: str) -> None:
    first = make_run(sqlite_uri, "exp", 3)
    second = make_run(sqlite_uri, "exp", 4, resume_run_id=first.run_id)
    client = connect(locate(sqlite_uri))
    client._tracking_client.store._hard_delete_run(first.run_id)  # as `mlflow gc` does
    with pytest.raises(mlflow_error()):
        client.get_run(first.run_id)
    assert Tracker.find(sqlite_uri, "exp", "k1") == second.run_id


def test_a_checkpoint_below_a_folder_with_an_apostrophe_is_logged_once(sqlite_uri: str) -> None:
    tracker = Tracker.start(sqlite_uri, "exp", "tiny")
    for _ in range(2):
        tracker.log_checkpoint(1, "file:/data/anna's/step-1")
        assert tracker.flush(60)
    client = connect(locate(sqlite_uri))
    [model] = client.search_logged_models([client.get_run(tracker.run_id).info.experiment_id])
    assert model.params["checkpoint_uri"] == "file:/data/anna's/step-1"
    tracker.finish()


def test_an_interrupted_copy_is_cleared_away(sqlite_uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    first = make_run(sqlite_uri, "exp", 12)
    with monkeypatch.context() as patched:
        patched.setattr("magistral_core.tracking.replay._move_models", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            Tracker.start(sqlite_uri, "exp", "tiny", resume_run_id=first.run_id, resume_step=10)
    client = connect(locate(sqlite_uri))
    experiment = client.get_run(first.run_id).info.experiment_id
    assert len(client.search_runs([experiment])) == 2
    assert Tracker.find(sqlite_uri, "exp", "k1") == first.run_id
    second = make_run(sqlite_uri, "exp", 12, resume_run_id=first.run_id, resume_step=10)
    assert [run.info.run_id for run in client.search_runs([experiment])] == [second.run_id]
    assert curve(client, second.run_id, "loss") == [(step, float(step)) for step in range(1, 13)]


def test_an_unknown_run_to_resume_begins_a_new_one(sqlite_uri: str) -> None:
    with Tracker.start(sqlite_uri, "exp", "tiny", resume_run_id="f" * 32, resume_step=3) as tracker:
        tracker.log(4, {"loss": 1.0})
    assert curve(connect(locate(sqlite_uri)), tracker.run_id, "loss") == [(4, 1.0)]


def test_an_outage_blocks_nothing_and_loses_nothing(wire: Any) -> None:
    tracker = Tracker.start(wire.uri, "outage", "tiny")
    tracker.log(1, {"loss": 1.0})
    assert tracker.flush(30)
    wire.cut()
    start = time.monotonic()
    for step in range(2, 502):
        tracker.log(step, {"loss": float(step)})
    tracker.log_samples(500, [{"a": 1}])
    assert time.monotonic() - start < 20, "no call waited for the server, which would take half an hour"
    assert not tracker.flush(3)
    wire.mend()
    tracker.log(502, {"loss": 502.0})
    tracker.finish()
    client = connect(locate(wire.uri))
    assert curve(client, tracker.run_id, "loss") == [(step, float(step)) for step in range(1, 503)]
    assert [item.path for item in client.list_artifacts(tracker.run_id, "samples")] == ["samples/step-00000500.json"]


def test_what_an_outage_left_unsent_is_sent_by_the_next_process(wire: Any) -> None:
    tracker = Tracker.start(wire.uri, "outage", "tiny")
    tracker.log(1, {"loss": 1.0})
    assert tracker.flush(30)
    wire.cut()
    tracker.log(2, {"loss": 2.0})
    tracker.log(3, {"loss": 3.0})
    assert not tracker.flush(1)
    kept = json.loads(json.dumps(tracker.unsent()))
    wire.mend()
    assert tracker.flush(60), "it did arrive after all"
    with Tracker.start(wire.uri, "outage", "tiny", resume_run_id=tracker.run_id, resume_step=3) as later:
        later.resend(kept)
        later.log(4, {"loss": 4.0})
    assert later.run_id == tracker.run_id
    client = connect(locate(wire.uri))
    assert curve(client, tracker.run_id, "loss") == [(step, float(step)) for step in range(1, 5)], "and is there once"


def test_what_mlflow_refuses_is_raised(sqlite_uri: str) -> None:
    tracker = Tracker.start(sqlite_uri, "exp", "tiny")
    tracker.log(1, {"a name with = in it": 1.0})
    with pytest.raises(RefusedError, match="MLflow refused .INVALID_PARAMETER_VALUE.*a name with = in it"):
        tracker.flush(10)
    with pytest.raises(RefusedError):
        tracker.log(2, {"loss": 1.0})


def test_an_error_in_the_loop_marks_the_run_failed_and_is_the_one_shown(sqlite_uri: str) -> None:
    with pytest.raises(ZeroDivisionError), Tracker.start(sqlite_uri, "exp", "tiny") as tracker:
        tracker.log(1, {"loss": 1 // 1, "never": 1 // 0})
    client = connect(locate(sqlite_uri))
    assert client.get_run(tracker.run_id).info.status == "FAILED"


def test_an_unreachable_server_is_one_clear_line(tmp_path: Path) -> None:
    start = time.monotonic()
    for call in (lambda: Tracker.check("http://127.0.0.1:9"), lambda: Tracker.start("http://127.0.0.1:9", "exp", "tiny")):
        with pytest.raises(
            InputError, match=r"tracking.uri http://127.0.0.1:9: the MLflow server cannot be reached \(.*refused.*MLFLOW_TRACKING_URI"
        ) as caught:
            call()
        assert "\n" not in str(caught.value)
    assert time.monotonic() - start < 10


def test_a_server_of_another_kind_is_told_apart(tmp_path: Path) -> None:
    code = """
from http.server import HTTPServer, SimpleHTTPRequestHandler
server = HTTPServer(("127.0.0.1", 0), SimpleHTTPRequestHandler)
print(server.server_port, flush=True)
server.serve_forever()
"""
    other = subprocess.Popen([sys.executable, "-c", code], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        assert other.stdout
        with pytest.raises(InputError, match="does not answer as an MLflow server does"):
            Tracker.check(f"http://127.0.0.1:{other.stdout.readline().strip()}")
    finally:
        other.kill()
        other.communicate()


@pytest.mark.parametrize("uri", ["", "mlruns", "sqlite:", "file:/tmp/x", "ftp://host"])
def test_a_wrong_uri_is_refused(uri: str) -> None:
    with pytest.raises(InputError, match="http://HOST:PORT or sqlite:FILE"):
        Tracker.check(uri)


def test_a_password_in_the_uri_is_refused_and_not_shown() -> None:
    with pytest.raises(InputError, match="MLFLOW_TRACKING_PASSWORD") as error:
        Tracker.check("https://me:secret@mlflow.example")
    assert "secret" not in str(error.value)


def test_a_file_that_is_no_database_is_named(tmp_path: Path) -> None:
    (tmp_path / "notes.db").write_text("not a database, but longer than the header of one" * 10)
    with pytest.raises(InputError, match="notes.db: is not an MLflow database"):
        Tracker.check(f"sqlite:{tmp_path / 'notes.db'}")
    with pytest.raises(InputError, match="cannot be made"):
        Tracker.check(f"sqlite:{tmp_path / 'notes.db' / 'x.db'}")


def test_a_deleted_experiment_is_named(sqlite_uri: str) -> None:
    client = connect(locate(sqlite_uri))
    client.delete_experiment(client.create_experiment("gone"))
    with pytest.raises(InputError, match="tracking.experiment 'gone': was deleted"):
        Tracker.start(sqlite_uri, "gone", "tiny")


def test_nothing_is_written_into_the_working_folder_nor_onto_the_screen(tmp_path: Path) -> None:
    (tmp_path / "cwd").mkdir()
    code = f"""
from magistral_core.tracking import Tracker
import sys
assert "mlflow" not in sys.modules
with Tracker.start("sqlite:{tmp_path / "elsewhere" / "mlflow.db"}", "exp", "tiny") as tracker:
    tracker.log(1, {{"loss": 1.0}})
    tracker.log_dict("x.json", {{}})
    tracker.log_checkpoint(1, "s3://b/x")
"""
    environment = {**os.environ, "PYTHONPATH": str(CHECKOUT)}
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path / "cwd", env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert list((tmp_path / "cwd").iterdir()) == []
    assert sorted(path.name for path in (tmp_path / "elsewhere").iterdir()) == ["mlflow-artifacts", "mlflow.db"]


def test_flatten() -> None:
    assert flatten({"a": {"b": {"c": 1}}, "d": True, "e": []}) == {"a.b.c": "1", "d": "True", "e": "[]"}
