"""How many planted faults a curation of code finds; the table of docs/code-curation.md.

    .venv/bin/python docs/code_curation_table.py [--data ../shared/data/kth_challenge] [--seeds 0 10] [--tests N]

Problem packages, whose tests are right and whose submissions are labelled, get faults planted and go through `curate_code` without labels.

    wrong outputs    in `SHARE` of a package's tests, by turns: a token changed (a number by 1 to 9, a word to another output's), a line
                     dropped, the output of a wrong submission. Each is checked to be a fault: with it the package's own comparison refuses
                     the right output. A problem whose validator reads no answer cannot have one
    bad solutions    the package's submissions in wrong_answer and run_time_error, and accepted ones cut at a random line, one for every
                     two accepted. Each is checked to be bad: it fails at least one of the tests as they were

Submissions that are too slow are left out: they are neither right nor planted, and would take most of the time. Programs run once for all
seeds, in the sandbox; seeds differ in what is planted.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import tempfile
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.page import put_between
from magistral_core.config import load_code_curation
from magistral_core.config.schema import CodeSettings
from magistral_core.curation.code import curate_code
from magistral_core.curation.code.answers import Difference
from magistral_core.curation.code.draft import CodeDraft, read_code_draft
from magistral_core.curation.code.settle import limits_of
from magistral_core.curation.code.sources import package_row
from magistral_core.problems import Row, find_packages
from magistral_core.records import Problem, TestCase
from magistral_core.rewards.code import CodeJudge, Output
from magistral_core.sandbox import Language, Limits, Program, SandboxError

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "code-curation.md"
#: Tests of a package that get a wrong output.
SHARE = 0.15
KINDS = ("token changed", "line dropped", "output of a wrong submission")
BAD_LABELS = ("wrong_answer", "run_time_error")
_NAMES = {"cut": "solution cut short", "wrong_answer": "wrong submission", "run_time_error": "crashing submission"}
_FATES = ("kept", "repaired", "replaced wrongly", "removed")


class RememberingJudge(CodeJudge):
    """Runs a program on an input once, whoever asks."""

    def __init__(self, settings: CodeSettings) -> None:
        super().__init__(settings)
        self.known: dict[tuple[Any, ...], list[Output]] = {}

    def outputs(
        self, problem: Problem, program: Program, inputs: Sequence[str], limits: Limits, compile_limits: Limits, max_late: int
    ) -> list[Output]:
        """As `CodeJudge.outputs`."""
        key = (program.language, *program.files.values(), tuple(inputs))
        if key not in self.known:
            self.known[key] = super().outputs(problem, program, inputs, limits, compile_limits, max_late)
        return self.known[key]


@dataclass
class Planted:
    """A package with its faults.

    Attributes:
        row: as the curation gets it.
        right: the tests' outputs as they were.
        wrong: number of a test to the kind of its planted output.
        bad: number of a solution to what is bad about it.
        good: numbers of the accepted submissions that pass every test.
    """

    row: dict[str, Any]
    right: list[str]
    wrong: dict[int, str] = field(default_factory=dict)
    bad: dict[int, str] = field(default_factory=dict)
    good: set[int] = field(default_factory=set)


class Planter:
    """Plants faults in packages and counts what became of them."""

    def __init__(self, judge: RememberingJudge, most_tests: int | None) -> None:
        self._judge = judge
        self._most_tests = most_tests
        self._recipe = load_code_curation("code")

    def plant(self, folder: Path, seed: int) -> Planted:
        """A package with faults drawn from the seed."""
        draw = random.Random(f"{seed}:{folder.name}")
        row = package_row(folder)
        if self._most_tests is not None and len(row["tests"]) > self._most_tests:
            chosen = random.Random(folder.name).sample(range(len(row["tests"])), self._most_tests)
            row["tests"] = [row["tests"][at] for at in sorted(chosen)]
        own = [item for item in row["solutions"] if item["label"] in ("accepted", *BAD_LABELS) and Language.of(item["language"])]
        accepted = [item for item in own if item["label"] == "accepted"]
        cut = [
            {**item, "name": f"cut {item['name']}", "label": "cut", "code": _cut(item["code"], draw)}
            for item in draw.sample(accepted, max(1, len(accepted) // 2))
        ]
        row["solutions"] = own + cut
        draft = read_code_draft(Row(str(folder), 1, row))
        planted = Planted(row, [test["output"] for test in row["tests"]])
        outputs = [[output.text for output in found] for found in self._outputs(draft)]
        with self._judge.comparing(draft.problem) as difference:
            self._sort_solutions(planted, outputs, difference)
            self._plant_outputs(planted, outputs, difference, draw)
        for item in row["solutions"]:
            item["name"] = f"{item.pop('label')}/{item['name']}"
        return planted

    def _sort_solutions(self, planted: Planted, outputs: Sequence[Sequence[str | None]], difference: Difference) -> None:
        """Which solutions are bad, and which good."""
        tests = [TestCase(test["input"], test["output"]) for test in planted.row["tests"]]
        for number, (item, texts) in enumerate(zip(planted.row["solutions"], outputs, strict=True)):
            passes = all(text is not None and not difference(test, text) for test, text in zip(tests, texts, strict=True))
            if item["label"] == "accepted" and passes:
                planted.good.add(number)
            elif item["label"] != "accepted" and not passes:
                planted.bad[number] = item["label"]

    def _plant_outputs(
        self, planted: Planted, outputs: Sequence[Sequence[str | None]], difference: Difference, draw: random.Random
    ) -> None:
        """Wrong outputs, of each kind by turns, or of the next where a kind has none."""
        tests = planted.row["tests"]
        of_wrong = [texts for item, texts in zip(planted.row["solutions"], outputs, strict=True) if item["label"] in BAD_LABELS]
        first = draw.randrange(len(KINDS))
        for number in range(max(1, round(SHARE * len(tests)))):
            turn = (first + number) % len(KINDS)
            for kind, at in ((kind, at) for kind in (*KINDS[turn:], *KINDS[:turn]) for at in draw.sample(range(len(tests)), len(tests))):
                text = _wrong(kind, at, planted.right, [texts[at] for texts in of_wrong], draw)
                if (
                    at not in planted.wrong
                    and text is not None
                    and _refused(difference, TestCase(tests[at]["input"], planted.right[at]), text)
                ):
                    tests[at]["output"], planted.wrong[at] = text, kind
                    break

    def count(self, planted: Planted, kept: list[dict[str, Any]], changes: list[dict[str, Any]]) -> Counter[tuple[str, str]]:
        """What became of a package's tests and solutions."""
        counts: Counter[tuple[str, str]] = Counter()
        changed = {change["test"] - 1: change for change in changes if "test" in change}
        failed = {change["solution"] - 1 for change in changes if "solution" in change}
        draft = read_code_draft(Row("", 1, planted.row))
        with self._judge.comparing(draft.problem) as difference:
            for at, right in enumerate(planted.right):
                fate = changed[at]["fate"] if at in changed else "kept"
                if not kept:
                    fate = "removed"
                elif fate == "replaced":
                    equal = not _refused(difference, TestCase(planted.row["tests"][at]["input"], right), changed[at]["is"])
                    fate = "repaired" if equal else "replaced wrongly"
                what = planted.wrong.get(at, "right test")
                counts[what, "kept" if what == "right test" and fate == "repaired" else fate] += 1
        for number in range(len(planted.row["solutions"])):
            what = planted.bad.get(number, "right solution" if number in planted.good else "other solution")
            counts[what, "removed" if number in failed or not kept else "kept"] += 1
        return counts

    def _outputs(self, draft: CodeDraft) -> list[list[Output]]:
        limits, compiling = limits_of(draft, self._recipe.run), self._judge.compile_limits
        inputs = [test.input for test in draft.tests]
        programs = [Program.single(solution.language, solution.code) for solution in draft.solutions if solution.language is not None]
        with ThreadPoolExecutor(self._recipe.run.workers) as executor:
            late = self._recipe.run.max_late
            return list(
                executor.map(lambda program: self._judge.outputs(draft.problem, program, inputs, limits, compiling, late), programs)
            )


def _refused(difference: Difference, test: TestCase, text: str) -> bool:
    """Whether the right output is refused with another text as the expected one."""
    try:
        return bool(difference(TestCase(test.input, text), test.output))
    except SandboxError:  # a validator that cannot use such an answer
        return True


def _wrong(kind: str, at: int, right: Sequence[str], of_wrong: Sequence[str | None], draw: random.Random) -> str | None:
    """Another output of a kind; None if there is none."""
    if kind == KINDS[0]:
        parts = re.split(r"(\s+)", right[at])
        words = [place for place, part in enumerate(parts) if part.strip()]
        if not words:
            return None
        place = draw.choice(words)
        return "".join([*parts[:place], _other(parts[place], right, draw), *parts[place + 1 :]])
    if kind == KINDS[1]:
        lines = right[at].splitlines(keepends=True)
        dropped = draw.randrange(max(1, len(lines)))
        return "".join(lines[:dropped] + lines[dropped + 1 :])
    others = [text for text in of_wrong if text is not None and text.strip()]
    return draw.choice(others) if others else None


def _other(word: str, right: Sequence[str], draw: random.Random) -> str:
    """Another number, or another word of the problem's outputs."""
    try:
        return str(int(word) + draw.choice((-1, 1)) * draw.randint(1, 9))
    except ValueError:
        pass
    try:
        return repr(float(word) + draw.randint(1, 9))
    except ValueError:
        words = sorted({other for text in right for other in text.split()} - {word})
        return draw.choice(words) if words else word + "x"


def _cut(code: str, draw: random.Random) -> str:
    """A program without its end."""
    lines = code.splitlines(keepends=True)
    return "".join(lines[: draw.randint(len(lines) // 3, max(len(lines) // 3, len(lines) - 2))])


def measure(folders: Sequence[Path], seed: int, judge: RememberingJudge, most_tests: int | None = None) -> Counter[tuple[str, str]]:
    """Counts by what was planted and what became of it, over all packages."""
    planter = Planter(judge, most_tests)
    planted = [planter.plant(folder, seed) for folder in folders]
    with tempfile.TemporaryDirectory(prefix="magistral-code-") as work:
        source, out = Path(work) / "packages.jsonl", Path(work) / "out"
        source.write_text("".join(json.dumps(package.row) + "\n" for package in planted), encoding="utf-8")
        curate_code([str(source)], out, load_code_curation("code"), judge=judge)
        kept, changes = (_by_line(out / name) for name in ("kept.jsonl", "changes.jsonl"))
    counts: Counter[tuple[str, str]] = Counter()
    for line, package in enumerate(planted, start=1):
        counts += planter.count(package, kept.get(line, []), changes.get(line, []))
    return counts


def _by_line(path: Path) -> dict[int, list[dict[str, Any]]]:
    found: dict[int, list[dict[str, Any]]] = {}
    for row in map(json.loads, path.read_text(encoding="utf-8").splitlines()):
        found.setdefault(row["source"]["line"], []).append(row)
    return found


def table(counts: Counter[tuple[str, str]]) -> str:
    """Markdown: planted faults, then what was right."""
    lines = ["| planted | of them | repaired | removed | missed | found |", "|---|---|---|---|---|---|"]
    planted = [*KINDS, "cut", *BAD_LABELS]
    for what in planted:
        lines.append(_line(_NAMES.get(what, what), [what], counts))
    lines.append(_line("**all planted**", planted, counts))
    lines += ["", "| right | of them | kept | lost |", "|---|---|---|---|"]
    for what in ("right test", "right solution"):
        whole, kept = (
            sum(count for (found, fate), count in counts.items() if found == what and fate in fates) for fates in (_FATES, ("kept",))
        )
        lines.append(f"| {what}s | {whole} | {kept} | {whole - kept} |")
    return "\n".join(lines) + "\n"


def _line(name: str, kinds: Sequence[str], counts: Counter[tuple[str, str]]) -> str:
    """One row; an output that was replaced by another wrong one is missed too."""
    whole, repaired, removed = (
        sum(count for (found, fate), count in counts.items() if found in kinds and fate in fates)
        for fates in (_FATES, ("repaired",), ("removed",))
    )
    share = f"{100 * (repaired + removed) / whole:.1f}%" if whole else "-"
    return f"| {name} | {whole} | {repaired} | {removed} | {whole - repaired - removed} | {share} |"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data" / "kth_challenge")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 10])
    parser.add_argument("--without", nargs="*", default=["lightsout"], help="packages to leave out; lightsout's programs take very long")
    parser.add_argument("--tests", type=int, default=20, help="most tests of a package, drawn once for all seeds")
    options = parser.parse_args()
    judge = RememberingJudge(CodeSettings(compile_s=60.0))
    folders = [folder for folder in find_packages(options.data) if folder.name not in options.without]
    parts = []
    for seed in options.seeds:
        parts.append(f"Seed {seed}:\n\n{table(measure(folders, seed, judge, options.tests))}")
        print(parts[-1], flush=True)  # noqa: T201
    if parser.get_default("seeds") == options.seeds and parser.get_default("tests") == options.tests:
        PAGE.write_text(put_between(PAGE.read_text(encoding="utf-8"), "faults-table", "\n".join(parts)), encoding="utf-8")
