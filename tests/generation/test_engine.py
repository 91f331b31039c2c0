"""Both vLLM engines against a plain transformers reference, through weight updates."""

from __future__ import annotations

import asyncio
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import psutil
import pytest
import torch
from random_model import make_model, make_requests
from safetensors.torch import load_file
from transformers import MistralForCausalLM

from magistral_core.errors import InfrastructureError, InputError
from magistral_core.generation.engine import GeneratorEngine, LocalEngine
from magistral_core.generation.tokens import Sampling
from magistral_core.generation.weights import file_checksum, stream_weight_file, write_weight_file
from magistral_core.records import Completion, FinishReason

#: Of fp32 log-probabilities between vLLM and transformers.
TOLERANCE = 1e-4


def reference_logprobs(models: dict[int, MistralForCausalLM], completion: Completion, temperature: float = 1.0) -> np.ndarray:
    """Log-probabilities of a completion's tokens, token by token, keeping the KV cache when the version changes."""
    result, cache = [], None
    inputs = completion.prompt_ids
    for token, version in zip(completion.token_ids.tolist(), completion.versions.tolist(), strict=True):
        with torch.no_grad():
            output = models[version](torch.tensor(inputs, dtype=torch.long)[None], past_key_values=cache, use_cache=True)
        cache = output.past_key_values
        result.append(torch.log_softmax(output.logits[0, -1].float() / temperature, -1)[token].item())
        inputs = [token]
    return np.asarray(result)


@pytest.mark.parametrize(
    ("name", "size", "reached"),
    [
        ("weight", 4, True),
        ("weight", 0, False),
        ("W_UV", 4, False),
        ("W_UK_T", 4, False),
        ("w13_weight", 4, False),
        ("w2_weight", 4, False),
    ],
)
def test_a_parameter_that_new_weights_would_not_reach_is_named(name: str, size: int, reached: bool, local_engine: LocalEngine) -> None:
    """On a CPU. The engine of these tests has loaded the worker's module, which adapts vLLM to it."""
    from magistral_core.generation.worker import WeightReceiver

    model = torch.nn.Module()
    model.attention = torch.nn.Module()
    model.attention.register_parameter(name, torch.nn.Parameter(torch.zeros(size)))
    receiver = WeightReceiver()
    receiver.model_runner = SimpleNamespace(get_model=lambda: model)
    assert receiver.never_updated() == ("" if reached else f"attention.{name}")


@pytest.fixture(scope="module")
def models(model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[int, MistralForCausalLM]:
    """Weights of versions 0 (in the model folder), 1, 2 and 3; embeddings tied."""
    others = {seed: make_model(tmp_path_factory.mktemp("other"), seed) for seed in (1, 2, 3)}
    return {0: MistralForCausalLM.from_pretrained(model_folder, dtype=torch.float32).eval(), **others}


@pytest.fixture(scope="module")
def files(models: dict[int, MistralForCausalLM], tmp_path_factory: pytest.TempPathFactory) -> dict[int, tuple[Path, str]]:
    """A weight file and its checksum for each version."""
    folder = tmp_path_factory.mktemp("weights")
    return {v: (folder / f"{v}.safetensors", write_weight_file(m.state_dict(), folder / f"{v}.safetensors")) for v, m in models.items()}


class TestLocalEngine:
    def test_logprobs_equal_transformers(self, local_engine: LocalEngine, models: dict[int, MistralForCausalLM]) -> None:
        completions = local_engine.generate(make_requests(6, 40) + make_requests(6, 40, group=1, prompt_length=17))
        assert [(c.group_id, c.index) for c in completions] == [(g, i) for g in (0, 1) for i in range(6)]
        for completion in completions:
            assert completion.logprobs.dtype == np.float32 and completion.length == len(completion.logprobs)
            np.testing.assert_allclose(completion.logprobs, reference_logprobs(models, completion), atol=TOLERANCE)

    def test_logprobs_are_of_the_tempered_distribution(self, local_engine: LocalEngine, models: dict[int, MistralForCausalLM]) -> None:
        for completion in local_engine.generate(make_requests(3, 30), Sampling(temperature=0.7)):
            np.testing.assert_allclose(completion.logprobs, reference_logprobs(models, completion, 0.7), atol=TOLERANCE)

    def test_same_seed_same_tokens_to_the_bit(self, local_engine: LocalEngine) -> None:
        first, second = (local_engine.generate(make_requests(8, 40, seed=5)) for _ in range(2))
        other = local_engine.generate(make_requests(8, 40, seed=6))
        for a, b, c in zip(first, second, other, strict=True):
            assert a.token_ids.tolist() == b.token_ids.tolist() and a.logprobs.tolist() == b.logprobs.tolist()
            assert a.token_ids.tolist() != c.token_ids.tolist()

    def test_a_request_gets_its_tokens_in_any_company(self, local_engine: LocalEngine) -> None:
        requests, others = make_requests(6, 40, seed=4), make_requests(50, 30, group=3)
        alone = [local_engine.generate([request])[0] for request in requests]
        crowded = local_engine.generate([*others, *requests])[len(others) :]
        for a, b in zip(alone, crowded, strict=True):
            assert a.token_ids.tolist() == b.token_ids.tolist()
            np.testing.assert_allclose(a.logprobs, b.logprobs, atol=1e-5)

    def test_finish_reasons_and_text(self, local_engine: LocalEngine) -> None:
        completions = local_engine.generate(make_requests(64, 120, seed=2))
        eos = 2
        assert {c.finish_reason for c in completions} == set(FinishReason)
        for completion in completions:
            stopped = completion.token_ids[-1] == eos
            assert stopped == (completion.finish_reason is FinishReason.STOP) and eos not in completion.token_ids[:-1]
            assert stopped or completion.length == 120
            assert "</s>" not in completion.text and "<|user|>" not in completion.text

    def test_stream_keeps_every_request_with_more_than_fit(self, local_engine: LocalEngine) -> None:
        requests = [r for group in range(5) for r in make_requests(40, 12, group=group)]
        streamed = {(c.group_id, c.index): c.token_ids.tolist() for c in local_engine.stream((r, Sampling()) for r in requests)}
        assert streamed.keys() == {(r.group_id, r.index) for r in requests}

    def test_prompt_without_room_is_refused(self, local_engine: LocalEngine) -> None:
        with pytest.raises(InputError, match="prompt of group 0"):
            local_engine.generate(make_requests(1, 4, prompt_length=600))

    def test_update_changes_logprobs_of_the_same_prompt(
        self, local_engine: LocalEngine, models: dict[int, MistralForCausalLM], files: dict[int, tuple[Path, str]]
    ) -> None:
        """The prompt of two full blocks stays in the prefix cache: were it reused, the new log-probabilities would be wrong."""
        for version in (1, 0):
            local_engine.generate(make_requests(2, 8, prompt_length=80))
            local_engine.update_weights(files[version][0], version, files[version][1])
            for completion in local_engine.generate(make_requests(2, 8, prompt_length=80)):
                assert completion.versions.tolist() == [version] * completion.length
                np.testing.assert_allclose(completion.logprobs, reference_logprobs(models, completion), atol=TOLERANCE)

    def test_untied_embeddings_are_updated_too(self, tmp_path: Path, local_engine: LocalEngine) -> None:
        """Both the embedding and the output layer of an untied model, which vLLM keeps as two parameters."""
        from random_model import GENERATION, MAX_MODEL_LEN

        old = make_model(tmp_path / "old", 7, tied=False)
        new = make_model(tmp_path / "new", 8, tied=False)
        engine = LocalEngine(tmp_path / "old", GENERATION, max_model_len=MAX_MODEL_LEN)
        checksum = write_weight_file(new.state_dict(), tmp_path / "new.safetensors")
        engine.update_weights(tmp_path / "new.safetensors", 1, checksum)
        for completion in engine.generate(make_requests(3, 20)):
            np.testing.assert_allclose(completion.logprobs, reference_logprobs({0: old, 1: new}, completion), atol=TOLERANCE)
        engine.close()


async def more_tokens(engine: GeneratorEngine, count: int) -> None:
    """Until an engine has made so many more."""
    wanted = engine.tokens_made + count
    while engine.tokens_made < wanted:  # noqa: ASYNC110  (an engine has no event for it)
        await asyncio.sleep(0.001)


@pytest.mark.asyncio(loop_scope="session")
class TestGeneratorEngine:
    async def test_updates_in_flight_lose_nothing_and_every_token_has_its_version(
        self, generator_engine: GeneratorEngine, models: dict[int, MistralForCausalLM], files: dict[int, tuple[Path, str]]
    ) -> None:
        requests = [r for group in range(10) for r in make_requests(12, 100, group=group, seed=3)]
        tasks = [asyncio.create_task(generator_engine.generate(request)) for request in requests]
        updates, made = [], [generator_engine.tokens_made]
        for version in (1, 2, 3):
            await more_tokens(generator_engine, 500)
            made.append(generator_engine.tokens_made)
            updates.append(await generator_engine.update_weights(files[version][0], version, files[version][1]))
        completions = await asyncio.gather(*tasks)

        assert [(c.group_id, c.index) for c in completions] == [(r.group_id, r.index) for r in requests]
        assert sorted(set(made)) == made, "it grows while sequences are decoded"
        assert generator_engine.tokens_made - made[0] == sum(completion.length for completion in completions)
        assert all(update.in_flight > 0 and update.seconds < 5.0 for update in updates)
        mixed = [c for c in completions if len(set(c.versions.tolist())) > 1]
        assert mixed, "no completion was in flight during an update"
        for completion in completions:
            assert np.all(np.diff(completion.versions) >= 0)
        for completion in [*mixed[:8], *completions[-4:]]:
            np.testing.assert_allclose(completion.logprobs, reference_logprobs(models, completion), atol=TOLERANCE)

    async def test_its_process_groups_share_one_thread(self, generator_engine: GeneratorEngine) -> None:
        await generator_engine.generate(make_requests(1, 2)[0])
        threads = [
            [(task / "comm").read_text().strip() for task in Path(f"/proc/{child.pid}/task").iterdir()]
            for child in psutil.Process().children(recursive=True)
        ]
        assert [names.count("gloo_tcp_loop") for names in threads if "gloo_tcp_loop" in names] == [1]

    async def test_an_update_does_not_wait_for_all_steps_of_a_schedule(
        self, generator_engine: GeneratorEngine, files: dict[int, tuple[Path, str]]
    ) -> None:
        generating = asyncio.gather(*(generator_engine.generate(request) for request in make_requests(4, 400, seed=1)))
        for version in range(4, 10):
            await more_tokens(generator_engine, 8)
            await generator_engine.update_weights(files[version % 4][0], version, files[version % 4][1])
        between = np.concatenate([np.diff(np.flatnonzero(np.diff(completion.versions))) for completion in await generating])
        assert len(between) >= 3, "the completions ended before the updates"
        assert np.any(between % 8)  # `_CPU_STEPS`: an update that waited would come at multiples of it

    async def test_idle_update_and_salted_prefix_cache(
        self, generator_engine: GeneratorEngine, models: dict[int, MistralForCausalLM], files: dict[int, tuple[Path, str]]
    ) -> None:
        for version in (1, 2):
            await generator_engine.generate(make_requests(1, 4, prompt_length=96)[0])
            updating = asyncio.create_task(generator_engine.update_weights(files[version][0], version, files[version][1]))
            await asyncio.sleep(0)  # it has begun: what is asked for now waits, and is in flight in no way
            completion = await generator_engine.generate(make_requests(1, 12, prompt_length=96)[0])
            assert (await updating).in_flight == 0 and generator_engine.version == version
            assert completion.versions.tolist() == [version] * completion.length
            np.testing.assert_allclose(completion.logprobs, reference_logprobs(models, completion), atol=TOLERANCE)

    async def test_wrong_checksum_is_refused_and_old_weights_stay(
        self, generator_engine: GeneratorEngine, models: dict[int, MistralForCausalLM], files: dict[int, tuple[Path, str]], tmp_path: Path
    ) -> None:
        await generator_engine.update_weights(files[2][0], 2, files[2][1])
        damaged = tmp_path / "damaged.safetensors"
        data = bytearray(files[3][0].read_bytes())
        data[-1] ^= 1
        damaged.write_bytes(data)
        running = asyncio.create_task(generator_engine.generate(make_requests(1, 60, seed=9)[0]))
        await asyncio.sleep(0.02)
        with pytest.raises(InfrastructureError, match="checksum"):
            await generator_engine.update_weights(damaged, 3, files[3][1])
        with pytest.raises(InfrastructureError, match="does not exist"):
            await generator_engine.update_weights(tmp_path / "nothing", 3, files[3][1])
        completion = await running
        assert generator_engine.version == 2 and set(completion.versions.tolist()) == {2}
        np.testing.assert_allclose(completion.logprobs, reference_logprobs(models, completion), atol=TOLERANCE)

    async def test_cancelled_request_leaves_the_engine(self, generator_engine: GeneratorEngine) -> None:
        tasks = [asyncio.create_task(generator_engine.generate(request)) for request in make_requests(64, 400)]
        await asyncio.sleep(0)  # all have been handed in, and none can have ended
        assert generator_engine.running == 64
        await more_tokens(generator_engine, 1)
        for task in tasks:
            task.cancel()
        ends = await asyncio.gather(*tasks, return_exceptions=True)
        assert any(isinstance(end, asyncio.CancelledError) for end in ends)
        assert generator_engine.running == 0
        await generator_engine.reset_prefix_cache()  # as soon as the aborted ones have given theirs back


def test_weight_file_is_whole_and_its_checksum_is_of_its_bytes(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    shared = torch.arange(6.0)
    checksum = write_weight_file({"a": shared, "b": shared, "c": torch.ones(2, 2).T}, path)
    assert checksum == file_checksum(path) and [p.name for p in tmp_path.iterdir()] == ["w.safetensors"]
    path.write_bytes(path.read_bytes() + b"\0")
    assert file_checksum(path) != checksum


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_weight_files_are_safetensors(tmp_path: Path, dtype: torch.dtype) -> None:
    tensors = {"odd": torch.randn(7, 3).to(dtype), "none": torch.ones(0, 4, dtype=dtype), "turned": torch.randn(300, 500).to(dtype).T}
    write_weight_file(tensors, tmp_path / "w.safetensors")
    found = load_file(tmp_path / "w.safetensors")
    assert found.keys() == tensors.keys()
    assert all(torch.equal(found[name], tensor) and found[name].dtype == dtype for name, tensor in tensors.items())


@pytest.mark.parametrize(
    ("tensors", "message"),
    [([torch.ones(2)], "shorter"), ([torch.ones(2), torch.ones(4)], r"b: is torch.float32 \(4,\), laid out was torch.float32 \(3,\)")],
)
def test_tensors_that_are_not_as_laid_out_leave_no_file(tmp_path: Path, tensors: list[torch.Tensor], message: str) -> None:
    layout = {"a": (torch.float32, (2,)), "b": (torch.float32, (3,))}
    with pytest.raises(ValueError, match=message):
        stream_weight_file(layout, tensors, tmp_path / "w.safetensors")
    assert not list(tmp_path.iterdir())


def test_weights_of_an_unknown_kind_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"a: weights in torch.int64 cannot be handed over"):
        write_weight_file({"a": torch.ones(2, dtype=torch.int64)}, tmp_path / "w.safetensors")
