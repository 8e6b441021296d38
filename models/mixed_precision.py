"""Training in bfloat16 on CPUs that multiply it in hardware, where products are two to three times as fast.

Weights, their updates and the sums inside a product stay float32. Only the operands of a product are rounded, to 8 bits
of precision. Predictions are never computed this way: a trained network predicts in float32 or float64.
"""

from __future__ import annotations

from functools import cache

import torch


@cache
def has_bfloat16() -> bool:
    """Whether the CPU has instructions for bfloat16 products (AVX-512 BF16 or AMX)."""
    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


def bfloat16_autocast(device: torch.device | None = None) -> torch.autocast:
    """Return the context manager for a forward pass of training.

    Args:
        device: where the network is; None is the CPU. The context has an effect only on a CPU with bfloat16.
    """
    on_cpu = device is None or device.type == "cpu"
    return torch.autocast("cpu", torch.bfloat16, enabled=on_cpu and has_bfloat16())
