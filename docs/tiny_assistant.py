"""A model of a million parameters that does what curation asks of a language model, for problems of the tiny world.

No model can be downloaded everywhere, and a step that no engine was ever seen doing is not proved. So one is trained here by the project's
own supervised training, in minutes, on the very prompts that curation renders:

    translate   stories of the multilingual world, from English into six languages; half of them with formulas and code
    rewrite     multiple choices that rules cannot rewrite
    judge       statements that may need a figure

The careless assistant is the careful one trained on with flawed replies: changed numbers, lost marks, the wrong language, cut replies,
rewritings that rules or the gold check must refuse.
"""

from __future__ import annotations

import hashlib
import json
import random
import re
from collections.abc import Iterator
from pathlib import Path

from magistral_core.config.curation import FormatSettings
from magistral_core.config.schema import PromptSettings
from magistral_core.curation import llm, translation
from magistral_core.curation.draft import Draft
from magistral_core.curation.entry import Entry
from magistral_core.curation.form import Passed, check_form
from magistral_core.curation.masking import mask
from magistral_core.generation.chat import ChatRenderer
from magistral_core.paths import cache_folder
from magistral_core.records import Problem
from magistral_core.sft import SftExample, train_sft
from magistral_core.tiny.base import ensure_model
from magistral_core.tiny.exercise import Exercise
from magistral_core.tiny.model import write_model
from magistral_core.tiny.multilingual import LEVELS, statement
from magistral_core.tiny.problems import exercises
from magistral_core.tiny.tokenizer import make_tokenizer

STEPS, BATCH, CARELESS_STEPS = 600, 32, 150
VOCABULARY, TOKENIZER_SAMPLE = 1536, 1200
LEARNING_RATE = 2e-3
#: How a model of this size is asked: its tokens are few and its template has no system prompt.
ASK = {"max_tokens": 160, "prompt.max_tokens": 352, "generation.dtype": "float32", "generation.kv_cache_gib": 0.25}
TASKS = {"translate": 65, "rewrite": 20, "judge": 15}
#: Share of the flawed replies that the careless assistant learns from.
CARELESS = 0.6

#: A sentence with a piece of code, and what the story of a statement of style 2 ends with.
_CODE = {
    "en": "Call the answer `x`.", "fr": "Appelez la réponse `x`.", "es": "Llama `x` a la respuesta.", "it": "Chiama `x` la risposta.",
    "de": "Nenne die Antwort `x`.", "zh": "请把答案记作`x`。", "ru": "Обозначь ответ через `x`.",
}  # fmt: skip


def story(exercise: Exercise, language: str, style: int) -> str:
    """A statement in a language; style 0: as it is, 1: its numbers as formulas, 2: with a piece of code too."""
    text = statement(exercise.numbers, exercise.thing, language)
    if style > 0:
        text = re.sub(r"\d+", r"$\g<0>$", text)
    return f"{text} {_CODE[language]}" if style > 1 else text


def choice(exercise: Exercise) -> dict[str, object]:
    """A multiple choice that asks about its options, so that rules cannot rewrite it."""
    a, b = exercise.numbers[0], abs(exercise.numbers[1])
    options = [str(a + b + shift) for shift in (-10, -1, 0, 1)]
    random.Random(exercise.key).shuffle(options)
    return {"question": f"Which of the following is the sum of {a} and {b}?", "answer": str(a + b), "choices": options}


def doubtful(exercise: Exercise) -> dict[str, object]:
    """A statement with "shown": usable if it says how many, else not."""
    a, b = exercise.numbers[0], abs(exercise.numbers[1])
    told = exercise.key[-1] in "02468"
    counted = f"the {a} coins shown to her and {b} more" if told else f"the coins shown to her and {b} more"
    return {"question": f"Anna counts {counted}. How many coins does she count?", "answer": str(a + b), "told": told}


def pairs(seed: int, careless: float = 0.0) -> Iterator[tuple[str, str]]:
    """What is asked and what is answered, of training problems; endless."""
    rng = random.Random(f"assistant/{seed}")
    for exercise in exercises("multilingual", "train", LEVELS, seed, unique=False):
        flawed = rng.random() < careless
        task = rng.choices(list(TASKS), list(TASKS.values()))[0]
        yield {"translate": _translating, "rewrite": _rewriting, "judge": _judging}[task](exercise, rng, flawed)


def assistant(*, careless: bool = False) -> Path:
    """The folder of a trained assistant, from the cache or made now."""
    recipe = [Path(__file__).read_text(encoding="utf-8"), llm._REWRITE, llm._JUDGE, translation._TRANSLATE]
    digest = hashlib.sha256("\0".join(recipe).encode()).hexdigest()[:16]
    name = "careless" if careless else "careful"
    return ensure_model(cache_folder() / "tiny" / f"assistant-{name}-{digest}", lambda work: _train(work, careless))


def _translating(exercise: Exercise, rng: random.Random, flawed: bool) -> tuple[str, str]:
    language, style = rng.choice(list(translation.NAMES)), rng.randrange(3)
    masked = mask(story(exercise, "en", style))
    answer = mask(story(exercise, language, style))
    assert masked.pieces == answer.pieces  # all seven languages name the numbers in one order
    text = answer.text
    if flawed:
        text = _flawed(text, masked.text, mask(story(exercise, _other(language, rng), style)).text, rng)
    reply = json.dumps({"translation": text}, ensure_ascii=False)
    return translation.task_for(masked, language), reply[: len(reply) // 2] if flawed and rng.random() < 0.2 else reply


def _flawed(text: str, english: str, other: str, rng: random.Random) -> str:
    kind = rng.randrange(3)
    if kind:
        return (english, other)[kind - 1]
    numbers = list(re.finditer(r"\d+", text))  # of formulas, too: then a mark is doubled and another lost
    found = rng.choice(numbers)
    return f"{text[: found.start()]}{int(found.group()) + rng.choice((1, 2, 10))}{text[found.end() :]}"


def _rewriting(exercise: Exercise, rng: random.Random, flawed: bool) -> tuple[str, str]:
    row = choice(exercise)
    task = llm.task_for(_entry(row))
    assert task is not None
    a, b = exercise.numbers[0], abs(exercise.numbers[1])
    question, answer = f"What is the sum of {a} and {b}?", str(row["answer"])
    if flawed:
        changes = [(f"Prove that the sum of {a} and {b} is right.", answer), (question, "\\frac{1}{"), (question, str(a + b + 10))]
        question, answer = rng.choice(changes)
    return task, json.dumps({"question": question, "answer": answer})


def _judging(exercise: Exercise, rng: random.Random, flawed: bool) -> tuple[str, str]:
    row = doubtful(exercise)
    task = llm.task_for(_entry(row))
    assert task is not None
    usable = json.dumps({"usable": True} if row["told"] else {"usable": False, "why": "the number is missing"})
    return task, usable[: len(usable) // 2] if flawed else usable


def _entry(row: dict[str, object]) -> Entry:
    """A row after the rules, as the model meets it."""
    question, answer = str(row["question"]), str(row["answer"])
    found = check_form(Draft("f", 1, "a", question, answer, answer, row.get("choices")), FormatSettings())
    if isinstance(found, Passed):
        return Entry(0, "f", 1, "a", found.question, found.answer, doubt=found.doubt)
    return Entry(0, "f", 1, "a", question, answer, reason=found.reason, options=found.options, right=found.right)


def _other(language: str, rng: random.Random) -> str:
    return rng.choice([other for other in translation.NAMES if other != language])


def _train(work: Path, careless: bool) -> Path:
    if careless:
        start, steps, share = assistant(), CARELESS_STEPS, CARELESS
    else:
        start, steps, share = work / "initial", STEPS, 0.0
        sample = [text for pair, _ in zip(pairs(0, 0.1), range(TOKENIZER_SAMPLE), strict=False) for text in pair]
        write_model(start, make_tokenizer(sample, VOCABULARY), seed=0)
    renderer = ChatRenderer(start, PromptSettings())
    drawn = zip(pairs(2 if careless else 1, share), range(steps * BATCH), strict=False)
    examples = [SftExample(*renderer.render_pair(Problem(str(number), task), reply)) for (task, reply), number in drawn]
    train_sft(start, examples, work / "trained", steps=steps, batch=BATCH, learning_rate=LEARNING_RATE, on_progress=_say)
    return work / "trained"


def _say(step: int, metrics: dict[str, float]) -> None:
    if step % 50 <= 1:
        print(f"  step {step}: loss {metrics['loss']:.3f}")  # noqa: T201


def settings(section: str, model: Path) -> list[str]:
    """Overrides that let a step of a curation recipe ask this model."""
    return [f"{section}.model={model}", *(f"{section}.{name}={value}" for name, value in ASK.items())]
