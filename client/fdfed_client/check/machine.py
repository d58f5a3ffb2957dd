"""What this machine has: a device with memory for network and batch, disk, a sound audit log."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor, nn

from fdfed.audit import LogFiles, verify_tail
from fdfed.config import RunPlan
from fdfed.errors import FdfedError, InvalidInput
from fdfed.files.state_format import AGENT
from fdfed.training.device import resolve_device
from fdfed.training.initialise import initial_network
from fdfed_client.check.result import CheckResult, note, ok, problem, warning
from fdfed_client.config import SiteConfig

_GIB: Final = 2**30
_LEAST_DISK: Final = 1 * _GIB
_GOOD_DISK: Final = 10 * _GIB
_OPTIMISER_COPIES: Final = 4
"""Weights, gradients, and the two moments of AdamW."""
_ACTIVATION_COPIES: Final = 2
"""What a layer puts out is kept for the way back, and has a gradient then."""
_RUNTIME_BYTES: Final = 1 * _GIB
"""PyTorch's own, with its kernels."""


def check_machine(config: SiteConfig, plan: RunPlan, *, asked: bool) -> Iterator[CheckResult]:
    """Device, memory, disk, the form of the state folder, and audit log.

    Args:
        asked: whether a coordinator asked for `plan`; else it is an example.
    """
    try:
        device = resolve_device(config.device)
    except FdfedError as err:
        yield problem("device", str(err), "set device in site.toml", exit_code=err.exit_code)
    else:
        yield _device(config, device)
        yield _memory(device, plan, asked=asked)
    yield _disk(config.state)
    yield _state(config.state)
    yield _audit(config.state)


def needed_bytes(plan: RunPlan) -> int:
    """An estimate of the memory that a training step of the plan takes, in bytes.

        4 · parameters + 2 · Σ outputs of the layers for one batch + 1 GiB

    by a pass over shapes alone. Convolutions may take workspace beyond it.
    """
    outputs = 0

    def count(_: nn.Module, __: Any, output: Any) -> None:
        nonlocal outputs
        if isinstance(output, Tensor):
            outputs += output.numel() * output.element_size()

    with torch.device("meta"), torch.no_grad():
        network = initial_network(plan)
        for module in network.modules():
            if not list(module.children()):
                module.register_forward_hook(count)
        side = plan.input_size
        network(torch.empty(plan.batch_size, plan.in_channels, side, side))
    parameters = sum(p.numel() * p.element_size() for p in network.parameters())
    return _OPTIMISER_COPIES * parameters + _ACTIVATION_COPIES * outputs + _RUNTIME_BYTES


def free_bytes(device: torch.device) -> int | None:
    """Memory that is free on the device, in bytes; None where that is not known."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return None
    found = [line.split()[1] for line in lines if line.startswith("MemAvailable:")]
    return 1024 * int(found[0]) if found else None


def _device(config: SiteConfig, device: torch.device) -> CheckResult:
    if device.type == "cuda":
        return ok("device", torch.cuda.get_device_name(device))
    remedy = (
        ""
        if config.device == "cpu"
        else "training takes far longer than on a GPU; nvidia-smi "
        "tells whether there is one, and PyTorch must be a CUDA build"
    )
    return note("device", f"no GPU is used; {torch.get_num_threads()} CPU thread(s)", remedy)


def _memory(device: torch.device, plan: RunPlan, *, asked: bool) -> CheckResult:
    what = f"{plan.network}, batch {plan.batch_size}, {plan.input_size} px"
    what += "" if asked else " (an example: no plan has come yet)"
    try:
        needed = needed_bytes(plan)
    except (FdfedError, RuntimeError, NotImplementedError) as err:
        return note("memory", f"cannot be estimated for {what} ({type(err).__name__})")
    free = free_bytes(device)
    found = f"{needed / _GIB:.1f} GiB for {what}"
    if free is None:
        return note("memory", found)
    found += f"; {free / _GIB:.1f} GiB are free"
    if needed > free:
        return problem(
            "memory",
            found,
            "free memory, or ask for a plan with a smaller batch, size or width",
            exit_code=2,
        )
    return ok("memory", found)


def _disk(state: Path) -> CheckResult:
    there = next(folder for folder in (state, *state.resolve().parents) if folder.is_dir())
    free = shutil.disk_usage(there).free
    found = f"{free / _GIB:.0f} GiB are free for {state}"
    if free < _LEAST_DISK:
        return problem(
            "disk",
            f"{free / _GIB:.2f} GiB are free for {state}",
            "free some, or set state in site.toml to another disk: without room for the audit log "
            "nothing is sent",
            exit_code=2,
        )
    if free < _GOOD_DISK:
        return warning("disk", found, "checkpoints of a large network take several GiB")
    return ok("disk", found)


def _state(state: Path) -> CheckResult:
    try:
        number = AGENT.check(state)
    except InvalidInput as err:
        return problem(
            "state",
            str(err),
            "the agent does not start on a state that it could only take backwards",
            exit_code=err.exit_code,
        )
    return ok("state", f"format {number}, which this version reads")


def _audit(state: Path) -> CheckResult:
    log = LogFiles(state / "audit.log")
    if not log.all() and not log.head.exists():
        return note("audit log", "none yet; the agent begins it")
    verdict = verify_tail(log)
    if not verdict.sound:
        return problem(
            "audit log",
            f"not as it was written: {verdict.findings[0]}",
            "the agent sends nothing until this is cleared up: fdfed audit verify shows all of it",
            exit_code=5,
        )
    return ok("audit log", f"sound; ends with the hash {verdict.head[:16]}…")
