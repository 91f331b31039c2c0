"""The two vLLM engines: `GeneratorEngine` for asynchronous training, `LocalEngine` in the calling process.

Both take requests of tokens and return completions with the log-probability and the weight version of every token, and
both take new weights from a file (Magistral, section 3). They differ in who drives: `GeneratorEngine` runs vLLM in a
process of its own and swaps weights while sequences are being generated, keeping their KV cache; `LocalEngine` starts in
a few seconds, steps only when called, and is exactly reproducible.

Life of a `GeneratorEngine`:

    start() -> running --update_weights()--> paused (sequences frozen, new ones wait) -> running ... -> close()
                  |
                  '-- engine process dies --> errored: every call raises InfrastructureError; make a new one

The prefix cache is salted with the weight version, so that no prompt is continued from another version's cache: a prompt
is computed with one version. Those of a validation have a cache of their own (`cache_salt`). No more than `max_num_seqs`
requests are inside vLLM at a time; the others wait outside, where their salt is not yet fixed.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from magistral_core.config.schema import GenerationSettings, PromptSettings
from magistral_core.errors import InfrastructureError, InputError
from magistral_core.generation.arguments import engine_args
from magistral_core.generation.tokens import Decoder, Sampling, cache_salt, sampling_params, to_completion
from magistral_core.generation.transfer import Contents, join_information
from magistral_core.records import Completion, Request

if TYPE_CHECKING:
    from vllm.v1.engine.async_llm import AsyncLLM


#: After a request to end, the engine process frees its resources within a second; then it would spend several on the interpreter's
#: own clean-up, which a kill spares.
_CLOSE_SECONDS = 1.0
#: Within this the blocks of aborted sequences are free.
_RESET_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class WeightUpdate:
    """What one weight update did.

    Attributes:
        version: the weights now in use.
        seconds: how long generation stood still.
        load_seconds: of these, how long reading and loading took; the rest is waiting for the decoding steps under way, and vLLM's own.
        in_flight: sequences that were being generated and went on with the new weights.
    """

    version: int
    seconds: float
    load_seconds: float
    in_flight: int


class GeneratorEngine:
    """One vLLM engine in its own process, for the asynchronous loop.

    Start it from a thread that outlives it (an actor's or the main thread, not a pool's): the engine process is killed by
    the kernel when the thread that started it ends.

    Args:
        model_path: folder with config, weights and tokenizer.
        generation: settings; `temperature` is the default of every request.
        max_model_len: longest sequence, prompt and completion, in tokens.
        seed: of vLLM itself; every request brings its own.
        prompt: its thinking tags stay in the text of completions even where they are special tokens.
        version: version of the weights in `model_path`.
        nccl: new weights come over NCCL (`receive_weights`) and not as files.
        sockets: folder on this machine for vLLM's sockets, which it never removes; name one that is cleared even after a kill. They get a
            folder of their own there, which `close` removes.
    """

    def __init__(
        self,
        model_path: str | Path,
        generation: GenerationSettings,
        *,
        max_model_len: int,
        seed: int = 0,
        prompt: PromptSettings | None = None,
        version: int = 0,
        nccl: bool = False,
        sockets: str | None = None,
    ) -> None:
        self.version = version
        self._arguments, self._nccl = engine_args(model_path, generation, max_model_len=max_model_len, seed=seed, nccl=nccl), nccl
        self._decoder = _decoder(model_path, prompt)
        self._sampling = Sampling(temperature=generation.temperature)
        self._engine: AsyncLLM | None = None
        self._sockets_in = sockets
        self._ids = itertools.count()
        self._slots = asyncio.Semaphore(generation.max_num_seqs)
        self._updating = asyncio.Lock()
        self._accepting = asyncio.Event()
        self._running = 0
        self._tokens = 0  # of finished sequences

    async def start(self) -> None:
        """Start the engine process and load the model.

        Raises:
            InputError: new weights could not be loaded into this model.
            InfrastructureError: it cannot start.
        """
        from vllm.v1.engine.async_llm import AsyncLLM

        self._sockets = tempfile.TemporaryDirectory(prefix="engine-", dir=self._sockets_in)
        os.environ["VLLM_RPC_BASE_PATH"] = self._sockets.name
        try:
            self._engine = AsyncLLM.from_engine_args(self._arguments)
        except (RuntimeError, ValueError) as error:
            raise _not_started(self._arguments.model, error) from error
        if not self._nccl:  # vLLM's own way of taking weights makes anew what it keeps in another form
            _raise_unreached(await self._engine.collective_rpc("never_updated"), str(self._arguments.model))
        await self._engine.update_weight_version(str(self.version))
        self._accepting.set()

    @property
    def running(self) -> int:
        """Sequences inside the engine."""
        return self._running

    @property
    def tokens_made(self) -> int:
        """Tokens so far, those of unfinished sequences too; it grows while the engine decodes."""
        states = self._live.output_processor.request_states.values()
        return self._tokens + sum(len(state.detokenizer.output_token_ids) for state in states if state.detokenizer is not None)

    async def generate(self, request: Request, sampling: Sampling | None = None) -> Completion:
        """Generate one completion; cancelling the task aborts it.

        Raises:
            InfrastructureError: the engine process died.
            InputError: the prompt leaves no room for a token.
        """
        from vllm.exceptions import VLLMValidationError
        from vllm.inputs.engine import tokens_input
        from vllm.v1.engine.exceptions import EngineDeadError, EngineGenerateError

        params = sampling_params(request, sampling or self._sampling, self._decoder.stop_ids)
        prompt_ids = request.prompt.token_ids.tolist()
        async with self._slots:
            self._running += 1
            try:
                finished = None
                while finished is None or finished.outputs[0].finish_reason == "abort":  # taken back by an update, see there
                    await self._accepting.wait()
                    prompt = tokens_input(prompt_ids, cache_salt=cache_salt(request, self.version))
                    async for output in self._live.generate(prompt, params, f"{request.group_id}-{request.index}-{next(self._ids)}"):
                        finished = output
            except (EngineDeadError, EngineGenerateError) as error:
                raise InfrastructureError(f"the engine died during completion {request.index} of group {request.group_id}") from error
            except VLLMValidationError as error:
                raise InputError(f"prompt of group {request.group_id}: {error}") from error
            finally:
                self._running -= 1
        completion = to_completion(request, finished, self._decoder)
        self._tokens += completion.length
        return completion

    async def update_weights(self, path: str | Path, version: int, checksum: str) -> WeightUpdate:
        """Swap in new weights; sequences in flight go on with them and keep their KV cache.

        Args:
            path: safetensors file, named as the Hugging Face checkpoint, readable by the engine process.
            version: the label of the tokens made from now on.
            checksum: `file_checksum` of the file, from the one who wrote it.

        Raises:
            InfrastructureError: the file was refused and the old weights and version stay, or the engine died.
        """

        async def load() -> None:
            _raise_refused(await self._live.collective_rpc("load_weight_file", args=(str(path), checksum)), version)

        return await self._swap(version, load)

    async def join_transfer(self, address: str, port: int) -> None:
        """Meet the trainer that will send weights over NCCL; it joins at the same time. Never run: it needs GPUs."""
        from vllm.distributed.weight_transfer.base import WeightTransferInitRequest

        information = join_information(address, port, self._arguments.tensor_parallel_size)
        await self._live.init_weight_transfer_engine(WeightTransferInitRequest(init_info=information))

    async def receive_weights(self, version: int, contents: Contents) -> WeightUpdate:
        """As `update_weights`, from the trainer that `join_transfer` met; it sends at the same time. Never run: it needs GPUs.

        Raises:
            InfrastructureError: the engine died.
        """
        from vllm.distributed.weight_transfer.base import WeightTransferUpdateRequest

        async def load() -> None:
            await self._live.start_weight_update()
            await self._live.update_weights(WeightTransferUpdateRequest(update_info=contents.update_info()))
            await self._live.finish_weight_update()

        return await self._swap(version, load)

    async def _swap(self, version: int, load: Callable[[], Awaitable[None]]) -> WeightUpdate:
        """Have `load` bring new weights while sequences stand still, and label what follows with their version."""
        from vllm.v1.engine.exceptions import EngineDeadError

        async with self._updating:
            start = time.perf_counter()
            self._accepting.clear()
            try:
                await self._pause()
                try:
                    in_flight = await self._take_back_unstarted()
                    loading = time.perf_counter()
                    await load()
                    load_seconds = time.perf_counter() - loading
                    await self._live.update_weight_version(str(version))
                    self.version = version
                finally:
                    await self._live.resume_generation()
            except EngineDeadError as error:
                raise InfrastructureError(f"the engine died during the update to version {version}") from error
            finally:
                self._accepting.set()
            return WeightUpdate(version, time.perf_counter() - start, load_seconds, in_flight)

    async def reset_prefix_cache(self) -> None:
        """Forget every cached prompt. For weights whose version number was given to others before (a run that went back).

        Raises:
            InfrastructureError: sequences still hold their cache, or the engine died.
        """
        from vllm.v1.engine.exceptions import EngineDeadError

        deadline = time.perf_counter() + _RESET_SECONDS
        try:
            while not await self._live.reset_prefix_cache():  # sequences that were just aborted hold theirs for a moment
                if time.perf_counter() > deadline:
                    raise InfrastructureError("the prefix cache could not be emptied: sequences still hold it")
                await asyncio.sleep(_RESET_SECONDS / 100)
        except EngineDeadError as error:
            raise InfrastructureError("the engine died while its prefix cache was emptied") from error

    async def close(self) -> None:
        """End the engine process. Does nothing if it is ended already."""
        if self._engine is not None:
            engine, self._engine = self._engine, None
            engine.shutdown(timeout=_CLOSE_SECONDS)
            self._sockets.cleanup()

    async def _pause(self) -> None:
        """Have sequences stand still, keeping their cache, and take what the last step has made.

        vLLM's `pause_generation` sleeps for 20 ms in place of the latter. The engine's answer comes behind the step's outputs.
        """
        core: Any = self._live.engine_core
        await core.pause_scheduler_async(mode="keep", clear_cache=False)
        while self._live.is_running and not core.outputs_queue.empty():  # noqa: ASYNC110  (it has no event for that)
            await asyncio.sleep(0)

    async def _take_back_unstarted(self) -> int:
        """Take out the requests that have no token yet; `generate` hands them in again after the update. Returns how many stay.

        Their salt names the old weights, so that they would continue a prompt from the old weights' cache under the new
        version's label.
        """
        states = self._live.output_processor.request_states
        unstarted = [identifier for identifier, state in states.items() if state.is_prefilling]
        if unstarted:
            await self._live.abort(unstarted, internal=True)
        return len(states)

    @property
    def _live(self) -> AsyncLLM:
        if self._engine is None:
            raise InfrastructureError("the engine is not running: start() it first")
        return self._engine


class LocalEngine:
    """One vLLM engine in the calling process: for the synchronous mode, evaluation and tests.

    The same requests in the same order give the same tokens and log-probabilities to the bit. Arguments as
    `GeneratorEngine`.
    """

    def __init__(
        self,
        model_path: str | Path,
        generation: GenerationSettings,
        *,
        max_model_len: int,
        seed: int = 0,
        prompt: PromptSettings | None = None,
        version: int = 0,
    ) -> None:
        arguments = engine_args(model_path, generation, max_model_len=max_model_len, seed=seed)
        from vllm.v1.engine.llm_engine import LLMEngine
        from vllm.v1.executor.abstract import Executor

        self.version = version
        self._model_path = str(model_path)
        self._decoder = _decoder(model_path, prompt)
        self._sampling = Sampling(temperature=generation.temperature)
        self._capacity = generation.max_num_seqs
        self._ids = itertools.count()
        self._requests: dict[str, Request] = {}
        try:
            config = arguments.create_engine_config()
            # Made directly: `from_engine_args` would start a process unless an environment variable forbids it.
            self._engine = LLMEngine(config, Executor.get_class(config), log_stats=False, multiprocess_mode=False)
        except (RuntimeError, ValueError) as error:
            raise _not_started(model_path, error) from error
        self._engine.set_weight_version(str(version))

    @property
    def running(self) -> int:
        """Requests that are not finished."""
        return len(self._requests)

    def generate(self, requests: Sequence[Request], sampling: Sampling | None = None) -> list[Completion]:
        """Complete all requests; the result is in their order. Raises InputError for a prompt that leaves no room for a token."""
        positions = {self.add(request, sampling): position for position, request in enumerate(requests)}
        finished: dict[int, Completion] = {}
        while self._requests:
            for identifier, completion in self._step():
                finished[positions[identifier]] = completion
        return [finished[position] for position in range(len(requests))]

    def stream(self, requests: Iterable[tuple[Request, Sampling]]) -> Iterator[Completion]:
        """Complete requests as they come from an iterator, at most `max_num_seqs` at a time; yields in order of finishing.

        Closing the stream early aborts what is left.
        """
        source = iter(requests)
        try:
            while True:
                for request, sampling in itertools.islice(source, self._capacity - self.running):
                    self.add(request, sampling)
                if not self._requests:
                    return
                yield from self.step()
        finally:
            self._engine.abort_request(list(self._requests))
            self._requests.clear()

    def add(self, request: Request, sampling: Sampling | None = None) -> str:
        """Hand in one request, for `step`; returns its identifier. Raises InputError for a prompt that leaves no room for a token."""
        from vllm.exceptions import VLLMValidationError
        from vllm.inputs.engine import tokens_input

        identifier = f"{request.group_id}-{request.index}-{next(self._ids)}"
        prompt = tokens_input(request.prompt.token_ids.tolist(), cache_salt=cache_salt(request, self.version))
        try:
            self._engine.add_request(identifier, prompt, sampling_params(request, sampling or self._sampling, self._decoder.stop_ids))
        except VLLMValidationError as error:
            raise InputError(f"prompt of group {request.group_id}: {error}") from error
        self._requests[identifier] = request
        return identifier

    def step(self) -> list[Completion]:
        """Decode a token of every running sequence, or a few (`multistep`); the completions that finished with them."""
        return [completion for _, completion in self._step()]

    def check_updatable(self) -> None:
        """Raises InputError where new weights could not be loaded into this model."""
        _raise_unreached(self._engine.collective_rpc("never_updated"), self._model_path)

    def update_weights(self, path: str | Path, version: int, checksum: str) -> WeightUpdate:
        """Swap in new weights between two calls; see `GeneratorEngine.update_weights`."""
        if self._requests:
            raise RuntimeError("an in-process engine takes weights between calls: finish the stream first")
        start = time.perf_counter()
        _raise_refused(self._engine.collective_rpc("load_weight_file", args=(str(path), checksum)), version)
        load_seconds = time.perf_counter() - start
        self._engine.set_weight_version(str(version))
        self.version = version
        return WeightUpdate(version, time.perf_counter() - start, load_seconds, in_flight=0)

    def close(self) -> None:
        """Free the model and the KV cache."""
        self._engine.engine_core.shutdown()
        del self._engine

    def _step(self) -> Iterator[tuple[str, Completion]]:
        for output in self._engine.step():
            yield output.request_id, to_completion(self._requests.pop(output.request_id), output, self._decoder)


def _decoder(model_path: str | Path, prompt: PromptSettings | None) -> Decoder:
    tags = prompt or PromptSettings()
    return Decoder(model_path, keep=(tags.think_open, tags.think_close))


def _not_started(model: str | Path, error: Exception) -> InfrastructureError:
    words = " ".join(str(error).replace("See root cause above.", "").split())  # nothing stands above: it is in the process's own log
    return InfrastructureError(f"vLLM did not start with {model}: {words}")


def _raise_unreached(answers: Sequence[str], model: str) -> None:
    if name := max(answers):
        raise InputError(
            f"{model}: on this machine vLLM keeps {name} in another form than a checkpoint, so that new weights cannot reach it; "
            "train another model"
        )


def _raise_refused(answers: Sequence[str], version: int) -> None:
    for answer in answers:
        if answer:
            raise InfrastructureError(f"weights of version {version} refused: {answer}")
