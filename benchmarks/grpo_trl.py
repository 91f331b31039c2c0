"""TRL's GRPOTrainer as a side of a comparison: the same model, problems, verifier and lengths, with what suits it best of what was tried.

Without gradient checkpointing, reference model (beta 0) or recomputed log-probabilities, with no checkpoint and no report, on
as many threads as are faster. Completions are sampled by `generate`, TRL's default, or by Transformers' continuous batching, which
decodes no padding: TRL's own vLLM mode asks for a server.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, LogitsProcessor, TrainerCallback
from transformers.generation import ContinuousBatchingManager
from trl import GRPOConfig, GRPOTrainer

from benchmarks.synthetic import Lengths
from magistral_core import api
from magistral_core.config.schema import Recipe
from magistral_core.records import Completion, FinishReason, Group, Problem
from magistral_core.rewards import Verifier


class _EndAt(LogitsProcessor):
    """Each row ends with the end token at its planned length; with `generate` by its logits, else by `plan_requests`."""

    def __init__(self, lengths: Lengths, end: int) -> None:
        self._lengths, self._end = lengths, end
        self._batch = -1
        self._prompt = 0
        self._planned = torch.empty(0)

    def begin(self, prompt: int) -> None:
        """The next batch is generated, after prompts of so many tokens."""
        self._batch += 1
        self._prompt = prompt
        self._planned = torch.from_numpy(self._lengths.of_batch(self._batch))

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        last = self._planned == input_ids.shape[1] - self._prompt + 1
        if last.any():
            scores[last] = -torch.inf
            scores[last, self._end] = 0.0
        return scores

    def plan_requests(self, model: Any) -> None:
        """Continuous batching: a request ends at its planned length, and the end token takes the place of its last one."""
        generate_batch = model.generate_batch

        def add_requests(manager: ContinuousBatchingManager, inputs: Sequence[list[int]], **_: Any) -> list[str | None]:
            return [manager.add_request(ids, max_new_tokens=int(n)) for ids, n in zip(inputs, self._planned, strict=True)]

        def planned(*arguments: Any, **named: Any) -> Any:
            outputs = generate_batch(*arguments, **named)
            for output in outputs.values():
                output.generated_tokens[-1] = self._end
            return outputs

        ContinuousBatchingManager.add_requests = add_requests
        model.generate_batch = planned


class _Reward:
    """The product's verifier as one of TRL's reward functions."""

    def __init__(self, recipe: Recipe, problems: Mapping[str, Problem], prefill: str, group_size: int) -> None:
        self.__name__ = "verifier"
        self._verifier = Verifier(recipe.rewards, recipe.prompt)
        self._verifier.start()
        self._problems, self._prefill, self._group_size = problems, prefill, group_size
        self.last: list[float] = []
        self.tokens = 0
        self._end = -1

    def ends_with(self, end: int) -> None:
        """The end token: a completion without it was cut."""
        self._end = end

    def __call__(
        self, prompts: Sequence[str], completions: Sequence[str], completion_ids: Sequence[Any], problem: Sequence[str], **_: Any
    ) -> Any:
        empty = np.zeros(0, dtype=np.int32)
        groups = []
        for start in range(0, len(completions), self._group_size):
            members = []
            for index in range(start, start + self._group_size):
                ids = np.asarray(completion_ids[index], dtype=np.int32)
                reason = FinishReason.STOP if ids[-1] == self._end else FinishReason.LENGTH
                text = self._prefill + completions[index]
                members.append(Completion(start, index - start, empty, ids, empty, empty, text, reason))
            groups.append(Group(start, self._problems[problem[start]], tuple(members)))
        scored = self._verifier.score_many(groups)
        self.last = [score.reward for group in scored for score in group.scores]
        self.tokens = sum(map(len, completion_ids))
        return self.last


class _Trainer(GRPOTrainer):
    """Tells the plan of lengths that a batch begins."""

    plan: _EndAt | None = None

    def _generate_single_turn(self, prompt_ids: Any, *rest: Any, **named: Any) -> Any:
        if self.plan is not None:
            self.plan.begin(max(map(len, prompt_ids)))
        return super()._generate_single_turn(prompt_ids, *rest, **named)


class _Reporter(TrainerCallback):
    def __init__(self, emit: Callable[..., None], reward: _Reward, threads: Sequence[int]) -> None:
        self._emit, self._reward, self._threads = emit, reward, list(threads)
        self._began = time.monotonic()
        self._tried: dict[int, float] = {}

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        """Try each number of threads for two steps (the first one warms up), then keep the faster."""
        if len(self._tried) < len(self._threads):
            torch.set_num_threads(self._threads[len(self._tried)])
        self._began = time.monotonic()

    def on_step_end(self, _: Any, state: Any, *__: Any, **___: Any) -> None:
        seconds = time.monotonic() - self._began
        if len(self._threads) > 1 and state.global_step > 1 and len(self._tried) < len(self._threads):
            self._tried[torch.get_num_threads()] = seconds
            if len(self._tried) == len(self._threads):
                torch.set_num_threads(min(self._tried, key=self._tried.__getitem__))
        self._emit(
            step=state.global_step,
            tokens=self._reward.tokens,
            reward=float(np.mean(self._reward.last)),
            threads=torch.get_num_threads(),
        )


def train(
    *,
    emit: Callable[..., None],
    recipe: Mapping[str, Any],
    lengths: Mapping[str, Any] | None,
    threads: Sequence[int],
    rows: int,
    precision: str = "float32",
    continuous: bool = False,
    settings: Mapping[str, Any],
    out: str,
) -> None:
    """Train by TRL until this process is ended (see `sides.Side`).

    Args:
        emit: told of each step.
        recipe: ours, as data; what both have in common is read from it.
        lengths: arguments of `Lengths`; None: completions end by themselves.
        threads: numbers of threads to try, each for a step; one: that is taken.
        rows: `per_device_train_batch_size`.
        precision: `bfloat16` is TRL's default: float32 weights under autocast.
        continuous: sample by continuous batching. In float32 only: beside autocast TRL then casts the trained weights to bfloat16.
        settings: of `GRPOConfig`, beside those taken from the recipe.
        out: a folder, which stays empty.
    """
    prepared = api.prepare(Recipe.model_validate(recipe))
    ours = prepared.recipe
    torch.set_num_threads(threads[0])
    model = AutoModelForCausalLM.from_pretrained(prepared.model_dir, dtype=torch.float32)
    from magistral_core.generation.chat import ChatRenderer

    renderer = ChatRenderer(prepared.model_dir, ours.prompt)
    tokenizer = renderer.tokenizer
    order = [prepared.stream[group] for group in range(len(prepared.problems))]
    data = Dataset.from_list([{"prompt": tokenizer.decode(prepared.prompt(p).token_ids.tolist()), "problem": p.id} for p in order])
    pipeline, training = ours.pipeline, ours.training
    config = GRPOConfig(
        output_dir=out,
        use_cpu=True,
        bf16=precision == "bfloat16",
        gradient_checkpointing=False,
        per_device_train_batch_size=rows,
        gradient_accumulation_steps=pipeline.n_minibatch // rows,
        num_generations=pipeline.group_size,
        max_completion_length=ours.generation.max_tokens,
        temperature=ours.generation.temperature,
        top_k=0,
        top_p=1.0,
        beta=0.0,
        epsilon=ours.loss.eps_low,
        epsilon_high=ours.loss.eps_high,
        loss_type="dapo",
        scale_rewards="batch",
        learning_rate=training.learning_rate,
        lr_scheduler_type="constant",
        adam_beta1=training.betas[0],
        adam_beta2=training.betas[1],
        weight_decay=training.weight_decay,
        max_grad_norm=training.grad_clip,
        max_steps=training.max_steps,
        shuffle_dataset=False,
        save_strategy="no",
        report_to="none",
        logging_strategy="no",
        disable_tqdm=True,
        dataloader_num_workers=0,
        use_transformers_continuous_batching=continuous,
        # Its default, half of the memory, is filled with zeros at each step: ten seconds where a step of 1M takes three.
        transformers_continuous_batching_config={"max_memory_percent": 0.1} if continuous else None,
        seed=ours.seed,
        **settings,
    )
    reward = _Reward(ours, {problem.id: problem for problem in order}, renderer.prefill, pipeline.group_size)
    reward.ends_with(tokenizer.eos_token_id)
    trainer = _Trainer(model, reward, config, train_dataset=data, processing_class=tokenizer)
    if lengths is not None:
        plan = _EndAt(Lengths(**lengths), tokenizer.eos_token_id)
        if continuous:
            plan.plan_requests(trainer.model)
        else:
            generate = trainer.model.generate
            trainer.model.generate = lambda *a, **k: generate(*a, logits_processor=[plan], **k)
        trainer.plan = plan
    trainer.add_callback(_Reporter(emit, reward, threads))
    emit(ready=True)
    trainer.train()
