"""Odd but legal programs run; what they print is right, and what they used is measured."""

from __future__ import annotations

import pytest

from magistral_core.sandbox import MIB, Language, Limits, Program, RunResult, RunStatus, Sandbox

PYTHON = {
    "a million calls deep": (
        "import sys\nsys.setrecursionlimit(1100000)\ndef f(n): return 0 if n == 0 else 1 + f(n - 1)\nprint(f(1000000))",
        "1000000",
    ),
    "two hundred megabytes": ("a = bytearray(200 << 20)\na[::4096] = b'x' * len(a[::4096])\nprint(sum(a[::1 << 20]) // 120)", "200"),
    "threads with large stacks": (
        "import sys, threading\nthreading.stack_size(256 << 20)\nsys.setrecursionlimit(10**6)\nout = []\n"
        "def f(n): return 0 if n == 0 else 1 + f(n - 1)\n"
        "ts = [threading.Thread(target=lambda: out.append(f(20000))) for _ in range(4)]\n[t.start() for t in ts]\n[t.join() for t in ts]\nprint(out)",
        "[20000, 20000, 20000, 20000]",
    ),
    "asyncio": ("import asyncio\nasync def main():\n    await asyncio.sleep(0.01)\n    return 7\nprint(asyncio.run(main()))", "7"),
    "a file of its own": ("with open('mine.txt', 'w') as f: f.write('5')\nprint(open('mine.txt').read())", "5"),
    "standard input as a file": ("import mmap, os\nprint(len(open(0).read()), open('/dev/stdin').read()[:3])", "12 abc"),
    "leaving early": ("import os, sys\nprint('so far', flush=True)\nsys.stdout.flush()\nos._exit(0)", "so far"),
    "exit without import": ("print(3)\nexit()", "3"),
    "a signal to itself": ("import os, signal\nsignal.signal(signal.SIGUSR1, lambda *a: print('caught'))\nos.kill(os.getpid(), signal.SIGUSR1)", "caught"),
    "many modules": (
        "import dataclasses, decimal, fractions, statistics, typing, enum, queue, copy, operator, array, cmath, datetime, pprint, textwrap\n"
        "from collections import *\nfrom functools import *\nfrom itertools import *\n"
        "@lru_cache(None)\ndef f(n): return n if n < 2 else f(n - 1) + f(n - 2)\nprint(f(90), decimal.Decimal(1) / 3)",
        "2880067194370816120 0.3333333333333333333333333333",
    ),
    "its name and its file": ("import sys\nif __name__ == '__main__': print(len(sys.argv), __file__.endswith('/solution.py'))", "1 True"),
    "a finally and an atexit": ("import atexit\natexit.register(print, 'last')\ntry:\n    raise SystemExit(0)\nfinally:\n    print('first')", "first\nlast"),
    "standard output closed": ("import sys\nprint(3)\nsys.stdout.close()", "3"),
    "standard output in a buffer": (
        "import atexit, io, sys\nbuf = io.StringIO()\nsys.stdout = buf\natexit.register(lambda: sys.__stdout__.write(buf.getvalue()))\nprint(7)",
        "7",
    ),
    "standard output detached": ("import io, sys\nsys.stdout = io.TextIOWrapper(sys.stdout.detach(), encoding='utf-8')\nprint(7)", "7"),
    "no standard output at the end": ("import sys\nprint(3, flush=True)\nsys.stdout = None", "3"),
    "random numbers": ("import random, uuid, secrets\nprint(0 <= random.random() < 1, len(secrets.token_hex(4)))", "True 8"),
    "a class and pickling": ("import pickle\nclass A:\n    x = 1\nprint(pickle.loads(pickle.dumps(A())).x)", "1"),
}  # fmt: skip
CPP = {
    "a million calls deep": (
        "#include <bits/stdc++.h>\nint f(int n) { volatile char a[64]; a[0] = 1; return n == 0 ? 0 : a[0] + f(n - 1); }\nint main() { std::cout << f(1000000); }",
        "1000000",
    ),
    "two hundred megabytes": (
        "#include <vector>\n#include <cstdio>\nint main() { std::vector<char> a(200u << 20, 1); long s = 0; for (char c : a) s += c; printf(\"%ld\", s >> 20); }",
        "200",
    ),
    "threads": (
        "#include <thread>\n#include <vector>\n#include <atomic>\n#include <cstdio>\nint main() { std::atomic<int> n{0}; std::vector<std::thread> t;\n"
        "for (int i = 0; i < 4; i++) t.emplace_back([&] { for (int j = 0; j < 1000; j++) n++; });\nfor (auto &x : t) x.join(); printf(\"%d\", n.load()); }",
        "4000",
    ),
    "a global called y1": ("#include <iostream>\nint y1 = 4;\nint main() { std::cout << y1; }", "4"),
    "C++20": (
        "#include <bits/stdc++.h>\nint main() { std::vector v{3, 1, 2}; std::ranges::sort(v); auto o = 1 <=> 2; std::cout << v[0] << (o < 0); }",
        "11",
    ),
    "redirecting to a file and back": (
        "#include <cstdio>\nint main() { FILE *f = fopen(\"x.txt\", \"w\"); fputs(\"12 30\", f); fclose(f); freopen(\"x.txt\", \"r\", stdin); int a, b; scanf(\"%d %d\", &a, &b); printf(\"%d\", a + b); }",
        "42",
    ),
    "raising its own stack": (
        "#include <sys/resource.h>\n#include <cstdio>\nint main() { rlimit r; getrlimit(RLIMIT_STACK, &r); printf(\"%ld\", (long)r.rlim_cur >> 20); }",
        "256",
    ),
}  # fmt: skip
#: Without a mount namespace there is nowhere to write, and /dev/stdin leads to /proc.
NEEDS_MOUNTS = {"a file of its own", "standard input as a file", "redirecting to a file and back"}


def run(sandbox: Sandbox, language: Language, source: str, stdin: bytes = b"", limits: Limits | None = None) -> RunResult:
    program = Program.single(language, source)
    with sandbox.open() as box:
        compiled = sandbox.compile(box, program)
        assert compiled.ok, compiled
        return sandbox.run(box, program, limits or Limits(), stdin)


@pytest.mark.parametrize("name", PYTHON)
def test_legal_python(sandbox: Sandbox, name: str) -> None:
    if name in NEEDS_MOUNTS and sandbox.back_end == "landlock":
        pytest.skip("no writable folder without a mount namespace")
    source, expected = PYTHON[name]
    result = run(sandbox, Language.PYTHON, source, b"abc def\nghi\n")
    assert (result.status, result.stdout.decode().strip()) == (RunStatus.OK, expected), result


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in {"threads", "a global called y1"} else pytest.mark.slow) for name in CPP]
)
def test_legal_cpp(sandbox: Sandbox, name: str) -> None:
    if name in NEEDS_MOUNTS and sandbox.back_end == "landlock":
        pytest.skip("no writable folder without a mount namespace")
    source, expected = CPP[name]
    result = run(sandbox, Language.CPP, source)
    assert (result.status, result.stdout.decode().strip()) == (RunStatus.OK, expected), result


def test_bytes_that_are_no_text_go_through(sandbox: Sandbox) -> None:
    result = run(sandbox, Language.PYTHON, "print(input())", b"\xffabc\n")
    assert (result.status, result.stdout) == (RunStatus.OK, b"\xffabc\n"), result


def test_what_was_used_is_measured(sandbox: Sandbox) -> None:
    result = run(sandbox, Language.PYTHON, "import time\na = bytearray(100 << 20)\nwhile time.process_time() < 0.3: pass\ntime.sleep(0.2)")
    assert 0.3 <= result.cpu_seconds < 1.5
    assert result.wall_seconds > result.cpu_seconds
    assert 100 * MIB < result.peak_memory_bytes < 160 * MIB


@pytest.mark.parametrize(
    ("source", "status", "code"),
    [
        ("raise SystemExit(3)", RunStatus.RUNTIME_ERROR, 3),
        ("import sys; sys.exit('words')", RunStatus.RUNTIME_ERROR, 1),
        ("import os; os.abort()", RunStatus.RUNTIME_ERROR, -6),
        ("1 / 0", RunStatus.RUNTIME_ERROR, 1),
        ("while True: pass", RunStatus.TIMEOUT, -9),
        ("import time; time.sleep(100)", RunStatus.TIMEOUT, -9),
        ("a = bytearray(200 << 20)", RunStatus.MEMORY, -9),
        ("a = [0] * (1 << 40)", RunStatus.MEMORY, 1),
        ("print('x' * (5 << 20))", RunStatus.OUTPUT_LIMIT, None),
    ],
)
def test_how_a_run_ends(sandbox: Sandbox, source: str, status: RunStatus, code: int | None) -> None:
    result = run(sandbox, Language.PYTHON, source, limits=Limits(0.5, 100 * MIB, 4 * MIB))
    assert result.status is status, result
    assert code is None or result.exit_code == code


def test_a_traceback_shows_the_solutions_own_lines_only(sandbox: Sandbox) -> None:
    result = run(sandbox, Language.PYTHON, "def f():\n    return 1 / 0\nf()\n")
    words = result.stderr.decode()
    assert "solution.py" in words and "ZeroDivisionError" in words and "supervisor" not in words
