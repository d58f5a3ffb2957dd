"""Prints what watching costs: an agent's metrics and console, over a training step.

    python tests/benchmarks/bench_watching.py [--size 128] [--width 32] [--batch 4] [--steps 9]

Per step the agent counts it, notes the wait for its cotangents, and tells its console; per round it
adds up the audit log and the scores. Both are measured in processor time, many times over, beside
steps of the training that they watch; a scrape by Prometheus and a look at the page are measured by
themselves, since they come once in seconds whatever the training does.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch
from prometheus_client import generate_latest

from fdfed.config import RunPlan
from fdfed.exchange import ExchangeStats
from fdfed.process.metrics import process_registry
from fdfed.training.initialise import initial_network
from fdfed.training.local_round import make_optimizer
from fdfed.training.step import step_losses
from fdfed.wire import TrainResult
from fdfed_client.console import AgentBoard
from fdfed_client.metrics import AgentMetrics
from fdfed_client.watching import Watchers

CALLS = 20_000
STEPS_PER_ROUND = 10
LINES_PER_ROUND = 8
"""What the audit log says of a round: instructions, replies, frames begun and ended."""


def training_step(plan: RunPlan) -> float:
    """Median processor seconds of a step with L_fd at all taps, on one thread."""
    network = initial_network(plan).train().to(memory_format=torch.channels_last)
    optimizer = make_optimizer(network, plan)
    image = torch.rand(plan.batch_size, 3, plan.size, plan.size)
    mask = torch.zeros_like(image[:, :1])
    mask[..., plan.size // 4 :, plan.size // 4 :] = 1
    alpha = np.full(len(network.tap_names), 0.01)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        losses = step_losses(network, image, mask, plan=plan, alpha=alpha, remote=None)
        losses.objective.backward()
        optimizer.step()

    step()
    return statistics.median(seconds(step) for _ in range(plan.steps_per_round))


def seconds(work: Callable[[], object]) -> float:
    began = time.process_time()
    work()
    return time.process_time() - began


def per_call(work: Callable[[], object], calls: int = CALLS) -> float:
    def many() -> None:
        for _ in range(calls):
            work()

    return seconds(many) / calls


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    for name, default in (("size", 128), ("width", 32), ("batch", 4), ("steps", 9)):
        parser.add_argument(f"--{name}", type=int, default=default)
    given = parser.parse_args()
    torch.set_num_threads(1)
    plan = RunPlan(
        sites=("a", "b"), size=given.size, width=given.width, batch_size=given.batch,
        steps_per_round=given.steps,
    )  # fmt: skip
    registry = process_registry()
    watchers = Watchers(AgentMetrics(registry, site="a"), AgentBoard("a"))
    taps = initial_network(plan).tap_names

    class Site:
        plan: RunPlan
        alpha = tuple(0.01 for _ in taps)

        class network:  # noqa: N801 - stands for the site's network, of which the taps are read
            tap_names = taps

    Site.plan = plan
    known = np.zeros(len(taps))
    result = TrainResult(
        run_id="r", server_round=1, attempt=1, num_examples=1, loss_seg=0.5, seconds=1.0,
        alpha=known, fd=known, exch=known, valid=known, exchange=ExchangeStats(), weights={},
    )  # fmt: skip
    line = {"time": "2026-01-01T00:00:00+00:00", "direction": "out", "kind": "trained", "bytes": 9}

    def step() -> None:
        watchers.step_done(1, 1, STEPS_PER_ROUND)
        watchers.metrics.swapped(0.002)

    training = training_step(plan)
    each = per_call(step)
    each += (
        per_call(lambda: watchers.noted(line), 2000) * LINES_PER_ROUND
        + per_call(lambda: watchers.answered(Site(), result), 2000)  # type: ignore[arg-type]
    ) / STEPS_PER_ROUND
    print(f"training step     {training * 1e3:9.2f} ms")
    print(f"watching a step   {each * 1e3:9.4f} ms   {each / training:.4%} of it")
    print(f"one scrape        {per_call(lambda: generate_latest(registry), 50) * 1e3:9.2f} ms")
    print(f"one page's data   {per_call(watchers.board.snapshot, 50) * 1e3:9.2f} ms")


if __name__ == "__main__":
    main()
