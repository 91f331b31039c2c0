"""Answers that attack the verifier: each ends within its limit, none is accepted, and the workers stay healthy."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from magistral_core.config.schema import PromptSettings, RewardSettings
from magistral_core.records import ScoreStatus
from magistral_core.rewards import Verifier
from magistral_core.rewards.math import quick_verdict

TIMEOUT_S = 1.0
_POWERS = [f"{base}^{{9999}}" for base in range(62, 22, -1)]
#: Texts of numbers each of which may be written out, and together not: in the calling process nothing can stop them but their size.
LARGE = [
    "\\sqrt[3]{62^{9999}}",
    f"\\sqrt[3]{{{'*'.join(_POWERS)}}}",
    "*".join(_POWERS),
    f"({'*'.join(_POWERS)})^{{1/3}}",
    "+".join(f"1/{power}" for power in _POWERS),
    "/".join(_POWERS),
    f"\\lcm({','.join(_POWERS)})",
    "+".join(["x^{5000}"] * 50),
    "*".join(["2999!"] * 80),
    "/".join(["1e9999"] * 70),
    "+".join(["\\sqrt[3]{27^{9999}}"] * 24),
    "+".join(["\\sqrt[64]{62^{9999}}"] * 22),
    "\\sqrt[9999]{62^{9999}}" + "*\\sqrt[9999]{62^{9999}}" * 20,
]
HOSTILE = [
    *LARGE,
    # towers of powers, factorials, numbers too large to write out
    "9^{9^{9^{9}}}", "9^9^9^9", "2^{100000}", "((2^{99})^{99})^{99}", "10**10**10", "x^{x^{x^{x}}}", "1" * 480 + "^{" + "9" * 15 + "}",
    "99999!", "(10!)!", "5!!!", "9!^{9!}", "1e99999", "1e-9999",
    "\\sqrt[9999]{2}", "\\binom{2999}{1500}", "e^{e^{e^{9}}}",
    "\\exp(\\exp(\\exp(\\exp(99))))", "\\sin(10^{9999})", "i^{i^{i}}", "2^{99}" * 60,
    # depth and length
    "(" * 400, "{" * 400, "[" * 400, "\\{" * 25 + "1" + "\\}" * 25, "\\frac{" * 80, "\\sqrt{" * 20 + "2" + "}" * 20,
    "1" * 10**6, "a" * 10**6,
    "5" + "%" * 400, "1/" + "x" * 400, "π" * 400, "1e5000_2",
    "abcdefghij" * 40 + "1\\boxed{7}", "ab " * 100 + "1;\\boxed{7}", "\\text{" * 60 + "\\boxed{7}", "2^{9999}+e^{e^{9}}+\\Gamma",
    "\\boxed{" * 10**5, "-" * 400, "+1" * 240, "1," * 249, "1 " * 249, "|" * 400, "^" * 400, "x=" * 200 + "1", "1<" * 200 + "x",
    "\\pm 1" * 20, "(0,1)\\cup" * 40 + "(0,1)", "\\begin{pmatrix}" + "1&" * 200 + "1\\end{pmatrix}", "\\begin{array}{c}" * 30, "\n" * 400,
    # SymPy's hard cases
    "(x+y+z+w+1)^{400}", "\\sum_{k=1}^{10^{9}} k^{k}", "\\int_0^1 \\int_0^1 e^{x^y} dx dy", "\\int e^{e^{x}} dx", "\\prod_{k=1}^{99999} k",
    "\\gcd(10^{9999},10^{9998}+1)", "\\log_{1} 2", "0/0", "\\infty-\\infty",
    # programs and macros
    "__import__('os').system('sleep 9')", "import os; os._exit(0)", "exec(open('/etc/passwd').read())", "print(7)", "lambda: 7",
    "[x for x in ().__class__.__base__.__subclasses__()]", "\\input{/etc/passwd}", "\\write18{sleep 9}", "\\def\\x{\\x\\x}\\x",
    # odd characters
    "\x00", "\ud800", "7\x00", "\u202e7",
]  # fmt: skip


@pytest.fixture(scope="module")
def verifier() -> Iterator[Verifier]:
    rewards = RewardSettings(language=0.0, workers=1, max_workers=1, timeout_s=TIMEOUT_S, retries=3)
    with Verifier(rewards, PromptSettings()) as verifier:
        yield verifier


def healthy(verifier: Verifier) -> bool:
    pairs = [("\\sqrt{2}", "2/\\sqrt{2}"), ("\\sqrt{2}", "\\sqrt{3}")]
    return [verdict.correct for verdict in verifier.answers_equal(pairs)] == [True, False]


def test_there_are_enough() -> None:
    assert len(set(HOSTILE)) == len(HOSTILE) >= 40


def test_hostile_answers_are_refused_in_time(verifier: Verifier) -> None:
    for answer in HOSTILE:
        started = time.monotonic()
        verdict = verifier.answers_equal([("7", answer)])[0]
        # The limit is of CPU time. On a busy machine the wall stops a formula at a multiple, and it is tried again.
        assert time.monotonic() - started < 4 * 10 * TIMEOUT_S + 10, answer[:60]
        assert verdict.status in (ScoreStatus.WRONG, ScoreStatus.UNPARSABLE, ScoreStatus.TIMEOUT, ScoreStatus.NO_ANSWER), (
            answer[:60],
            verdict,
        )
    assert healthy(verifier)
    assert len(verifier._pool.pids) == 1


@pytest.mark.parametrize("answer", LARGE, ids=lambda answer: answer[:20])
@pytest.mark.parametrize("reference", ["7", "x", "1,2"])
def test_large_numbers_do_not_hold_up_the_caller(reference: str, answer: str) -> None:
    started = time.thread_time()
    for gold, pred in ((reference, answer), (answer, reference)):
        quick = quick_verdict(gold, pred)
        assert quick is None or not quick.correct
    assert time.thread_time() - started < 0.5


def test_hostile_references_never_make_an_answer_right(verifier: Verifier) -> None:
    verdicts = verifier.answers_equal([(reference, "7") for reference in HOSTILE])
    assert not any(verdict.correct for verdict in verdicts)
    assert healthy(verifier)
