"""Grading as a whole, with a real engine: outputs, two passes, what is sampled again and what is not."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from magistral_core.cli import main
from magistral_core.config import GradingRecipe, load_grading
from magistral_core.config.schema import FieldNames, ProblemSettings
from magistral_core.curation.entry import Entry
from magistral_core.curation.grading_run import _row, grade_difficulty, output_names
from magistral_core.curation.grading_samples import Grader
from magistral_core.errors import InputError
from magistral_core.problems import load_problems
from magistral_core.storage import open_store

#: The model answers 1 in about two samples of three, and is cut in the others.
SETTINGS = (
    "sampling.samples=8",
    "sampling.max_tokens=96",
    "prompt.max_tokens=64",
    "generation.max_num_seqs=64",
    "generation.kv_cache_gib=0.0625",
    "pass_1.below=1.0",
    "recheck.samples=0",
)
ORIGIN = {"file": "raw.jsonl", "line": 3}
ROWS: list[dict[str, Any]] = [
    *({"id": f"right-{number}", "question": f"{number}-{number - 1}=?", "answer": "1", "level": 2} for number in range(1, 11)),
    *({"id": f"wrong-{number}", "question": f"{number}-{number - 2}=?", "answer": "2", "source": ORIGIN} for number in range(2, 8)),
    {"id": "again", "question": "1-0=?", "answer": "1", "note": "half a letter: \ud835"},
    {"id": "long", "question": "1+" * 60 + "1=?", "answer": "1"},
]


def recipe(*changes: str) -> GradingRecipe:
    return load_grading("tiny", [*SETTINGS, *changes])


def write(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="module")
def done(writer_model: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path, dict[str, Any]]:
    """Both passes by the same model: the second finds every grade of the first."""
    folder = tmp_path_factory.mktemp("grading")
    source = write(folder / "in.jsonl", ROWS)
    graders = [Grader("base", writer_model), Grader("trained", writer_model)]
    report = grade_difficulty([source], folder / "out", recipe(), graders, open_store(f"file:{folder / 'store'}"))
    return source, folder, report


def test_every_problem_is_kept_or_rejected_with_its_reason(done: tuple[str, Path, dict[str, Any]]) -> None:
    source, folder, report = done
    kept, rejected = lines(folder / "out" / "kept.jsonl"), lines(folder / "out" / "rejected.jsonl")
    assert sorted(path.name for path in (folder / "out").iterdir()) == sorted(output_names(2))
    assert (report["read"], report["kept"], report["rejected"]) == (len(ROWS), len(kept), len(rejected))
    assert {row["id"] for row in kept} | {row["id"] for row in rejected} == {row["id"] for row in ROWS}
    assert [row["note"] for row in kept + rejected if "note" in row] == ["half a letter: \ud835"]
    reasons = {row["id"]: row["reason"] for row in rejected}
    assert reasons["long"] == "prompt_too_long"
    assert {reasons[row["id"]] for row in ROWS if row["answer"] == "2"} <= {"gold_outvoted", "too_hard"}
    assert "gold_outvoted" in reasons.values()
    assert all(0 < row["pass_rate"] < 1 and row["answer"] == "1" for row in kept)
    outvoted = next(row for row in rejected if row["reason"] == "gold_outvoted")
    assert outvoted["source"] == {"file": source, "line": int(outvoted["id"].split("-")[1]) + 9}
    assert outvoted["origin"] == ORIGIN
    assert outvoted["grades"][1]["majority"] == "1"
    assert outvoted["detail"].endswith("answered 1")


def test_the_outputs_are_problems_for_training(done: tuple[str, Path, dict[str, Any]]) -> None:
    problems = load_problems(ProblemSettings(path=str(done[1] / "out" / "kept.jsonl")))
    assert {(problem.answer, problem.level) for problem in problems if problem.id.startswith("right")} == {("1", 2)}


def test_what_was_graded_is_what_is_kept(tmp_path: Path) -> None:
    source = write(tmp_path / "in.jsonl", [{"question": "6*7?", "answer": "6 times 7 is 42.", "final_answer": "42", "level": 2}])
    [problem] = load_problems(ProblemSettings(path=source, fields=FieldNames(answer="final_answer")))
    row = _row(problem, Entry(0, "in.jsonl", 1, problem.id, problem.question, problem.answer), [(None, None)])
    assert (row["answer"], row["original_answer"]) == ("42", "6 times 7 is 42.")
    [again] = load_problems(ProblemSettings(path=write(tmp_path / "kept.jsonl", [row])))
    assert (again.id, again.question, again.answer, again.level) == (problem.id, "6*7?", "42", 2)


def test_equal_problems_share_their_samples(done: tuple[str, Path, dict[str, Any]]) -> None:
    _, folder, report = done
    assert [result["sampled"] for result in report["passes"]] == [16, 0]
    parts = [pq.read_table(path) for path in (folder / "store").rglob("*.parquet")]
    assert sum(part.num_rows for part in parts) == 16
    grades = {row["problem"]: row for row in pq.read_table(folder / "out" / "grades-1.parquet").to_pylist()}
    assert {**grades["right-1"], "problem": ""} == {**grades["again"], "problem": ""}
    assert all(row["samples"] == 8 for row in grades.values())
    assert sum(row["truncated"] for row in grades.values()) > 0


def test_grades_are_used_again(done: tuple[str, Path, dict[str, Any]], writer_model: Path, tmp_path: Path) -> None:
    """Other thresholds sample nothing; other problems only themselves; other samples everything."""
    source, folder, report = done
    store, graders = open_store(f"file:{folder / 'store'}"), [Grader("base", writer_model)]
    other = grade_difficulty([source], tmp_path / "out", recipe("pass_1.above=0.7"), graders, store)
    assert other["passes"][0]["sampled"] == 0
    assert other["kept"] < report["passes"][0]["kept"]
    assert other["version"] != report["version"]
    more = write(tmp_path / "more.jsonl", [{"id": "new", "question": "9-8=?", "answer": "01"}])
    longer = grade_difficulty([more, source], tmp_path / "out", recipe(), graders, store)
    assert longer["passes"][0]["sampled"] == 1
    few = recipe("sampling.samples=2")
    assert grade_difficulty([more], tmp_path / "out", few, graders, store)["passes"][0]["sampled"] == 1


def test_what_most_samples_contradict_is_sampled_again(done: tuple[str, Path, dict[str, Any]], writer_model: Path, tmp_path: Path) -> None:
    source, folder, report = done
    store, graders = open_store(f"file:{folder / 'store'}"), [Grader("base", writer_model), Grader("trained", writer_model)]
    again = recipe("recheck.samples=24", "recheck.temperature=0.8")
    first = grade_difficulty([source], tmp_path / "out", again, graders, store)
    rows = {row["id"]: row for name in ("kept", "rejected") for row in lines(tmp_path / "out" / f"{name}.jsonl")}
    looked_at = {name for name, row in rows.items() if row["grades"][1] and "again" in row["grades"][1]}
    against = {
        name
        for name, row in rows.items()
        if (found := row["grades"][1]) and found["agreement"] > 0.5 and found["majority"] != row["answer"]
    }
    assert looked_at == against
    assert looked_at <= {row["id"] for row in ROWS if row["answer"] == "2"}
    assert first["passes"][1]["rechecked"] == first["passes"][1]["sampled"] == len(looked_at) > 0
    assert first["passes"][0]["rechecked"] == 0, "only a pass that votes looks again"
    for name in looked_at:
        second = rows[name]["grades"][1]["again"]
        assert second["graded"] == 24
        outvoted = second["agreement"] - second["pass_rate"] > 0.5
        assert (rows[name].get("reason") == "gold_outvoted") == outvoted
    assert first["version"] != report["version"]
    repeated = grade_difficulty([source], tmp_path / "out", again, graders, store)
    assert repeated["passes"][1]["sampled"] == 0, "those samples are kept as well"
    alike = again.sampling
    same = recipe(f"recheck.samples={alike.samples}", f"recheck.temperature={alike.temperature}")
    other = grade_difficulty([source], tmp_path / "out", same, graders, store)
    assert other["passes"][1]["sampled"] == len(looked_at), "the samples in doubt do not judge themselves"


@pytest.mark.slow
def test_several_engines_give_a_problem_the_same_samples(
    done: tuple[str, Path, dict[str, Any]], writer_model: Path, tmp_path: Path
) -> None:
    source, folder, _ = done
    store = open_store(f"file:{tmp_path / 'store'}")
    grade_difficulty([source], tmp_path / "out", recipe("sampling.engines=2"), [Grader("base", writer_model)], store)
    one, two = (pq.read_table(root / "out" / "grades-1.parquet").to_pylist() for root in (folder, tmp_path))
    assert [row["samples"] for row in one] == [row["samples"] for row in two]
    assert one == two


def test_bad_input_writes_nothing(writer_model: Path, tmp_path: Path) -> None:
    graders, store = [Grader("base", writer_model)], open_store(f"file:{tmp_path / 'out'}")

    def refused(rows: list[dict[str, Any]], told: str) -> None:
        with pytest.raises(InputError, match=told):
            grade_difficulty([write(tmp_path / "in.jsonl", rows)], tmp_path / "out", recipe(), graders, store)

    refused([*ROWS[:1], {"question": "1+1=?"}], r"in\.jsonl:2: the problem has no answer")
    refused([*ROWS[:1], *ROWS[:1]], r"in\.jsonl:2: the id 'right-1' is taken by .*in\.jsonl:1")
    code = {"question": "Write it.", "tests": [{"input": "1", "output": "1"}]}
    refused([*ROWS[:1], code], r"in\.jsonl:2: a code problem")
    with pytest.raises(InputError, match="is a file"):
        grade_difficulty([str(tmp_path / "in.jsonl")], tmp_path / "in.jsonl", recipe(), graders, store)
    assert not (tmp_path / "out").exists()


def test_the_command_logs_the_set(
    done: tuple[str, Path, dict[str, Any]],
    writer_model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from mlflow import MlflowClient

    monkeypatch.setenv("MAGISTRAL_HOME", str(tmp_path / "home"))
    for name in ("MLFLOW_TRACKING_URI", "MAGISTRAL_STORAGE_URI"):
        monkeypatch.delenv(name, raising=False)
    source, folder, report = done
    changes = [*SETTINGS, f"tracking.uri=sqlite:{tmp_path / 'mlflow.db'}", f"storage.uri=file:{folder / 'store'}"]
    sets = [part for change in changes for part in ("--set", change)]
    models = ["--model", str(writer_model), "--grader", str(writer_model)]
    command = ["curate", "grade", source, "--out", str(tmp_path / "out"), *models, "--recipe", "tiny", *sets]
    assert main([*command, "--events", str(tmp_path / "events"), "--json"]) == 0
    again = json.loads(capsys.readouterr().out)
    assert again["stages"] == report["stages"]
    assert (again["version"], again["passes"][0]["sampled"]) == (report["version"], 0)
    client = MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}")
    [run] = client.search_runs([client.get_experiment_by_name("magistral").experiment_id])
    assert run.data.metrics["curation/kept"] == report["kept"]
    assert run.data.metrics["grading/pass_rate_1"] == pytest.approx(report["passes"][0]["pass_rate"])
    assert {Path(item.path).name for item in client.list_artifacts(run.info.run_id, "curation")} == set(output_names(2))
    assert json.loads((tmp_path / "events").read_text().splitlines()[-1])["event"] == "end"
    assert main([*command[:5], "--model", "nowhere"]) == 2
    assert "model.path nowhere" in capsys.readouterr().err


@pytest.mark.faults
@pytest.mark.timeout(900)
def test_killed_at_any_point_no_finished_problem_is_sampled_again(writer_model: Path, tmp_path: Path) -> None:
    """SIGKILL again and again, each time a little later; every problem with a stored grade keeps that one grade."""
    rows = [{"id": f"p{number}", "question": f"{number}-1=?", "answer": "1"} for number in range(400)]
    source, store = write(tmp_path / "in.jsonl", rows), tmp_path / "store"
    changes = [*SETTINGS, f"storage.uri=file:{store}", "sampling.max_tokens=128", "generation.max_num_seqs=32"]
    sets = [part for change in changes for part in ("--set", change)]
    models = ["--model", str(writer_model), "--recipe", "tiny"]
    command = [sys.executable, "-m", "magistral_core.cli", "curate", "grade", source, "--out", str(tmp_path / "out"), *models, *sets]

    def parts() -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in store.glob("grades/*/part-*.parquet")}

    kept: list[dict[str, bytes]] = [{}]
    for more in (0, 1, 2, 1):
        process = subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL, start_new_session=True)
        deadline = time.monotonic() + 200
        while process.poll() is None and time.monotonic() < deadline and len(parts()) < len(kept[-1]) + more:
            time.sleep(0.02)
        assert process.poll() is None, "it ended before it could be killed"
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        kept.append(parts())
        assert not (tmp_path / "out" / "kept.jsonl").exists()
    finished = sum(pq.read_table(path).num_rows for path in store.glob("grades/*/part-*.parquet"))
    assert 0 < finished < len(rows)
    ended = subprocess.run([*command, "--json"], check=True, capture_output=True, text=True)
    report = json.loads(ended.stdout)
    assert report["passes"][0]["sampled"] == len(rows) - finished
    for before, after in zip(kept, [*kept[1:], parts()], strict=True):
        assert before.items() <= after.items(), "a stored grade was changed or removed"
    graded = Counter(row for path in store.glob("grades/*/part-*.parquet") for row in pq.read_table(path)["problem"].to_pylist())
    assert set(graded.values()) == {1}
    assert len(graded) == len(rows)
    assert report["kept"] + report["rejected"] == len(rows)
