"""The language-model steps with a real engine, and models that were trained for them here."""

from __future__ import annotations

from pathlib import Path

import pytest

from docs import tiny_assistant, translation_table

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]


@pytest.fixture(scope="module")
def careful() -> Path:
    return tiny_assistant.assistant()


@pytest.fixture(scope="module")
def careless() -> Path:
    return tiny_assistant.assistant(careless=True)


def test_a_careful_model_translates(careful: Path, tmp_path: Path) -> None:
    found = translation_table.translate(careful, 60, tmp_path)
    assert found["drawn"] == 60
    assert found["translated"] >= 54
    assert found["right"] >= 0.88 * found["translated"]  # 0.96 of 300 in the published table; three standard errors of 60 below it


def test_the_flaws_of_a_careless_model_are_caught(careless: Path, tmp_path: Path) -> None:
    found = translation_table.translate(careless, 60, tmp_path)
    assert {"numbers", "language", "marks", "unreadable"} <= found["failed_tries"].keys()
    assert found["first_try"] < 45
    assert found["translated"] > found["first_try"]
    assert found["right"] >= 0.88 * found["translated"]  # 0.96 of 300 in the published table; three standard errors of 60 below it


def test_multiple_choices_are_rewritten(careful: Path, careless: Path, tmp_path: Path) -> None:
    report, fates = translation_table.edit(careful, 30, 30, tmp_path / "careful")
    assert report["rewritten"]["model"] >= 27
    assert fates["choice: kept"] >= 27
    assert fates["usable: kept"] + fates["unusable: llm_rejected"] >= 27
    report, fates = translation_table.edit(careless, 60, 0, tmp_path / "careless")
    assert fates["choice: kept, wrong answer"] == 0
    assert {reason for reason in report["reasons"] if report["reasons"][reason]} >= {"proof", "unverifiable_gold", "llm_changed_answer"}
