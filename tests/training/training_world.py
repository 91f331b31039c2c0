"""A tiny random Mistral, a batch of completions for it, and the plain reference: one sequence at a time, no packing, no DeepSpeed."""

from __future__ import annotations

import pickle
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer, models
from transformers import AutoModelForCausalLM, MistralConfig, MistralForCausalLM, PretrainedConfig, PreTrainedModel, PreTrainedTokenizerFast

from magistral_core.config.schema import LossSettings, TrainingSettings
from magistral_core.records import Batch, Completion, FinishReason, Group, Problem

VOCABULARY = 64
#: Holds the longest sequence and not much more, so that there are many microbatches.
BUDGET = 48
SEED = 5
LOSS = LossSettings(eps_low=0.2, eps_high=0.28)
#: Options for data that is far off-policy, each such that some of the batch is cut and some is not.
OFF_POLICY = {
    "sequence": LossSettings(ratio="sequence", eps_low=0.05, eps_high=0.05),
    "truncated": LossSettings(truncated_is=1.3),
    "truncated_sequence": LossSettings(ratio="sequence", truncated_is=1.05),
}
#: The norm of the first gradient lies well above the clip, and the last steps' learning rate is past the warm-up.
SETTINGS = TrainingSettings(
    learning_rate=3e-3, warmup_steps=2, grad_clip=0.05, weight_decay=0.1, dtype="float32", token_budget=BUDGET, logprob_chunk=7
)
STEPS = 3
GROUPS, GROUP_SIZE = 4, 4
#: (ZeRO stage of a checkpoint, stage that goes on from it).
STAGE_CHANGES = ((0, 0), (1, 1), (2, 2), (1, 2), (2, 1), (3, 3))


def make_model(folder: Path, *, tied: bool = True, seed: int = 0) -> None:
    """Write a random model with its tokenizer; weights large enough for distributions that are far from uniform."""
    torch.manual_seed(seed)
    config = MistralConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=128,
        sliding_window=None,
        tie_word_embeddings=tied,
        initializer_range=0.2,
    )
    write_model(MistralForCausalLM(config), folder)


#: More ends of a completion than the model's own config knows, as instruction-tuned models have them.
ENDS = [2, 5, 7]


def write_model(model: PreTrainedModel, folder: Path) -> None:
    model.generation_config.eos_token_id = ENDS
    model.save_pretrained(folder)
    words = {f"w{i}": i for i in range(VOCABULARY)}
    PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel(words, "w0")), unk_token="w0").save_pretrained(folder)


def make_unsupported(folder: Path, config: PretrainedConfig) -> None:
    write_model(AutoModelForCausalLM.from_config(config), folder)


@dataclass(frozen=True)
class Reference:
    """What plain torch makes of a batch.

    Attributes:
        loss: of the first step.
        gradient: of the first step, by parameter name.
        logprobs, entropies: of the first step's counted tokens, all sequences in order.
        weights: after `STEPS` steps of AdamW.
        norms: of the whole gradient before clipping, one a step.
    """

    loss: float
    gradient: dict[str, torch.Tensor]
    logprobs: np.ndarray
    entropies: np.ndarray
    weights: dict[str, torch.Tensor]
    norms: list[float]


def load_double(folder: Path) -> PreTrainedModel:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64, attn_implementation="eager").eval()


def distributions(model: PreTrainedModel, prompt: np.ndarray, response: np.ndarray, temperature: float = 1.0) -> torch.Tensor:
    """Log-distribution [T, V] that each response token was drawn from, the sequence on its own."""
    tokens = torch.from_numpy(np.concatenate([prompt, response]).astype(np.int64))
    logits = model(input_ids=tokens[None], use_cache=False).logits[0]
    return torch.log_softmax(logits[len(prompt) - 1 : -1] / temperature, dim=-1)


def token_logprobs(model: PreTrainedModel, prompt: np.ndarray, response: np.ndarray, temperature: float = 1.0) -> torch.Tensor:
    log_p = distributions(model, prompt, response, temperature)
    return log_p.gather(-1, torch.from_numpy(response.astype(np.int64))[:, None]).squeeze(-1)


def make_batch(model: PreTrainedModel, *, temperature: float = 1.0) -> Batch:
    """Groups of random completions. Half of them the model's present weights made, half older ones; the latter are off-policy enough
    to be clipped. One in five is masked.
    """
    rng = np.random.default_rng(SEED)
    groups = []
    for group_id in range(GROUPS):
        prompt = rng.integers(0, VOCABULARY, rng.integers(2, 9)).astype(np.int32)
        completions = []
        for index in range(GROUP_SIZE):
            tokens = rng.integers(0, VOCABULARY, rng.integers(1, 31)).astype(np.int32)
            with torch.no_grad():
                logprobs = token_logprobs(model, prompt, tokens, temperature).numpy()
            fresh = index % 2 == 0
            noise = 0.0 if fresh else rng.normal(0, 0.5, len(tokens))
            completions.append(
                Completion(
                    group_id=group_id,
                    index=index,
                    prompt_ids=prompt,
                    token_ids=tokens,
                    logprobs=(logprobs + noise).astype(np.float32),
                    versions=np.full(len(tokens), 0 if fresh else -2, dtype=np.int32),
                    text="",
                    finish_reason=FinishReason.STOP,
                )
            )
        groups.append(Group(group_id, Problem(str(group_id), "?"), tuple(completions)))
    counted = np.arange(GROUPS * GROUP_SIZE) % 5 != 4
    advantages = np.where(counted, rng.normal(0, 1, len(counted)), 0).astype(np.float32)
    lengths = np.array([c.length for group in groups for c in group.completions])
    return Batch(0, tuple(groups), advantages, np.where(counted, 1.0 / lengths[counted].sum(), 0.0))


def counted_completions(batch: Batch) -> list[tuple[Completion, float, float]]:
    """(completion, advantage, weight of each token) of those that count, in order."""
    completions = [completion for group in batch.groups for completion in group.completions]
    rows = zip(completions, batch.advantages.tolist(), batch.weights.tolist(), strict=True)
    return [(completion, advantage, weight) for completion, advantage, weight in rows if weight > 0]


def reference_loss(model: PreTrainedModel, batch: Batch, temperature: float = 1.0, loss: LossSettings = LOSS) -> torch.Tensor:
    """The negated objective of section 2.1, each completion on its own; or that of GSPO, or of truncated importance sampling."""
    objective = torch.zeros((), dtype=torch.float64)
    for completion, advantage, weight in counted_completions(batch):
        current = token_logprobs(model, completion.prompt_ids, completion.token_ids, temperature)
        log_ratio = current - torch.from_numpy(completion.logprobs).double()
        ratio = log_ratio.exp() if loss.ratio == "token" else log_ratio.mean().exp().expand(completion.length)
        if loss.truncated_is is not None:
            gained = ratio.detach().clamp(max=loss.truncated_is) * advantage * current
        else:
            clipped = ratio.clamp(1 - loss.eps_low, 1 + loss.eps_high)
            gained = torch.minimum(ratio * advantage, clipped * advantage)
        objective = objective + weight * gained.sum()
    return -objective


def reference_gradient(
    model: PreTrainedModel, batch: Batch, temperature: float = 1.0, loss: LossSettings = LOSS
) -> dict[str, torch.Tensor]:
    model.zero_grad()
    reference_loss(model, batch, temperature, loss).backward()
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters()}


def make_reference(folder: Path, batch: Batch) -> Reference:
    """The first step's loss and gradient, then `STEPS` steps of torch's AdamW, all in double precision."""
    model = load_double(folder)
    logprobs, entropies = [], []
    with torch.no_grad():
        for completion, _, _ in counted_completions(batch):
            log_p = distributions(model, completion.prompt_ids, completion.token_ids)
            logprobs.append(token_logprobs(model, completion.prompt_ids, completion.token_ids).numpy())
            entropies.append(-(log_p.exp() * log_p).sum(-1).numpy())
    gradient = reference_gradient(model, batch)
    optimiser = torch.optim.AdamW(model.parameters(), betas=SETTINGS.betas, weight_decay=SETTINGS.weight_decay)
    norms, losses = [], []
    for step in range(STEPS):
        optimiser.param_groups[0]["lr"] = SETTINGS.learning_rate * min(1.0, (step + 1) / SETTINGS.warmup_steps)
        optimiser.zero_grad()
        loss = reference_loss(model, batch)
        loss.backward()
        losses.append(float(loss.detach()))
        norms.append(float(torch.nn.utils.clip_grad_norm_(model.parameters(), SETTINGS.grad_clip)))
        optimiser.step()
    weights = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    return Reference(losses[0], gradient, np.concatenate(logprobs), np.concatenate(entropies), weights, norms)


def write_batch(folder: Path, batch: Batch) -> None:
    (folder / "batch.pickle").write_bytes(pickle.dumps(batch))


def read_batch(folder: Path) -> Batch:
    return pickle.loads((folder / "batch.pickle").read_bytes())
