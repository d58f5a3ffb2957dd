"""Mixed precision: which autocast a device gets, and whether its gradients need scaling."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Literal

import torch

Precision = Literal["fp32", "amp", "auto", "fp64"]
"""As in the run plan; `auto` is fp32 until `fdfed.training.fastest` has chosen in its place."""


def autocast(precision: Precision, device: torch.device) -> AbstractContextManager[None]:
    """The context for the forward pass: bf16 where the device has it, else fp16, or nothing."""
    if precision != "amp":
        return nullcontext()
    return torch.autocast(device.type, dtype=_amp_dtype(device))


def gradient_scaler(precision: Precision, device: torch.device) -> torch.amp.GradScaler:
    """A scaler that acts for fp16 only; otherwise every call of it is the identity."""
    needed = precision == "amp" and _amp_dtype(device) is torch.float16
    return torch.amp.GradScaler(device.type, enabled=needed)


def _amp_dtype(device: torch.device) -> torch.dtype:
    if device.type == "cuda" and not torch.cuda.is_bf16_supported():
        return torch.float16
    return torch.bfloat16
