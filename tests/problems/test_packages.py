"""Kattis/ICPC packages and JSON code problems as Problems."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from magistral_core.config.schema import ProblemSettings
from magistral_core.errors import InputError
from magistral_core.problems import Row, load_problems, parse_problem, read_package
from magistral_core.problems.packages import unanswered
from magistral_core.records import Checker, Problem, ProblemKind, TestCase


def package(folder: Path, settings: str = "source: us\n", **files: str) -> Path:
    """A package; `files` are named with `__` for the folders' slashes."""
    usual = {"data__sample__1.in": "1\n", "data__sample__1.ans": "2\n", "data__secret__b.in": "3\n", "data__secret__b.ans": "4\n"}
    for name, content in (usual | files).items():
        path = folder / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    (folder / "problem.yaml").write_text(settings)
    return folder


def test_a_plain_package(tmp_path: Path) -> None:
    folder = package(
        tmp_path / "adding",
        **{"problem_statement__problem.en.tex": "Add 1. % not this\n100\\% of it", "problem_statement__problem.sv.tex": "x"},
    )
    found = read_package(folder)
    assert found == Problem(
        id="adding",
        question="Add 1. \n100\\% of it",
        kind=ProblemKind.CODE,
        tests=(TestCase("1\n", "2\n", name="sample/1"), TestCase("3\n", "4\n", name="secret/b")),
        checker=Checker(flags=()),
        time_limit_s=10.0,
        memory_limit_mb=2048,
        source=str(folder),
    )


def test_problem_files_beside_packages_are_read_too(tmp_path: Path) -> None:
    package(tmp_path / "code" / "adding", **{"submissions__notes.jsonl": "{}\n"})
    (tmp_path / "math.jsonl").write_text('{"question": "1+1=?", "answer": "2"}\n')
    assert [problem.kind for problem in load_problems(ProblemSettings(path=str(tmp_path)))] == [ProblemKind.CODE, ProblemKind.MATH]


@pytest.mark.parametrize(
    ("limits", "seconds", "megabytes"),
    [
        ("", 10.0, 2048),
        ("limits: {time_multiplier: 1.2}", 10.0, 2048),
        ("limits: {time_multiplier: 10, memory: 512}", 20.0, 512),
        ("limits:", 10.0, 2048),
    ],
)
def test_limits(tmp_path: Path, limits: str, seconds: float, megabytes: int) -> None:
    found = read_package(package(tmp_path, limits))
    assert (found.time_limit_s, found.memory_limit_mb) == (seconds, megabytes)


def test_flags_and_validators(tmp_path: Path) -> None:
    assert read_package(package(tmp_path / "a", "validator_flags: float_tolerance 1e-6 case_sensitive")).checker.flags == (
        "float_tolerance", "1e-6", "case_sensitive",
    )  # fmt: skip
    cpp = package(tmp_path / "b", "validation: custom", **{"output_validators__v__v.cc": "int main;", "output_validators__v__v.h": "//"})
    assert read_package(cpp).checker == Checker((), {"v.cc": b"int main;", "v.h": b"//"})
    python = package(
        tmp_path / "c",
        "validation: custom\nvalidator_flags: x",
        **{"output_validators__validate.py": "1", "output_validators__lib.py": "2"},
    )
    listed = package(tmp_path / "d", "type: [pass-fail, scoring]\nvalidator_flags: [float_tolerance, 1e-6]")
    assert read_package(listed).checker.flags == ("float_tolerance", "1e-6")
    assert read_package(python).checker == Checker(("x",), {"lib.py": b"2", "validate.py": b"1"}, "validate.py")


@pytest.mark.parametrize(
    ("settings", "files", "words"),
    [
        ("a: [", {}, "problem.yaml: not YAML"),
        ("- a", {}, "problem.yaml: expected a mapping"),
        ("limits: {time_multiplier: fast}", {}, "limits.time_multiplier: expected a number above 0, this is 'fast'"),
        ("limits: {memory: -1}", {}, "limits.memory"),
        ("validation: custom", {}, "no output validator"),
        ("validation: custom interactive", {}, "interactive problems are not supported"),
        ("type: interactive", {}, "interactive problems are not supported"),
        ("type: [pass-fail, interactive]", {}, "interactive problems are not supported"),
        ("type:\n- pass-fail\n- multi-pass", {}, "interactive problems are not supported"),
        ("a: 1", {"data__secret__c.in": "5"}, "c.in: no answer file c.ans beside it"),
        (
            "validator_flags: float_tolerance 1e-3",
            {"data__secret__testdata.yaml": "output_validator_flags: float_tolerance 1e-6"},
            "secret/testdata.yaml: output_validator_flags 'float_tolerance 1e-6' of a test group; .* validator_flags in problem.yaml",
        ),
    ],
)
def test_broken_packages(tmp_path: Path, settings: str, files: dict[str, str], words: str) -> None:
    with pytest.raises(InputError, match=words):
        read_package(package(tmp_path, settings, **files))


def test_no_package(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="it has no problem.yaml"):
        read_package(tmp_path)
    (tmp_path / "problem.yaml").write_text("a: 1")
    with pytest.raises(InputError, match="no tests"):
        read_package(tmp_path)


def test_a_folder_of_packages_is_a_source(tmp_path: Path) -> None:
    for name in ("two", "one"):
        package(tmp_path / "year" / name)
    assert [problem.id for problem in load_problems(ProblemSettings(path=str(tmp_path)))] == ["one", "two"]
    assert [problem.id for problem in load_problems(ProblemSettings(path=str(tmp_path / "year" / "two")))] == ["two"]


def parsed(**data: object) -> Problem:
    return parse_problem(Row("code.jsonl", 3, {"statement": "Do it.", **data}))


def test_json_problems() -> None:
    tests = [{"input": "1 2", "output": "3"}]
    plain = parsed(tests=tests, time_limit_s=2.5, memory_limit_mb=64, validator_flags="float_tolerance 1e-3", note="kept")
    assert (plain.tests, plain.kind, plain.entry_point) == ((TestCase("1 2", "3"),), ProblemKind.CODE, "")
    assert (plain.time_limit_s, plain.memory_limit_mb, plain.checker.flags) == (2.5, 64, ("float_tolerance", "1e-3"))
    assert plain.extra == {"note": "kept"}
    function = parsed(tests=[{"input": [1, [2]], "output": {"a": None}}, {"input": "1\n2", "output": "3"}], entry_point="f")
    assert function.tests == (TestCase("[1, [2]]", '{"a": null}'), TestCase("1\n2", "3"))
    assert function.entry_point == "f"
    returns_texts = parsed(tests=[{"input": [5], "output": "101"}, {"input": {"n": 1}, "output": "one"}], entry_point="f")
    assert returns_texts.tests == (TestCase("[5]", '"101"'), TestCase('{"n": 1}', '"one"'))
    assert parsed(tests=tests).checker == Checker(("case_sensitive",))


def test_humaneval_and_mbpp_rows() -> None:
    human = parse_problem(
        Row("h", 1, {"prompt": "def f():\n", "entry_point": "f", "test": "def check(candidate):\n    assert candidate() == 1"})
    )
    [check] = human.tests
    assert check.check.startswith("def f():\n") and check.check.endswith("\ncheck(candidate)\n")
    assert (human.kind, human.entry_point, human.answer) == (ProblemKind.CODE, "f", "")
    mbpp = parse_problem(
        Row("m", 1, {"text": "Do.", "code": "x", "test_list": ["assert f() == 1", "assert f() != 2"], "test_setup_code": "a = 1"})
    )
    assert [test.check for test in mbpp.tests] == ["a = 1\nassert f() == 1\n", "a = 1\nassert f() != 2\n"]
    assert (mbpp.question, mbpp.entry_point) == ("Do.\n\nWrite the function `f`. It is called like this: `f()`.", "")


@pytest.mark.parametrize(
    ("text", "checks", "end"),
    [
        ("Do.", ["assert f([1, 'a'], b=2) == 12345"], "`f`. It is called like this: `f([1, 'a'], b=2)`."),
        ("Do.", ["assert set(f((1,))) == set([2])", "assert f((2,)) == {3}"], "`f`. It is called like this: `f((1,))`."),
        ("Do.", ["assert longest([Pair(1, 2)], 4) == 3", "assert longest([Pair(3, 4)], 5) == 6"], "`longest([Pair(1, 2)], 4)`."),
        ("Do.", ["assert math.isclose(area(2), 4.5)"], "`area(2)`."),
        ("Do the sum.", ["assert sum(10, 15) == 6"], "`sum(10, 15)`."),
        ("Write f(x).", ["assert f(1) == 1"], "Write f(x)."),
        ("Do.", ["assert f(1 =="], "Do."),
        ("Do.", ["assert True"], "Do."),
    ],
)
def test_a_statement_of_mbpp_names_the_function(text: str, checks: list[str], end: str) -> None:
    found = parse_problem(Row("m", 1, {"text": text, "test_list": checks}))
    assert found.question.startswith(text) and found.question.endswith(end)
    assert "12345" not in found.question
    assert [test.check for test in found.tests] == [f"\n{check}\n" for check in checks]


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ({"tests": "x"}, "field tests: tests are a list"),
        ({"tests": [{"input": 1, "output": "2"}]}, "test 1: a test is an object"),
        ({"tests": [{"input": "1"}]}, "test 1: a test is an object"),
        ({"tests": [{"input": "1", "output": "2"}, {"input": "\ud83d", "output": "2"}]}, "field tests, test 2: half a character"),
        ({"tests": [{"input": "1", "output": "a\ud83d"}]}, "test 1: half a character .* at 1"),
        ({"test_list": ["assert f() == '\ud83d'"]}, "the checks: half a character"),
        ({"tests": [], "output_validator": {"files": {"v.py": "\ud83d"}, "main": "v.py"}}, "output_validator: half a character"),
        ({"tests": [{"input": "1", "output": "2"}], "time_limit_s": "fast"}, "field time_limit_s: a limit is a number above 0"),
        ({"tests": [{"input": "1", "output": "2"}], "memory_limit_mb": 0}, "field memory_limit_mb"),
        ({"tests": [{"input": "1", "output": "2"}], "validator_flags": ["x"]}, "field validator_flags"),
    ],
)
def test_broken_json_problems(data: dict[str, object], words: str) -> None:
    with pytest.raises(InputError, match=words) as error:
        parsed(**json.loads(json.dumps(data)))
    assert str(error.value).startswith("code.jsonl:3")


def test_a_package_read_leniently(tmp_path: Path) -> None:
    folder = package(tmp_path, **{"data__secret__c.in": "5\n"})
    with pytest.raises(InputError, match=r"c\.in: no answer file"):
        read_package(folder)
    assert [test.name for test in read_package(folder, lenient=True).tests] == ["sample/1", "secret/b"]
    assert unanswered(folder) == (TestCase("5\n", name="secret/c"),)


def test_a_validator_in_a_row() -> None:
    row = {"question": "q", "tests": [{"input": "1", "output": "2"}], "validator_flags": "x"}
    files = {"v.py": "1", "w.py": "\udcff"}
    found = parse_problem(Row("f", 1, {**row, "output_validator": {"files": files, "main": "v.py"}}))
    assert found.checker == Checker(("x",), {"v.py": b"1", "w.py": b"\xff"}, "v.py")
    assert found.extra == {}
    del row["validator_flags"]
    found = parse_problem(Row("f", 1, {**row, "output_validator": {"files": files, "main": "v.py"}}))
    assert found.checker.flags == (), "no argument that nobody gave"
    for wrong in (7, {"files": []}, {"files": {"v.py": 1}}, {"files": files, "main": "u.py"}):
        with pytest.raises(InputError, match="f:1: field output_validator"):
            parse_problem(Row("f", 1, {**row, "output_validator": wrong}))
