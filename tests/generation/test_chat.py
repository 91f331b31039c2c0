"""Chat rendering: what the model reads, what of the response the template writes, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
from random_model import TEMPLATE, make_tokenizer

from magistral_core.config.schema import PromptSettings
from magistral_core.errors import InputError
from magistral_core.generation.chat import ChatRenderer
from magistral_core.generation.tokens import Decoder
from magistral_core.records import Problem

PROBLEM = Problem(id="p", question="How much is 2+2?", source="problems.jsonl:7")
STRIPPING = TEMPLATE.replace("message['content'] }}", "message['content'].split('</think>')[-1] }}")
PREFILLING = TEMPLATE.replace("<|assistant|>{% endif %}", "<|assistant|><think>\n{% endif %}")
NO_SYSTEM = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system role') }}{% endif %}" + TEMPLATE


def folder_with(tmp_path: Path, template: str | None) -> Path:
    make_tokenizer(template).save_pretrained(tmp_path)
    return tmp_path


def test_prompt_is_the_template_applied_to_system_and_question(tmp_path: Path) -> None:
    renderer = ChatRenderer(folder_with(tmp_path, TEMPLATE), PromptSettings(system="Be brief."))
    prompt = renderer.render(PROBLEM)
    assert renderer.tokenizer.decode(prompt.token_ids) == "<|system|>Be brief.<|user|>How much is 2+2?<|assistant|>"
    assert prompt.prefill == "" and prompt.token_ids.dtype == "int32"


def test_default_system_prompt_names_tags_box_and_fence(tmp_path: Path) -> None:
    settings = PromptSettings(think_open="[THINK]", think_close="[/THINK]")
    renderer = ChatRenderer(folder_with(tmp_path, TEMPLATE), settings)
    text = renderer.tokenizer.decode(renderer.render(PROBLEM).token_ids)
    for part in ("[THINK]", "[/THINK]", "\\boxed{}", "```python", "language of the user"):
        assert part in text


@pytest.mark.parametrize(
    ("name", "content"),
    [("tokenizer.json", "{"), ("tokenizer.json", '{"model": {"type": "of tomorrow"}}'), ("generation_config.json", "{")],
)
def test_a_file_that_cannot_be_read_is_named_with_its_folder(name: str, content: str, tmp_path: Path) -> None:
    folder_with(tmp_path, TEMPLATE)
    (tmp_path / name).write_text(content)
    with pytest.raises(InputError, match=f"{tmp_path}.*cannot be"):
        Decoder(tmp_path)


def test_null_system_prompt_leaves_the_question_alone(tmp_path: Path) -> None:
    renderer = ChatRenderer(folder_with(tmp_path, TEMPLATE), PromptSettings(system=None))
    assert renderer.tokenizer.decode(renderer.render(PROBLEM).token_ids) == "<|user|>How much is 2+2?<|assistant|>"


def test_prefill_is_what_the_template_writes_of_the_response(tmp_path: Path) -> None:
    renderer = ChatRenderer(folder_with(tmp_path, PREFILLING), PromptSettings(system=None))
    assert renderer.render(PROBLEM).prefill == "<think>\n"
    prompt_ids, response_ids = renderer.render_pair(PROBLEM, "<think>\nfour</think>4")
    whole = renderer.tokenizer.decode([*prompt_ids, *response_ids])
    assert whole == "<|user|>How much is 2+2?<|assistant|><think>\nfour</think>4</s>"


def test_a_template_that_ends_otherwise_without_a_generation_prompt_writes_no_response(tmp_path: Path) -> None:
    """Phi-3's ends in the end of text then. The system prompt has the tags, too."""
    for template, prefill in ((TEMPLATE, ""), (PREFILLING, "<think>\n")):
        ending = template.replace("{% endif %}", "{% else %}<|endoftext|>{% endif %}")
        assert ending != template
        renderer = ChatRenderer(folder_with(tmp_path, ending), PromptSettings())
        assert "<think>" in renderer.tokenizer.decode(renderer.render(PROBLEM).token_ids)
        assert renderer.render(PROBLEM).prefill == prefill


def test_a_tag_that_is_no_token_does_not_keep_the_end_of_text(tmp_path: Path) -> None:
    tokenizer = make_tokenizer(TEMPLATE)
    tokenizer.unk_token = tokenizer.eos_token  # as GPT-2 has it
    tokenizer.save_pretrained(tmp_path)
    decoder = Decoder(tmp_path, keep=["[NOWHERE]"])
    ids = tokenizer.encode("four", add_special_tokens=False)
    assert decoder([*ids, tokenizer.eos_token_id]) == tokenizer.decode(ids)


def test_template_that_strips_thoughts_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="strips the thoughts"):
        ChatRenderer(folder_with(tmp_path, STRIPPING), PromptSettings())


def test_template_without_system_role_says_what_to_set(tmp_path: Path) -> None:
    folder = folder_with(tmp_path, NO_SYSTEM)
    with pytest.raises(InputError, match=r"prompt\.system: null"):
        ChatRenderer(folder, PromptSettings())
    assert ChatRenderer(folder, PromptSettings(system=None)).render(PROBLEM).token_ids.size > 0


def test_folder_without_tokenizer_or_template_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no tokenizer"):
        ChatRenderer(tmp_path, PromptSettings())
    with pytest.raises(InputError, match="no chat template"):
        ChatRenderer(folder_with(tmp_path, None), PromptSettings())


def test_long_prompts_are_refused_by_source_or_skipped(tmp_path: Path) -> None:
    folder = folder_with(tmp_path, TEMPLATE)
    long = Problem(id="q", question="x" * 100, source="problems.jsonl:8")
    with pytest.raises(InputError, match=r"problems\.jsonl:8.*limit is 50"):
        ChatRenderer(folder, PromptSettings(system=None), 50).render_all([PROBLEM, long])
    skipping = ChatRenderer(folder, PromptSettings(system=None, on_long="skip", max_tokens=50))
    assert [problem.id for problem, _ in skipping.render_all([PROBLEM, long])] == ["p"]
    with pytest.raises(InputError, match="no problem"):
        skipping.render_all([long])
