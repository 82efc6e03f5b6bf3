"""In which arithmetic networks run."""

from __future__ import annotations

import torch


def resolve_precision(precision: str, device: torch.device) -> torch.dtype:
    """Returns the arithmetic of the forward pass; `auto` means bfloat16 where the hardware multiplies it."""
    if precision != "auto":
        return torch.bfloat16 if precision == "bfloat16" else torch.float32
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float32
    return torch.bfloat16 if torch.cpu._is_amx_tile_supported() else torch.float32
