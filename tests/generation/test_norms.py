"""vLLM's kernel for norms on a CPU, which `worker` puts in the place of its plain operations."""

from __future__ import annotations

import pytest
import torch


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 2.0**-6)])
@pytest.mark.parametrize("shape", [(5, 64), (5, 72), (5, 4, 64)], ids=["taken", "odd width", "of heads"])
def test_norms_are_those_of_the_plain_operations(shape: tuple[int, ...], dtype: torch.dtype, tolerance: float) -> None:
    from vllm.config import VllmConfig, set_current_vllm_config
    from vllm.model_executor.layers.layernorm import RMSNorm

    from magistral_core.generation import worker

    if not worker.current_platform.is_cpu():
        pytest.skip("a GPU has its own kernels")
    assert RMSNorm.forward_cpu is worker._rms_norm
    generator = torch.Generator().manual_seed(0)
    x, residual = (torch.randn(shape, generator=generator).to(dtype) for _ in range(2))
    with set_current_vllm_config(VllmConfig()), torch.no_grad():
        norm = RMSNorm(shape[-1], eps=1e-5, dtype=dtype)
        norm.weight.copy_(torch.rand(shape[-1], generator=generator) + 0.5)
        for others in ((), (residual,)):
            wanted = norm.forward_native(x.clone(), *(other.clone() for other in others))
            found = norm.forward_cpu(x.clone(), *(other.clone() for other in others))
            for one, other in zip(*((made if others else (made,)) for made in (found, wanted)), strict=True):
                assert one.dtype == dtype
                assert float((one.float() - other.float()).abs().max()) <= tolerance * float(other.float().abs().max())
