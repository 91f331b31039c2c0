"""The parts of the NCCL hand-over that need no GPU, against vLLM's own classes."""

from __future__ import annotations

import pytest
import torch
from vllm.distributed.weight_transfer.nccl_engine import (
    NCCLTrainerInitInfo,
    NCCLTrainerWeightTransferEngine,
    NCCLWeightTransferEngine,
)

from magistral_core.errors import InfrastructureError
from magistral_core.generation.transfer import Contents, StagedSource, WeightSender, join_information


def weights() -> dict[str, torch.Tensor]:
    return {
        "model.embed_tokens.weight": torch.arange(12.0).view(4, 3),
        "model.norm.weight": torch.ones(3, dtype=torch.bfloat16),
        "lm_head.weight": torch.zeros(4, 3),
    }


def test_vllm_understands_what_is_announced() -> None:
    contents = Contents.of(weights())
    told = NCCLWeightTransferEngine.update_info_cls(**contents.update_info())
    assert told.names == ["model.embed_tokens.weight", "model.norm.weight", "lm_head.weight"]
    assert told.dtype_names == ["float32", "bfloat16", "float32"]
    assert told.shapes == [[4, 3], [3], [4, 3]]


def test_what_is_sent_is_what_was_announced() -> None:
    """By the check that vLLM makes of every tensor; and it finds what is not."""
    source = StagedSource()
    source.tensors = weights()
    announced = source.metadata()
    sent = list(NCCLTrainerWeightTransferEngine._checked_iter(source, announced))
    assert [name for name, _ in sent] == list(Contents.of(weights()).names)
    assert all(torch.equal(tensor, weights()[name]) for name, tensor in sent)
    source.tensors = dict(reversed(weights().items()))
    with pytest.raises(ValueError, match=r"lm_head\.weight"):
        list(NCCLTrainerWeightTransferEngine._checked_iter(source, announced))


def test_both_sides_meet_and_pack_alike() -> None:
    joining = NCCLWeightTransferEngine.init_info_cls(**join_information("10.0.0.1", 1234, ranks=4))
    sending = NCCLTrainerInitInfo(master_address="10.0.0.1", master_port=1234, world_size=5, rank=0)
    for name in ("master_address", "master_port", "world_size", "packed", "packed_buffer_size_bytes", "packed_num_buffers"):
        assert getattr(joining, name) == getattr(sending, name), name
    assert joining.rank_offset == 1


def test_a_staged_version_is_a_copy_until_it_is_dropped() -> None:
    sender, live = WeightSender(), weights()
    assert sender.stage(7, live.items()) == Contents.of(live)
    live["model.norm.weight"].zero_()
    assert sender._staged[7]["model.norm.weight"].float().sum() == 3, "training goes on, the version does not"
    sender.unstage(7)
    with pytest.raises(InfrastructureError, match=r"version 7 are not staged any more; staged are \[\]"):
        sender.send(0, 7)
