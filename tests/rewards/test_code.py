"""Judging code: programs and functions, right and wrong, honest and not. In a real sandbox, of whichever kind this machine has."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from magistral_core.config.schema import CodeSettings, PromptSettings, RewardSettings
from magistral_core.errors import InputError
from magistral_core.records import Checker, Problem, ProblemKind, ScoreStatus, TestCase
from magistral_core.rewards import Verifier, check_supported
from magistral_core.rewards.code import CodeJudge, CodeVerdict, draw_tests
from magistral_core.sandbox import MIB, Language, Limits, Program, Sandbox, SandboxError

SUM = Problem("sum", "Add.", kind=ProblemKind.CODE, tests=tuple(TestCase(f"{n} {n}\n", f"{2 * n}\n") for n in range(30)))
ADD = Problem("add", "Add.", kind=ProblemKind.CODE, entry_point="add", tests=(TestCase("[1, 2]", "3"), TestCase("4\n5", "9")))
CHECKED = Problem(
    "checked",
    "Add.",
    kind=ProblemKind.CODE,
    entry_point="add",
    tests=(TestCase(check="def check(candidate):\n    assert candidate(1, 2) == 3\n    assert candidate(4, 5) == 9\ncheck(candidate)"),),
)
LISTED = Problem("listed", "Add.", kind=ProblemKind.CODE, tests=tuple(TestCase(check=f"assert add({n}, 1) == {n + 1}") for n in range(3)))
NAMED = Problem("named", "q", kind=ProblemKind.CODE, tests=(TestCase(check="assert sum(2, 3) == 6"),))
SHADOWED = Problem("shadowed", "q", kind=ProblemKind.CODE, tests=(TestCase(check="assert set(f()) == set([2])"),))
WITHIN = Problem("within", "q", kind=ProblemKind.CODE, tests=(TestCase(check="assert set(within((3, 4, 5), (5, 4))) == {4, 5}"),))
MODULE = Problem("module", "q", kind=ProblemKind.CODE, tests=(TestCase(check="assert size((1, 2)) == sys.getsizeof((1, 2))"),))
OWN_GCD = Problem("gcd", "q", kind=ProblemKind.CODE, entry_point="gcd", tests=(TestCase("[12, 18]", "6"),))
MIXED = Problem("mixed", "q", kind=ProblemKind.CODE, tests=(TestCase(check="assert sum(10, 20) == math.floor(6.0)"),))
EVALUATED = Problem("evaluated", "q", kind=ProblemKind.CODE, tests=(TestCase(check="assert eval(f()) == 3"),))
NAMED_AS_MODULE = Problem("heapq", "q", kind=ProblemKind.CODE, tests=(TestCase(check="assert heapq([2, 1]) == [1, 2]"),))
METHOD = Problem("method", "q", kind=ProblemKind.CODE, entry_point="Solution().two", tests=(TestCase("[[2, 1, 2]]", "2"),))
CLOSE = Problem(
    "close",
    "q",
    kind=ProblemKind.CODE,
    entry_point="f",
    tests=(TestCase("[8, 3]", "2.66667"),),
    checker=Checker(("float_tolerance", "1e-5")),
)
REFUSES = Problem(
    "refuses",
    "q",
    kind=ProblemKind.CODE,
    tests=(TestCase(check="try:\n    root(-1)\n    assert False\nexcept ValueError as error:\n    assert str(error)"),),
)
LOOPED = Problem(
    "looped",
    "q",
    kind=ProblemKind.CODE,
    tests=(TestCase(check="for got, wanted in zip(map(f, [1, 2]), [2, 3]):\n    assert got == wanted"),),
)
RIGHT = "a, b = map(int, input().split())\nprint(a + b)\n"
RIGHT_ADD = "def add(a, b):\n    print('noise')\n    return a + b\n"
#: Writes the reply itself, on every descriptor.
NONSENSE = """import os
for n in range(1, 64):
    try: os.write(n, b'''{}''')
    except OSError: pass
os._exit(0)
"""
#: A reply whose putting together would take hours: its items have one hash.
COLLIDING = """import os
left = ('{"t": "set", "v": [' + ', '.join(str(n * (2**61 - 1)) for n in range(200_000)) + ']}').encode()
for fd in range(63, 2, -1):
    try:
        while left: left = left[os.write(fd, left):]
    except OSError: pass
os._exit(0)
"""
RIGHT_CPP = "#include <bits/stdc++.h>\nint main() { int a, b; std::cin >> a >> b; std::cout << a + b; }\n"


def function(*pairs: tuple[str, str]) -> Problem:
    return Problem("f", "q", kind=ProblemKind.CODE, entry_point="f", tests=tuple(TestCase(*pair) for pair in pairs))


ONE_LIST = function(("[3, 1]", "4"), ("[5]", "5"), ("[]", "0"), ("[1, 2, 3]", "6"))
LIST_OF_LISTS = function(("[[1, 2]]", "1"), ("[[1], [2]]", "2"))
ONE_VALUE = function(("[5]", '"list"'), ("5", '"int"'), ("null", '"NoneType"'))
OPTIONAL = function(("[3]", "3"), ("[3, 1]", "4"))
LISTED_ONE = function(("[[3, 1]]", "4"), ("[[5]]", "5"))
SHOWN = function(
    ("nums = [3, 3], target = 6", "[0, 1]"), ("nums = [1, 3],\ntarget = 4", "[0, 1]"), ("nums = [null, true]\ntarget = 1", "[]")
)
EQUATIONS = function(("x=5", "5"), ("y=3", "3"), ("2x=4", "4"))
BRACES = function(("mat = {{1,2},{3,4}}", "1"), ("mat = {{1,2}}", "2"))
GROUPS = function(('[["ab", "ba", "c"]]', '[["ab", "ba"], ["c"]]'))
LINES = function(("[1]\n[2]", "[1, 2]"), ("[]\n[2, 3]", "[2, 3]"))


@pytest.fixture(scope="module")
def judge() -> Iterator[CodeJudge]:
    judge = CodeJudge(CodeSettings())
    try:
        judge.prepare()
    except SandboxError as error:
        if "the canary could" in str(error):  # it leaks: that is no reason to skip
            raise
        pytest.skip(f"no sandbox here: {error}")
    return judge


def fenced(source: str, language: str = "python") -> str:
    return f"Here:\n```{language}\n{source}\n```\nand ```python\nignored\n```"


def verdict(judge: CodeJudge, problem: Problem, source: str, language: str = "python") -> CodeVerdict:
    return judge.judge_answer(problem, fenced(source, language), "0")


@pytest.mark.parametrize(
    ("problem", "source", "language"),
    [
        (SUM, RIGHT, "python"),
        (SUM, RIGHT, "py"),
        (SUM, RIGHT_CPP, "cpp"),
        (ADD, RIGHT_ADD, "python"),
        (ADD, "class Solution:\n    def add(self, a, b):\n        return a + b", "python"),
        (CHECKED, RIGHT_ADD, "python"),
        (LISTED, RIGHT_ADD, "python"),
        (NAMED, "def sum(a, b):\n    return a * b", "python"),
        (ONE_LIST, "def f(x): return sum(x)", "python"),
        (ONE_LIST, "def f(x, start=0): return sum(x, start)", "python"),
        (LIST_OF_LISTS, "def f(x): return len(x)", "python"),
        (ONE_VALUE, "def f(x): return type(x).__name__", "python"),
        (OPTIONAL, "def f(a, b=0): return a + b", "python"),
        (OPTIONAL, "class Solution:\n    def f(self, a, b=0): return a + b", "python"),
        (LISTED_ONE, "def f(x): return sum(x)", "python"),
        (LINES, "def f(a, b): return a + b", "python"),
        (SHOWN, "def f(nums, target): return [0, 1] if nums[1] == 3 and target > 1 else []", "python"),
        (SHOWN, "def f(x, y): return [0, 1] if x[1] == 3 and y > 1 else []", "python"),
        (BRACES, "def f(text): return 1 if '3' in text else 2", "python"),
        (function(("a = 1, b = 2", "2"), ("a = 3, b = 2", "3")), "f = max", "python"),
        (EQUATIONS, "def f(equation): return int(equation.split('=')[-1])", "python"),
        (
            GROUPS,
            "def f(words):\n    found = defaultdict(deque)\n    for w in words: found[*sorted(w)].append(w)\n    return found.values()",
            "python",
        ),
        (function(("[2]", "[0, 1, 2]")), "def f(n): return (isqrt(x * x) for x in range(n + 1) if x < sys.maxsize)", "python"),
        (LOOPED, "def f(x): return x + 1", "python"),
        (WITHIN, "def within(a, b): return filter(lambda x: x in b, a)", "python"),
        (WITHIN, "def within(a, b):\n    for x in a:\n        if x in b:\n            yield x", "python"),
        (REFUSES, "def root(x):\n    if x < 0:\n        raise ValueError('below 0')", "python"),
        (REFUSES, "class Below(ValueError): pass\ndef root(x):\n    raise Below('below 0')", "python"),
        (function(("[3, 1]", "4"), ("[5, 2]", "7")), "def f(a, b): return a + b", "python"),
        (function(("[3, 1]", "4"), ("[5, 2]", "7")), "def f(x): return sum(x)", "python"),
        (MODULE, "from sys import getsizeof\ndef size(x): return getsizeof(x)", "python"),
        (METHOD, "class Solution:\n    def two(self, nums: List[int]) -> Optional[int]:\n        return Counter(nums)[2]", "python"),
        (CLOSE, "def f(a, b): return a / b", "python"),
        (OWN_GCD, "class Solution:\n    def gcd(self, a, b): return a if b == 0 else self.gcd(b, a % b)", "python"),
        (OWN_GCD, "from math import gcd", "python"),
        (MIXED, "def sum(a, b): return 6", "python"),
        (NAMED_AS_MODULE, "def heapq(x): return sorted(x)", "python"),
    ],
)
def test_right_ones_are_correct(judge: CodeJudge, problem: Problem, source: str, language: str) -> None:
    found = verdict(judge, problem, source, language)
    assert found.correct, found
    assert found.passed == found.total == min(20, len(problem.tests))
    assert found.score_status is ScoreStatus.CORRECT
    assert found.seconds > 0


@pytest.mark.parametrize(
    ("problem", "source", "status"),
    [
        (SUM, "print(0)", "wrong"),
        (SUM, "", "wrong"),
        (SUM, "import os\nos._exit(0)", "wrong"),
        (SUM, RIGHT + "raise SystemExit(1)", "runtime_error"),
        (SUM, "while True: pass", "timeout"),
        (SUM, "x = bytearray(400 << 20)", "memory"),
        (SUM, "def f(:", "compile_error"),
        (ADD, "def add(a, b): return a", "wrong"),
        (ADD, "def other(a, b): return a + b", "runtime_error"),
        (ADD, "def add(a): return a", "wrong"),
        (ADD, NONSENSE.format('{"t": "float", "v": "0x1p99999"}'), "wrong"),
        (ADD, NONSENSE.format('{"t": "complex", "v": ["0x1p99999", "0x1p0"]}'), "wrong"),
        (ADD, NONSENSE.format('{"t": "ref", "v": 3}'), "wrong"),
        (ADD, NONSENSE.format('{"t": ["a"], "v": 3}'), "wrong"),
        (CHECKED, "def add(a, b): return a", "wrong"),
        (WITHIN, "def within(a, b): return map(str, a)", "wrong"),
        (REFUSES, "def root(x): raise KeyError(x)", "wrong"),
        (REFUSES, "def root(x): return 0", "wrong"),
        (REFUSES, "def root(x): raise AssertionError", "wrong"),
        (LOOPED, "def f(x): raise StopIteration", "wrong"),
        (LOOPED, "def f(x): raise ExceptionGroup('many', [ValueError()])", "wrong"),
        (CHECKED, "def add(a, b): return object()", "wrong"),
        (CHECKED, "def add(a, b): raise KeyError", "wrong"),
        (CHECKED, "def add(a, b): exit()", "wrong"),
        (CHECKED, "import os\ndef add(a, b): os._exit(0)", "wrong"),
        (CHECKED, "", "wrong"),
        (LISTED, "def add(a, b): return a * 2", "wrong"),
        (NAMED, "def other(a, b): return 6", "wrong"),
        (SHADOWED, "def f(): return [1]\ndef set(x): return 0\n", "wrong"),
        (MODULE, "class sys: getsizeof = staticmethod(lambda x: 0)\ndef size(x): return 0", "wrong"),
        (CLOSE, "def f(a, b): return a // b", "wrong"),
        (OWN_GCD, "class Solution:\n    def gcd(self, a, b): return 1", "wrong"),
        (OWN_GCD, "def other(a, b): return gcd(a, b)", "runtime_error"),
        (MIXED, "class math: floor = staticmethod(lambda x: 0)\ndef sum(*a): return 0", "wrong"),
        (EVALUATED, "def f(): return 'x'", "wrong"),
        (GROUPS, "def f(words): return map(list, words)", "wrong"),
        (ADD, COLLIDING, "wrong"),
        (EVALUATED, "def f(): return '__import__(\"nope\")'", "wrong"),
        (EVALUATED, "def f(): return '1 +'", "wrong"),
    ],
)
def test_wrong_ones_are_not(judge: CodeJudge, problem: Problem, source: str, status: str) -> None:
    quick = CodeJudge(CodeSettings(time_limit_s=1.0), retries=0)
    found = verdict(quick, problem, source)
    assert found.status == status, found
    assert not found.correct
    assert found.detail


CHEATS = {
    "equal to everything": "class E:\n    def __eq__(self, other): return True\n    def __bool__(self): return True\n{}",
    "an int that equals everything": "class E(int):\n    def __eq__(self, other): return True\n    def __ne__(self, other): return False\n{}",
    "patched json": "import json\njson.dump = json.dumps = lambda *a, **k: 'true'\nE = int\n{}",
    "patched builtins": "import builtins\nbuiltins.AssertionError = type('A', (BaseException,), {{}})\nbuiltins.open = None\nE = int\n{}",
    "answers on every descriptor": (
        "import os\nfor n in range(1, 64):\n    try: os.write(n, b'{{\"value\": true}}\\n' * 50)\n    except OSError: pass\nE = int\n{}"
    ),
    "walking frames": (
        "import sys, gc\ndef find():\n    frame = sys._getframe()\n    while frame:\n        for value in list(frame.f_locals.values()) + list(frame.f_globals.values()):\n"
        "            if isinstance(value, dict) and 'output' in value: return value['output']\n        frame = frame.f_back\n    return 0\nE = find\n{}"
    ),
    "exit code zero": "import atexit, os\natexit.register(lambda: os._exit(0))\nE = int\n{}",
}  # fmt: skip


@pytest.mark.parametrize("name", CHEATS)
@pytest.mark.parametrize("problem", [ADD, CHECKED, LISTED], ids=lambda problem: problem.id)
def test_a_verdict_cannot_be_faked(judge: CodeJudge, problem: Problem, name: str) -> None:
    found = verdict(judge, problem, CHEATS[name].format("def add(*numbers): return E()\n"))
    assert not found.correct, found


@pytest.mark.parametrize("name", [name for name in CHEATS if "equal" not in name])
def test_an_output_cannot_be_faked(judge: CodeJudge, name: str) -> None:
    assert not verdict(judge, SUM, CHEATS[name].format("print(E())")).correct


def test_the_expected_output_is_nowhere_inside(judge: CodeJudge) -> None:
    mark = "a-mark-of-the-expected-output"
    source = (
        "import gc, os\nfound = [repr(o) for o in gc.get_objects()]\nfor folder, _, files in os.walk('/'):\n    for f in files:\n        try:\n"
        "            if os.path.getsize(folder + '/' + f) < 99999 and not folder.startswith('/usr'): found.append(open(folder + '/' + f, errors='replace').read())\n"
        "        except OSError: pass\ntext = ' '.join(found)\nprint('found' if 'mark-of-the-' 'expected' in text.replace(repr('mark-of-the-' 'expected'), '') else 'nowhere')"
    )
    problem = Problem("m", "q", kind=ProblemKind.CODE, tests=(TestCase("", mark), TestCase("", mark)))
    found = judge.judge(problem, Program.single(Language.PYTHON, source), problem.tests, Limits(10, 500 * MIB), Limits(), stop=False)
    assert [test.detail for test in found.tests] == [f"token 1: expected {mark!r}, found 'nowhere'"] * 2


def test_the_same_tests_for_a_group_and_others_for_the_next() -> None:
    drawn = {seed: draw_tests(SUM, 20, seed) for seed in ("1", "2", "1 ")}
    assert draw_tests(SUM, 20, "1") == drawn["1"] != drawn["2"]
    assert len(set(drawn["1"])) == 20 and set(drawn["1"]) <= set(SUM.tests)
    assert draw_tests(ADD, 20, "1") == ADD.tests


def test_training_stops_at_the_first_failure(judge: CodeJudge) -> None:
    found = verdict(judge, SUM, "n = int(input().split()[0])\nprint(2 * n if n < 3 else 0)")
    assert found.status == "wrong"
    assert [test.status for test in found.tests].count("wrong") == 1 and found.tests[-1].status == "wrong"


@pytest.mark.parametrize(("language", "detail"), [("java", "neither Python nor C++"), ("cpp", "takes Python only")])
def test_languages(judge: CodeJudge, language: str, detail: str) -> None:
    found = verdict(judge, ADD, "x", language)
    assert found.status == "compile_error" and detail in found.detail


VALIDATOR = """
import sys
inp, ans, feedback = sys.argv[1:4]
open(feedback + "judgemessage.txt", "w").write("hello")
text = sys.stdin.read().split()
if text == ["crash"]: raise KeyError
if text == ["odd"]: sys.exit(0)
if "noisy" in text:
    print("tried: std::bad_alloc, MemoryError", file=sys.stderr)
    text.remove("noisy")
right = sorted(text) == sorted(open(ans).read().split()) and "strict" in sys.argv[4:]
sys.exit(42 if right else 43)
"""


@pytest.mark.parametrize(
    ("source", "status"),
    [
        ("print(2, 1)", "correct"),
        ("print(3)", "wrong"),
        ("print(2, 1, 'noisy')", "correct"),
        ("print('noisy')", "wrong"),
        ("print('crash')", None),
        ("print('odd')", None),
    ],
)
def test_validators(judge: CodeJudge, source: str, status: str | None) -> None:
    checker = Checker(("strict",), {"validate.py": VALIDATOR.encode()}, "validate.py")
    problem = Problem("v", "q", kind=ProblemKind.CODE, tests=(TestCase("in", "1 2"),), checker=checker)
    if status is None:
        with pytest.raises(SandboxError, match="the output validator broke"):
            verdict(judge, problem, source)
    else:
        assert verdict(judge, problem, source).status == status


def test_a_validator_that_does_not_compile_is_no_verdict(judge: CodeJudge) -> None:
    problem = Problem("v", "q", kind=ProblemKind.CODE, tests=(TestCase("", "1"),), checker=Checker((), {"v.cc": b"int main() { no }"}))
    with pytest.raises(SandboxError, match="does not compile"):
        verdict(judge, problem, "print(1)")


@pytest.mark.parametrize("check", ["assert add(1, 2 ==", "import no_such_module\nassert add(1, 2) == 3"])
def test_a_broken_check_is_no_verdict(judge: CodeJudge, check: str) -> None:
    problem = Problem("b", "q", kind=ProblemKind.CODE, tests=(TestCase(check=check),))
    with pytest.raises(SandboxError, match="check of the problem is broken"):
        verdict(judge, problem, RIGHT_ADD)


def test_what_a_check_prints_is_no_part_of_its_result(judge: CodeJudge) -> None:
    loud = "print('checking')\nassert add(1, 2) == 3"
    problem = Problem("b", "q", kind=ProblemKind.CODE, tests=(TestCase(check=loud),))
    assert verdict(judge, problem, RIGHT_ADD).correct
    assert not verdict(judge, problem, "def add(a, b):\n    return 4").correct


def test_bytes_of_a_package_that_are_no_text_reach_its_validator(judge: CodeJudge) -> None:
    accepting = {"v.py": b"import sys\nsys.exit(42 if open(sys.argv[2], 'rb').read() == b'\\xff' else 43)\n"}
    byte = b"\xff".decode("utf-8", "surrogateescape")
    problem = Problem("v", "q", kind=ProblemKind.CODE, tests=(TestCase("", byte),), checker=Checker((), accepting, main="v.py"))
    assert verdict(judge, problem, "print(1)").correct


def test_bytes_that_are_no_text_equal_themselves(judge: CodeJudge) -> None:
    word = b"caf\xe9\n".decode("utf-8", "surrogateescape")
    problem = Problem("v", "q", kind=ProblemKind.CODE, tests=(TestCase("", word),))
    assert verdict(judge, problem, "import sys\nsys.stdout.buffer.write(b'caf\\xe9\\n')").correct
    assert not verdict(judge, problem, "import sys\nsys.stdout.buffer.write(b'caf\\xea\\n')").correct


def test_a_defect_of_judging_masks_the_completion_and_ends_nothing(
    judge: CodeJudge, group_of: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*arguments: Any, **settings: Any) -> Any:
        raise UnicodeError("a defect")

    monkeypatch.setattr(CodeJudge, "judge_answer", broken)
    [score] = scored(RewardSettings(language=0.0), group_of(SUM, f"<think>x</think>{fenced(RIGHT)}"))
    assert (score.status, score.graded) == (ScoreStatus.ERROR, False)
    assert "a defect" in score.detail


def test_a_broken_sandbox_is_tried_again_then_no_verdict(judge: CodeJudge, monkeypatch: pytest.MonkeyPatch) -> None:
    tries = []
    opened = Sandbox.open

    def flaky(self: Sandbox, handles: Any = (), preload: Any = ()) -> Any:
        tries.append(1)
        box = opened(self, handles, preload)
        if len(tries) <= broken:
            box._process.kill()
        return box

    monkeypatch.setattr(Sandbox, "open", flaky)
    broken = 1
    assert verdict(judge, SUM, RIGHT).correct
    broken = 99
    with pytest.raises(SandboxError):
        verdict(judge, SUM, RIGHT)
    assert len(tries) == 4


def scored(settings: RewardSettings, group: Any) -> Any:
    with Verifier(settings, PromptSettings()) as verifier:
        return verifier.score(group).scores


def test_rewards_of_a_group(judge: CodeJudge, group_of: Any) -> None:
    half = "n = int(input().split()[0])\nprint(2 * n if n % 2 else -1)"
    texts = [f"<think>x</think>{fenced(source)}" for source in (RIGHT, half, "print(")] + ["<think>x</think>no code"]
    settings = RewardSettings(language=0.0)
    binary = scored(settings, group_of(SUM, *texts))
    assert [score.reward for score in binary] == [1.0, 0.1, 0.1, 0.0]
    assert [score.status for score in binary] == [ScoreStatus.CORRECT, ScoreStatus.WRONG, ScoreStatus.UNPARSABLE, ScoreStatus.BAD_FORMAT]
    share = scored(settings.model_copy(update={"code": CodeSettings(proportional=True)}), group_of(SUM, *texts))
    assert share[0].reward == 1.0 and 0.1 < share[1].reward < 1.0 and share[2].reward == 0.1
    passed = sum(int(test.input.split()[0]) % 2 for test in draw_tests(SUM, 20, "0"))
    assert share[1].parts["correct"] == pytest.approx(0.9 * passed / 20)


def test_no_verdict_masks_the_completion(judge: CodeJudge, group_of: Any) -> None:
    problem = Problem("b", "q", kind=ProblemKind.CODE, tests=(TestCase(check="assert add(1, 2 =="),))
    [score] = scored(RewardSettings(language=0.0), group_of(problem, f"<think>x</think>{fenced(RIGHT_ADD)}"))
    assert (score.status, score.reward, score.graded) == (ScoreStatus.ERROR, 0.0, False)


def outputs(judge: CodeJudge, problem: Problem, source: str, inputs: list[str], max_late: int = 9) -> list[tuple[str, str | None]]:
    limits = Limits(cpu_s=0.5, memory_bytes=300 * MIB)
    program = Program.single(Language.PYTHON, source)
    return [(found.status, found.text) for found in judge.outputs(problem, program, inputs, limits, judge.compile_limits, max_late)]


def test_outputs_without_a_verdict(judge: CodeJudge) -> None:
    assert outputs(judge, SUM, RIGHT, ["1 2", "3 4", "x"]) == [("ok", "3\n"), ("ok", "7\n"), ("runtime_error", None)]
    assert outputs(judge, SUM, "(", ["1", "2"]) == [("compile_error", None)] * 2
    twice = "def add(*values):\n    return values if values[0] else {1}\n"
    assert outputs(judge, ADD, twice, ["[1, 2]", "[0]", '["a"]']) == [("ok", "[1, 2]"), ("ok", "{1}"), ("ok", '["a"]')]
    slow = "if input() == 'a':\n    while True: pass\nprint(1)"
    assert outputs(judge, SUM, slow, ["a", "b", "a", "b"], max_late=2) == [
        ("timeout", None),
        ("ok", "1\n"),
        ("timeout", None),
        ("timeout", None),
    ]


@pytest.mark.parametrize(
    ("problem", "same", "other"),
    [(SUM, "2 \n", "3"), (ADD, "3.0", "4"), (replace(ADD, checker=Checker(("any", "words"), {"v.py": b"1"}, "v.py")), "3.0", "4")],
)
def test_outputs_are_compared_as_judging_does(judge: CodeJudge, problem: Problem, same: str, other: str) -> None:
    expected = problem.tests[1] if problem is SUM else problem.tests[0]
    with judge.comparing(problem) as difference:
        assert difference(expected, same) == ""
        assert difference(expected, other) != ""


def test_without_a_sandbox_code_rewards_refuse_to_start(monkeypatch: pytest.MonkeyPatch, group_of: Any, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))  # no bwrap, no setpriv
    monkeypatch.setattr("magistral_core.sandbox.canary._chosen", {})
    verifier = Verifier(RewardSettings(language=0.0, code=CodeSettings(sandbox="bubblewrap")), PromptSettings())
    for refuse in (lambda: verifier.check_supported([SUM]), lambda: verifier.score(group_of(SUM, "x"))):
        with pytest.raises(SandboxError, match="no untrusted code is run") as error:
            refuse()
        assert error.value.exit_code == 3
    verifier.check_supported([Problem("m", "q", "1")])


def test_unusable_problems_are_refused() -> None:
    mixed = Problem("x", "q", kind=ProblemKind.CODE, tests=(TestCase("1", "1"), TestCase(check="assert f()")), source="code.jsonl:3")
    flags = Problem(
        "x", "q", kind=ProblemKind.CODE, tests=(TestCase("1", "1"),), checker=Checker(("float_tolerance",)), source="code.jsonl:4"
    )
    empty = Problem("x", "q", kind=ProblemKind.CODE, source="code.jsonl:5")
    validator = Checker((), {"v.py": b"1"}, "v.py")
    validated = replace(ONE_LIST, checker=validator, source="code.jsonl:6")
    for problem, words in (
        (mixed, "code.jsonl:3: some tests are checks"),
        (flags, "code.jsonl:4: validator_flags"),
        (empty, "code.jsonl:5"),
        (validated, "code.jsonl:6: output_validator: .* asks for a function"),
    ):
        with pytest.raises(InputError, match=words):
            check_supported([problem])
