"""The language-model step: replies read, decisions applied; and its plumbing with a real engine and a model that knows nothing."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from magistral_core.config import load_curation
from magistral_core.curation import curate_math
from magistral_core.curation.entry import Entry
from magistral_core.curation.llm import Reply, parse_reply, task_for
from magistral_core.curation.run import _changed

CHOICE = {"question": "Which of the following is prime?", "answer": "B", "choices": ["8", "7"]}


@pytest.mark.parametrize(
    ("text", "reply"),
    [
        ('Well: {"question": "Name it.", "answer": "7"}', Reply("rewritten", "Name it.", "7")),
        ('{"question": "Name $\\\\frac{1}{2}$.", "answer": 7}', Reply("rewritten", "Name $\\frac{1}{2}$.", "7")),
        ('First {"usable": false}, no:\n```json\n{"usable": true}\n```', Reply("usable")),
        ('{"usable": false, "why": "a figure"}', Reply("unusable", why="a figure")),
        ('{"impossible": "many primes"}', Reply("impossible", why="many primes")),
        ('\\boxed{} {"usable": true} {}', Reply("usable")),
    ],
)
def test_replies(text: str, reply: Reply) -> None:
    assert parse_reply(text) == reply


@pytest.mark.parametrize(
    "text",
    [
        "",
        "yes, usable",
        '{"usable": "true"}',
        '{"question": "", "answer": "7"}',
        '{"question": "Name it."}',
        '{"question": "Name $\\frac{1}{2}$", "answer": "7"}',  # \f was not doubled
        '{"question": "Find all $x \\neq 2$ with $x^2=4$.", "answer": "-2"}',  # nor \n
        '{"question": "Find all $x^2=4$ with $x \\ne -2$.", "answer": "2"}',
        '{"usable": true',
        '[1, 2] {"usable"',
    ],
)
def test_what_cannot_be_read(text: str) -> None:
    assert parse_reply(text).kind == "unreadable"


@pytest.mark.parametrize("name", ["question", "answer", "why"])
def test_half_a_character_makes_a_reply_unreadable(name: str) -> None:
    content = {"question": "1+1=?", "answer": "2", "usable": False, "why": "x"}
    assert parse_reply(json.dumps({**content, name: "\ud835"})).kind == "unreadable"


def test_lines_may_end() -> None:
    """Also before what may be the rest of a command, where no formula is open."""
    text = r"Name it, if $a = b$.\nExactly, in metres.\ne^2 is no answer.\nmid-term. \ne 12 of $c$"
    assert parse_reply(f'{{"question": "{text}", "answer": "7"}}').kind == "rewritten"


def test_who_is_asked_what() -> None:
    sure = Entry(0, "f", 1, "a", "What is 1+1?", "2")
    doubtful = Entry(0, "f", 1, "a", "How tall is it?", "2", doubt="may need a figure")
    choice = Entry(0, "f", 1, "a", "Which?", "B", reason="multiple_choice", options=("8", "7"), right="7")
    assert task_for(sure) is None
    assert task_for(Entry(0, "f", 1, "a", "Prove it.", "2", reason="proof")) is None
    assert "it may need a figure" in (task_for(doubtful) or "")
    assert "- 8\n- 7" in (task_for(choice) or "")
    assert "Right option: 7" in (task_for(choice) or "")


def test_decisions() -> None:
    recipe = load_curation("math")

    def after(reply: Reply, doubt: str = "") -> Entry:
        entry = Entry(3, "f", 4, "a", "Which is prime?", "B", doubt=doubt)
        if not doubt:
            entry.reason, entry.options, entry.right = "multiple_choice", ("8", "7"), "7"
        return _changed(entry, reply, recipe)

    new = after(Reply("rewritten", "What is 3+4?", "7"))
    assert (new.question, new.answer, new.reason) == ("What is 3+4?", "7", "")
    assert (new.rewritten, new.original) == ("model", "Which is prime?")
    assert (new.index, new.line) == (3, 4)
    assert after(Reply("rewritten", "Prove that 7 is prime.", "7")).reason == "proof"  # the rules have the last word
    assert after(Reply("impossible", why="many")).detail.endswith("the model: many")
    assert after(Reply("unusable", why="no figure"), "may need a figure").reason == "llm_rejected"
    assert after(Reply("usable"), "may need a figure").doubt == ""


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_with_an_engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A random model's replies cannot be read: the rules' decisions stand, are counted, and are not sampled again."""
    sys.path.insert(0, str(Path(__file__).parents[1] / "generation"))
    from random_model import make_model

    make_model(tmp_path / "model", seed=0)
    rows = [CHOICE, {"question": "How tall is the tower shown to him?", "answer": "7"}, {"question": "What is 3+4?", "answer": "7"}]
    rows.append({"question": "Is it " + "very " * 600 + "tall? It is shown to him?", "answer": "7"})
    source = tmp_path / "in.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    changes = [
        "gold.workers=1",
        f"llm.model={tmp_path / 'model'}",
        "llm.max_tokens=16",
        "llm.prompt.max_tokens=2048",
        "llm.temperature=1.0",
    ]
    changes += ["llm.generation.dtype=float32", "llm.generation.kv_cache_gib=0.0625", "llm.prompt.system=null"]
    recipe = load_curation("math", changes)
    report = curate_math([str(source)], tmp_path / "out", recipe, model=tmp_path / "model")
    assert report["llm"]["replies"].keys() <= {"unreadable", "too_long"}
    assert sum(report["llm"]["replies"].values()) == 3
    assert (report["kept"], report["reasons"]) == (3, {"multiple_choice": 1})
