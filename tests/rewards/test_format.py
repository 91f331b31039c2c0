"""The format rule, boxes and code blocks."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from magistral_core.boxed import extract_boxed
from magistral_core.config.schema import PromptSettings
from magistral_core.records import FinishReason, ProblemKind
from magistral_core.rewards import answer_part, check_format, first_code_block

PROMPT = PromptSettings()
#: Text with balanced braces.
balanced = st.recursive(
    st.text(st.characters(exclude_characters="\\{}", codec="utf-8"), max_size=8),
    lambda inner: st.lists(inner, max_size=3).map(lambda x: "{" + "".join(x) + "}"),
    max_leaves=8,
)


def judge(text: str, kind: ProblemKind = ProblemKind.MATH) -> str:
    return check_format(text, kind, PROMPT).fault


def test_valid_math() -> None:
    response = check_format("\n <think>a\nb</think> first \\boxed{1}, so \\boxed{\\frac{1}{2}}.", ProblemKind.MATH, PROMPT)
    assert response.valid
    assert (response.thoughts, response.result) == ("a\nb", "\\frac{1}{2}")
    assert response.answer.startswith(" first")


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("", "does not start"),
        ("So <think>a</think>\\boxed{1}", "does not start"),
        ("<think>a\\boxed{1}", "</think> occurs 0 times"),
        ("<think>a<think>b</think>\\boxed{1}", "<think> occurs 2 times"),
        ("<think>a</think>b</think>\\boxed{1}", "</think> occurs 2 times"),
        ("<think>a\\boxed{1}</think>1", "no answer in"),
        ("<think>a</think>\\boxed{}", "no answer in"),
        ("<think>a</think>\\boxed{ \n}", "no answer in"),
        ("<think>a</think>\\boxed{1", "no answer in"),
        ("<think>a</think>\\boxed{1\\}", "no answer in"),
        ("<think>a</think>\\fbox{1}", "no answer in"),
        ("<think>a</think>\\boxed{1}, or rather \\boxed{}", "no answer in"),
    ],
)
def test_invalid_math(text: str, fault: str) -> None:
    assert fault in judge(text)


def test_cut_at_the_maximum_length() -> None:
    text = "<think>a</think>\\boxed{1}"
    assert check_format(text, ProblemKind.MATH, PROMPT, FinishReason.STOP).valid
    assert check_format(text, ProblemKind.MATH, PROMPT, FinishReason.LENGTH).fault == "cut at the maximum length"


def test_own_tags_and_tags_inside_tags() -> None:
    own = PromptSettings(think_open="[THINK]", think_close="[/THINK]")
    assert check_format("[THINK]<think>[/THINK]\\boxed{1}", ProblemKind.MATH, own).thoughts == "<think>"
    nested = PromptSettings(think_open="think", think_close="/think")
    assert check_format("think a /think \\boxed{1}", ProblemKind.MATH, nested).valid


@pytest.mark.parametrize(
    ("answer", "block"),
    [
        ("Here:\n```python\nprint(1)\n```\n", ("python", "print(1)\n")),
        ("```cpp\nint main(){}\n```\n```python\nx\n```", ("cpp", "int main(){}\n")),
        ("```\nplain\n```\n```python\nx\n```", ("python", "x\n")),
        ("``` c++ title\nx\n```", ("c++", "x\n")),
        ("  ```python\ndef f(x):\n  return x\n  ```", ("python", "def f(x):\n  return x\n")),
        ("1. Code:\n   ```python\n   if x:\n       y\n   z\n\n   ```", ("python", "if x:\n    y\nz\n\n")),
        ("```python\nx\n", None),
        ("```\nx\n```", None),
        ("python: x", None),
    ],
)
def test_code_blocks(answer: str, block: tuple[str, str] | None) -> None:
    assert first_code_block(answer) == block
    fault = judge(f"<think>a</think>{answer}", ProblemKind.CODE)
    assert (fault == "") == (block is not None)


def test_code_in_the_thoughts_does_not_count() -> None:
    assert "no fenced block" in judge("<think>\n```python\nx\n```\n</think> done", ProblemKind.CODE)


@pytest.mark.parametrize(
    ("text", "content"),
    [
        ("\\boxed{1} \\boxed{2}", "2"),
        ("\\boxed{\\boxed{3}}", "\\boxed{3}"),
        ("\\boxed{a \\boxed{4}", "4"),
        ("\\boxed{1} \\boxed{2", "1"),
        ("\\boxed {5}", "5"),
        ("\\boxed{\\left\\{ x \\right.}", "\\left\\{ x \\right."),
        ("\\boxed{\\{1,2\\}}", "\\{1,2\\}"),
        ("} \\boxed{6} {", "6"),
        ("{ \\boxed{7}", "7"),
        ("\\boxed 7", None),
        ("none", None),
    ],
)
def test_boxes(text: str, content: str | None) -> None:
    assert extract_boxed(text) == content


@given(before=balanced, content=balanced, after=balanced)
def test_a_box_of_balanced_text_comes_back_whole(before: str, content: str, after: str) -> None:
    assert extract_boxed(f"{before}\\boxed{{{content}}}{after}") == content.strip()


@given(st.text("\\boxed{} a", max_size=60))
def test_whatever_is_found_is_balanced(text: str) -> None:
    content = extract_boxed(text)
    if content is not None:
        assert content in text
        plain = content.replace("\\\\", "").replace("\\{", "").replace("\\}", "")
        assert plain.count("{") == plain.count("}")


@given(
    thoughts=st.text(max_size=30),
    answer=st.text(max_size=30),
    inner=st.text(st.characters(exclude_characters="\\{}"), min_size=1, max_size=9),
)
def test_valid_exactly_when_the_tags_are_single_and_a_box_follows(thoughts: str, answer: str, inner: str) -> None:
    response = check_format(f"<think>{thoughts}</think>{answer} \\boxed{{{inner}}}", ProblemKind.MATH, PROMPT)
    clean = not any(tag in thoughts + "|" + answer for tag in ("<think>", "</think>"))
    if clean and inner.strip() and "\\" not in answer and "{" not in answer and "}" not in answer:
        assert response.valid
        assert response.thoughts == thoughts
        assert response.result == inner.strip()


@pytest.mark.parametrize("text", ["\\boxed{" * 30_000, "{" * 200_000, "```a\n" * 40_000, "<think>" + "\\boxed{1}" * 20_000])
def test_hostile_texts_take_linear_time(text: str) -> None:
    started = time.thread_time()
    extract_boxed(text)
    first_code_block(text)
    judge(text)
    assert time.thread_time() - started < 2.0


def test_answer_part() -> None:
    assert answer_part("a</think>b</think>c") == "c"
    assert answer_part("all of it") == "all of it"
