"""`curate_code` as a whole, with real solutions in the sandbox: outputs, reasons, forms of rows, packages, made tests, resume."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from magistral_core.cli import main
from magistral_core.config import CodeCurationRecipe, load_code_curation
from magistral_core.config.schema import CodeSettings, ProblemSettings
from magistral_core.curation.code import OUTPUTS, curate_code
from magistral_core.curation.code.draft import Solution, Test, read_code_draft
from magistral_core.curation.code.invent import parse_inputs, task_for
from magistral_core.curation.code.run import CodeWork
from magistral_core.curation.code.settle import Settled, SettledTest, Settler
from magistral_core.curation.code.sources import package_row
from magistral_core.curation.code.votes import Fate
from magistral_core.errors import InputError
from magistral_core.problems import Row, load_problems
from magistral_core.records import Problem, TestCase
from magistral_core.rewards.code import CodeJudge, Output
from magistral_core.rewards.validator import Validator
from magistral_core.sandbox import Language, Limits, Program, SandboxError

ADD = [
    "print(sum(map(int, input().split())))",
    "a, b = map(int, input().split())\nprint(a + b)\n",
    "import sys\nprint(sum(int(x) for x in sys.stdin.read().split()))",
]
CPP = "#include <iostream>\nint main() { int a, b; std::cin >> a >> b; std::cout << a + b; }\n"
WRONG = "a, b = map(int, input().split())\nprint(a + b if a < 5 else 0)"
TESTS: list[dict[str, Any]] = [{"input": f"{a} 1\n", "output": f"{a + 1}\n"} for a in (1, 2, 3, 7)]
PYTHON = [{"language": "python", "code": code} for code in ADD]
ROWS: list[dict[str, Any]] = [
    {
        "id": "add",
        "statement": "Add two numbers.",
        "solutions": [
            *PYTHON,
            {"language": "python", "code": WRONG},
            {"language": "java", "code": "x"},
            {"language": "python", "code": "("},
        ],
        "tests": [*TESTS[:3], {"input": "4 4\n", "output": "9\n"}, {"input": "7 1\n", "output": None}],
        "level": 2,
    },
    {"id": "none", "statement": "Add.", "solutions": [{"language": "java", "code": "x"}], "tests": TESTS},
    {"id": "blank", "statement": " ", "solutions": PYTHON, "tests": TESTS},
    {"id": "few", "statement": "Add.", "solutions": PYTHON, "tests": TESTS[:2]},
    {"id": "odd", "statement": "Add.", "solutions": PYTHON, "tests": 7},
    {"id": "ends", "statement": "Add.", "solutions": ["raise SystemExit(1)"], "tests": TESTS},
    {"id": "checks", "prompt": "def f():", "test": "assert f()", "entry_point": "f", "canonical_solution": "def f(): return 1"},
    {"id": "unsolved", "statement": "Add.", "solutions": [WRONG, WRONG.replace("a < 5", "a > 1")], "tests": TESTS},
    {
        "id": "twice",
        "statement": "Double a list.",
        "entry_point": "twice",
        "solutions": ["def twice(x): return x + x", "def twice(x): return list(x) * 2", "def twice(x): return tuple(x) * 2"],
        "tests": [{"input": [[1]], "output": [1, 1]}, {"input": [[2, 3]], "output": [2, 3]}, {"input": [["a"]]}],
    },
]


def write(path: Path, rows: Sequence[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def recipe(*changes: str) -> CodeCurationRecipe:
    return load_code_curation("code", changes)


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("code")
    source = write(folder / "in.jsonl", ROWS)
    return source, folder / "out", curate_code([source], folder / "out", recipe())


def test_every_problem_is_kept_or_rejected_with_its_reason(done: tuple[str, Path, dict[str, Any]]) -> None:
    source, out, report = done
    kept, rejected = lines(out / "kept.jsonl"), lines(out / "rejected.jsonl")
    assert {row["id"]: row["reason"] for row in rejected} == {
        "none": "no_solutions",
        "blank": "empty",
        "few": "too_few_tests",
        "odd": "malformed",
        "ends": "none_runs",
        "checks": "checks_only",
        "unsolved": "unsolved",
    }
    assert [row["source"]["line"] for row in rejected] == [2, 3, 4, 5, 6, 7, 8]
    assert [(row["id"], row["source"]) for row in kept] == [
        ("add-python", {"file": source, "line": 1}),
        ("add-cpp", {"file": source, "line": 1}),
        ("twice-python", {"file": source, "line": 9}),
    ]
    assert (report["read"], report["kept"], report["rejected"], report["rows"]) == (9, 2, 7, 3)
    assert rejected[3]["detail"].startswith("tests: a list of objects")


def test_tests_are_repaired_and_supplied(done: tuple[str, Path, dict[str, Any]]) -> None:
    python, cpp, twice = lines(done[1] / "kept.jsonl")
    assert [test["output"].split() for test in python["tests"]] == [["2"], ["3"], ["4"], ["8"], ["8"]]
    assert python["tests"] == cpp["tests"]
    assert [json.loads(test["output"]) for test in twice["tests"]] == [[1, 1], [2, 3, 2, 3], ["a", "a"]]
    assert "Python 3" in python["question"]
    assert "C++20" in cpp["question"]
    assert python["question"].startswith("Add two numbers.\n\n")
    assert [solution["code"] for solution in python["solutions"]] == ADD
    assert (cpp["solutions"], python["level"]) == ([], 2)


def test_every_change_is_written_down(done: tuple[str, Path, dict[str, Any]]) -> None:
    changes = [change for change in lines(done[1] / "changes.jsonl") if change["id"] == "add"]
    tests = [change for change in changes if "test" in change]
    assert [(change["test"], change["fate"], change["was"], change["is"]) for change in tests] == [
        (4, "replaced", "9\n", "8\n"),
        (5, "supplied", None, "8\n"),
    ]
    solutions = {change["solution"]: change["status"] for change in changes if "solution" in change}
    assert solutions == {4: "wrong", 5: "other_language", 6: "compile_error"}
    report = done[2]
    assert report["tests"] == {"kept": 4, "of rejected problems": 18, "replaced": 2, "supplied": 2}
    assert report["solutions"]["correct"] == 6


def test_the_outputs_are_problems_for_training(done: tuple[str, Path, dict[str, Any]]) -> None:
    python, _, twice = load_problems(ProblemSettings(path=str(done[1] / "kept.jsonl")))
    judge = CodeJudge(CodeSettings())
    assert judge.judge_answer(python, f"```python\n{ADD[0]}\n```", "s").correct
    assert not judge.judge_answer(python, f"```python\n{WRONG}\n```", "s").correct
    assert judge.judge_answer(twice, "```python\ndef twice(x): return x + x\n```", "s").correct
    assert sorted(path.name for path in done[1].iterdir()) == sorted(OUTPUTS)


def test_what_was_curated_stays_as_it_is(done: tuple[str, Path, dict[str, Any]], tmp_path: Path) -> None:
    curate_code([str(done[1] / "kept.jsonl")], tmp_path / "again", recipe("languages=[python]"))
    again = {row["id"]: row for row in lines(tmp_path / "again" / "kept.jsonl")}
    assert again["add-python-python"]["tests"] == lines(done[1] / "kept.jsonl")[0]["tests"]
    assert [change for change in lines(tmp_path / "again" / "changes.jsonl") if "test" in change] == []


@pytest.mark.parametrize(
    ("data", "tests", "solutions"),
    [
        ({"tests": [{"input": "1", "output": "2"}, {"stdin": "3"}]}, [Test("1", "2"), Test("3")], []),
        ({"input_output": json.dumps({"inputs": ["1"], "outputs": ["2"]})}, [Test("1", "2")], []),
        ({"input_output": {"inputs": [[1, "a"]], "outputs": [2], "fn_name": "f"}}, [Test('[1, "a"]', "2")], []),
        (
            {
                "public_tests": {"input": ["1"], "output": ["2"]},
                "generated_tests": {"input": ["3", "4"], "output": ["5"]},
                "solutions": {"language": [3, 2, 4], "solution": ["p", "c", "j"]},
                "incorrect_solutions": {"language": [3], "solution": ["w"]},
            },
            [Test("1", "2"), Test("3", "5"), Test("4")],
            [
                Solution("p", Language.PYTHON, "1"),
                Solution("c", Language.CPP, "2"),
                Solution("j", None, "3"),
                Solution("w", Language.PYTHON, "1", "incorrect"),
            ],
        ),
        ({"input_output": "{}", "public_tests": [], "private_tests": " ", "tests": TESTS[:1]}, [Test("1 1\n", "2\n")], []),
        ({"solutions": [" ", {"code": "print(1)", "language": None}]}, [], [Solution("print(1)", Language.PYTHON, "2")]),
        ({"solutions": {"code": "print(1)", "language": "py"}}, [], [Solution("print(1)", Language.PYTHON, "1")]),
        ({"solutions": '["print(1)"]'}, [], [Solution("print(1)", Language.PYTHON, "1")]),
        ({"solutions": [{"lang": "cc", "source": "x", "verdict": "AC"}]}, [], [Solution("x", Language.CPP, "1", "AC")]),
    ],
)
def test_the_usual_forms_of_rows(data: dict[str, Any], tests: list[Test], solutions: list[Solution]) -> None:
    draft = read_code_draft(Row("f", 1, {"description": "S", **data}))
    assert (draft.question, draft.fault, list(draft.tests), list(draft.solutions)) == ("S", "", tests, solutions)


def test_a_text_result_beside_arguments_that_are_values_is_a_text() -> None:
    data = {"fn_name": "f", "inputs": [[5], ["n"]], "outputs": ["101", "n"]}
    draft = read_code_draft(Row("f", 1, {"description": "S", "input_output": data}))
    assert list(draft.tests) == [Test("[5]", '"101"', ""), Test('["n"]', '"n"', "")]


@pytest.mark.parametrize(
    ("data", "detail"),
    [
        ({"tests": [{"input": "\ud83d", "output": "1"}]}, "half a character"),
        ({"tests": [{"input": "1", "output": "\ud83d"}]}, "half a character"),
        ({"solutions": ["print(1)", "print('\ud83d')"]}, "half a character"),
        ({"generators": ["print('\ud83d')"]}, "half a character"),
        ({"solutions": 5}, "solutions: a list of objects"),
        ({"generators": True}, "generators: a list of objects"),
        ({"solutions": {"language": 1, "solution": ["print(1)"]}}, "solutions: lists"),
        ({"tests": "[" * 100_000}, "tests: a list of objects"),
        ({"validator_flags": "float_tolerance 1e-6 shuffled"}, "validator_flags"),
        ({"entry_point": "add", "output_validator": {"files": {"v.py": ""}, "main": "v.py"}}, "asks for a function"),
    ],
)
def test_what_cannot_be_judged_rejects_its_row_only(tmp_path: Path, data: dict[str, Any], detail: str) -> None:
    good = {"statement": "Add.", "solutions": [{"code": ADD[0]}], "tests": TESTS}
    source = write(tmp_path / "in.jsonl", [{**good, "statement": "Other.", **data}, good])
    curate_code([source], tmp_path / "out", recipe())
    [row] = lines(tmp_path / "out" / "rejected.jsonl")
    assert (row["source"]["line"], row["reason"]) == (1, "malformed")
    assert detail in row["detail"]
    assert lines(tmp_path / "out" / "kept.jsonl")


def test_bytes_that_are_no_text_are_no_fault() -> None:
    draft = read_code_draft(Row("f", 1, {"description": "S", "tests": [{"input": "\udcff", "output": "\udc80"}]}))
    assert (draft.fault, draft.tests) == ("", (Test("\udcff", "\udc80"),))


def test_settled_problems_survive_the_disk() -> None:
    settled = Settled(3, "", "", (SettledTest(Fate.REPLACED, 0.5, "\udc80\n"), SettledTest(Fate.KEPT, 1.0)), (), 0.5)
    assert Settled.from_line(settled.to_line()) == settled


VALIDATOR = """\
import sys
number = int(open(sys.argv[1]).read())
try:
    parts = [int(word) for word in sys.stdin.read().split()]
except ValueError:
    sys.exit(43)
if len(open(sys.argv[2]).read().split()) != 2:
    sys.exit(1)
sys.exit(42 if len(parts) == 2 and sum(parts) == number else 43)
"""


def make_package(folder: Path) -> Path:
    """Split a number into two: many right outputs. One answer is broken, one is missing."""
    for part in ("data/secret", "problem_statement", "output_validators", "submissions/accepted", "submissions/wrong_answer", "generators"):
        (folder / part).mkdir(parents=True)
    (folder / "problem.yaml").write_text("validation: custom\n")
    (folder / "problem_statement" / "problem.en.tex").write_text("Split a number.")
    (folder / "output_validators" / "validate.py").write_text(VALIDATOR)
    for name, number, answer in (("1", 5, "2 3"), ("2", 6, "0 6"), ("3", 7, "broken"), ("4", 8, None)):
        (folder / "data" / "secret" / f"{name}.in").write_text(f"{number}\n")
        if answer is not None:
            (folder / "data" / "secret" / f"{name}.ans").write_text(answer)
    programs = {
        "accepted/zero.py": "print(0, input())",
        "accepted/one.py": "print(1, int(input()) - 1)",
        "wrong_answer/bad.py": "print(1, input())",
    }
    for name, code in programs.items():
        (folder / "submissions" / name).write_text(code)
    (folder / "generators" / "random.py").write_text("import sys, random\nrandom.seed(sys.argv[-1])\nprint(random.randint(10, 10**6))\n")
    return folder


def test_a_package_with_a_validator(tmp_path: Path) -> None:
    package = make_package(tmp_path / "packages" / "split")
    report = curate_code([str(tmp_path / "packages")], tmp_path / "out", recipe("generate.wanted=6", "languages=[c++]"))
    [row] = lines(tmp_path / "out" / "kept.jsonl")
    assert row["source"] == {"file": str(package), "line": 1}
    assert [test["output"] for test in row["tests"][:2]] == ["2 3", "0 6"]  # right outputs that no solution printed
    for test in row["tests"][2:]:
        assert sum(map(int, test["output"].split())) == int(test["input"])
    assert report["tests"] == {"kept": 2, "replaced": 1, "supplied": 1, "supplied, generated": 2}
    assert report["solutions"] == {"correct": 2, "wrong": 1}
    [problem] = load_problems(ProblemSettings(path=str(tmp_path / "out" / "kept.jsonl")))
    judge = CodeJudge(CodeSettings())
    assert judge.judge_answer(problem, "```python\nn = int(input())\nprint(n - 3, 3)\n```", "s").correct
    assert not judge.judge_answer(problem, "```python\nprint(0, 0)\n```", "s").correct


def test_problem_files_beside_packages_are_read_too(tmp_path: Path) -> None:
    package = make_package(tmp_path / "mixed" / "split")
    row = {"id": "beside", "statement": "Add.", "solutions": [{"code": ADD[0]}], "tests": TESTS}
    source = write(tmp_path / "mixed" / "contests.jsonl", [row])
    report = curate_code([str(tmp_path / "mixed")], tmp_path / "out", recipe())
    files = {row["source"]["file"] for name in ("kept", "rejected") for row in lines(tmp_path / "out" / f"{name}.jsonl")}
    assert files == {str(package), source}
    assert {item["file"] for item in report["sources"]} == files


def test_a_broken_validator_rejects_its_problem_only(tmp_path: Path) -> None:
    package = make_package(tmp_path / "split")
    (package / "output_validators" / "validate.py").write_text("raise SystemExit(7)")
    curate_code([str(package)], tmp_path / "out", recipe())
    [row] = lines(tmp_path / "out" / "rejected.jsonl")
    assert (row["reason"], "broke" in row["detail"]) == ("broken_validator", True)


def test_a_package_that_cannot_be_judged_rejects_itself_only(tmp_path: Path) -> None:
    (make_package(tmp_path / "packages" / "a") / "problem.yaml").write_text("validation: custom interactive\n")
    make_package(tmp_path / "packages" / "b")
    curate_code([str(tmp_path / "packages")], tmp_path / "out", recipe("languages=[python]"))
    [row] = lines(tmp_path / "out" / "rejected.jsonl")
    assert (row["id"], row["reason"], "interactive" in row["detail"]) == ("a", "malformed", True)
    assert [row["id"] for row in lines(tmp_path / "out" / "kept.jsonl")] == ["b-python"]


def test_a_function_is_rejected_where_no_language_asks_for_one(tmp_path: Path) -> None:
    source = write(tmp_path / "in.jsonl", [ROWS[0], ROWS[-1]])
    report = curate_code([source], tmp_path / "out", recipe("languages=[c++]"))
    assert [(row["id"], row["reason"]) for row in lines(tmp_path / "out" / "rejected.jsonl")] == [("twice", "not_asked")]
    assert (report["kept"], report["rows"]) == (1, 1)


def test_what_the_sandbox_broke_is_tried_again_and_is_no_verdict(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The machine's fault, not the validator's: it must not reject a problem for good."""
    broken: list[int] = []
    difference = Validator.difference

    def breaks(validator: Validator, test: TestCase, output: bytes) -> str:
        if len(broken) < times:
            broken.append(1)
            raise SandboxError("the machine is overloaded")
        return difference(validator, test, output)

    monkeypatch.setattr(Validator, "difference", breaks)
    draft = read_code_draft(Row("f", 1, package_row(make_package(tmp_path / "split"))))
    with ThreadPoolExecutor(1) as executor:
        settler = Settler(recipe("min_tests=2"), CodeJudge(CodeSettings()), executor)
        times = 1
        assert settler.settle(0, draft).reason == ""
        times, broken = 10**6, []
        with pytest.raises(SandboxError, match="overloaded"):
            settler.settle(0, draft)


def test_a_function_whose_tests_mean_another_thing_without_the_removed_ones_is_rejected() -> None:
    """Of `[7]`, `[3]` and `[9]` alone each would be all arguments; `[1, 2]` beside them says that each is one list."""
    tests = [{"input": f"[{n}]", "output": str(n)} for n in (7, 3, 9)]
    solutions = ["def f(x): return sum(x)", "def f(x): return x[0] if len(x) == 1 else 99"]
    data = {"statement": "Sum.", "entry_point": "f", "tests": [*tests, {"input": "[1, 2]", "output": "50"}], "solutions": solutions}
    with ThreadPoolExecutor(1) as executor:
        settled = Settler(recipe(), CodeJudge(CodeSettings()), executor).settle(0, read_code_draft(Row("f", 1, data)))
    assert [test.fate for test in settled.tests] == [Fate.KEPT] * 3 + [Fate.REMOVED]
    assert (settled.reason, settled.detail) == ("ambiguous", "3 of 4 tests are left")


def test_a_work_folder_that_is_half_taken_away_is_nobody_s(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(path: Path) -> None:
        raise KeyboardInterrupt

    with CodeWork(tmp_path, "it") as work:
        work.write_inputs({}, {})
        monkeypatch.setattr(shutil, "rmtree", killed)
        with pytest.raises(KeyboardInterrupt):
            work.remove()
    monkeypatch.undo()
    with CodeWork(tmp_path, "it") as again:
        assert not again.has_inputs


def test_only_accepted_solutions_have_a_say(tmp_path: Path) -> None:
    wrong = [{"code": WRONG + "\n" * extra, "label": "wrong_answer"} for extra in range(4)]
    row = {"statement": "Add.", "solutions": [{"code": ADD[0], "label": "accepted"}, *wrong], "tests": TESTS}
    source = write(tmp_path / "in.jsonl", [row])
    report = curate_code([source], tmp_path / "out", recipe("agreement.trust_accepted=true"))
    assert (report["tests"], report["solutions"]) == ({"kept": 4}, {"correct": 1, "not_accepted": 4})


def test_made_inputs_of_a_function_have_the_form_of_its_own() -> None:
    draft = read_code_draft(
        Row(
            "f",
            1,
            {
                "statement": "Sum.",
                "entry_point": "f",
                "tests": [{"input": f"[[{n}, 1]]", "output": f"{n + 1}"} for n in range(4)],
                "solutions": ["def f(x): return sum(x)"] * 2,
            },
        )
    )
    with ThreadPoolExecutor(1) as executor:
        settled = Settler(recipe(), CodeJudge(CodeSettings()), executor).settle(0, draft, ["[3, 1]", "5", "[[1, 2, 3]]"])
    assert [test.fate for test in settled.tests] == [Fate.KEPT] * 4 + [Fate.SUPPLIED]


def test_replies_with_inputs() -> None:
    assert parse_inputs('{"inputs": ["\\ud83d", "1"]}') == ["1"]
    assert parse_inputs('Hm. {"inputs": ["1 2\\n", [3, 4], " "]}') == ["1 2\n", "[3, 4]"]
    assert parse_inputs('{"inputs": "1"}') == []
    assert parse_inputs("none") == []
    draft = read_code_draft(Row("f", 1, ROWS[0]))
    asked = task_for(draft, recipe("generate.wanted=9").generate)
    assert "Write 4 different inputs" in asked
    assert "1 1\n" in asked


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_inputs_from_an_engine(tmp_path: Path) -> None:
    """A random model's replies cannot be read: nothing changes, it is counted, and not sampled again."""
    sys.path.insert(0, str(Path(__file__).parents[1] / "generation"))
    from random_model import make_model

    make_model(tmp_path / "model", seed=0)
    source = write(tmp_path / "in.jsonl", [ROWS[0], ROWS[1], ROWS[8]])
    changes = [f"llm.model={tmp_path / 'model'}", "llm.max_tokens=16", "llm.prompt.max_tokens=2048", "llm.generation.dtype=float32"]
    changes += ["llm.generation.kv_cache_gib=0.0625", "llm.prompt.system=null", "generate.wanted=9"]
    report = curate_code([source], tmp_path / "out", recipe(*changes), model=tmp_path / "model")
    assert report["llm"]["replies"] == {"inputs": 0, "unreadable": 3}
    assert report["kept"] == 2


class StoppedError(Exception):
    """Raised from an event, as a signal would."""


class CountingJudge(CodeJudge):
    """Counts the programs that it runs."""

    def __init__(self) -> None:
        super().__init__(CodeSettings())
        self.ran: Counter[str] = Counter()

    def outputs(
        self, problem: Problem, program: Program, inputs: Sequence[str], limits: Limits, compile_limits: Limits, max_late: int
    ) -> list[Output]:
        self.ran[f"{problem.id} {program.files[program.main].decode()}"] += 1
        return super().outputs(problem, program, inputs, limits, compile_limits, max_late)


def test_resume_runs_no_finished_problem_again(
    tmp_path: Path, done: tuple[str, Path, dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    from magistral_core.curation import progress

    monkeypatch.setattr(progress, "_EVENT_S", 0.0)
    judge = CountingJudge()

    def stop(event: dict[str, Any]) -> None:
        if event["stage"] == "solutions on tests" and event["done"] == 5:
            raise StoppedError

    with pytest.raises(StoppedError):
        curate_code([done[0]], tmp_path / "out", recipe(), judge=judge, on_event=stop)
    assert {name.split()[0] for name in judge.ran} == {"add", "few"}
    with (tmp_path / "out" / ".work" / "settled.jsonl").open("a") as file:
        file.write('{"index": 5, "rea')  # a line that a kill cut off
    curate_code([done[0]], tmp_path / "out", recipe(), judge=judge)
    assert set(judge.ran.values()) == {1}
    for name in ("kept.jsonl", "rejected.jsonl", "changes.jsonl"):
        assert (tmp_path / "out" / name).read_text() == (done[1] / name).read_text()
    assert not (tmp_path / "out" / ".work").exists()


@pytest.mark.faults
@pytest.mark.timeout(900)
def test_killed_at_any_point(tmp_path: Path) -> None:
    """SIGKILL at ever later points; then the command ends with the outputs of one that was never killed."""
    rows = [{**ROWS[0], "id": f"add-{number}"} for number in range(24)]
    source = write(tmp_path / "in.jsonl", [*rows, *ROWS[1:]])
    curate_code([source], tmp_path / "whole", recipe())
    command = [sys.executable, "-m", "magistral_core.cli", "curate", "code", source, "--out", str(tmp_path / "out")]
    journal = tmp_path / "out" / ".work" / "settled.jsonl"

    def finished() -> int:
        return journal.read_bytes().count(b"\n") if journal.exists() else 0

    counts, kept = [0], b""
    for attempt in range(8):
        process = subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL, start_new_session=True)
        deadline = time.monotonic() + 120
        while process.poll() is None and time.monotonic() < deadline and finished() < counts[-1] + 1 + attempt % 4:
            time.sleep(0.01)
        if process.poll() is not None:
            break
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        now = journal.read_bytes()
        assert now.startswith(kept), "what an earlier start had settled was settled again"
        kept = now[: now.rfind(b"\n") + 1]
        counts.append(finished())
    assert len(counts) > 3
    subprocess.run(command, check=True, capture_output=True)
    for name in ("kept.jsonl", "rejected.jsonl", "changes.jsonl"):
        assert (tmp_path / "out" / name).read_text() == (tmp_path / "whole" / name).read_text()


def test_bad_input_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = tmp_path / "in.jsonl"
    source.write_text(json.dumps(ROWS[0]) + "\n{\n")
    assert main(["curate", "code", str(source), "--out", str(tmp_path / "out")]) == 2
    assert "in.jsonl:2" in capsys.readouterr().err
    source.write_text(json.dumps(ROWS[0]) + "\n")
    assert main(["curate", "code", str(source), "--out", str(tmp_path / "out"), "--set", "agreement.kep=1"]) == 2
    assert "did you mean agreement.keep?" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    with pytest.raises(InputError, match="is a file"):
        curate_code([str(source)], source, recipe())


def test_the_command_logs_the_set(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    from mlflow import MlflowClient

    monkeypatch.setenv("MAGISTRAL_HOME", str(tmp_path / "home"))
    source, database = write(tmp_path / "in.jsonl", ROWS[:2]), f"sqlite:{tmp_path / 'mlflow.db'}"
    arguments = ["curate", "code", source, "--out", str(tmp_path / "out"), "--set", f"tracking.uri={database}", "--json"]
    assert main(arguments) == 0
    report = json.loads(capsys.readouterr().out)
    client = MlflowClient(database.replace("sqlite:", "sqlite:///"))
    [run] = client.search_runs([client.get_experiment_by_name("magistral").experiment_id])
    assert run.data.metrics["tests/replaced"] == 1
    assert run.data.metrics["solutions/correct"] == 3
    data = {item.tags[0].value: item.dataset for item in run.inputs.dataset_inputs}
    assert json.loads(data["curated"].profile) == {"num_rows": report["rows"]}
    assert {Path(item.path).name for item in client.list_artifacts(run.info.run_id, "curation")} == set(OUTPUTS)
