"""Reading problem files: every accepted form, and one clear line for every broken one."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from magistral_core.config.schema import FieldNames, ProblemSettings
from magistral_core.errors import InputError
from magistral_core.problems import load_problems, register_source
from magistral_core.records import Problem, ProblemKind, TestCase

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"
real_data = pytest.mark.skipif(not DATA.is_dir(), reason="the data folder ../shared/data is not here")
GOOD = '{"question": "1+1?", "answer": "2"}\n'


def load(path: Path | str, **settings: object) -> list[Problem]:
    return load_problems(ProblemSettings.model_validate({"path": str(path), **settings}))


def write(folder: Path, text: str | bytes, name: str = "p.jsonl") -> Path:
    path = folder / name
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def one(folder: Path, **row: object) -> Problem:
    (problem,) = load(write(folder, json.dumps(row)))
    return problem


@real_data
@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("gsm8k/train.jsonl", 7473),
        ("gsm8k/test.jsonl", 1319),
        ("math500/test.jsonl", 500),
        ("aime_2024_2025/aime24.test.txt", 30),
        ("aime_2024_2025/aime25.test.txt", 30),
        ("aime_2024_2025", 60),
        ("amc23/test.jsonl", 40),
    ],
)
def test_public_sets(name: str, count: int) -> None:
    problems = load(DATA / name)
    assert len(problems) == len({problem.id for problem in problems}) == count
    assert all(problem.question and problem.answer and "####" not in problem.answer for problem in problems)


@real_data
def test_public_answers_are_canonical() -> None:
    assert [p.answer for p in load(DATA / "amc23/test.jsonl", limit=2)] == ["27", "36"]
    gsm8k = load(DATA / "gsm8k/train.jsonl", limit=1)[0]
    assert (gsm8k.id, gsm8k.answer) == ("train-1", "72")
    assert load(DATA / "math500/test.jsonl", limit=1)[0].answer == r"\left( 3, \frac{\pi}{2} \right)"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (27.0, "27"),
        (2125, "2125"),
        (0.1, "0.1"),
        (1e-7, "0.0000001"),
        (True, "True"),
        ([1, 2.0], "1, 2"),
        (" x ", "x"),
        ("a\n#### 1,080 ", "1,080"),
        (0, "0"),
    ],
)
def test_answers_become_text(tmp_path: Path, value: object, text: str) -> None:
    assert one(tmp_path, question="q", answer=value).answer == text


@pytest.mark.parametrize("name", ["question", "problem", "prompt", "statement", "Question", "informal_statement"])
def test_usual_question_names(tmp_path: Path, name: str) -> None:
    assert one(tmp_path, **{name: " why? ", "answer": "1"}).question == "why?"


def test_answer_is_preferred_over_solution(tmp_path: Path) -> None:
    assert one(tmp_path, question="q", solution=r"so \boxed{1}", answer="2").answer == "2"
    assert one(tmp_path, question="q", solution="So $x=\\boxed{7}$.\n#### Remark").answer == "7"
    assert one(tmp_path, question="q", solution=r"first \boxed{1}, so \boxed{\frac{1}{2}}.", answer=None).answer == r"\frac{1}{2}"


def test_all_fields(tmp_path: Path) -> None:
    problem = one(tmp_path, id=7, problem="q", answer="1", language="fr-FR", level="Level 5", choices=["a", "b"], subject="s")
    assert problem == Problem(
        id="7", question="q", answer="1", language="fr", level=5, source=problem.source, extra={"choices": ["a", "b"], "subject": "s"}
    )
    assert problem.source.endswith("p.jsonl:1")


@pytest.mark.parametrize("language", ["python", "py", "cs"])
def test_code_problem(language: str, tmp_path: Path) -> None:
    problem = one(tmp_path, id="c", statement="add", tests=[{"input": "1 2", "output": "3"}], language=language)
    assert problem.kind is ProblemKind.CODE
    assert problem.tests == (TestCase("1 2", "3"),)
    assert problem.answer == problem.language == ""


def test_set_field_names_win(tmp_path: Path) -> None:
    row = {"question": "no", "answer": "no", "ask": "yes?", "reward_model": {"ground_truth": "yes"}, "uid": "u"}
    (problem,) = load(write(tmp_path, json.dumps(row)), fields=FieldNames(question="ask", answer="reward_model.ground_truth", id="uid"))
    assert (problem.id, problem.question, problem.answer) == ("u", "yes?", "yes")
    with pytest.raises(InputError, match=r"p\.jsonl:1: no field nope \(set as problems\.fields\.answer\); it has question, answer"):
        load(write(tmp_path, json.dumps(row)), fields=FieldNames(answer="nope"))


def test_a_longer_chat_is_refused_with_what_to_do(tmp_path: Path) -> None:
    chat = [{"role": "system", "content": "s"}, {"role": "user", "content": "q"}]
    with pytest.raises(InputError, match=r":1: field prompt: the question is a chat of 2 messages \(system, user\); .*prompt\.system"):
        one(tmp_path, prompt=chat, answer="1")


@pytest.mark.parametrize("name", ["../../.bashrc", "/etc/passwd", "a/b.py", "", ".", "-o", ".hidden"])
def test_a_validators_file_stays_in_its_box(tmp_path: Path, name: str) -> None:
    validator = {"files": {name: "x", "v.cpp": "int main() {}"}}
    with pytest.raises(InputError, match="is not the name of a file"):
        one(tmp_path, question="q", tests=[{"input": "", "output": "1"}], output_validator=validator)


def test_chat_prompt(tmp_path: Path) -> None:
    assert one(tmp_path, prompt=[{"role": "user", "content": "q"}], answer="1").question == "q"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the file is empty"),
        ("\n\n", "holds no problems"),
        (GOOD + '{"question": "2', ":2: the last line is cut off"),
        (GOOD + "nonsense\n" + GOOD, ":2: not JSON"),
        (GOOD + "[1]\n", ":2: a problem is a JSON object"),
        (GOOD + '{"answer": "2"}\n', ":2: no question"),
        (GOOD + '{"question": "  ", "answer": "2"}\n', ":2: no question"),
        (GOOD + '{"question": 5, "answer": "2"}\n', ":2: field question: the question must be text"),
        (GOOD + '{"question": "x", "answer": " "}\n', ":2: the problem has no answer"),
        (GOOD + '{"question": "x", "answer": null}\n', ":2: the problem has no answer"),
        (GOOD + '{"question": "x", "answer": "work\\n#### "}\n', ":2: the problem has no answer"),
        (GOOD + '{"question": "x", "solution": "long\\nwords without a result"}\n', ":2: the problem has no answer"),
        (GOOD + '{"question": "x", "answer": {"a": 1}}\n', ":2: field answer: expected text"),
        (GOOD + '{"question": "x", "answer": NaN}\n', ":2: field answer: nan is not an answer"),
        (GOOD + '{"question": "x", "tests": [{"input": 1}]}\n', ":2: field tests, test 1"),
        ('{"id": "a", "question": "x", "answer": "1"}\n' * 2, r":2: the id 'a' is taken by .*:1"),
        (GOOD.encode() + b'{"question": "\xe9t\xe9", "answer": "1"}\n', ":2: not UTF-8"),
        (GOOD.encode("utf-16"), ":1: not UTF-8 .* iconv -f UTF-16"),
    ],
)
def test_broken_files(tmp_path: Path, text: str | bytes, message: str) -> None:
    with pytest.raises(InputError, match=message) as error:
        load(write(tmp_path, text))
    assert "\n" not in str(error.value)
    assert str(tmp_path) in str(error.value)


def test_a_set_field_that_is_empty_is_named(tmp_path: Path) -> None:
    path = write(tmp_path, '{"question": "x", "reward_model": {"ground_truth": null}}\n')
    with pytest.raises(InputError, match=r":1: field reward_model.ground_truth \(set as problems.fields.answer\) is empty"):
        load(path, fields={"answer": "reward_model.ground_truth"})


def test_a_last_line_without_newline_is_whole(tmp_path: Path) -> None:
    assert len(load(write(tmp_path, GOOD + GOOD.strip()))) == 2


def test_files_of_one_name_in_several_folders_keep_apart(tmp_path: Path) -> None:
    for folder in ("gsm8k", "math"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "train.jsonl").write_text(GOOD * 2)
    assert [problem.id for problem in load(tmp_path)] == ["train-1", "train-2", "math:train-1", "math:train-2"]
    (tmp_path / "again" / "math").mkdir(parents=True)
    (tmp_path / "again" / "math" / "train.jsonl").write_text(GOOD)
    (tmp_path / "again" / "train.jsonl").write_text(GOOD)
    assert len({problem.id for problem in load(tmp_path)}) == 6
    (tmp_path / "math" / "math").mkdir()
    (tmp_path / "math" / "math" / "train.jsonl").write_text(GOOD)
    with pytest.raises(InputError, match=r"the id 'math:train-1' is taken by .*; give each problem its own, or set problems.fields.id"):
        load(tmp_path)


def test_every_line_is_validated_even_with_a_limit(tmp_path: Path) -> None:
    assert len(load(write(tmp_path, GOOD * 3), limit=2)) == 2
    with pytest.raises(InputError, match=":4: not JSON"):
        load(write(tmp_path, GOOD * 3 + "x\n"), limit=2)


def test_missing_and_unknown(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such problem file"):
        load(tmp_path / "absent.jsonl")
    with pytest.raises(InputError, match="unknown kind"):
        load(write(tmp_path, GOOD, "p.csv"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="holds no problem file"):
        load(tmp_path / "empty")


def test_byte_order_mark_is_no_error(tmp_path: Path) -> None:
    assert load(write(tmp_path, b"\xef\xbb\xbf" + GOOD.encode()))[0].question == "1+1?"


def test_json_list(tmp_path: Path) -> None:
    rows = [{"question": "a", "answer": 1}, {"question": "b", "answer": 2}]
    text = json.dumps(rows, indent=1)
    assert [p.id for p in load(write(tmp_path, text, "l.json"))] == ["l-1", "l-2"]
    with pytest.raises(InputError, match="cut off"):
        load(write(tmp_path, text[:-20], "l.json"))
    with pytest.raises(InputError, match=r"l\.json:1: not JSON"):
        load(write(tmp_path, "[oops, 1]", "l.json"))
    with pytest.raises(InputError, match="item 1: a problem is a JSON object"):
        load(write(tmp_path, "[3]", "l.json"))
    assert len(load(write(tmp_path, GOOD * 2, "lines.json"))) == 2


def test_parquet(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"problem": ["a", "b"], "answer": [27.0, 0.5], "level": ["Level 1", None]}), path)
    assert [(p.id, p.answer, p.level) for p in load(path)] == [("t-1", "27", 1), ("t-2", "0.5", 0)]
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(InputError, match="not a whole Parquet file"):
        load(path)


def test_folder_reads_every_problem_file(tmp_path: Path) -> None:
    write(tmp_path, GOOD, "b.jsonl")
    write(tmp_path, GOOD, "a.txt")
    write(tmp_path, "about", "README.md")
    write(tmp_path, "noise", ".hidden.json")
    assert [p.id for p in load(tmp_path)] == ["a-1", "b-1"]


def test_hugging_face_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    rows = datasets.Dataset.from_dict({"question": ["a", "b"], "answer": ["1", "2"]})
    rows.save_to_disk(tmp_path / "flat")
    assert [p.answer for p in load(tmp_path / "flat")] == ["1", "2"]
    datasets.DatasetDict({"train": rows}).save_to_disk(tmp_path / "splits")
    assert len(load(tmp_path / "splits")) == 2
    with pytest.raises(InputError, match="no split 'test', only train"):
        load(tmp_path / "splits", split="test")
    (tmp_path / "hub").mkdir()
    write(tmp_path / "hub", GOOD * 3, "train.jsonl")
    assert len(load(f"hf:{tmp_path / 'hub'}")) == 3
    with pytest.raises(InputError, match="split nope"):
        load(f"hf:{tmp_path / 'hub'}", split="nope")


def test_registered_source() -> None:
    expected = [Problem(id="g", question="q", answer="1")]
    register_source("generated-for-this-test", lambda settings, seed: expected * seed)
    assert load_problems(ProblemSettings(path="generated-for-this-test"), seed=2) == expected * 2
