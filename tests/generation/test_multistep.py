"""Several decoding steps for each schedule give what single steps give."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from queue import Queue

import numpy as np
import pytest
from random_model import GENERATION, MAX_MODEL_LEN, make_requests
from vllm.v1.engine import EngineCoreRequestType

from magistral_core.generation import arguments
from magistral_core.generation.engine import LocalEngine
from magistral_core.records import Completion, FinishReason, Request


@pytest.fixture(scope="module")
def engines(model_folder: Path) -> Iterator[dict[str, LocalEngine]]:
    """As usual; in single steps; and with a KV cache, at 2 KiB a token, for a quarter of what the largest test asks for.

    None is closed before the last test: engines of one process share what closing takes down.
    """
    settings = {"usual": GENERATION, "short": GENERATION.model_copy(update={"kv_cache_gib": 0.004})}
    engines = {name: LocalEngine(model_folder, generation, max_model_len=MAX_MODEL_LEN) for name, generation in settings.items()}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(arguments, "_CPU_STEPS", 1)
        engines["single"] = LocalEngine(model_folder, GENERATION, max_model_len=MAX_MODEL_LEN)
    yield engines
    for engine in engines.values():
        engine.close()


def requests_of_all_lengths() -> list[Request]:
    """Prompts that end before, at and after the end of a block of 32 tokens; lengths from one token on, one up to the longest sequence."""
    lengths = [(prompt, 1 + (7 * prompt + index) % 40) for prompt in range(28, 38) for index in range(5)]
    lengths.append((40, MAX_MODEL_LEN - 40))
    return [make_requests(1, most, group=group, prompt_length=prompt)[0] for group, (prompt, most) in enumerate(lengths)]


def assert_same(a: list[Completion], b: list[Completion]) -> None:
    for one, other in zip(a, b, strict=True):
        assert one.token_ids.tolist() == other.token_ids.tolist() and one.finish_reason == other.finish_reason
        np.testing.assert_allclose(one.logprobs, other.logprobs, atol=1e-5)
        assert set(one.versions.tolist()) == {0}


def test_same_completions_as_in_single_steps(engines: dict[str, LocalEngine]) -> None:
    requests = requests_of_all_lengths()
    completions = engines["usual"].generate(requests)
    assert_same(completions, engines["single"].generate(requests))
    assert {completion.finish_reason for completion in completions} == set(FinishReason)


def test_same_completions_where_sequences_are_taken_out_for_want_of_room(engines: dict[str, LocalEngine]) -> None:
    requests = [request for group in range(4) for request in make_requests(16, 100, group=group)]
    assert_same(engines["short"].generate(requests), engines["single"].generate(requests))


@pytest.mark.parametrize(("name", "length", "steps"), [("usual", 1, 1), ("usual", 8, 1), ("usual", 9, 2), ("single", 9, 9)])
def test_one_schedule_for_eight_tokens(engines: dict[str, LocalEngine], name: str, length: int, steps: int) -> None:
    engine = engines[name]
    engine.add(make_requests(1, length, seed=1)[0])
    taken = 0
    while engine.running:
        completions = engine.step()
        taken += 1
    assert completions[0].length == length and taken == steps


@pytest.mark.parametrize(
    ("kinds", "steps"),
    [
        ("", 2),
        ("AAA", 2),  # as many as go on
        ("AAAA", 9),
        ("U", 9),
        ("AB", 9),
    ],
)
def test_more_requests_than_go_on_and_all_else_interrupt(
    engines: dict[str, LocalEngine], monkeypatch: pytest.MonkeyPatch, kinds: str, steps: int
) -> None:
    engine = engines["usual"]
    wanted = make_requests(3, 9, seed=1)
    undisturbed = engine.generate(wanted)
    assert {completion.length for completion in undisturbed} == {9}
    arrivals: Queue[tuple[EngineCoreRequestType, None]] = Queue()
    for kind in kinds:
        arrivals.put(({"A": EngineCoreRequestType.ADD, "B": EngineCoreRequestType.ABORT, "U": EngineCoreRequestType.UTILITY}[kind], None))
    monkeypatch.setattr(engine._engine.model_executor, "_arrivals", arrivals)
    for request in wanted:
        engine.add(request)
    found: list[Completion] = []
    taken = 0
    while engine.running:
        found += engine.step()
        taken += 1
    assert taken == steps
    assert_same(sorted(found, key=lambda completion: completion.index), undisturbed)


@pytest.mark.parametrize(("mebibytes", "steps"), [(1, 8), (16, 8), (40, 3), (100, 1), (1000, 1)])
def test_larger_models_take_fewer_steps(tmp_path: Path, mebibytes: int, steps: int) -> None:
    for part in range(2):
        with (tmp_path / f"model-{part}.safetensors").open("wb") as file:
            file.truncate(mebibytes << 19)
    assert arguments._decoding_steps(tmp_path) == steps


def test_weights_that_are_not_here_take_one_step(tmp_path: Path) -> None:
    assert arguments._decoding_steps(tmp_path) == arguments._decoding_steps("owner/name") == 1
