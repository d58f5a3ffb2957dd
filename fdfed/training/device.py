"""Where tensors are computed."""

from __future__ import annotations

import torch

from fdfed.errors import InvalidInput


def describe(device: torch.device) -> str:
    """`cpu`, or the name of the GPU."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def resolve_device(choice: str = "auto") -> torch.device:
    """The device of that name; `auto` is the GPU where PyTorch can use one, else the CPU.

    Raises:
        InvalidInput: for any other name, and for `cuda` where PyTorch sees no GPU: training on
            the CPU in its place would look like a hang.
    """
    if choice not in ("auto", "cuda", "cpu"):
        raise InvalidInput(f"device is {choice!r}; choose auto, cuda or cpu")
    if choice == "cpu":
        return torch.device("cpu")
    if torch.cuda.is_available():
        # PyTorch lets convolutions of fp32 round to TF32, which has 10 bits of bf16's kind: a plan
        # with `precision = fp32` means fp32, and who wants speed has `amp`.
        torch.backends.cudnn.allow_tf32 = False
        return torch.device("cuda")
    if choice == "auto":
        return torch.device("cpu")
    reason = (
        f"PyTorch {torch.__version__} was built for CUDA {torch.version.cuda} but sees no GPU; "
        "check the driver with nvidia-smi"
        if torch.version.cuda
        else f"PyTorch {torch.__version__} was built without CUDA; install a CUDA build"
    )
    raise InvalidInput(f"device is cuda, but {reason}, or choose device = cpu")
