"""The one sampler: a stream of requests to completions, over one or more in-process engines, with a resumable journal.

With one engine it runs in the calling process; with more, each engine has a process of its own:

    requests --> _Pool --pipe--> child 0: LocalEngine --pipe--> completions (in order of finishing) --> journal --> caller
                       --pipe--> child 1: LocalEngine --pipe-->

Every child is kept a little more than full. What a child had when it died is sampled again when the command is repeated: the
journal has the rest.
"""

from __future__ import annotations

import itertools
import multiprocessing
import os
import queue
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, Protocol, Self

from magistral_core.config.schema import GenerationSettings, PromptSettings
from magistral_core.errors import InfrastructureError, MagistralError
from magistral_core.generation.arguments import prepare_environment
from magistral_core.generation.engine import LocalEngine
from magistral_core.generation.journal import Journal
from magistral_core.generation.tokens import Sampling
from magistral_core.generation.weights import model_checksums
from magistral_core.processes import die_with_parent
from magistral_core.records import Completion, Request

Progress = Callable[[int], None]

#: Completions, or seconds, after which finished work is written to the journal.
_JOURNAL_COMPLETIONS = 512
_JOURNAL_SECONDS = 10.0
#: Requests given to a child beyond what it decodes at once, so that it never waits for the pipe.
_AHEAD = 1.25


class Engines(Protocol):
    """One engine or several, wherever they run."""

    def stream(self, requests: Iterable[tuple[Request, Sampling]]) -> Iterator[Completion]:
        """Complete requests; yields in order of finishing. Raises InfrastructureError if an engine died."""
        ...

    def close(self) -> None:
        """End the engines."""
        ...


#: Starts engines: (how many, model folder, engine settings, further arguments of `LocalEngine`).
OpenEngines = Callable[[int, str | Path, GenerationSettings, dict[str, Any]], Engines]


class Sampler:
    """Samples completions of one model. A context manager: engines start with the first request and end with the block.

    Args:
        model_path: folder with config, weights and tokenizer.
        generation: engine settings (dtype, KV cache, sequences at a time); its temperature and length do not count here.
        max_model_len: longest sequence, prompt and completion, in tokens.
        engines: how many engines sample at the same time; on GPUs no more than there are devices for.
        journal: folder of the journal; None keeps nothing.
        prompt: thinking tags, see `GeneratorEngine`.
        seed: of the engines.
        open_engines: starts them elsewhere than on this machine.
    """

    def __init__(
        self,
        model_path: str | Path,
        generation: GenerationSettings,
        *,
        max_model_len: int,
        engines: int = 1,
        journal: str | Path | None = None,
        prompt: PromptSettings | None = None,
        seed: int = 0,
        open_engines: OpenEngines | None = None,
    ) -> None:
        self._model_path = model_path
        self._open_engines = open_engines
        self._journal_folder = journal
        self._engines = engines
        self._arguments: dict[str, Any] = {"max_model_len": max_model_len, "prompt": prompt or PromptSettings(), "seed": seed}
        self._generation = generation
        self._backend: Engines | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def sample(self, requests: Iterable[Request], sampling: Sampling, on_progress: Progress | None = None) -> Iterator[Completion]:
        """Complete every request; yields in order of finishing, what the journal has first.

        Args:
            requests: read as engines have room, so an endless source is fine.
            sampling: temperature and top_p; the length is each request's own.
            on_progress: called with the number of completions so far.

        Raises:
            InputError: the model or the journal cannot be used.
            InfrastructureError: an engine process died.
        """
        journal = None
        if self._journal_folder is not None:
            identity = sampling_identity(
                self._model_path, self._generation, sampling, self._arguments["prompt"], self._arguments["max_model_len"]
            )
            journal = Journal(self._journal_folder, identity)
        known: list[Completion] = []
        asked: dict[tuple[int, int], Request] = {}
        unwritten: list[tuple[Request, Completion]] = []
        written_at = time.monotonic()
        count = 0

        def missing() -> Iterator[tuple[Request, Sampling]]:
            for request in requests:
                completion = journal.get(request) if journal is not None else None
                if completion is not None:
                    known.append(completion)
                else:
                    asked[request.group_id, request.index] = request
                    yield request, sampling

        def counted(completion: Completion) -> Completion:
            nonlocal count
            count += 1
            if on_progress is not None:
                on_progress(count)
            return completion

        source = missing()
        first = next(source, None)
        complete = False
        try:
            if first is not None:
                for completion in self._started().stream(itertools.chain([first], source)):
                    request = asked.pop((completion.group_id, completion.index))
                    if journal is not None:
                        unwritten.append((request, completion))
                        if len(unwritten) >= _JOURNAL_COMPLETIONS or time.monotonic() - written_at > _JOURNAL_SECONDS:
                            journal.write(unwritten)
                            unwritten, written_at = [], time.monotonic()
                    while known:
                        yield counted(known.pop(0))
                    yield counted(completion)
            for completion in known:
                yield counted(completion)
            complete = True
        finally:
            if journal is not None:
                journal.write(unwritten)
            if not complete:  # what the engines still hold belongs to nobody
                self.close()

    def close(self) -> None:
        """End the engines. Does nothing if none runs."""
        if self._backend is not None:
            self._backend.close()
            self._backend = None

    def _started(self) -> Engines:
        if self._backend is None:
            if self._open_engines is not None:
                self._backend = self._open_engines(self._engines, self._model_path, self._generation, self._arguments)
                return self._backend
            import torch

            shares = device_shares(
                self._engines, self._generation.tensor_parallel, torch.cuda.device_count(), os.environ.get("CUDA_VISIBLE_DEVICES")
            )
            if len(shares) == 1:
                self._backend = LocalEngine(self._model_path, self._generation, **self._arguments)
            else:
                self._backend = _Pool(shares, self._model_path, self._generation, self._arguments)
        return self._backend


def sampling_identity(
    model_path: str | Path, generation: GenerationSettings, sampling: Sampling, prompt: PromptSettings, max_model_len: int
) -> dict[str, Any]:
    """What all completions of a journal have in common: the model's files themselves, how tokens are drawn, and how they are decoded."""
    folder = Path(model_path)
    return {
        "model": model_checksums(folder) if folder.is_dir() else str(model_path),
        "dtype": generation.dtype,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "think": [prompt.think_open, prompt.think_close],
        "max_model_len": max_model_len,
    }


def device_shares(engines: int, tensor_parallel: int, devices: int, visible: str | None) -> list[str | None]:
    """`CUDA_VISIBLE_DEVICES` of each engine, so that no two share a GPU; None without GPUs.

    Args:
        engines: how many are wanted. There are fewer where devices are.
        tensor_parallel: devices of one engine.
        devices: how many this process sees.
        visible: its own `CUDA_VISIBLE_DEVICES`, None if it has none.
    """
    if not devices:
        return [None] * engines
    names = [name.strip() for name in visible.split(",")][:devices] if visible else [str(number) for number in range(devices)]
    engines = max(1, min(engines, devices // tensor_parallel))
    return [",".join(names[number * tensor_parallel : (number + 1) * tensor_parallel]) for number in range(engines)]


class _Pool:
    """Engines in child processes, one for each share of the devices."""

    def __init__(
        self, shares: Sequence[str | None], model_path: str | Path, generation: GenerationSettings, arguments: dict[str, Any]
    ) -> None:
        prepare_environment()  # children inherit it before they import anything
        context = multiprocessing.get_context("spawn")
        self._capacity = int(generation.max_num_seqs * _AHEAD)
        self._children: list[tuple[Any, Connection]] = []
        for number, share in enumerate(shares):
            ours, theirs = context.Pipe()
            child = context.Process(target=_serve, args=(theirs, share, model_path, generation, arguments), name=f"sampler-{number}")
            child.start()
            theirs.close()
            self._children.append((child, ours))

    def stream(self, requests: Iterable[tuple[Request, Sampling]]) -> Iterator[Completion]:
        source = iter(requests)
        pending = {pipe: 0 for _, pipe in self._children}
        while True:
            self._fill(source, pending)
            if not any(pending.values()):
                return
            for ready in wait(list(pending)):
                assert isinstance(ready, Connection)
                try:
                    answer = ready.recv()
                except (EOFError, ConnectionError) as error:
                    raise self._died() from error
                if isinstance(answer, MagistralError):
                    raise answer
                pending[ready] -= len(answer)
                yield from answer

    def close(self) -> None:
        for child, pipe in self._children:
            pipe.close()
            child.join(timeout=1.0)
            if child.is_alive():
                child.kill()
                child.join()

    def _fill(self, source: Iterator[tuple[Request, Sampling]], pending: dict[Connection, int]) -> None:
        """Hand requests to the emptiest child until all are full or none is left."""
        while True:
            pipe = min(pending, key=lambda item: pending[item])
            if pending[pipe] >= self._capacity:
                return
            request = next(source, None)
            if request is None:
                return
            try:
                pipe.send(request)
            except ConnectionError as error:
                raise self._died() from error
            pending[pipe] += 1

    def _died(self) -> InfrastructureError:
        for child, _ in self._children:
            child.join(timeout=0.5)
        codes = ", ".join(f"{child.name}: exit code {child.exitcode}" for child, _ in self._children if child.exitcode is not None)
        return InfrastructureError(f"a sampler process died ({codes}); repeat the command")


def _serve(pipe: Connection, share: str | None, model_path: str | Path, generation: GenerationSettings, arguments: dict[str, Any]) -> None:
    """Body of a child: a thread empties the pipe, so that parent and child never block on each other's writing."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    die_with_parent(parent=parent.pid)
    if share is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = share
    inbox: queue.SimpleQueue[tuple[Request, Sampling] | None] = queue.SimpleQueue()
    threading.Thread(target=_receive, args=(pipe, inbox), daemon=True).start()
    try:
        engine = LocalEngine(model_path, generation, **arguments)
        while True:
            while engine.running < generation.max_num_seqs and (engine.running == 0 or not inbox.empty()):
                item = inbox.get()
                if item is None:
                    return
                engine.add(*item)
            finished = engine.step()
            if finished:
                pipe.send(finished)
    except MagistralError as error:
        pipe.send(error)
    except ConnectionError:
        return  # the parent closed its end: it needs no more
    except Exception as error:  # noqa: BLE001  (vLLM's own, such as a KV cache too small for one sequence: the same at the next try)
        traceback.print_exc()
        pipe.send(InfrastructureError(f"an engine failed ({type(error).__name__}: {' '.join(str(error).split())[:300]})"))


def _receive(pipe: Connection, inbox: queue.SimpleQueue[tuple[Request, Sampling] | None]) -> None:
    while True:
        try:
            inbox.put(pipe.recv())
        except (EOFError, OSError):
            inbox.put(None)
            return
