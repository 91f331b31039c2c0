"""What README and docs say exists: files, commands, recipes, settings; their examples run."""

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import BaseModel

from magistral_core.cli.app import build_parser
from magistral_core.config import (
    CodeCurationRecipe,
    CurationRecipe,
    GradingRecipe,
    Recipe,
    load_code_curation,
    load_curation,
    load_grading,
    load_recipe,
    recipe_names,
)
from magistral_core.config.schema import FieldNames, ProblemSettings
from magistral_core.problems import load_problems
from magistral_core.rewards.extra import check_value, load_functions

ROOT = Path(__file__).resolve().parents[2]
README = ROOT / "README.md"
PORTING = ROOT / "docs" / "from-trl-verl.md"
PAGES = [README, *sorted((ROOT / "docs").glob("*.md"))]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
#: Words in capitals stand for something of the reader's.
PLACEHOLDER = re.compile(r"[A-Z]+")


def page_name(page: object) -> str:
    return page.name if isinstance(page, Path) else ""


def code_blocks(page: Path, language: str) -> list[str]:
    return [text for found, text in FENCE.findall(page.read_text()) if found == language]


def commands(page: Path) -> Iterator[list[str]]:
    """Every `magistral ...` in a block, and whole ones between backticks in README and the porting page."""
    lines = [line for block in code_blocks(page, "") for line in block.splitlines() if re.match(r"(\.venv/bin/)?magistral ", line)]
    if page in (README, PORTING):
        lines += re.findall(r"`(magistral [^`]+)`", FENCE.sub("", page.read_text()))
    for line in lines:
        yield shlex.split(line, comments=True)[1:]


def fields(model: type[BaseModel]) -> Iterator[str]:
    """Dotted paths of every setting and section."""
    for name, field in model.model_fields.items():
        yield name
        for candidate in (field.annotation, *getattr(field.annotation, "__args__", ())):
            if isinstance(candidate, type) and issubclass(candidate, BaseModel):
                yield from (f"{name}.{inner}" for inner in fields(candidate))


SETTINGS = {field for schema in (Recipe, CurationRecipe, CodeCurationRecipe, GradingRecipe) for field in fields(schema)}


def test_the_walk_over_settings_finds_nested_ones() -> None:
    assert {"seed", "loss.eps_high", "rewards.length.l_max", "problems.fields.answer", "model.tiny.sft_steps"} <= SETTINGS


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_links_lead_to_files(page: Path) -> None:
    links = re.findall(r"\]\(([^)#\s]+)[^)]*\)", FENCE.sub("", page.read_text()))
    missing = [link for link in links if not re.match(r"https?://", link) and not (page.parent / link).exists()]
    assert not missing


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_commands_parse(page: Path) -> None:
    for words in commands(page):
        options = build_parser().parse_args(words)  # a wrong one exits
        if words[0] == "curate":
            load = {"code": load_code_curation, "grade": load_grading}.get(words[1], load_curation)
            load(options.recipe, options.overrides)
            continue
        recipe = getattr(options, "recipe", None) or "tiny"
        assert PLACEHOLDER.fullmatch(recipe) or recipe in recipe_names() or recipe.endswith(".yaml"), words
        load_recipe(recipe if recipe in recipe_names() else "tiny", getattr(options, "overrides", []))


def test_commands_are_found() -> None:
    assert ["checkpoints", "list"] in list(commands(README))
    assert any("--dry-run" in words for words in commands(PORTING))


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_settings_exist(page: Path) -> None:
    sections = "|".join(name for name, field in Recipe.model_fields.items() if name not in {"name", "seed"})
    text = FENCE.sub("", page.read_text())
    if page == PORTING:  # there other columns name the settings of others
        text = "\n".join(cells(text, "ours")) + re.sub(r"^\|.*$", "", text, flags=re.MULTILINE)
    named = re.findall(rf"`((?:{sections})\.[a-z_.]+)(?:[=:][^`]*)?`", text)
    assert not set(named) - SETTINGS


def cells(text: str, column: str) -> Iterator[str]:
    """The cells of a column, of every table that has it."""
    at: int | None = None
    for line in text.splitlines():
        row = [cell.strip() for cell in line.strip("|").split("|")] if line.startswith("|") else []
        if column in row:
            at = row.index(column)
        elif not row:
            at = None
        elif at is not None:
            yield row[at]


def test_the_porting_page_covers_what_it_should() -> None:
    named = {name for cell in cells(PORTING.read_text(), "ours") for name in re.findall(r"`([\w.]+)", cell)}
    assert {"pipeline.group_size", "loss.eps_high", "loss.denominator", "rewards.extra", "training.token_budget", "seed"} <= named


def test_the_tree_names_what_is_there() -> None:
    [tree] = [block for block in code_blocks(README, "") if block.startswith("magistral_core/api.py")]
    paths = re.findall(r"^(\S+?)(?:, (\S+))? {2,}", tree, re.MULTILINE)
    assert all((ROOT / path).exists() for pair in paths for path in pair if path)
    rooms = {path.parent for path in ROOT.glob("magistral_core/*/__init__.py")}
    assert {ROOT / pair[0] for pair in paths if pair[0].startswith("magistral_core/")} >= rooms


def test_the_table_has_its_place() -> None:
    text = README.read_text()
    assert text.count("<!-- demo-table:start -->") == text.count("<!-- demo-table:end -->") == 1


@pytest.mark.parametrize("page", [README, PORTING], ids=page_name)
def test_example_reward_functions_work(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    [source] = [block for block in code_blocks(page, "python") if "my_rewards.py" in block]
    module = f"my_rewards_{page.stem.replace('-', '_').lower()}"
    (tmp_path / f"{module}.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    [name] = re.findall(r"^def (\w+)", source, re.MULTILINE)
    [function] = load_functions([f"{module}:{name}"])
    problem = load_problems(ProblemSettings(path=str(own_problems(tmp_path))))[0]
    assert check_value(function(problem=problem, response="<think>x</think>42", thoughts="x", answer="42", length=20)) > 0


def own_problems(folder: Path) -> Path:
    """README's file of problems, made by its own lines."""
    [block] = [block for block in code_blocks(README, "") if "mine.jsonl" in block]
    lines = [line for line in block.splitlines() if line.startswith("echo")]
    subprocess.run("\n".join(lines), shell=True, check=True, cwd=folder)
    return folder / "mine.jsonl"


def test_own_problems_are_read(tmp_path: Path) -> None:
    problems = load_problems(ProblemSettings(path=str(own_problems(tmp_path))))
    assert [problem.answer for problem in problems] == ["42", "x"]


def test_data_sets_of_trl_and_verl_are_read(tmp_path: Path) -> None:
    from datasets import Dataset

    chat = [{"role": "user", "content": "2+2"}]
    Dataset.from_list([{"prompt": chat, "solution": "\\boxed{4}"}]).to_json(tmp_path / "trl.jsonl")
    row = {"data_source": "d", "prompt": chat, "reward_model": {"style": "rule", "ground_truth": "4"}, "extra_info": {"index": 7}}
    Dataset.from_list([row]).to_parquet(tmp_path / "verl.parquet")
    [ours] = load_problems(ProblemSettings(path=str(tmp_path / "trl.jsonl")))
    assert (ours.question, ours.answer) == ("2+2", "4")
    [ours] = load_problems(ProblemSettings(path=str(tmp_path / "verl.parquet"), fields=FieldNames(answer="reward_model.ground_truth")))
    assert (ours.question, ours.answer, ours.extra["extra_info"]["index"]) == ("2+2", "4", 7)


@pytest.mark.slow
def test_quick_start_runs(tmp_path: Path) -> None:
    [source] = [block for block in code_blocks(README, "python") if "api.run(" in block]
    assert len(source.strip().splitlines()) <= 15
    smaller = '"training.max_steps=2", "model.tiny.sft_steps=200", "evaluation.problems=8", "evaluation.samples=2"'
    assert '"training.max_steps=50"' in source
    (tmp_path / "start.py").write_text(source.replace('"training.max_steps=50"', smaller))
    environment = {**os.environ, "MAGISTRAL_CACHE": str(tmp_path / "cache"), "OMP_NUM_THREADS": "1"}
    result = subprocess.run([sys.executable, "start.py"], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr[-3000:]
    assert re.findall(r"^[12] [\d.]+$", result.stdout, re.MULTILINE) and result.stdout.count("pass_at_1_valid") == 2
