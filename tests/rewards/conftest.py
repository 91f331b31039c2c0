"""Completions and groups for the tests, and a module of user reward functions, good and bad."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from magistral_core.records import Completion, FinishReason, Group, Problem

FUNCTIONS = """
import os, sys, time

def shortness(*, problem, response, thoughts, answer, length):
    return -length / 1000 + (0.5 if problem.extra.get("bonus") else 0) + (0.25 if "easy" in thoughts else 0)

def catch_all(**parts):
    return True

def moody(*, problem, response, thoughts, answer, length):
    if "hang" in answer:
        time.sleep(600)
    if "spin" in answer:
        while True:
            pass
    if "bomb" in answer:
        hoard = []
        while True:
            hoard.append(bytearray(64 << 20))
    if "crash" in answer:
        os.abort()
    if "exit" in answer:
        sys.exit(0)
    if "raise" in answer:
        raise KeyError("a bug of mine")
    if "text" in answer:
        return "much"
    if "nan" in answer:
        return float("nan")
    if "print" in answer:
        print("noise that must not reach stdout")
    return 0.125

def positional(problem):
    return 0.0

not_a_function = 3
"""


@pytest.fixture
def own_functions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with `my_rewards.py` in it."""
    (tmp_path / "my_rewards.py").write_text(FUNCTIONS)
    (tmp_path / "broken_rewards.py").write_text("import a_module_that_is_not_there\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def make_group(problem: Problem, *texts: str, tokens: int = 10, reason: FinishReason = FinishReason.STOP, group_id: int = 0) -> Group:
    zeros = np.zeros(tokens)
    completions = tuple(
        Completion(
            group_id, i, zeros[:3].astype(np.int32), zeros.astype(np.int32), zeros.astype(np.float32), zeros.astype(np.int32), text, reason
        )
        for i, text in enumerate(texts)
    )
    return Group(group_id, problem, completions)


def respond(answer: str, thoughts: str = "hm") -> str:
    return f"<think>{thoughts}</think>So it is \\boxed{{{answer}}}."


@pytest.fixture
def group_of():
    return make_group


@pytest.fixture
def response():
    return respond
