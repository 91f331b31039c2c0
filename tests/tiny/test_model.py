"""The tokenizer, the fresh model, and the cache of trained ones."""

import multiprocessing
import os
import signal
import time
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from magistral_core.config.schema import TinySettings
from magistral_core.errors import InfrastructureError
from magistral_core.tiny import base
from magistral_core.tiny.model import write_initial_model
from magistral_core.tiny.problems import generate
from magistral_core.tiny.tokenizer import VOCABULARY, train_tokenizer
from magistral_core.tiny.traces import curriculum

SMALL = TinySettings(sft_steps=2, sft_batch=4, sft_ranks=1)


@pytest.fixture(scope="module", params=["quick", "multilingual"])
def folder(request, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("model") / request.param
    write_initial_model(path, TinySettings(world=request.param, seed=7))
    return path


@pytest.fixture(scope="module")
def tokenizer(folder):
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder)


@settings(max_examples=200, deadline=None)
@given(text=st.text(max_size=80))
@example("<think>8+7=15</think>\n\\boxed{15}")
@example("  安娜有 34 个苹果。\n\tÄpfel, pièces, яблок \U0001f34e\x00")
def test_any_text_round_trips(tokenizer, text):
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert tokenizer.decode(ids, skip_special_tokens=True) == text


def test_digits_and_tags_are_single_tokens(tokenizer):
    ids = tokenizer("<think>120+7</think>\n\\boxed{127}", add_special_tokens=False)["input_ids"]
    tokens = [tokenizer.decode([i]) for i in ids]
    assert tokens[0] == "<think>" and "</think>" in tokens and [t for t in tokens if t.isdigit()] == list("1207127")
    assert sum("boxed" in t for t in tokens) == 1, tokens
    assert len(tokenizer) <= VOCABULARY["multilingual"]


def test_chat_template_keeps_thoughts_and_marks_turns(tokenizer):
    turns = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "1+1=?"},
        {"role": "assistant", "content": "<think>2</think>\n\\boxed{2}"},
        {"role": "user", "content": "2+2=?"},
    ]
    text = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    assert text == "<s><|user|>1+1=?<|assistant|><think>2</think>\n\\boxed{2}</s><|user|>2+2=?<|assistant|>"
    ids = tokenizer.apply_chat_template(turns, tokenize=True, add_generation_prompt=True)["input_ids"]
    assert ids == tokenizer(text, add_special_tokens=False)["input_ids"] and ids.count(tokenizer.bos_token_id) == 1
    with pytest.raises(Exception, match="unknown role"):
        tokenizer.apply_chat_template([{"role": "tool", "content": ""}], tokenize=False)


def test_traces_are_short():
    for world, limit in (("quick", 40), ("multilingual", 80)):
        tokenizer = train_tokenizer(world)
        late = list(curriculum(world, 100, 10, seed=9))[750:]
        lengths = [len(tokenizer(t.response)["input_ids"]) + 1 for t in late]
        questions = [len(tokenizer(p.question)["input_ids"]) for p in generate(world, "train", 200, (1, 2), 0)]
        assert sum(lengths) / len(lengths) < limit and max(questions) < 60
        assert max(lengths) < (128 if world == "quick" else 192)


def test_the_fresh_model_loads_and_has_its_size(folder):
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder)
    parameters = sum(p.numel() for p in model.parameters())
    assert parameters == pytest.approx(0.80e6 if folder.name == "quick" else 0.89e6, rel=0.02)
    assert model.dtype == torch.float32 and model.config.tie_word_embeddings and model.config.model_type == "mistral"
    assert model.generation_config.eos_token_id == model.config.eos_token_id == 2
    projection = model.model.layers[0].self_attn.q_proj.weight
    assert float(projection.std().detach()) == pytest.approx(0.06, rel=0.05)
    write_initial_model(folder.parent / "again", TinySettings(world=folder.name, seed=7))
    again = AutoModelForCausalLM.from_pretrained(folder.parent / "again")
    assert torch.equal(projection, again.model.layers[0].self_attn.q_proj.weight)


def test_cache_key_covers_every_setting(monkeypatch, tmp_path):
    changes = [{}, {"seed": 1}, {"world": "multilingual"}, {"sft_steps": 3}, {"sft_batch": 5}, {"sft_ranks": 2}]
    paths = [base.base_model_path(SMALL.model_copy(update=change), tmp_path) for change in changes]
    monkeypatch.setattr(base, "VERSION", base.VERSION + 1)
    paths.append(base.base_model_path(SMALL, tmp_path))
    assert len(set(paths)) == len(paths)
    monkeypatch.setenv("MAGISTRAL_CACHE", str(tmp_path / "elsewhere"))
    assert base.base_model_path(SMALL).is_relative_to(tmp_path / "elsewhere")


def test_base_model_is_trained_once_and_then_found(tmp_path):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    leftover = base.base_model_path(SMALL, tmp_path).with_name(f".{base.base_model_path(SMALL, tmp_path).name}-killed")
    leftover.mkdir(parents=True)
    steps: list[int] = []
    path = base.ensure_base_model(SMALL, tmp_path, lambda step, metrics: steps.append(step))
    assert steps and steps[-1] == 2
    assert not leftover.exists() and [p.name for p in path.parent.iterdir() if p.is_dir()] == [path.name]
    assert AutoModelForCausalLM.from_pretrained(path).num_parameters() > 700_000
    assert AutoTokenizer.from_pretrained(path).chat_template
    before = (path / "model.safetensors").stat().st_mtime_ns
    assert base.ensure_base_model(SMALL, tmp_path, lambda step, metrics: steps.append(-1)) == path
    assert steps[-1] == 2 and (path / "model.safetensors").stat().st_mtime_ns == before


def test_a_cache_that_cannot_be_written_is_an_infrastructure_error(tmp_path):
    (tmp_path / "tiny").write_text("a file where the folder should be")
    with pytest.raises(InfrastructureError, match="MAGISTRAL_CACHE"):
        base.ensure_base_model(SMALL, tmp_path)


def test_a_fault_of_what_builds_a_model_is_not_the_cache_s(tmp_path):
    def build(work: Path) -> Path:
        raise OSError("libcudart.so.13: cannot open shared object file")

    with pytest.raises(OSError, match="libcudart"):
        base.ensure_model(tmp_path / "model", build)
    assert not (tmp_path / "model").exists()


def _ensure(settings: TinySettings, cache: Path) -> None:
    base.ensure_base_model(settings, cache)


@pytest.mark.slow
def test_killed_builds_and_two_at_once(tmp_path):
    """A build that is killed leaves no model; two that start together train one."""
    context = multiprocessing.get_context("spawn")
    settings = SMALL.model_copy(update={"sft_steps": 100_000, "sft_batch": 1})
    killed = context.Process(target=_ensure, args=(settings, tmp_path))
    killed.start()
    try:
        deadline = time.monotonic() + 120
        while not list(tmp_path.glob("tiny/.*/initial/model.safetensors")):
            assert time.monotonic() < deadline and killed.is_alive()
            time.sleep(0.1)
    finally:
        os.kill(killed.pid, signal.SIGKILL)
        killed.join()
    assert not base.base_model_path(settings, tmp_path).exists()
    both = [context.Process(target=_ensure, args=(SMALL, tmp_path)) for _ in range(2)]
    for process in both:
        process.start()
    for process in both:
        process.join()
    assert [process.exitcode for process in both] == [0, 0]
    assert (base.base_model_path(SMALL, tmp_path) / "model.safetensors").is_file()
