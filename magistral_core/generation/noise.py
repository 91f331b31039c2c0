"""Drawing tokens on a CPU: noise keyed by request seed and position, for all rows at once.

vLLM draws a row's noise from a generator of its request, one row after the other, so that a sequence's noise depends on how often it was
drawn from. Here it is a function of the request's seed and the token's position alone: the same whatever else is in the batch, and after
a sequence was taken out and read in again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
import vllm._custom_ops  # noqa: F401  (the kernels)
from vllm.v1.outputs import LogprobsTensors
from vllm.v1.sample.ops.topk_topp_sampler import TopKTopPSampler, apply_top_k_top_p

if TYPE_CHECKING:
    from vllm.v1.worker.gpu_model_runner import GPUModelRunner


def seed_sampling(runner: GPUModelRunner) -> None:
    """Have a runner on a CPU draw as described above, and not rank the tokens that it draws: nobody reads the ranks."""
    runner.sampler.topk_topp_sampler = SeededSampler(runner)
    runner.sampler.gather_logprobs = _sampled_logprobs


class SeededSampler(TopKTopPSampler):
    """Draws by the Gumbel-max trick.

    Args:
        runner: its batch tells the position of each row's next token.
    """

    def __init__(self, runner: GPUModelRunner) -> None:
        super().__init__("processed_logprobs")
        self._runner = runner

    def forward_cpu(
        self, logits: torch.Tensor, generators: dict[int, torch.Generator], k: torch.Tensor | None, p: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Tokens int64 [rows] and log-probabilities float32 [rows, vocabulary].

        Rows without a generator have temperature 0; what is drawn for them is not used.
        """
        logits = apply_top_k_top_p(logits, k, p).float()
        seeds = np.zeros(len(logits), dtype=np.uint64)
        seeds[list(generators)] = [generator.initial_seed() for generator in generators.values()]
        noise = torch.from_numpy(noise_seeds(seeds, self._runner.input_batch.num_tokens_no_spec[: len(logits)]))
        return torch.ops._C.fused_gumbel_argmax(logits, noise), logits.log_softmax(dim=-1)


def noise_seeds(seeds: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """A seed for each row's noise: int64 [rows], not negative, from uint64 seeds of requests and positions of tokens [rows].

    SplitMix64 (Steele et al., OOPSLA 2014), twice: neighbouring seeds and positions give unrelated noise.
    """
    return (_mixed(_mixed(seeds) + positions.astype(np.uint64)) >> np.uint64(1)).astype(np.int64)


def _mixed(values: np.ndarray) -> np.ndarray:
    values = values + np.uint64(0x9E3779B97F4A7C15)
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def _sampled_logprobs(logprobs: torch.Tensor, num_logprobs: int, token_ids: torch.Tensor) -> LogprobsTensors:
    """Of the sampled tokens alone; their ranks are left zero."""
    assert num_logprobs == 0, "asked for by no request, see sampling_params"
    ids = token_ids.unsqueeze(-1)
    return LogprobsTensors(ids.int(), logprobs.gather(-1, ids), torch.zeros(len(ids), dtype=torch.int32))
