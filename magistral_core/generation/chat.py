"""From problems to prompts, through the model's own chat template."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from magistral_core.config.schema import PromptSettings
from magistral_core.errors import InputError
from magistral_core.generation.prompts import system_prompt
from magistral_core.generation.tokens import load_tokenizer
from magistral_core.records import Problem, Prompt

Messages = Sequence[Mapping[str, str]]

_SENTINEL = "k7thoughtk7"


class ChatRenderer:
    """Renders problems with a model's tokenizer and chat template.

    Args:
        model_path: folder (or hub name) with the tokenizer.
        prompt: system prompt, thinking tags and the limit.
        max_prompt_tokens: longest prompt; by default `prompt.max_tokens`.
        mend: what the user may do about a longer one.

    Attributes:
        tokenizer: the model's.
        prefill: what the template's generation prompt already writes of the response, for instance an opening tag.

    Raises:
        InputError: no tokenizer, no chat template, a template that fails on our messages, or one that strips thoughts (the
            model would not see in training what it wrote).
    """

    def __init__(
        self,
        model_path: str | Path,
        prompt: PromptSettings,
        max_prompt_tokens: int | None = None,
        mend: str = "raise prompt.max_tokens, or set prompt.on_long: skip",
    ) -> None:
        self._model_path = model_path
        self._settings = prompt
        self._limit, self._mend = max_prompt_tokens or prompt.max_tokens, mend
        self._system = system_prompt(prompt)
        self.tokenizer = load_tokenizer(model_path)
        if not self.tokenizer.chat_template:
            raise InputError(
                f"{model_path}: the tokenizer has no chat template; add chat_template.jinja to the folder, or set chat_template in "
                f"tokenizer_config.json"
            )
        self._refuse_stripped_thoughts()
        self.prefill = self._find_prefill()

    def render(self, problem: Problem) -> Prompt:
        """The prompt of one problem.

        Raises:
            InputError: it is longer than the limit.
        """
        prompt = self._encode(self._messages(problem))
        length = len(prompt.token_ids)
        if length > self._limit:
            raise InputError(f"{problem.source or problem.id}: the prompt has {length} tokens, the limit is {self._limit}; {self._mend}")
        return prompt

    def render_all(self, problems: Iterable[Problem]) -> list[tuple[Problem, Prompt]]:
        """Problems with their prompts, in order. Prompts above the limit are left out with `on_long: skip`, else refused.

        Raises:
            InputError: a prompt is too long and `on_long` is `refuse`, or none is left.
        """
        rendered = []
        for problem in problems:
            if self._settings.on_long == "refuse":
                rendered.append((problem, self.render(problem)))
                continue
            prompt = self._encode(self._messages(problem))
            if len(prompt.token_ids) <= self._limit:
                rendered.append((problem, prompt))
        if not rendered:
            raise InputError(f"no problem has a prompt of at most {self._limit} tokens; raise prompt.max_tokens")
        return rendered

    def render_pair(self, problem: Problem | Messages, response: str) -> tuple[np.ndarray, np.ndarray]:
        """Prompt and response as tokens, int32 [P] and [T], for supervised training; the response ends with the end token.

        `response` may begin with the prefill or leave it out.
        """
        prompt = self._encode(self._messages(problem) if isinstance(problem, Problem) else problem)
        ids = self.tokenizer.encode(response.removeprefix(self.prefill), add_special_tokens=False)
        return prompt.token_ids, np.asarray([*ids, self.tokenizer.eos_token_id], dtype=np.int32)

    def _messages(self, problem: Problem) -> Messages:
        system = [] if self._system is None else [{"role": "system", "content": self._system}]
        return [*system, {"role": "user", "content": problem.question}]

    def _encode(self, messages: Messages) -> Prompt:
        text = self._template(messages, add_generation_prompt=True)
        ids = self.tokenizer.encode(text, add_special_tokens=False)
        return Prompt(np.asarray(ids, dtype=np.int32), self.prefill)

    def _template(self, messages: Messages, *, add_generation_prompt: bool) -> str:
        from jinja2 import TemplateError

        try:
            return self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=add_generation_prompt)
        except TemplateError as error:
            mend = "; if it refuses a system message, set prompt.system: null" if self._system is not None else ""
            raise InputError(f"{self._model_path}: the chat template fails: {error}{mend}") from error

    def _refuse_stripped_thoughts(self) -> None:
        """A response with thoughts must survive the template, or what is trained on is not what was generated."""
        opening, closing = self._settings.think_open, self._settings.think_close
        answer = f"{opening}{_SENTINEL}{closing}4"
        user = self._messages(Problem(id="probe", question="2+2"))
        if _SENTINEL not in self._template([*user, {"role": "assistant", "content": answer}], add_generation_prompt=False):
            raise InputError(
                f"{self._model_path}: the chat template strips the thoughts ({opening}...{closing}) from the assistant's message; "
                f"remove that part of the template, or set the model's own prompt.think_open and prompt.think_close"
            )

    def _find_prefill(self) -> str:
        messages = self._messages(Problem(id="probe", question="2+2"))
        with_prompt = self._template(messages, add_generation_prompt=True)
        # Without it a template may well end otherwise (Phi-3's in the end of text), so what is added begins where they part.
        without = self._template(messages, add_generation_prompt=False)
        shared = next((i for i, (a, b) in enumerate(zip(with_prompt, without, strict=False)) if a != b), len(without))
        tag = self._settings.think_open
        at = with_prompt.rfind(tag)
        return with_prompt[at:] if at >= 0 and at + len(tag) > shared else ""
