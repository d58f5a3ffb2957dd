"""Prints what the discrepancy loss costs: a training step with it over one without.

    python tests/benchmarks/bench_loss.py [--networks unet,cmunet] [--sizes 128,256] [--width 32]
                                          [--batch 4] [--repeats 7] [--device auto]

A step is forward pass, backward pass and AdamW. `seg` has L_seg alone; `fd` adds L_fd at every tap
with α > 0 (and forms the prototypes that an exchange would send). Both take turns, on one network
and one batch; `ratio` is that of their medians, `fastest` that of the fastest step of each, which
other programs on the machine touch least. On a CPU the clock is the processor time of
one thread, which other programs on the machine lengthen less than wall time; `spread` is the
middle half of the `seg` steps over their median, so a ratio within it means nothing. On a GPU the
clock is the GPU's own, from before a step's first kernel to after its last.

`memory` is the extra peak: each kind of step runs in a process of its own, and the peak of resident
memory above what the process held before its first step is compared (on a GPU, in this process, the
peak of allocated memory).
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from fdfed.config import RunPlan
from fdfed.errors import InvalidInput
from fdfed.training.device import resolve_device
from fdfed.training.initialise import initial_network
from fdfed.training.local_round import make_optimizer
from fdfed.training.step import step_losses

KINDS = ("seg", "fd")
WARM_UP = {"cpu": 1, "cuda": 5}
"""Steps of each kind before the first that counts; on a GPU they load kernels and fill caches."""


def steps_of(plan: RunPlan, device: torch.device) -> dict[str, Callable[[], None]]:
    """One training step of each kind, on the same network, optimiser and batch."""
    network = initial_network(plan).to(device).train()
    network.to(memory_format=torch.channels_last)
    optimizer = make_optimizer(network, plan)
    rng = torch.Generator().manual_seed(0)
    image = torch.rand(plan.batch_size, 3, plan.size, plan.size, generator=rng).to(device)
    mask = torch.zeros_like(image[:, :1])
    quarter = plan.size // 4
    mask[:, :, quarter : 3 * quarter, quarter : 2 * quarter] = 1
    alpha = np.full(len(network.tap_names), 0.01)

    def step(kind: str) -> None:
        optimizer.zero_grad(set_to_none=True)
        losses = step_losses(
            network, image, mask, plan=plan, alpha=alpha if kind == "fd" else None, remote=None
        )
        losses.objective.backward()
        optimizer.step()

    return {kind: lambda kind=kind: step(kind) for kind in KINDS}


def seconds(step: Callable[[], None], device: torch.device) -> float:
    if device.type != "cuda":
        began = time.process_time()
        step()
        return time.process_time() - began
    began, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    began.record()
    step()
    ended.record()
    torch.cuda.synchronize()
    return began.elapsed_time(ended) / 1e3  # from milliseconds


def times(plan: RunPlan, device: torch.device, repeats: int) -> dict[str, list[float]]:
    steps = steps_of(plan, device)
    for _ in range(WARM_UP[device.type]):
        for step in steps.values():
            step()
    measured: dict[str, list[float]] = {kind: [] for kind in KINDS}
    for turn in range(repeats):
        # The first of a pair finds another cache than the second; so the order alternates.
        for kind in KINDS if turn % 2 else KINDS[::-1]:
            measured[kind].append(seconds(steps[kind], device))
    return measured


def peak_bytes(plan: RunPlan, device: torch.device, kind: str) -> int:
    """Of three steps in this process, above what it holds before them."""
    step = steps_of(plan, device)[kind]
    if device.type == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
    else:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
        before = pages * resource.getpagesize()
    for _ in range(3):
        step()
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated() - before
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before


def peak_in_process(plan: RunPlan, device: torch.device, kind: str) -> int:
    # Freed blocks go back at once, so that the peak is of what is held and not of what was.
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "0"}
    command = [sys.executable, __file__, "--peak-of", kind, "--device", device.type]
    answer = subprocess.run(
        [*command, "--plan", plan.to_json()],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    return int(json.loads(answer.stdout.splitlines()[-1]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--networks", default="unet,cmunet")
    parser.add_argument("--sizes", default="128,256")
    parser.add_argument("--width", type=int, default=32)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--device", default="auto", choices=["auto", "cpu", "cuda"])
    parser.add_argument("--peak-of", choices=KINDS, help=argparse.SUPPRESS)
    parser.add_argument("--plan", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    try:
        device = resolve_device(arguments.device)
    except InvalidInput as err:
        parser.error(str(err))
    if arguments.peak_of:
        print(peak_bytes(RunPlan.from_json(arguments.plan), device, arguments.peak_of))
        return

    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    name = torch.cuda.get_device_name() if device.type == "cuda" else "CPU"
    print(
        f"{name}, torch {torch.__version__}, one thread, {os.cpu_count()} processors, load {load}"
    )
    print(f"width {arguments.width}, batch {arguments.batch}, {arguments.repeats} steps of each\n")
    print("network   size    seg ms     fd ms   ratio  spread  fastest   memory")
    for network in arguments.networks.split(","):
        for size in map(int, arguments.sizes.split(",")):
            plan = RunPlan(
                network=network, width=arguments.width, size=size, batch_size=arguments.batch
            )
            measured = times(plan, device, arguments.repeats)
            seg, fd = (statistics.median(measured[kind]) for kind in KINDS)
            quarters = statistics.quantiles(measured["seg"], n=4)
            # A GPU's allocator knows what each step holds; a process's resident memory does not.
            peak = peak_bytes if device.type == "cuda" else peak_in_process
            peaks = [peak(plan, device, kind) for kind in KINDS]
            fastest = min(measured["fd"]) / min(measured["seg"])
            print(
                f"{network:8s} {size:5d} {1e3 * seg:9.1f} {1e3 * fd:9.1f} {fd / seg:7.3f} "
                f"{(quarters[2] - quarters[0]) / seg:7.3f} "
                f"{fastest:8.3f} {peaks[1] / peaks[0] - 1:+8.1%}",
                flush=True,
            )


if __name__ == "__main__":
    main()
