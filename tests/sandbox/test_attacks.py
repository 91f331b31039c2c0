"""Attacks are contained, and the sandbox is as good as new after each."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from magistral_core.sandbox import MIB, Box, Language, Limits, Program, RunStatus, Sandbox
from tests.sandbox.attacks import ATTACKS, COMPILE, CPP_ATTACKS, PRELUDE, REFUSED, Attack

MARK = "a-mark-that-must-stay-outside"
LIMITS = Limits(cpu_s=0.5, memory_bytes=300 * MIB, output_bytes=4 * MIB)
COMPILE_LIMITS = Limits(cpu_s=4.0, memory_bytes=600 * MIB, output_bytes=64 * MIB)
PROBE = Program.single(Language.PYTHON, "import os\nprint(6 * 7, os.listdir('.') if os.getcwd() == '/tmp' else [], input())")


@dataclass(frozen=True)
class Planted:
    """Files outside that anyone may read and write: only the sandbox keeps them."""

    secret: Path
    writable: Path


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Planted:
    folder = tmp_path_factory.mktemp("outside")
    found = Planted(folder / "secret.h", folder / "writable")
    found.secret.write_text(f'const char *secret = "{MARK}";')
    found.writable.write_text("untouched")
    for path in (folder, *folder.parents):
        if path.stat().st_uid == os.getuid() and path != Path("/") and "pytest" in path.as_posix():
            path.chmod(0o755)
    found.writable.chmod(0o666)
    return found


@pytest.fixture(scope="module")
def box(sandbox: Sandbox, planted: Planted) -> Iterator[Box]:
    os.environ["MAGISTRAL_TEST_SECRET"] = MARK
    with sandbox.open() as box:
        yield box
    del os.environ["MAGISTRAL_TEST_SECRET"]


def run(sandbox: Sandbox, box: Box, attack: Attack, planted: Planted) -> tuple[str, str]:
    """How an attack ended, and what it printed."""
    names = {"secret": str(planted.secret), "writable": str(planted.writable), "mark": MARK[:6] + MARK[6:]}
    language = Language.CPP if attack.cpp else Language.PYTHON
    source = (
        attack.source.replace("@SECRET@", names["secret"])
        if attack.cpp
        else PRELUDE.format(**names) + attack.source.replace("@BRACKETS@", "(" * 5000 + ")" * 5000)
    )
    program = Program.single(language, source)
    compiled = sandbox.compile(box, program, COMPILE_LIMITS)
    if not compiled.ok:
        assert MARK not in compiled.stderr.decode(errors="replace")
        return COMPILE, compiled.stderr.decode(errors="replace")
    result = sandbox.run(box, program, LIMITS)
    assert len(result.stdout) <= LIMITS.output_bytes
    printed = result.stdout.decode(errors="replace")
    return (REFUSED if result.status is RunStatus.OK and "refused" in printed else result.status.value), printed + result.stderr.decode()


def contained(sandbox: Sandbox, box: Box, attack: Attack, planted: Planted) -> None:
    ending, printed = run(sandbox, box, attack, planted)
    assert "BREACH" not in printed
    assert ending in attack.ends, printed[-2000:]
    assert planted.writable.read_text() == "untouched"
    assert sandbox.compile(box, PROBE).ok
    probe = sandbox.run(box, PROBE, Limits(), b"still here\n")
    assert probe.stdout == b"42 [] still here\n", probe


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.name)
def test_attack_in_python(sandbox: Sandbox, box: Box, attack: Attack, planted: Planted) -> None:
    contained(sandbox, box, attack, planted)


_QUICK = {"a planted secret as a header", "a secret by .incbin", "calls of another architecture", "fork and signals from C++"}


@pytest.mark.parametrize(
    "attack",
    [pytest.param(attack, marks=() if attack.name in _QUICK else pytest.mark.slow) for attack in CPP_ATTACKS],
    ids=lambda attack: attack.name,
)
def test_attack_in_cpp(sandbox: Sandbox, box: Box, attack: Attack, planted: Planted) -> None:
    contained(sandbox, box, attack, planted)


def test_the_page_lists_them_all() -> None:
    page = (Path(__file__).parents[2] / "docs" / "security.md").read_text(encoding="utf-8")
    table = page.partition("<!-- attacks:start -->")[2].partition("<!-- attacks:end -->")[0]
    rows = {tuple(cell.strip() for cell in line.strip("|").split("|")) for line in table.splitlines() if line.startswith("| ")}
    listed = {(after, name, layers) for after, names, layers in rows for name in names.split("; ")} - {("after", "attacks", "held by")}
    attacks = ATTACKS + CPP_ATTACKS
    assert listed == {(attack.after, attack.name, attack.layers) for attack in attacks}
    assert len(listed) == len(attacks) >= 50
    assert f"holds {len(attacks)} attacks" in page
