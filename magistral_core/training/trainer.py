"""One trainer rank: a policy under DeepSpeed, and the one optimiser step that RL and SFT share.

All ranks call the same methods in the same order. A step takes any number of microbatches, the same number on every rank;
the loss weights are normalised over the whole step beforehand, so any split gives the same gradient.
"""

from __future__ import annotations

import json
import logging
import math
import os
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import deepspeed
import numpy as np
import torch
import torch.distributed as dist
from deepspeed.utils import groups
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig
from transformers.integrations import HfDeepSpeedConfig
from transformers.utils import logging as transformers_logging

from magistral_core.config.schema import LossSettings, TrainingSettings
from magistral_core.errors import InfrastructureError, InputError
from magistral_core.records import Microbatch
from magistral_core.training import attention
from magistral_core.training.attention import RowLayout
from magistral_core.training.collation import predictors
from magistral_core.training.logprobs import ChunkedHead
from magistral_core.training.loss import cross_entropy, policy_loss
from magistral_core.training.norms import fuse_norms
from magistral_core.training.report import StepReport
from magistral_core.training.resharding import Layout, to_universal
from magistral_core.training.supported import refuse_unsupported

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
#: Importance ratios sent to the coordinator per rank and step; beyond this an even subsample, enough for percentiles.
_MAX_RATIOS = 65_536
#: One rank may write or read a whole checkpoint while the others wait for it. Deaths and stalls are seen to elsewhere, and sooner.
_COLLECTIVE_TIMEOUT = timedelta(hours=2)
#: The folder of DeepSpeed's own files within a trainer's state, and that of the same state in universal form.
_STATE_TAG, _UNIVERSAL = "state", "universal"


def join_group(rank: int, world: int, address: str, port: int, local_rank: int = 0) -> None:
    """Set the variables from which DeepSpeed learns its place, and join the process group (NCCL on GPUs, gloo elsewhere)."""
    os.environ.update(RANK=str(rank), WORLD_SIZE=str(world), LOCAL_RANK=str(local_rank), MASTER_ADDR=address, MASTER_PORT=str(port))
    gpu = torch.cuda.is_available()
    if not gpu:
        # DeepSpeed compiles this operator at every start on a CPU (70 s, and needs a compiler); gloo does without.
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    else:
        torch.cuda.set_device(local_rank)
    deepspeed.init_distributed(dist_backend="nccl" if gpu else "gloo", timeout=_COLLECTIVE_TIMEOUT, verbose=False)


def leave_group() -> None:
    """Leave the process group, if something else has not ended it already (vLLM does, in the same process).

    DeepSpeed forgets its groups as well, which the next trainer in this process would otherwise find, dead.
    """
    if dist.is_initialized():
        deepspeed.comm.destroy_process_group()
    else:
        groups._release_process_group_references(group=None)


class _Policy(torch.nn.Module):
    """A causal language model whose forward gives log-probabilities of the counted tokens of a packed row."""

    def __init__(self, lm: Any, temperature: float, chunk: int) -> None:
        super().__init__()
        self.lm = lm
        self._temperature = temperature
        self._chunk = chunk

    def forward(
        self,
        token_ids: torch.Tensor,
        position_ids: torch.Tensor,
        layout: RowLayout | None,
        counted: torch.Tensor,
        predictors: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Of each counted token: log-probability and entropy, float32 [N].

        Args:
            token_ids, position_ids: int64 [T].
            layout: of the row, for attention `varlen`.
            counted, predictors: int64 [N], places of the tokens to score, and of the states that predict them.
        """
        # No attention mask and no cache: with either, transformers would let packed sequences see each other.
        extra = {} if layout is None else {"layout": layout}
        backbone = getattr(self.lm, self.lm.base_model_prefix)
        hidden = backbone(input_ids=token_ids[None], position_ids=position_ids[None], use_cache=False, **extra)[0][0]
        return self.lm.lm_head(attention.take(hidden, predictors), token_ids[counted], self._temperature, self._chunk)  # type: ignore[no-any-return]


class Trainer:
    """A policy with its optimiser, on one rank. `join_group` comes first.

    Args:
        model_path: folder with config, weights and tokenizer, or a hub name.
        settings: the recipe's `training` section.
        temperature: of the generators' sampling; the trainer's log-probabilities use the same.
        seed: of anything random in the model (fresh weights; dropout is off).
    """

    def __init__(self, model_path: str | Path, settings: TrainingSettings, *, temperature: float = 1.0, seed: int = 0) -> None:
        logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
        transformers_logging.disable_progress_bar()
        warnings.filterwarnings("ignore", category=FutureWarning, module="torch.distributed")
        torch.manual_seed(seed)
        self.model_path = str(model_path)
        self.settings = settings
        self.device = torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")
        config = _deepspeed_config(settings)
        # With ZeRO-3 this object, while it lives, makes transformers load each parameter straight into its partition.
        self._zero3 = HfDeepSpeedConfig(config) if settings.zero_stage == 3 else None
        policy = _Policy(_load_model(self.model_path, settings), temperature, settings.logprob_chunk)
        # Norms and biases are decayed as well: decay is 0 unless a recipe asks for it.
        optimiser = torch.optim.AdamW(
            policy.parameters(), lr=settings.learning_rate, betas=settings.betas, weight_decay=settings.weight_decay, fused=True
        )
        self._engine, *_ = deepspeed.initialize(model=policy, optimizer=optimiser, config=config)
        self._engine.train()
        self.rank, self.world = dist.get_rank(), dist.get_world_size()

    @property
    def parameter_count(self) -> int:
        """Parameters of the whole model."""
        return sum(getattr(p, "ds_numel", p.numel()) for p in self._engine.module.parameters())

    def _policy_loss(
        self, row: Microbatch, counted: torch.Tensor, logprobs: torch.Tensor, loss: LossSettings
    ) -> tuple[torch.Tensor, torch.Tensor]:
        reference, advantages, weights = (self._tensor(values)[counted] for values in (row.logprobs, row.advantages, row.weights))
        whole = np.repeat(np.arange(len(row.seq_lens)), row.seq_lens)
        sequences = self._tensor(whole)[counted] if loss.ratio == "sequence" else None
        return policy_loss(
            logprobs,
            reference,
            advantages,
            weights,
            eps_low=loss.eps_low,
            eps_high=loss.eps_high,
            sequences=sequences,
            cap=loss.truncated_is,
        )

    def _tensor(self, values: np.ndarray) -> torch.Tensor:
        # A copy: arrays that came through Ray's object store are read-only.
        return torch.tensor(values, device=self.device)

    def step_rl(self, microbatches: Sequence[Microbatch], loss: LossSettings, *, step: int) -> StepReport:
        """One optimiser step of the clipped policy objective; `step` counts from 0 and is also the current weight version."""
        report = StepReport()
        ratios: list[torch.Tensor] = []

        def objective(row: Microbatch, counted: torch.Tensor, logprobs: torch.Tensor, entropy: torch.Tensor) -> torch.Tensor:
            def at(values: np.ndarray) -> torch.Tensor:
                return self._tensor(values)[counted]

            reference, mask = at(row.logprobs), at(row.mask)
            value, stopped = self._policy_loss(row, counted, logprobs, loss)
            difference = (logprobs.detach() - reference)[mask]
            current = difference[at(row.versions)[mask] == step].abs()
            report.tokens += int(mask.sum())
            report.entropy_sum += float(entropy[mask].sum())
            report.clipped += int(stopped[mask].sum())
            report.mismatch_tokens += current.numel()
            if current.numel():
                report.mismatch_sum += float(current.sum())
                report.mismatch_max = max(report.mismatch_max, float(current.max()))
            ratios.append(difference)
            return value

        self._step(microbatches, objective, step, report)
        log_ratios = torch.cat(ratios).float().cpu().numpy()
        report.log_ratios = log_ratios[:: -(-len(log_ratios) // _MAX_RATIOS) or 1]
        return report

    def step_sft(self, microbatches: Sequence[Microbatch], *, step: int) -> StepReport:
        """One optimiser step of supervised fine-tuning on the tokens that carry weight."""
        report = StepReport()

        def objective(row: Microbatch, counted: torch.Tensor, logprobs: torch.Tensor, entropy: torch.Tensor) -> torch.Tensor:
            report.tokens += int(row.mask.sum())
            report.entropy_sum += float(entropy.sum())
            return cross_entropy(logprobs, self._tensor(row.weights)[counted])

        self._step(microbatches, objective, step, report)
        return report

    def logprobs(self, row: Microbatch) -> np.ndarray:
        """Log-probability of each counted token of a row under the current weights, float32 [N]; no gradient."""
        with torch.no_grad():
            counted = self._counted(row)
            return self._forward(row, counted)[0].cpu().numpy()  # type: ignore[no-any-return]

    def gradients(self, microbatches: Sequence[Microbatch], loss: LossSettings) -> dict[str, np.ndarray]:
        """The whole gradient by parameter name, without a step; for checks of one split against another."""
        from deepspeed.utils import safe_get_full_grad

        def objective(row: Microbatch, counted: torch.Tensor, logprobs: torch.Tensor, _: torch.Tensor) -> torch.Tensor:
            return self._policy_loss(row, counted, logprobs, loss)[0]

        self._backward(microbatches, objective)
        grads = {_public(name): safe_get_full_grad(p) for name, p in self._engine.module.named_parameters()}
        self._engine.optimizer.zero_grad()  # not the engine's, which at ZeRO-3 lets the next pass add to this one
        return {name: grad.float().cpu().numpy() for name, grad in grads.items() if grad is not None}

    def weights(self) -> Iterator[tuple[str, torch.Tensor]]:
        """Every parameter, whole, one at a time, named as in the Hugging Face checkpoint. All ranks must iterate."""
        for name, parameter in self._engine.module.named_parameters():
            with deepspeed.zero.GatheredParameters([parameter], enabled=self.settings.zero_stage == 3):
                yield _public(name), parameter.detach()

    def layout(self) -> dict[str, tuple[torch.dtype, tuple[int, ...]]]:
        """Dtype and whole shape of every parameter, in the order of `weights`; gathers nothing."""
        parameters = self._engine.module.named_parameters()
        return {_public(name): (parameter.dtype, tuple(getattr(parameter, "ds_shape", parameter.shape))) for name, parameter in parameters}

    def export(self, folder: Path) -> None:
        """Write a folder that transformers and vLLM load: config, safetensors, tokenizer. All ranks enter, rank 0 writes."""
        state = {name: tensor.cpu().clone() if self.rank == 0 else None for name, tensor in self.weights()}
        if self.rank == 0:
            self._engine.module.lm.save_pretrained(folder, state_dict=state)
            AutoTokenizer.from_pretrained(self.model_path).save_pretrained(folder)
        dist.barrier()

    def save(self, folder: Path) -> None:
        """Write model and optimiser state for `load`; each rank writes its part."""
        self._engine.save_checkpoint(str(folder), tag=_STATE_TAG)
        if self.rank == 0:
            self._layout.write(folder)

    def load(self, folder: Path) -> None:
        """Read what `save` wrote.

        At the same number of ranks the state is the same to the bit, and so is what follows. For another number it is converted in the
        folder itself: the same bits again, but sums of gradients in another order.

        Raises:
            InputError: no state is there, or it cannot go on at this run's ZeRO stage.
        """
        saved = Layout.read(folder)
        if not saved.converts_to(self._layout):
            self._load(folder)
            return
        if self.rank == 0:
            to_universal(folder / _STATE_TAG, folder / _UNIVERSAL / _STATE_TAG)
        dist.barrier()
        # DeepSpeed has this as a setting of the engine, made before anyone knows which checkpoint it will read.
        self._engine._config.load_universal_checkpoint = True
        try:
            self._load(folder / _UNIVERSAL)
        finally:
            self._engine._config.load_universal_checkpoint = False

    @property
    def _layout(self) -> Layout:
        return Layout(self.world, self.settings.zero_stage)

    def _load(self, folder: Path) -> None:
        # Where there are no files DeepSpeed fails an assertion.
        found = any((folder / _STATE_TAG).glob("*model_states.pt")) and self._engine.load_checkpoint(str(folder), tag=_STATE_TAG)[0]
        if not found:
            raise InputError(f"{folder}: its files are missing; choose another checkpoint (magistral checkpoints list)")

    def close(self) -> None:
        """Free the engine; `leave_group` comes after."""
        self._engine.destroy()

    def _step(self, rows: Sequence[Microbatch], objective: Callable[..., torch.Tensor], step: int, report: StepReport) -> None:
        started = time.perf_counter()
        report.learning_rate = rate = self.settings.learning_rate * min(1.0, (step + 1) / max(self.settings.warmup_steps, 1))
        for group in self._engine.optimizer.param_groups:
            group["lr"] = rate
        report.loss = self._backward(rows, objective)
        # Without ZeRO, DeepSpeed clips but does not tell the norm.
        grads = [p.grad for p in self._engine.module.parameters() if p.grad is not None] if self.settings.zero_stage == 0 else []
        norm = torch.nn.utils.get_total_norm(grads) if grads else None
        if norm is None or norm.isfinite():
            self._engine.step()  # with ZeRO, DeepSpeed leaves the weights as they are if the norm is not finite, and goes on
        report.grad_norm = float(self._engine.get_global_grad_norm() if norm is None else norm)
        if not math.isfinite(report.grad_norm):
            raise InfrastructureError(
                f"the gradient of step {step + 1} is not finite (loss {report.loss:g}, norm {report.grad_norm:g}), so no weight was "
                "changed; if the same command meets it again, begin a run with a lower learning rate, or in float32, from the last "
                "checkpoint's model (magistral checkpoints pull --format hf)"
            )
        report.seconds = time.perf_counter() - started

    def _backward(self, rows: Sequence[Microbatch], objective: Callable[..., torch.Tensor]) -> float:
        total = 0.0
        for i, row in enumerate(rows):
            counted = self._counted(row)
            logprobs, entropy = self._forward(row, counted)
            loss = objective(row, counted, logprobs, entropy)
            total += float(loss.detach())
            self._engine.set_gradient_accumulation_boundary(i == len(rows) - 1)
            # DeepSpeed averages gradients over the ranks; the weights are already normalised over all of them.
            self._engine.backward(loss * self.world, scale_wrt_gas=False)
        return total

    def _forward(self, row: Microbatch, counted: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        layout = None
        if self.settings.attention == attention.NAME:
            layout = RowLayout.of(row.seq_lens, row.prefixes, self.device)
        elif (row.prefixes >= 0).any():
            raise ValueError(f"training.attention: {self.settings.attention} takes no shared prompts; set training.share_prompts: false")
        tokens, positions, sources = (
            torch.from_numpy(values.astype(np.int64)).to(self.device) for values in (row.token_ids, row.position_ids, predictors(row))
        )
        return self._engine(tokens, positions, layout, counted, sources[counted])  # type: ignore[no-any-return]

    def _counted(self, row: Microbatch) -> torch.Tensor:
        # An empty microbatch scores one token of weight 0, so that every rank runs the same backward pass.
        places = np.flatnonzero(row.mask)
        return torch.from_numpy(places if len(places) else np.array([1])).to(self.device)


def _load_model(path: str, settings: TrainingSettings) -> Any:
    attention.register()
    try:
        lm = AutoModelForCausalLM.from_pretrained(path, dtype=_DTYPES[settings.dtype], attn_implementation=settings.attention)
    except (OSError, ValueError, ImportError, KeyError) as error:
        if isinstance(error, KeyError) and error.args == (settings.attention,):  # older classes look it up among their own
            raise _own_attention(path) from error
        raise InputError(f"model.path {path}: cannot be loaded ({' '.join(str(error).split())[:300]})") from error
    if not lm._can_set_attn_implementation():
        raise _own_attention(path)
    head = lm.get_output_embeddings()
    if type(head) is not torch.nn.Linear or head.bias is not None or lm.lm_head is not head:
        raise InputError(f"model.path {path}: its output layer is not a plain linear `lm_head`; such models are not supported")
    refuse_unsupported(lm.config, path)
    if getattr(lm, "_is_stateful", False):
        raise InputError(f"model.path {path}: it carries a state from token to token; only models whose layers all attend are supported")
    _without_dropout(lm)
    head.__class__ = ChunkedHead
    fuse_norms(lm)
    # How to sample is the recipe's business, and may be invalid; what ends a completion is the model's, and every export keeps it.
    ends = lm.generation_config.eos_token_id
    lm.generation_config = GenerationConfig.from_model_config(lm.config)
    if ends is not None:
        lm.generation_config.eos_token_id = ends
    if settings.gradient_checkpointing:
        lm.gradient_checkpointing_enable()
    return lm


def _own_attention(path: str) -> InputError:
    return InputError(
        f"model.path {path}: transformers computes its attention in the model's own way, which does not keep the sequences of a packed row "
        "apart; such models are not supported"
    )


def _without_dropout(lm: torch.nn.Module) -> None:
    """The generators have none, so with it even an unchanged policy would differ from itself and its ratio from 1."""
    for module in lm.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        for name, value in list(vars(module).items()):
            if "dropout" in name and isinstance(value, float):
                setattr(module, name, 0.0)


def _deepspeed_config(settings: TrainingSettings) -> dict[str, Any]:
    return json.loads(
        json.dumps(
            {
                "train_micro_batch_size_per_gpu": 1,
                "gradient_accumulation_steps": 1,
                "gradient_clipping": settings.grad_clip,
                "zero_optimization": {"stage": settings.zero_stage},
                "bf16": {"enabled": settings.dtype == "bfloat16"},
                # torch's own AdamW: DeepSpeed's CPU version would be compiled for three minutes first.
                "zero_allow_untested_optimizer": True,
                "zero_force_ds_cpu_optimizer": False,
                "steps_per_print": 2**31,
            }
        )
    )


def _public(name: str) -> str:
    return name.removeprefix("lm.")
