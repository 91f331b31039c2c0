"""The suites and their protocol (Magistral, section 5.1): temperature 0.7, top-p 1.0 for mathematics; samples and lengths below."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from magistral_core.config.schema import FieldNames, ProblemSettings
from magistral_core.errors import InputError
from magistral_core.problems import load_problems
from magistral_core.problems.load import is_saved_dataset
from magistral_core.problems.readers import problem_files
from magistral_core.records import Problem

#: Seed of the generated held-out problems: the same for every model and every run.
_TINY_SEED = 0
_TINY_LEVELS = {"quick": (1, 2, 3, 4), "multilingual": (1, 2)}


@dataclass(frozen=True, slots=True)
class Suite:
    """A set of problems with the way it is sampled.

    Attributes:
        name: as the command takes it.
        hub: `hf:` source of the problems where no `--data` is given; empty for generated ones.
        split: split of the hub data set.
        file: where the problems lie in a folder given as `--data`, relative, first match.
        samples: completions per problem.
        max_tokens: longest completion; capped by the model's context.
        temperature, top_p: sampling.
        problems: how many are taken by default; None: all.
    """

    name: str
    hub: str = ""
    split: str = "test"
    file: tuple[str, ...] = ()
    samples: int = 1
    max_tokens: int = 32_768
    temperature: float = 0.7
    top_p: float = 1.0
    problems: int | None = None

    def load(self, data: str | None, fields: FieldNames, world: str) -> list[Problem]:
        """The problems, from `data` (a file, or a folder that holds this suite's file) or the suite's own source."""
        if self.name == "tiny" and data is None:
            from magistral_core import tiny

            return tiny.generate(world, "heldout", self.problems or 256, _TINY_LEVELS[world], _TINY_SEED)
        path = data or self.hub
        if not path:
            raise InputError(f"suite {self.name}: give its problems with --data")
        local = Path(path).expanduser()
        if local.is_dir():
            found = [local / name for name in self.file if (local / name).is_file()]
            if not found and self.file and not is_saved_dataset(local) and len(files := problem_files(local)) > 1:
                raise InputError(
                    f"suite {self.name}: {local} holds {len(files)} problem files and none of the suite's ({', '.join(self.file)}); "
                    "name one of them with --data"
                )
            path = str(found[0]) if found else path
        return load_problems(ProblemSettings(path=path, split=self.split, fields=fields))


SUITES = (
    # At temperature 1: what is shown there is the very distribution that training samples from and shapes.
    Suite("tiny", samples=8, max_tokens=192, problems=256, temperature=1.0),
    Suite("gsm8k", hub="hf:openai/gsm8k:main", file=("gsm8k/test.jsonl", "test.jsonl")),
    Suite("math500", hub="hf:HuggingFaceH4/MATH-500", file=("math500/test.jsonl", "test.jsonl")),
    Suite("aime24", hub="hf:HuggingFaceH4/aime_2024", split="train", file=("aime_2024_2025/aime24.test.txt", "aime24.test.txt"),
          samples=64, max_tokens=40_960),
    Suite("aime25", hub="hf:yentinglin/aime_2025", split="train", file=("aime_2024_2025/aime25.test.txt", "aime25.test.txt"),
          samples=64, max_tokens=40_960),
    Suite("amc23", hub="hf:math-ai/amc23", file=("amc23/test.jsonl", "test.jsonl"), samples=16),
)  # fmt: skip


def suite_named(name: str) -> Suite:
    """The suite with this name. Raises InputError with the known ones."""
    for suite in SUITES:
        if suite.name == name:
            return suite
    raise InputError(f"unknown suite {name!r}; known: {', '.join(suite.name for suite in SUITES)}")
