"""Several decoding steps for each look of vLLM's scheduler at its queues.

For a small model on a CPU, scheduling, serialising and reporting every token costs more than computing it. `MultiStepScheduler`
reserves room in the KV cache for the tokens of several steps; `decode_on` takes the steps after the first within the worker, and
returns what all of them sampled as if one step had. vLLM knows steps of several tokens from speculative decoding: it cuts what
follows a stop token and labels all tokens of a step with the weight version that was in use, which cannot change within it.

A sequence that ends is out of the batch from the next of these steps on: none is computed in vain. Requests that arrive wait until
these steps are done, unless more have come than are being decoded; aborts and weight updates wait for one step only.
"""

from __future__ import annotations

import itertools
import queue
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from vllm.v1.core.sched.output import CachedRequestData, SchedulerOutput
from vllm.v1.core.sched.scheduler import Scheduler
from vllm.v1.engine import EngineCoreRequestType
from vllm.v1.outputs import LogprobsLists, ModelRunnerOutput

from magistral_core.generation.arguments import STEPS_KEY

if TYPE_CHECKING:
    from vllm.config import VllmConfig
    from vllm.v1.engine import EngineCoreOutputs
    from vllm.v1.worker.gpu_input_batch import CachedRequestState
    from vllm.v1.worker.gpu_model_runner import GPUModelRunner

#: The engine's queue of what it is asked for, as (kind, content).
Arrivals: TypeAlias = "queue.Queue[tuple[EngineCoreRequestType, Any]]"


def decoding_steps(config: VllmConfig) -> int:
    """Steps for each look at the queues, as `engine_args` has set them; 1 where it has not."""
    settings = config.additional_config
    return int(settings.get(STEPS_KEY, 1)) if isinstance(settings, dict) else 1


class MultiStepScheduler(Scheduler):
    """vLLM's scheduler for a worker that decodes up to `decoding_steps` tokens of a sequence before it is asked again."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.num_lookahead_tokens = decoding_steps(self.vllm_config) - 1

    def update_from_output(self, scheduler_output: SchedulerOutput, model_runner_output: ModelRunnerOutput) -> dict[int, EngineCoreOutputs]:
        """As vLLM's, which has counted the first step when it was scheduled."""
        for identifier, index in model_runner_output.req_id_to_index.items():
            further = len(model_runner_output.sampled_token_ids[index]) - 1
            if further > 0 and identifier in self.requests:
                self.requests[identifier].num_computed_tokens += further
        return super().update_from_output(scheduler_output, model_runner_output)


def decode_on(runner: GPUModelRunner, first: ModelRunnerOutput, steps: int, arrivals: Arrivals | None = None) -> ModelRunnerOutput:
    """Up to `steps - 1` more steps after a first one.

    Args:
        runner: has just made `first`.
        first: the tokens of the step that was scheduled.
        steps: at most so many in all; fewer where a sequence's room in the KV cache ends, or where others want the engine.
        arrivals: what has come for the engine since it began this step.

    Returns:
        The tokens of all steps: one or more for each request of `first`.
    """
    if not all(first.sampled_token_ids):
        return first  # a prompt of which only a part was read
    outputs = [first]
    live, ended = _split(runner, first.req_ids)
    for _ in range(min([steps - 1, *(_room(runner, runner.requests[identifier]) for identifier in live)])):
        if not live or (arrivals is not None and _are_urgent(arrivals, len(live))):
            break
        runner.execute_model(_one_more(runner, live, ended))
        outputs.append(runner.sample_tokens(None))
        live, ended = _split(runner, live)
    return _joined(outputs)


def _are_urgent(arrivals: Arrivals, decoding: int) -> bool:
    """Whether more sequences would begin than go on, or something else than a request has come."""
    with arrivals.mutex:
        kinds = [kind for kind, _ in arrivals.queue]
    return len(kinds) > decoding or any(kind is not EngineCoreRequestType.ADD for kind in kinds)


def _split(runner: GPUModelRunner, identifiers: Sequence[str]) -> tuple[list[str], set[str]]:
    """Requests to go on with, and those that have just ended."""
    ended = {identifier for identifier in identifiers if _has_ended(runner.requests[identifier], runner.max_model_len)}
    return [identifier for identifier in identifiers if identifier not in ended], ended


def _has_ended(request: CachedRequestState, max_model_len: int) -> bool:
    """Whether the scheduler will end it. Were this wrong, it would be cut there or be missed by the next step."""
    params = request.sampling_params
    last, length = request.output_token_ids[-1], len(request.output_token_ids)
    return (
        last == params.eos_token_id or last in params.stop_token_ids or length >= params.max_tokens or request.num_tokens >= max_model_len
    )


def _room(runner: GPUModelRunner, request: CachedRequestState) -> int:
    """Further steps that its blocks have room for; the KV of the last sampled token is not in them yet."""
    groups = zip(request.block_ids, runner.kv_cache_config.kv_cache_groups, strict=True)
    return min(len(blocks) * group.kv_cache_spec.block_size for blocks, group in groups) - request.num_tokens + 1


def _one_more(runner: GPUModelRunner, live: list[str], ended: set[str]) -> SchedulerOutput:
    """The schedule of one more token for each request that goes on."""
    requests = [runner.requests[identifier] for identifier in live]
    cached = CachedRequestData(
        req_ids=live,
        resumed_req_ids=set(),
        new_token_ids=[],
        all_token_ids={},
        new_block_ids=[None] * len(live),
        num_computed_tokens=[request.num_tokens - 1 for request in requests],
        num_output_tokens=[len(request.output_token_ids) for request in requests],
    )
    return replace(
        SchedulerOutput.make_empty(),
        scheduled_cached_reqs=cached,
        num_scheduled_tokens=dict.fromkeys(live, 1),
        total_num_scheduled_tokens=len(live),
        finished_req_ids=ended,
    )


def _joined(outputs: Sequence[ModelRunnerOutput]) -> ModelRunnerOutput:
    """One output with all tokens of each request of the first, in order."""
    first = outputs[0]
    if len(outputs) == 1:
        return first
    tokens: list[list[int]] = [[] for _ in first.req_ids]
    rows: list[list[int]] = [[] for _ in first.req_ids]  # of the log-probabilities of all steps, one below the other
    start = 0
    for output in outputs:
        for row, (identifier, sampled) in enumerate(zip(output.req_ids, output.sampled_token_ids, strict=True), start):
            place = first.req_id_to_index[identifier]
            tokens[place] += sampled
            rows[place].append(row)
        start += len(output.req_ids)
    logprobs = None
    if first.logprobs is not None:
        order = np.fromiter(itertools.chain.from_iterable(rows), dtype=np.int64, count=start)
        ids, values, ranks = (np.concatenate([output.logprobs[field] for output in outputs])[order] for field in range(3))
        logprobs = LogprobsLists(ids, values, ranks, [0, *itertools.accumulate(map(len, tokens))])
    return replace(first, sampled_token_ids=tokens, logprobs=logprobs)
