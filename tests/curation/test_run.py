"""`curate_math` as a whole: outputs, order of the filters, conservation, resume, version, memory of what was merged."""

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

import pytest

from magistral_core.config import CurationRecipe, load_curation
from magistral_core.config.schema import ProblemSettings
from magistral_core.curation import OUTPUTS, curate_math
from magistral_core.curation.entry import Entry, Work
from magistral_core.errors import InputError
from magistral_core.problems import load_problems

LONG = (
    "A farmer has 12 cows and 30 sheep on a meadow near the old river and sells 5 of the sheep at the market to his neighbour, who takes "
    "them home in a cart before the sun goes down behind the hills. How many animals are left on the meadow in the evening?"
)
ROWS: list[dict[str, Any]] = [
    {"id": "a", "question": "What is 3 + 4?", "answer": "7", "level": 2, "language": "en"},
    {"problem": "How much is 5 - 2?", "answer": "B", "choices": ["2", "3"]},
    {"question": "Prove that 2 is even.", "answer": "x"},
    {"question": "What is 3+4 ?", "answer": "8"},
    {"question": "What is it?"},
    {"question": "Find the value of x.", "answer": "\\frac{1}{"},
    {"id": "a", "question": LONG, "answer": "We count.\n#### 37"},
    {"question": LONG.replace("old", "wide"), "answer": "37"},
    {"question": LONG.replace("30", "40"), "answer": "47"},
]


def write(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def recipe(*changes: str) -> CurationRecipe:
    return load_curation("math", ["gold.workers=1", *changes])


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("curation")
    source = write(folder / "in.jsonl", ROWS)
    return source, folder / "out", curate_math([source], folder / "out", recipe())


def test_every_row_is_kept_or_rejected_with_its_reason(done: tuple[str, Path, dict[str, Any]]) -> None:
    source, out, report = done
    kept, rejected = lines(out / "kept.jsonl"), lines(out / "rejected.jsonl")
    assert [row["source"] for row in kept] == [{"file": source, "line": line} for line in (1, 2, 7, 9)]
    assert {row["source"]["line"]: row["reason"] for row in rejected} == {
        3: "proof",
        4: "exact_duplicate",
        5: "no_answer",
        6: "unverifiable_gold",
        8: "near_duplicate",
    }
    assert (report["read"], report["kept"], report["rejected"]) == (9, 4, 5)


def test_what_kept_rows_say(done: tuple[str, Path, dict[str, Any]]) -> None:
    source, out, report = done
    first, choice, cows, _ = lines(out / "kept.jsonl")
    assert first["duplicates"] == [{"file": source, "line": 4}]
    assert (first["level"], first["language"]) == (2, "en")
    assert (choice["answer"], choice["rewritten"], choice["rewritten_from"]) == ("3", "rules", choice["question"])
    assert (cows["answer"], cows["id"]) == ("37", f"a@{source}:7")  # the first `a` has the id already
    _, other, *_ = lines(out / "rejected.jsonl")
    assert other["duplicate_of"] == {"file": source, "line": 1}
    assert other["answer_differs"] is True
    assert report["duplicates_with_other_answer"] == 1


def test_the_outputs_are_problems_for_training(done: tuple[str, Path, dict[str, Any]]) -> None:
    problems = load_problems(ProblemSettings(path=str(done[1] / "kept.jsonl")))
    assert [problem.answer for problem in problems] == ["7", "3", "37", "47"]


def test_the_report(done: tuple[str, Path, dict[str, Any]]) -> None:
    _, out, report = done
    assert json.loads((out / "report.json").read_text()) == report
    assert sorted(path.name for path in out.iterdir()) == sorted(OUTPUTS)
    stages = report["stages"]
    assert [stage["in"] for stage in stages[1:]] == [stage["out"] for stage in stages[:-1]]
    assert (stages[0]["in"], stages[-1]["out"]) == (9, 4)
    text = (out / "report.md").read_text()
    assert "| form | 8 | proof 1 | 7 |" in text
    assert "no model is configured" in text
    assert report["version"] in (out / "card.md").read_text()


def test_two_inputs_and_a_folder(tmp_path: Path) -> None:
    (tmp_path / "raw").mkdir()
    one, two = write(tmp_path / "raw" / "one.jsonl", ROWS[:1]), write(tmp_path / "two.jsonl", [*ROWS[:1], ROWS[6]])
    report = curate_math([str(tmp_path / "raw"), two], tmp_path / "out", recipe("gold.check=false"))
    assert [(item["file"], item["read"], item["kept"]) for item in report["sources"]] == [(one, 1, 1), (two, 2, 1)]


def test_decontamination_is_off_until_it_is_set(tmp_path: Path) -> None:
    source, suite = write(tmp_path / "in.jsonl", ROWS), write(tmp_path / "suite.jsonl", [{"Question": LONG, "Answer": 37}])
    report = curate_math([source], tmp_path / "out", recipe("gold.check=false", f"decontaminate.against=[{suite}]"))
    [match] = [row for row in lines(tmp_path / "out" / "rejected.jsonl") if row["reason"] == "contaminated" and row["source"]["line"] == 7]
    assert match["matches"] == {"file": suite, "line": 1}
    assert {"source": {"file": source, "line": 7}, "item": {"file": suite, "line": 1}}.items() <= report["decontamination"]["matches"][
        0
    ].items()
    assert (
        "| near_duplicate |" in (tmp_path / "out" / "report.md").read_text() or "| ngram |" in (tmp_path / "out" / "report.md").read_text()
    )


def test_a_choice_that_became_an_open_question_is_known_by_its_options(tmp_path: Path) -> None:
    row = {"question": "What is the value of $2+3$? (A) 4 (B) 5 (C) 6 (D) 7 (E) 8", "answer": "B"}
    source, suite = write(tmp_path / "in.jsonl", [row]), write(tmp_path / "suite.jsonl", [row])
    assert curate_math([source], tmp_path / "alone", recipe("gold.check=false"))["kept"] == 1
    report = curate_math([source], tmp_path / "out", recipe("gold.check=false", f"decontaminate.against=[{suite}]"))
    assert report["reasons"] == {"contaminated": 1}


def test_nothing_is_kept(tmp_path: Path) -> None:
    report = curate_math([write(tmp_path / "in.jsonl", [{"x": 1}])], tmp_path / "out", recipe("gold.check=false"))
    assert report["kept"] == 0
    assert (tmp_path / "out" / "kept.jsonl").read_bytes() == b""


def test_bad_input_writes_nothing(tmp_path: Path) -> None:
    source = tmp_path / "in.jsonl"
    source.write_text('{"question": "What is 1+1?", "answer": "2"}\nnot JSON\n')
    with pytest.raises(InputError, match=r"in\.jsonl:2: not JSON"):
        curate_math([str(source)], tmp_path / "out", recipe())
    assert not (tmp_path / "out").exists()
    with pytest.raises(InputError, match="is a file"):
        curate_math([str(source)], source, recipe())


def test_the_version_follows_inputs_settings_and_nothing_else(tmp_path: Path) -> None:
    source = write(tmp_path / "in.jsonl", ROWS)

    def version(*changes: str) -> str:
        return curate_math([source], tmp_path / "out", recipe("gold.check=false", *changes))["version"]

    first = version()
    assert version("shard_rows=2") == first
    assert version("duplicates.threshold=0.9") != first
    write(tmp_path / "in.jsonl", ROWS[:-1])
    assert version() != first


@pytest.mark.parametrize("shard_rows", [1, 4, 9])
def test_shards_change_nothing(tmp_path: Path, done: tuple[str, Path, dict[str, Any]], shard_rows: int) -> None:
    curate_math([done[0]], tmp_path / "out", recipe(f"shard_rows={shard_rows}"))
    for name in ("kept.jsonl", "rejected.jsonl"):
        assert (tmp_path / "out" / name).read_text() == (done[1] / name).read_text()


class StoppedError(Exception):
    """Raised from an event, as a signal would."""


def test_resume_does_no_gold_check_twice(tmp_path: Path, done: tuple[str, Path, dict[str, Any]], monkeypatch: pytest.MonkeyPatch) -> None:
    from magistral_core.curation import progress, run

    monkeypatch.setattr(progress, "_EVENT_S", 0.0)
    checked: Counter[str] = Counter()
    original = run.check_golds

    def counting(entries: list[Entry], verifier: Any) -> None:
        checked.update(f"{entry.index}" for entry in entries)
        original(entries, verifier)

    monkeypatch.setattr(run, "check_golds", counting)

    def stop(event: dict[str, Any]) -> None:
        if event["stage"] == "rules and gold check" and event["done"] >= 6:
            raise StoppedError

    with pytest.raises(StoppedError):
        curate_math([done[0]], tmp_path / "out", recipe("shard_rows=2"), on_event=stop)
    assert list(checked) == [str(index) for index in range(6)]
    assert not (tmp_path / "out" / "kept.jsonl").exists()
    with pytest.raises(StoppedError):  # shards of another size are another work: rows of both must not be mixed
        curate_math([done[0]], tmp_path / "other", recipe("shard_rows=4"), on_event=stop)
    curate_math([done[0]], tmp_path / "other", recipe("shard_rows=1"))
    assert (tmp_path / "other" / "kept.jsonl").read_text() == (done[1] / "kept.jsonl").read_text()
    for index in map(str, range(len(ROWS))):
        checked[index] = int(int(index) < 6)
    curate_math([done[0]], tmp_path / "out", recipe("shard_rows=2"))
    assert checked == Counter({str(index): 1 for index in range(len(ROWS))})
    assert (tmp_path / "out" / "kept.jsonl").read_text() == (done[1] / "kept.jsonl").read_text()
    assert not (tmp_path / "out" / ".work").exists()


def test_other_settings_begin_anew(tmp_path: Path) -> None:
    with Work(tmp_path, "one") as work:
        work.write_shard(0, [Entry(0, "f", 1, "a", "q", "7")])
    with Work(tmp_path, "one") as work:
        assert work.has_shard(0)
    with Work(tmp_path, "two") as work:
        assert not work.has_shard(0)


def test_one_writer(tmp_path: Path) -> None:
    with Work(tmp_path, "one"), pytest.raises(InputError, match="another curation is writing there"):
        Work(tmp_path, "one")


@pytest.mark.parametrize("given", ["set/kept.jsonl", "link/kept.jsonl"])
def test_a_set_is_not_replaced_by_what_is_made_of_it(given: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("set").mkdir()
    Path("link").symlink_to("set")
    write(Path("in.jsonl"), ROWS)
    curate_math(["in.jsonl"], Path("set"), recipe())
    before = {path.name: path.read_bytes() for path in Path("set").iterdir()}
    with pytest.raises(InputError, match="--out set: kept.jsonl there is an input, and would be replaced; choose another folder"):
        curate_math([given], Path("set"), recipe())
    assert {path.name: path.read_bytes() for path in Path("set").iterdir()} == before
    curate_math(["in.jsonl"], Path("set"), recipe())  # again from what it was made of
    curate_math([given], Path("other"), recipe())


def test_a_full_disk_is_told_in_one_line_that_names_the_place(tmp_path: Path) -> None:
    told = pytest.raises(InputError, match=f"{tmp_path}: the disk is full, no room for the set; .* choose another place .--out.")
    with told, Work(tmp_path, "one"), Path("/dev/full").open("w", encoding="utf-8") as file:
        file.write("x")
    with pytest.raises(FileNotFoundError), Work(tmp_path, "one"):
        Path(tmp_path / "missing").read_text()


def test_entries_survive_the_disk(tmp_path: Path) -> None:
    entries = [
        Entry(0, "f", 1, "a", "Which?", "B", reason="multiple_choice", detail="d", options=("x", "y"), right="y"),
        Entry(1, "f\n", 2, "é", "q", "0", level=3, language="fr", original="o", rewritten="rules", doubt="d"),
    ]
    changed = Entry(1, "f", 2, "b", "r", "1", rewritten="model")
    with Work(tmp_path, "v") as work:
        work.write_shard(0, entries)
        assert list(work.entries()) == entries
        work.write_changes([changed])
        assert list(work.entries()) == [entries[0], changed]


@pytest.mark.faults
@pytest.mark.timeout(600)
def test_killed_at_any_point(tmp_path: Path) -> None:
    """SIGKILL after ever longer times; then the command ends with the outputs of one that was never killed."""
    rows = [{"question": f"What is {number} + {number % 7} times $x$?", "answer": f"\\frac{{{number}}}{{7}}+x"} for number in range(600)]
    source = write(tmp_path / "in.jsonl", rows + rows[:50])
    curate_math([source], tmp_path / "whole", recipe("shard_rows=50"))
    options = ["--out", str(tmp_path / "out"), "--set", "shard_rows=50", "--set", "gold.workers=1"]
    command = [sys.executable, "-m", "magistral_core.cli", "curate", "math", source, *options]
    shards: list[int] = []
    kept: dict[Path, int] = {}

    def written() -> dict[Path, int]:
        return {path: path.stat().st_mtime_ns for path in (tmp_path / "out").glob(".work/rules-*.jsonl")}

    for attempt in range(12):
        process = subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL, start_new_session=True)
        deadline = time.monotonic() + 60
        wanted = (shards[-1] if shards else 0) + 1
        while process.poll() is None and time.monotonic() < deadline:
            if len(written()) >= wanted + attempt % 3:
                break
            time.sleep(0.02)
        if process.poll() is not None:
            break
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        assert kept.items() <= written().items(), "shards of an earlier start were made again"
        kept = written()
        shards.append(len(kept))
    assert len(shards) >= 2
    subprocess.run(command, check=True, capture_output=True)
    for name in ("kept.jsonl", "rejected.jsonl"):
        assert (tmp_path / "out" / name).read_text() == (tmp_path / "whole" / name).read_text()


def test_an_evaluation_item_without_a_question_is_named(tmp_path: Path) -> None:
    suite, source = tmp_path / "suite.jsonl", tmp_path / "in.jsonl"
    suite.write_text('{"question": "How much is 1+1?"}\n{"instruction": "How much is 2+2?"}\n')
    source.write_text('{"question": "How much is 3+3?", "answer": "6"}\n')
    with pytest.raises(InputError, match=r"suite\.jsonl:2: no question to compare with"):
        curate_math([str(source)], tmp_path / "out", recipe("gold.check=false", f"decontaminate.against=[{suite}]"))
