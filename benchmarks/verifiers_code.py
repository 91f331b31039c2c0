"""Speed of judging code: solutions of 20 tests a second, Python and C++, on two cores.

Every solution differs in its text, so that none is compiled already; tests are trivial, so that what is measured is the judging. Goals: at
least 15 solutions a second in Python, and 2 in C++.
"""

from __future__ import annotations

import os
import statistics
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from typing import Any

from magistral_core.config.schema import CodeSettings
from magistral_core.records import Problem, ProblemKind, TestCase
from magistral_core.rewards.code import CodeJudge

_CORES = 2
_SOURCES = {
    "python": "import sys\n\ndef main():\n    a, b = map(int, sys.stdin.readline().split())\n    print(a + b)\n\nmain()  # {}\n",
    "cpp": (
        "#include <bits/stdc++.h>\nusing namespace std;\n\nint main() {{\n    int a, b;\n    cin >> a >> b;\n    map<int, vector<int>> m;\n"
        "    m[a].push_back(b);\n    cout << a + m[a][0] << endl;  // {}\n}}\n"
    ),
}
_PROBLEM = Problem("sum", "Add.", kind=ProblemKind.CODE, tests=tuple(TestCase(f"{n} {n + 1}\n", f"{2 * n + 1}\n") for n in range(20)))


def measure(full: bool) -> dict[str, Any]:
    """The median rate of each language, and every repetition's; `load` is the machine's load average before.

    Python and C++ take turns. With `full`, five repetitions instead of three, of more solutions.
    """
    judge = CodeJudge(CodeSettings(workers=_CORES))
    judge.prepare()
    sizes, repetitions = ({"python": 60, "cpp": 16}, 5) if full else ({"python": 24, "cpp": 6}, 3)
    numbers, load = count(), os.getloadavg()[0]
    rates: dict[str, list[float]] = {language: [] for language in _SOURCES}
    with ThreadPoolExecutor(_CORES) as pool:
        for _ in range(repetitions):
            for language, source in _SOURCES.items():
                answers = [f"```{language}\n{source.format(next(numbers))}```" for _ in range(sizes[language])]
                started = time.perf_counter()
                verdicts = list(pool.map(lambda answer: judge.judge_answer(_PROBLEM, answer, "0"), answers))
                rates[language].append(len(answers) / (time.perf_counter() - started))
                wrong = [verdict for verdict in verdicts if not verdict.correct or verdict.passed != len(_PROBLEM.tests)]
                if wrong:
                    raise RuntimeError(f"a right solution was judged {wrong[0]}")
    return {
        "settings": {
            "tests": len(_PROBLEM.tests),
            "workers": _CORES,
            "solutions": sizes,
            "sandbox": judge.prepare().back_end.value,
            "load": load,
        },
        **{f"{language}_solutions_per_second": statistics.median(found) for language, found in rates.items()},
        "repetitions": {f"{language}_solutions_per_second": found for language, found in rates.items()},
    }
