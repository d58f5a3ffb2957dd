"""Prints the resident memory that a site's training takes at most, on the CPU, for a network of the
paper's width.

    python -m tests.benchmarks.bench_step_memory [--network cmunet] [--size 256] [--batch 8]
                                                 [--steps 2]

A round as the agent trains it, with L_fd at every tap and AdamW, on noise that lies ready; the
exchange adds vectors of a few kilobytes, and is left out. The second step has the optimiser's state
beside the activations of the first. Run it alone in its process: the peak is the process's.
"""

from __future__ import annotations

import argparse
import os
import platform
import resource
import time

import numpy as np
import torch
from torch import Tensor

from fdfed.config import RunPlan
from fdfed.training.initialise import initial_network
from fdfed.training.local_round import LocalRound, train_round_


class Noise:
    """Images that nobody has to read; half of each is foreground."""

    def __init__(self, plan: RunPlan) -> None:
        generator = torch.Generator().manual_seed(0)
        shape = (plan.batch_size, 3, plan.size, plan.size)
        self._image = torch.rand(shape, generator=generator)
        self._mask = torch.zeros(plan.batch_size, 1, plan.size, plan.size)
        self._mask[..., : plan.size // 2] = 1.0

    def training_batch(self, global_step: int) -> tuple[Tensor, Tensor]:
        return self._image, self._mask

    def training_patients(self, global_step: int) -> tuple[str, ...]:
        raise AssertionError("nothing is exchanged")


def peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--network", default="cmunet")
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--steps", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    plan = RunPlan(
        sites=("one", "two"), network=arguments.network, width=None, size=arguments.size,
        batch_size=arguments.batch, steps_per_round=arguments.steps, rounds=1, warm_start=False,
        loss="fd",
    )  # fmt: skip
    before = peak_mib()
    network = initial_network(plan)
    parameters = sum(parameter.numel() for parameter in network.parameters())
    taps = len(network.tap_names)
    data, began = Noise(plan), time.perf_counter()
    request = LocalRound(
        plan=plan, run_id="bench", server_round=1, attempt=1, alpha=np.full(taps, 0.1)
    )
    reached: list[float] = []
    done = train_round_(network, data, request, on_step=lambda _: reached.append(peak_mib()))
    assert np.isfinite(done.means.loss_seg())
    print(
        f"{platform.machine()}, torch {torch.__version__}, load {os.getloadavg()[0]:.1f}; "
        f"{arguments.network} ({parameters / 1e6:.1f} M parameters, {taps} taps), "
        f"{arguments.size} px, batch {arguments.batch}"
    )
    print(f"before the network is made: {before:.0f} MiB")
    for step, peak in enumerate(reached, start=1):
        print(f"peak up to step {step}: {peak:.0f} MiB")
    print(f"{(time.perf_counter() - began) / arguments.steps:.0f} s a step")


if __name__ == "__main__":
    main()
