"""The translation step as a whole: what it writes, tries again, counts and refuses. Replies are scripted; the real engine is in
test_assistant.py. Sampler, journal and checks are the real ones."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "generation"))
from random_model import make_model, make_tokenizer

from magistral_core import api
from magistral_core.cli import main
from magistral_core.config import load_curation
from magistral_core.curation.translation import draw
from magistral_core.errors import InputError
from magistral_core.generation import sampler
from magistral_core.generation.journal import Journal
from magistral_core.records import Completion, FinishReason, Request

ENGLISH = "A farmer has $x_{}$ cows and sells {} of them to his neighbour. How many cows does he keep in the end?"
GERMAN = "Ein Bauer hat [[1]] Kühe und verkauft {} davon an seinen Nachbarn. Wie viele Kühe behält er am Ende?"
ROWS = [{"id": f"p{n}", "problem": ENGLISH.format(n, 10 + n), "solution": f"We count. \\boxed{{{n}}}", "source": "farm"} for n in range(6)]
Reply = Callable[[str, int], str]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model") / "m"
    make_model(folder, seed=0)
    config = folder / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "max_position_embeddings": 2048}))  # its tokens are bytes
    return folder


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Callable[[Reply], list[tuple[str, int]]]:
    """Lets a function of prompt and attempt answer in an engine's place; returns the list of what is asked."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)

    def set_reply(reply: Reply) -> list[tuple[str, int]]:
        asked: list[tuple[str, int]] = []
        tokenizer = make_tokenizer()

        class Scripted:
            def __init__(self, *_: object, **__: object) -> None: ...

            def stream(self, requests: Iterable[tuple[Request, Any]]) -> Iterator[Completion]:
                for request, _ in requests:
                    prompt = tokenizer.decode(request.prompt.token_ids)
                    asked.append((prompt, request.seed))
                    text = reply(prompt, request.index)
                    ids = np.zeros(1, np.int32)
                    yield Completion(
                        *(request.group_id, request.index, request.prompt.token_ids, ids, np.zeros(1, np.float32), ids),
                        *(text, FinishReason.STOP if text else FinishReason.LENGTH),
                    )

            def close(self) -> None: ...

        monkeypatch.setattr(sampler, "LocalEngine", Scripted)
        return asked

    return set_reply


def german(prompt: str, attempt: int = 0) -> str:
    number = prompt.split("sells ")[1].split()[0]
    return json.dumps({"translation": GERMAN.format(number)})


def run(tmp_path: Path, model: Path, rows: list[dict[str, Any]], *changes: str, math: bool = False) -> tuple[dict[str, Any], list[dict]]:
    source = tmp_path / "in.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    sets = [f"translate.model={model}", "translate.share=1", "translate.languages=[de]", "gold.workers=1", "translate.max_tokens=64"]
    sets += ["translate.prompt.system=null", "translate.prompt.max_tokens=1984", "duplicates.near=false"]
    recipe = load_curation("math", [*sets, *changes])
    report = (api.curate_math if math else api.translate)([str(source)], tmp_path / "out", recipe)
    return report, [json.loads(line) for line in (tmp_path / "out" / "kept.jsonl").read_text(encoding="utf-8").splitlines()]


def test_rows_keep_their_fields_and_say_where_they_come_from(tmp_path: Path, model: Path, script: Callable) -> None:
    asked = script(german)
    report, kept = run(tmp_path, model, ROWS)
    assert len(asked) == 6
    assert not any("x_" in prompt or "boxed" in prompt for prompt, _ in asked)
    assert kept[2] == {
        "id": "p2",
        "problem": GERMAN.format(12).replace("[[1]]", "$x_2$"),
        "solution": "We count. \\boxed{2}",
        "source": {"file": str(tmp_path / "in.jsonl"), "line": 3},
        "origin": "farm",
        "language": "de",
        "translated_from": {"id": "p2", "language": "en", "question": ROWS[2]["problem"]},
    }
    assert (report["read"], report["kept"], report["rejected"]) == (6, 6, 0)
    translation = report["translation"]
    assert (translation["drawn"], translation["translated"], translation["first_try"], translation["added"]) == (6, 6, 6, 0)
    assert translation["languages"] == {"de": {"drawn": 6, "translated": 6}}
    text = (tmp_path / "out" / "report.md").read_text(encoding="utf-8")
    assert "| de | 6 | 6 |" in text
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["kept.jsonl", "rejected.jsonl", "report.json", "report.md"]


def test_the_translation_joins_the_english_problem(tmp_path: Path, model: Path, script: Callable) -> None:
    script(german)
    report, kept = run(tmp_path, model, [*ROWS[:2], {**ROWS[2], "id": "p0@de"}], "translate.keep_english=true")
    assert [row["id"] for row in kept] == ["p0", "p0@de'", "p1", "p1@de", "p0@de", "p0@de@de"]
    assert [row.get("language") for row in kept] == [None, "de"] * 3
    assert report["translation"]["added"] == 3


def test_a_flaw_is_tried_again_with_another_seed_and_then_stays(tmp_path: Path, model: Path, script: Callable) -> None:
    def reply(prompt: str, attempt: int) -> str:
        if "sells 11" in prompt:  # never right
            return "" if attempt == 0 else json.dumps({"translation": GERMAN.format(99)})
        return german(prompt) if "sells 10" in prompt or attempt == 2 else json.dumps({"translation": ENGLISH.format(1, 12)})

    asked = script(reply)
    report, kept = run(tmp_path, model, ROWS[:3])
    found = report["translation"]
    assert (found["translated"], found["first_try"], found["untranslated"]) == (2, 1, {"numbers": 1})
    assert found["failed_tries"] == {"unreadable": 1, "marks": 2, "numbers": 2}
    assert kept[1]["problem"] == ROWS[1]["problem"]
    assert kept[1]["untranslated"] == {"language": "de", "reason": "numbers", "detail": "lost 11, new 99"}
    assert len({seed for _, seed in asked}) == len(asked) == 7
    assert "numbers 1" in found["note"]


def test_who_is_not_asked(tmp_path: Path, model: Path, script: Callable) -> None:
    asked = script(german)
    french = "Un fermier a dix vaches et en vend trois. Combien de vaches garde-t-il à la fin ?"
    rows = [
        {"question": french, "answer": 7},
        {"question": ROWS[0]["problem"], "answer": "Monday"},
        {"question": ROWS[1]["problem"], "answer": "\\frac{1}{"},
        {"question": ROWS[2]["problem"], "answer": "B", "choices": ["3", "7"]},
        {"question": "What is $1+1$?", "language": "en", "answer": "2"},
    ]
    report, kept = run(tmp_path, model, rows)
    assert asked == []
    assert report["translation"]["drawn"] == 4
    assert report["translation"]["untranslated"] == {"word_answer": 1, "unverifiable_gold": 1, "options": 1, "few_words": 1}
    assert [row["question"] for row in kept] == [row["question"] for row in rows]
    assert "untranslated" not in kept[0]


def test_code_problems_keep_their_tests(tmp_path: Path, model: Path, script: Callable) -> None:
    script(german)
    row = {"id": "c", "statement": ROWS[0]["problem"], "tests": [{"input": "1", "output": "2"}]}
    _, [kept] = run(tmp_path, model, [row])
    assert (kept["tests"], kept["statement"][:10]) == (row["tests"], "Ein Bauer ")


def test_fields_under_other_names(tmp_path: Path, model: Path, script: Callable) -> None:
    script(german)
    row = {"data": {"text": ROWS[0]["problem"], "more": 1}, "gold": 3}
    _, [kept] = run(tmp_path, model, [row], "problems.fields.question=data.text", "problems.fields.answer=gold")
    assert (kept["data"]["text"][:10], kept["data"]["more"], kept["gold"]) == ("Ein Bauer ", 1, 3)


def test_the_solver_finds_what_the_checks_cannot_see(tmp_path: Path, model: Path, script: Callable) -> None:
    def reply(prompt: str, attempt: int) -> str:
        if "into German" in prompt:
            return german(prompt)
        number = prompt.split("x_")[1][0]
        if number == "2":  # not solved at all
            return "I do not know."
        return "\\boxed{9}" if number == "1" and "Bauer" in prompt else f"\\boxed{{{number}}}"

    script(reply)
    report, kept = run(tmp_path, model, ROWS[:3], f"translate.solver={model}")
    assert report["translation"]["solver"] == {"model": str(model), "both": 1, "english_unsolved": 1}
    assert report["translation"]["untranslated"] == {"solved_differently": 1}
    assert Counter(row.get("language") for row in kept) == {"de": 2, None: 1}


def test_in_a_curation(tmp_path: Path, model: Path, script: Callable) -> None:
    asked = script(german)
    rows = [*ROWS, {"problem": "Prove that 2 is even.", "answer": "x"}, ROWS[0]]
    report, kept = run(tmp_path, model, rows, "translate.share=0.5", math=True)
    recipe = load_curation("math", ["translate.share=0.5", "translate.languages=[de]"])
    drawn = [row["id"] for row in ROWS if draw(row["id"], recipe.translate)]
    assert 0 < len(drawn) == len(asked) < 6  # neither what was rejected nor duplicates are asked about
    assert [row["id"] for row in kept if row.get("language") == "de"] == drawn
    assert (report["read"], report["kept"], report["rejected"]) == (8, 6, 2)
    assert report["translation"]["note"] in (tmp_path / "out" / "report.md").read_text(encoding="utf-8")
    assert f"{len(drawn)} translations took the place of" in (tmp_path / "out" / "card.md").read_text(encoding="utf-8")


def test_nothing_is_left_to_translate(tmp_path: Path, model: Path, script: Callable) -> None:
    report, kept = run(tmp_path, model, [{"problem": "Prove that 2 is even.", "answer": "x"}], math=True)
    assert (kept, report["translation"]["drawn"]) == ([], 0)


@pytest.mark.parametrize(
    ("rows", "changes", "told"),
    [
        ([ROWS[0], ROWS[0]], [], r"in\.jsonl:2: the id 'p0' is taken"),
        ([{"question": "What?"}], [], r"in\.jsonl:1: the problem has no answer"),
        (ROWS, ["translate.model=null"], "set translate.model to a model folder"),
        (ROWS, ["translate.solver=."], r"translate\.solver \.: no config\.json there"),
    ],
)
def test_bad_input(tmp_path: Path, model: Path, rows: list[dict], changes: list[str], told: str) -> None:
    with pytest.raises(InputError, match=told):
        run(tmp_path, model, rows, *changes)
    assert not (tmp_path / "out" / "kept.jsonl").exists()


def test_the_command(tmp_path: Path, model: Path, script: Callable, capsys: pytest.CaptureFixture[str]) -> None:
    script(german)
    source, out = tmp_path / "in.jsonl", tmp_path / "out"
    source.write_text(json.dumps(ROWS[0]) + "\n")
    sets = ["--set", f"translate.model={model}", "--set", "translate.share=1", "--set", "translate.languages=[de]"]
    assert main(["curate", "translate", str(source), "--out", str(out), *sets, "--set", "gold.check=false"]) == 0
    assert "1 of 1 drawn English problems" in capsys.readouterr().out
    assert main(["curate", "translate", str(source), "--out", str(out)]) == 2
    assert "set translate.model" in capsys.readouterr().err.splitlines()[-1]
    assert main(["curate", "math", str(source), "--out", str(out), "--set", "gold.check=false"]) == 0
    assert "Translation was skipped: no model is configured" in capsys.readouterr().out


@pytest.mark.faults
@pytest.mark.timeout(1800)
def test_killed_and_started_again_it_asks_nothing_twice(tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SIGKILL once the journal has replies of a real engine; then the rest alone is sampled. The model knows nothing."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    count, tries = 600, 2
    rows = [{"id": f"{n}", "question": f"How much is {n} plus four, in the end of the day?", "answer": "7"} for n in range(count)]
    source, out = tmp_path / "in.jsonl", tmp_path / "out"
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    changes = [f"translate.model={model}", "translate.share=1", "translate.max_tokens=16", f"translate.tries={tries}", "gold.check=false"]
    changes += ["translate.prompt.system=null", "translate.generation.dtype=float32", "translate.generation.kv_cache_gib=0.25"]
    command = [sys.executable, "-m", "magistral_core.cli", "curate", "translate", str(source), "--out", str(out)]
    command += [part for change in changes for part in ("--set", change)]
    journal = out / ".work" / "journals" / "translator"
    process = subprocess.Popen(command, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        while not list(journal.glob("part-*.parquet")):
            assert process.poll() is None
            time.sleep(0.05)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    parts = [pq.read_table(part, columns=["group_id", "index"]) for part in journal.glob("part-*.parquet")]
    known = {(row["group_id"], row["index"]) for part in parts for row in part.to_pylist()}

    sampled: list[tuple[int, int]] = []
    write = Journal.write

    def noting(self: Journal, finished: list[tuple[Request, Completion]]) -> None:
        sampled.extend((request.group_id, request.index) for request, _ in finished)
        write(self, finished)

    monkeypatch.setattr(Journal, "write", noting)
    report = api.translate([str(source)], out, load_curation("math", changes))
    assert known
    assert known.isdisjoint(sampled)
    assert sorted([*known, *sampled]) == [(row, attempt) for row in range(count) for attempt in range(tries)]
    assert report["translation"]["untranslated"] == {"unreadable": count}
