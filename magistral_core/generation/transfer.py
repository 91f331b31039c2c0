"""Weights over NCCL, through vLLM's weight-transfer API: the trainer's side, and what both sides must agree on.

Never run: it needs GPUs. Read from the source of vLLM 0.32, whose own trainer engine does the sending. What drives both sides is
`pipeline/handover_nccl.py`; a generator's side is `GeneratorEngine.join_transfer` and `receive_weights`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from magistral_core.errors import InfrastructureError

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, slots=True)
class Contents:
    """What one hand-over holds, in the order in which it is sent; by it both sides cut the stream into tensors.

    Attributes:
        names: as in the Hugging Face checkpoint.
        dtypes: torch's names, such as `bfloat16`.
        shapes: of the whole tensors, not of shards.
    """

    names: tuple[str, ...]
    dtypes: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]

    @classmethod
    def of(cls, tensors: Mapping[str, torch.Tensor]) -> Contents:
        """Of tensors that will be sent in this order."""
        dtypes = tuple(str(tensor.dtype).removeprefix("torch.") for tensor in tensors.values())
        return cls(tuple(tensors), dtypes, tuple(tuple(tensor.shape) for tensor in tensors.values()))

    def update_info(self) -> dict[str, Any]:
        """As vLLM's workers want to be told."""
        return {"names": list(self.names), "dtype_names": list(self.dtypes), "shapes": [list(shape) for shape in self.shapes]}


def join_information(address: str, port: int, ranks: int) -> dict[str, Any]:
    """What vLLM's workers need to meet the trainer, which is rank 0 and has them after it."""
    from vllm.distributed.weight_transfer.nccl_engine import NCCLTrainerInitInfo

    # Both sides must pack alike; vLLM's defaults for them differ.
    sender = NCCLTrainerInitInfo(master_address=address, master_port=port, world_size=1 + ranks, rank=0)
    return {
        "master_address": address,
        "master_port": port,
        "rank_offset": 1,
        "world_size": sender.world_size,
        "packed": sender.packed,
        "packed_buffer_size_bytes": sender.packed_buffer_size_bytes,
        "packed_num_buffers": sender.packed_num_buffers,
    }


class WeightSender:
    """Trainer rank 0: whole copies of the versions that generators may still want, and one communicator for each generator.

    One communicator each, and not one for all, so that every generator has its own deadline and one that dies between transfers dies
    alone; vLLM sends to all through the same two streams, so that one that dies within a transfer holds up the others. The copies are
    on this rank's GPU: training goes on meanwhile and changes the weights themselves.
    """

    def __init__(self) -> None:
        self._staged: dict[int, dict[str, torch.Tensor]] = {}
        self._engines: dict[int, Any] = {}
        self._sources: dict[int, StagedSource] = {}

    def stage(self, version: int, tensors: Iterable[tuple[str, torch.Tensor]]) -> Contents:
        """Copy the weights of a version, whole tensors one after the other, as they are gathered."""
        import torch

        copies = {name: tensor.detach().clone() for name, tensor in tensors}
        if torch.cuda.is_available():
            torch.cuda.synchronize()  # they are sent on other streams
        self._staged[version] = copies
        return Contents.of(copies)

    def unstage(self, version: int) -> None:
        """No generator wants this version any more."""
        self._staged.pop(version, None)

    def join(self, generator: int, address: str, port: int, ranks: int) -> None:
        """Meet the `ranks` workers of a generator, which must join at the same time; a communicator from before is given up."""
        from vllm.distributed.weight_transfer import WeightTransferTrainerFactory
        from vllm.distributed.weight_transfer.nccl_engine import NCCLTrainerInitInfo

        source = StagedSource()
        information = NCCLTrainerInitInfo(master_address=address, master_port=port, world_size=1 + ranks, rank=0)
        self._engines[generator] = WeightTransferTrainerFactory.trainer_init(information, client=_Nobody(), source=source)
        self._sources[generator] = source

    def send(self, generator: int, version: int) -> None:
        """Send a staged version to a generator, which must receive at the same time."""
        if version not in self._staged:
            raise InfrastructureError(f"weights of version {version} are not staged any more; staged are {sorted(self._staged)}")
        self._sources[generator].tensors = self._staged[version]
        self._engines[generator].send_weights()


class StagedSource:
    """vLLM's `WeightSource` over a staged version: the same tensors in the same order, as declared and as sent."""

    def __init__(self) -> None:
        self.tensors: Mapping[str, torch.Tensor] = {}

    def metadata(self) -> list[Any]:
        """Name, dtype and shape of each tensor."""
        from vllm.distributed.weight_transfer import ParamMeta

        return [ParamMeta(name, tensor.dtype, tuple(tensor.shape)) for name, tensor in self.tensors.items()]

    def __iter__(self) -> Iterator[tuple[str, torch.Tensor]]:
        return iter(self.tensors.items())


class _Nobody:
    """vLLM's client to the engine, from the trainer's side. The coordinator speaks to the generator itself, so there is nothing to say."""

    def init_weight_transfer_engine(self, init_info: dict[str, Any]) -> None: ...

    def start_weight_update(self) -> None: ...

    def update_weights(self, update_info: Any) -> None: ...

    def finish_weight_update(self, weight_version: str | None = None) -> None: ...
