"""Inputs of new tests, for problems that have fewer tests than `generate.wanted`. Their outputs come from the votes like any other's.

    scripts   programs that come with the problem, confined like solutions: run with a seed as their last argument, each prints an input
    model     the language model writes inputs, for problems without scripts

An input that breaks the problem's rules is no danger: solutions crash on it or disagree, and the test is removed.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from magistral_core.config.code_curation import CodeCurationRecipe, GenerateSettings
from magistral_core.curation.asking import Asker, Question, is_encodable, read_object
from magistral_core.curation.code.draft import CodeDraft
from magistral_core.curation.code.settle import limits_of
from magistral_core.rewards.code import CodeJudge
from magistral_core.sandbox import Limits, Program, Sandbox

#: Samples of a problem's own tests that the model sees, and their longest.
_SAMPLES, _LONGEST_SAMPLE = 2, 500

SYSTEM = """\
You write inputs that test solutions of programming problems. Think first, between {open} and {close}, if it helps. End with one JSON \
object on a line of its own and nothing behind it."""

_TASK = """\
Write {count} different inputs for the problem below. Each must keep to every limit and to the input's form. Cover small, special and \
boundary cases. Do not solve the problem; outputs are not needed.

Problem:
{question}

{samples}{form} Reply with {{"inputs": [...]}}."""

_PROGRAM = "Each input is one text, exactly as a program would read it from standard input."
_FUNCTION = "Each input is a list of the arguments of the function `{name}`."


def missing(draft: CodeDraft, generate: GenerateSettings) -> int:
    """Tests that a problem lacks; 0 if it cannot have more."""
    usable = draft.question and not draft.fault and not draft.checks and draft.solutions
    return max(0, generate.wanted - len(draft.tests)) if usable else 0


def for_model(draft: CodeDraft, generate: GenerateSettings) -> bool:
    """Whether inputs of a problem are the model's task."""
    return missing(draft, generate) > 0 and not (generate.scripts and _scripts(draft))


def _scripts(draft: CodeDraft) -> list[Program]:
    return [Program.single(script.language, script.code) for script in draft.generators if script.language is not None]


def by_scripts(draft: CodeDraft, recipe: CodeCurationRecipe, judge: CodeJudge) -> list[str]:
    """New inputs from a problem's generator scripts, in turn; fewer than wanted if the scripts fail or repeat themselves.

    Raises:
        SandboxError: the sandbox broke.
    """
    wanted = missing(draft, recipe.generate) if recipe.generate.scripts else 0
    known = {test.input for test in draft.tests}
    found: list[str] = []
    limits = limits_of(draft, recipe.run)
    scripts = _scripts(draft)
    for number, script in enumerate(scripts):
        share = -(-(wanted - len(found)) // (len(scripts) - number))
        if share > 0:
            for text in _printed(judge.prepare(), script, limits, judge.compile_limits, recipe.generate.seed, share):
                if text not in known:
                    known.add(text)
                    found.append(text)
    return found


def _printed(sandbox: Sandbox, script: Program, limits: Limits, compiling: Limits, seed: int, count: int) -> Iterator[str]:
    """What a script prints for so many seeds; what does not end well gives nothing."""
    with sandbox.open() as box:
        if not sandbox.compile(box, script, compiling).ok:
            return
        for number in range(seed, seed + count):
            result = sandbox.run(box, script, limits, arguments=[str(number)])
            if result.ok and result.stdout.strip():
                yield result.stdout.decode("utf-8", "surrogateescape")


def ask(
    tasks: Iterable[tuple[int, CodeDraft]], model: Path, recipe: CodeCurationRecipe, journal: Path, on_done: Callable[[int], None]
) -> tuple[dict[int, list[str]], dict[str, int]]:
    """Inputs that a language model writes, by the problem's index, and how its replies were read.

    Raises:
        InputError: the model cannot be used.
        InfrastructureError: an engine process died.
    """
    counts: Counter[str] = Counter()
    found: dict[int, list[str]] = {}

    def questions() -> Iterator[Question]:
        for index, draft in tasks:
            found[index] = [test.input for test in draft.tests]
            yield Question(index, task_for(draft, recipe.generate), f"{draft.file}:{draft.line}")

    with Asker(model, recipe.llm, journal, SYSTEM) as asker:
        for question, answer in asker.ask(questions(), on_done):
            known = set(found[question.row])
            fresh = [text for text in dict.fromkeys(parse_inputs(answer or "")) if text not in known]
            found[question.row] = fresh
            counts["too_long" if answer is None else "read" if fresh else "unreadable"] += 1
            counts["inputs"] += len(fresh)
    return found, dict(counts)


def task_for(draft: CodeDraft, generate: GenerateSettings) -> str:
    """What the model is asked."""
    shown = [test.input for test in draft.tests if len(test.input) <= _LONGEST_SAMPLE][:_SAMPLES]
    samples = "".join(f"An input that it has already:\n{text}\n\n" for text in shown)
    form = _FUNCTION.format(name=draft.entry_point) if draft.entry_point else _PROGRAM
    return _TASK.format(count=missing(draft, generate), question=draft.question, samples=samples, form=form)


def parse_inputs(text: str) -> list[str]:
    """The inputs of an answer's last JSON object; empty if there are none."""
    content = read_object(text) or {}
    inputs = content.get("inputs")
    texts = [item if isinstance(item, str) else json.dumps(item) for item in inputs] if isinstance(inputs, list) else []
    return [text for text in texts if text.strip() and is_encodable(text)]
