"""The choice of a device."""

from __future__ import annotations

import pytest
import torch

from fdfed.errors import InvalidInput
from fdfed.training.device import resolve_device


def test_cpu_is_the_cpu_whatever_else_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert resolve_device("cpu") == torch.device("cpu")


@pytest.mark.parametrize(("gpu", "kind"), [(True, "cuda"), (False, "cpu")])
def test_auto_takes_a_gpu_where_there_is_one(
    monkeypatch: pytest.MonkeyPatch, gpu: bool, kind: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    assert resolve_device("auto").type == kind


def test_cuda_without_a_gpu_is_refused_and_not_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", None)
    with pytest.raises(InvalidInput, match="built without CUDA"):
        resolve_device("cuda")
    monkeypatch.setattr(torch.version, "cuda", "12.8")
    with pytest.raises(InvalidInput, match=r"CUDA 12\.8 but sees no GPU.*nvidia-smi"):
        resolve_device("cuda")


def test_an_unknown_device_is_named() -> None:
    with pytest.raises(InvalidInput, match="device is 'tpu'"):
        resolve_device("tpu")
