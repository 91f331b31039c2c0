"""What runs inside vLLM's engine process: receiving weights, and dying with the parent.

Imported by name (`worker_extension_cls`, `distributed_executor_backend`) in the engine process, before the model loads.
"""

from __future__ import annotations

import ctypes
import inspect
import multiprocessing
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import vllm._custom_ops
import vllm.model_executor.layers.utils as linear_dispatch
import vllm.v1.sample.sampler as sampler
from safetensors import SafetensorError, safe_open
from torch._dynamo.eval_frame import innermost_fn
from torch.distributed import ProcessGroupGloo, Store
from tqdm import tqdm
from vllm.model_executor.layers.layernorm import RMSNorm
from vllm.platforms import current_platform
from vllm.v1.executor.multiproc_executor import MultiprocExecutor
from vllm.v1.executor.uniproc_executor import UniProcExecutor

from magistral_core.generation.multistep import Arrivals, decode_on, decoding_steps
from magistral_core.generation.noise import seed_sampling
from magistral_core.generation.weights import file_checksum
from magistral_core.processes import die_with_parent

if TYPE_CHECKING:
    from vllm.v1.core.sched.output import GrammarOutput
    from vllm.v1.worker.gpu_model_runner import GPUModelRunner


#: Compute capability, times ten.
_BLACKWELL = 100
#: The kernel for norms takes so many at once.
_NORM_VALUES = 16
#: Of malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3


def end_with_parent() -> None:
    """In a process that `multiprocessing` started, such as vLLM's engine: be killed when the parent ends, however that happens.

    Does nothing elsewhere: an in-process engine lives in the user's own process.
    """
    parent = multiprocessing.parent_process()
    if parent is not None:
        die_with_parent(parent=parent.pid)


def adapt_to_cpu() -> None:
    """On a CPU, have linear layers compute from `layer.weight` itself, norms in vLLM's own kernel, and nothing compile.

    vLLM otherwise packs copies of the weights for oneDNN (or, in bfloat16 on AMX, for its own kernels), and new weights written
    into the parameters would not be computed with. It also compiles the function that ranks a sampled token, in the first step
    of all: seconds, and a C++ compiler, for a number that nobody reads here. Its kernel for norms is there for CPUs and not used by it.
    """
    if current_platform.is_cpu():
        vllm._custom_ops._supports_onednn = False
        linear_dispatch.check_cpu_sgl_kernel = lambda *_: False
        sampler.batched_count_greater_than = innermost_fn(sampler.batched_count_greater_than)
        RMSNorm.forward_cpu = _rms_norm


def _rms_norm(norm: RMSNorm, x: torch.Tensor, residual: torch.Tensor | None = None) -> Any:
    plain = norm.has_weight and norm.variance_size_override is None and norm.weight.dtype == x.dtype
    if not plain or x.dim() != 2 or not x.is_contiguous() or x.shape[-1] % _NORM_VALUES:
        return norm.forward_native(x, residual)
    if residual is not None:  # both in place
        torch.ops._C.fused_add_rms_norm(x, residual, norm.weight.data, norm.variance_epsilon)
        return x, residual
    normalised = torch.empty_like(x)
    torch.ops._C.rms_norm(normalised, x, norm.weight.data, norm.variance_epsilon)
    return normalised


def keep_freed_memory() -> None:
    """Have the C library keep memory that is freed: intermediate results of every layer came from new pages, faulted in one by one."""
    library = ctypes.CDLL(None)
    if hasattr(library, "mallopt"):  # of glibc
        library.mallopt(_M_MMAP_THRESHOLD, 32 << 20)
        library.mallopt(_M_TRIM_THRESHOLD, 512 << 20)


@contextmanager
def one_gloo_thread() -> Iterator[None]:
    """Have the process groups that are made meanwhile share one thread for their connections.

    vLLM makes about a dozen, each with a thread that wakes a hundred times a second, also where the group has one member: with a small
    model that was 6% of what generating takes of the processors.
    """
    device = ProcessGroupGloo.create_default_device()
    create = ProcessGroupGloo.__init__

    def with_device(group: ProcessGroupGloo, store: Store, rank: int, size: int, *, timeout: timedelta) -> None:
        options = ProcessGroupGloo._Options()
        options._devices, options._timeout = [device], timeout
        create(group, store, rank, size, options)

    ProcessGroupGloo.__init__ = with_device
    try:
        yield
    finally:
        ProcessGroupGloo.__init__ = create


end_with_parent()  # in a tensor-parallel worker; the engine process imports this too early to know that it has a parent
adapt_to_cpu()
# Its own lock is between processes: a named semaphore in shared memory, which a killed engine would leave behind.
tqdm.set_lock(threading.RLock())


class SingleExecutor(UniProcExecutor):
    """One worker, in the engine process itself. Given by its path because vLLM turns the name `uni` into one more process on a CPU."""

    def _init_executor(self) -> None:
        end_with_parent()
        with one_gloo_thread() if current_platform.is_cpu() else nullcontext():
            super()._init_executor()
        self._steps = decoding_steps(self.vllm_config)
        self._arrivals: Arrivals | None = None
        if current_platform.is_cpu():
            keep_freed_memory()
            seed_sampling(self.driver_worker.worker.model_runner)

    def register_failure_callback(self, callback: Callable[[], None]) -> None:
        """As vLLM's. The callback is the engine's, whose queue of requests a worker gets to see nowhere else."""
        super().register_failure_callback(callback)
        self._arrivals = inspect.getclosurevars(callback).nonlocals["self"].input_queue

    def sample_tokens(self, grammar_output: GrammarOutput | None, non_block: bool = False) -> Any:
        """Sample the tokens of the step that was executed, and decode on where `engine_args` has set several steps."""
        output = super().sample_tokens(grammar_output, non_block)
        return output if self._steps == 1 else decode_on(self.driver_worker.worker.model_runner, output, self._steps, self._arrivals)


class ParallelExecutor(MultiprocExecutor):
    """One worker process a tensor-parallel rank; they end with the engine process, as that ends with its parent."""

    def _init_executor(self) -> None:
        end_with_parent()
        super()._init_executor()


class WeightReceiver:
    """Worker extension: methods that `collective_rpc` calls on every worker of an engine."""

    model_runner: GPUModelRunner

    def never_updated(self) -> str:
        """A parameter that vLLM keeps otherwise than a checkpoint does, so that new weights would not reach it; empty if there is none."""
        parameters = dict(self.model_runner.get_model().named_parameters())
        changed = [name for name, parameter in parameters.items() if parameter.numel() == 0]
        # Latent attention (DeepSeek's) computes with these, which are made from others when a model is loaded.
        changed += [name for name in parameters if name.endswith((".W_UV", ".W_UK_T"))]
        # On CPUs, and on GPUs from Blackwell on, mixtures of experts keep these reordered, in tensors of the same shape.
        if current_platform.is_cpu() or current_platform.has_device_capability(_BLACKWELL):
            changed += [name for name in parameters if name.endswith(("w13_weight", "w2_weight"))]
        return changed[0] if changed else ""

    def load_weight_file(self, path: str, checksum: str) -> str:
        """Load a safetensors file named as the Hugging Face checkpoint; vLLM fuses and shards by itself.

        Returns an empty text, or why the file was refused; nothing has changed then.

        Raises:
            RuntimeError: the file was loaded and left the model incomplete: this engine must not be used any more.
        """
        if not Path(path).is_file():
            return f"{path} does not exist"
        found = file_checksum(path)
        if found != checksum:
            return f"{path} has checksum {found}, announced was {checksum}"
        model = self.model_runner.get_model()
        try:
            with safe_open(path, framework="pt") as tensors:
                loaded = model.load_weights((name, tensors.get_tensor(name)) for name in tensors.keys())  # noqa: SIM118
        except SafetensorError as error:
            return f"{path} is not a safetensors file ({error})"
        missing = dict(model.named_parameters()).keys() - loaded
        if missing:
            raise RuntimeError(f"{path} lacks weights for {', '.join(sorted(missing)[:3])}")
        return ""
