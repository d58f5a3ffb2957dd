"""Prints how fast a site's round trains, beside a bare loop and MONAI's trainer.

    python tests/benchmarks/bench_training.py [--network unet] [--sizes 64,128] [--width 16]
                                              [--batch 8] [--steps 8] [--repeats 7] [--device auto]
                                              [--as-it-comes]

Two tables, on phantoms:

1. phase 1, L_seg alone: a bare PyTorch loop over batches that lie ready in memory; MONAI's
   `SupervisedTrainer` over the same; a site's round, which draws and turns its own batches;
2. phase 2, with L_fd at every tap and the cross-site term: a bare loop that computes the same loss
   with cotangents that lie ready; a site's round with its exchange on loopback, sealed and blinded,
   and its metrics. The other site answers at once, from the hub's process.

All of it runs as an agent does, which keeps freed memory (`fdfed/process/kept_memory.py`);
`--as-it-comes` leaves that to the C library, as in somebody's own loop.

The loops take turns, a round of `steps` each, in alternating order, on one thread. Wall time, since
waiting counts; `ratio` is the median over repeats of the bare loop's time over the other's in the
same turn: 1 is as fast as the bare loop. `spread` is the middle half of those ratios.
"""

from __future__ import annotations

import argparse
import logging
import multiprocessing as mp
import os
import statistics
import tempfile
import threading
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import torch
from monai.engines.trainer import SupervisedTrainer
from prometheus_client import CollectorRegistry
from torch import Tensor

from fdfed.config import MethodPlan, RunPlan
from fdfed.data.planned import open_planned, write_planned_phantoms
from fdfed.exchange import (
    BlindedExchange,
    BlindingSecret,
    HpkePrivateKey,
    HpkePublicKey,
    PrototypeFrame,
    StepKey,
    padded_layout,
)
from fdfed.losses import feature_discrepancy_loss, segmentation_loss
from fdfed.networks import SegmentationNetwork
from fdfed.process.kept_memory import keep_freed_memory
from fdfed.prototypes import batch_prototypes, masked_prototypes
from fdfed.training.device import resolve_device
from fdfed.training.initialise import initial_network
from fdfed.training.local_round import LocalRound, make_optimizer, train_round_
from fdfed.training.step import layout_of
from fdfed_client.exchange import ExchangeStream
from fdfed_client.exchange_identity import SiteIdentity
from fdfed_client.metrics import AgentMetrics
from fdfed_server.exchange_service import ExchangeService
from fdfed_server.hub import ExchangeHub
from fdfed_server.provision import provision
from fdfed_server.terms import cross_site_terms

SITES = ("tnbc", "monuseg")
Loop = Callable[[], None]


def objective(
    network: SegmentationNetwork,
    image: Tensor,
    mask: Tensor,
    *,
    alpha: float | None,
    cotangents: dict[str, tuple[Tensor, Tensor]],
) -> Tensor:
    """The loss of a step, as somebody would write it without federation."""
    logits, taps = network.forward_with_taps(image)
    loss = segmentation_loss(logits, mask)
    if alpha is None:
        return loss
    for name, features in taps.items():
        foreground, background, valid = masked_prototypes(features, mask)
        loss = loss + alpha * feature_discrepancy_loss(foreground, background, valid)
        F, B, _ = batch_prototypes(foreground, background, valid)
        dF, dB = cotangents[name]
        loss = loss + alpha * ((F * dF).sum() + (B * dB).sum())
    return loss


def bare_loop(plan: RunPlan, batches: list[tuple[Tensor, Tensor]], *, alpha: float | None) -> Loop:
    network = initial_network(plan).to(batches[0][0].device).train()
    optimizer = make_optimizer(network, plan)
    device = batches[0][0].device
    cotangents = {
        name: (torch.zeros(channels, device=device), torch.zeros(channels, device=device))
        for name, channels in network.tap_channels.items()
    }

    def loop() -> None:
        total = torch.zeros((), device=device)
        for image, mask in batches:
            optimizer.zero_grad(set_to_none=True)
            loss = objective(network, image, mask, alpha=alpha, cotangents=cotangents)
            loss.backward()
            optimizer.step()
            total += loss.detach()
        total.item()

    return loop


def monai_loop(plan: RunPlan, batches: list[tuple[Tensor, Tensor]]) -> Loop:
    network = initial_network(plan).to(batches[0][0].device).train()
    optimizer = make_optimizer(network, plan)
    loader = [{"image": image, "label": mask} for image, mask in batches]

    def loop() -> None:
        SupervisedTrainer(
            device=batches[0][0].device,
            max_epochs=1,
            train_data_loader=loader,
            network=network,
            optimizer=optimizer,
            loss_function=segmentation_loss,
            optim_set_to_none=True,
            decollate=False,
        ).run()

    return loop


def site_loop(
    plan: RunPlan,
    folder: Path,
    device: torch.device,
    *,
    alpha: float | None = None,
    hub: HubProcess | None = None,
) -> Loop:
    """A site's rounds, one a call, as the agent trains them."""
    write_planned_phantoms(plan, SITES[0], folder)
    data = open_planned(plan, SITES[0], folder)
    network = initial_network(plan).to(device)
    weights = None if alpha is None else np.full(len(network.tap_names), alpha)
    metrics = AgentMetrics(CollectorRegistry(), site=SITES[0])
    numbers = iter(range(1, plan.rounds + 1))
    exchange = None
    if hub is not None:
        stream = ExchangeStream(
            hub.address, hub.identity(), reply_seconds=30.0, on_answer=metrics.swapped
        )
        stream.connect()
        exchange = BlindedExchange(stream, BlindingSecret.known_to_all(0), layout_of(network))
    state: dict[str, Tensor] = {}

    def loop() -> None:
        number = next(numbers)
        if hub is not None:
            hub.open_round(number)
        request = LocalRound(
            plan=plan,
            run_id="bench",
            server_round=number,
            attempt=1,
            alpha=weights,
            exchange=exchange,
        )
        done = train_round_(
            network,
            data,
            request,
            optimizer_state=state or None,
            on_step=lambda step: metrics.step_done(number, step, plan.steps_per_round),
        )
        if exchange is not None and done.means.answered != plan.steps_per_round:
            raise RuntimeError(f"{done.means.answered} of {plan.steps_per_round} terms came")
        done.means.loss_seg()
        state.update(done.optimizer_state)

    return loop


class HubProcess:
    """The hub in a process of its own, with the other site in it."""

    def __init__(self, plan: RunPlan, folder: Path) -> None:
        self._folder = folder
        context = mp.get_context("spawn")
        self._here, there = context.Pipe()
        self._process = context.Process(target=serve_hub, args=(plan, folder, there), daemon=True)
        self._process.start()
        self.address = f"localhost:{self._here.recv()}"

    def identity(self) -> SiteIdentity:
        mine = self._folder / "sites" / SITES[0]
        return SiteIdentity(
            certificate=(mine / "site.pem").read_bytes(),
            key=(mine / "site.key").read_bytes(),
            ca_certificate=(mine / "ca.pem").read_bytes(),
            server_hpke_key=HpkePublicKey.read(mine / "server-hpke.pub"),
        )

    def open_round(self, number: int) -> None:
        self._here.send(number)
        self._here.recv()

    def stop(self) -> None:
        self._here.send(0)
        self._process.join(10)


def serve_hub(plan: RunPlan, folder: Path, pipe: Connection) -> None:
    """Serves one round for each number that comes; 0 ends it."""
    torch.set_num_threads(1)
    logging.getLogger("fdfed_server").setLevel(logging.ERROR)
    layout = padded_layout(layout_of(initial_network(plan)))
    hub = ExchangeHub(cross_site_terms)
    server = folder / "server"
    service = ExchangeService(
        hub,
        address="localhost:0",
        sites=SITES,
        server_certificate=(server / "server.pem").read_bytes(),
        server_key=(server / "server.key").read_bytes(),
        ca_certificate=(server / "ca.pem").read_bytes(),
        hpke_key=HpkePrivateKey.read(server / "hpke.key"),
    )
    service.start()
    pipe.send(service.port)
    vector = np.random.default_rng(0).uniform(size=layout.size).astype(np.float32)

    def other_site(number: int) -> None:
        for step in range(plan.steps_per_round):
            valid = np.ones(layout.taps, np.bool_)
            hub.submit(
                SITES[1], PrototypeFrame(StepKey("bench", number, 1, step), vector, valid)
            ).result()

    thread = None
    while number := pipe.recv():
        if thread is not None:
            thread.join()
            hub.close_round()
        hub.open_round(
            "bench", number, 1, sites=SITES, layout=layout, steps=plan.steps_per_round,
            deadline_seconds=60.0, max_missed_steps=3,
        )  # fmt: skip
        thread = threading.Thread(target=other_site, args=(number,))
        thread.start()
        pipe.send(number)
    hub.close()
    service.stop(grace=0)


def turns(loops: dict[str, Loop], device: torch.device, repeats: int) -> dict[str, list[float]]:
    """Seconds of each loop in each turn."""
    measured: dict[str, list[float]] = {name: [] for name in loops}
    for loop in loops.values():
        loop()
    for turn in range(repeats):
        for name in list(loops) if turn % 2 else list(loops)[::-1]:
            began = time.perf_counter()
            loops[name]()
            if device.type == "cuda":
                torch.cuda.synchronize()
            measured[name].append(time.perf_counter() - began)
    return measured


def print_turns(plan: RunPlan, measured: dict[str, list[float]]) -> None:
    bare = measured["bare loop"]
    images = plan.steps_per_round * plan.batch_size
    for name, seconds in measured.items():
        ratios = [first / second for first, second in zip(bare, seconds, strict=True)]
        quarters = statistics.quantiles(ratios, n=4)
        print(
            f"{plan.size:5d}  {name:28s}{images / statistics.median(seconds):11.1f}"
            f"{statistics.median(ratios):8.3f}{quarters[2] - quarters[0]:8.3f}",
            flush=True,
        )


def compare(plan: RunPlan, device: torch.device, repeats: int) -> None:
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write_planned_phantoms(plan, SITES[0], folder)
        data = open_planned(plan, SITES[0], folder)
        batches = [
            (image.to(device), mask.to(device))
            for image, mask in map(data.training_batch, range(plan.steps_per_round))
        ]
        print_turns(
            plan,
            turns(
                {
                    "bare loop": bare_loop(plan, batches, alpha=None),
                    "MONAI's trainer": monai_loop(plan, batches),
                    "a site's round": site_loop(plan, folder, device),
                },
                device,
                repeats,
            ),
        )
        provision(SITES, folder / "federation")
        hub = HubProcess(plan, folder / "federation")
        try:
            print_turns(
                plan,
                turns(
                    {
                        "bare loop": bare_loop(plan, batches, alpha=0.01),
                        "a site's round with exchange": site_loop(
                            plan, folder, device, alpha=0.01, hub=hub
                        ),
                    },
                    device,
                    repeats,
                ),
            )
        finally:
            hub.stop()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--network", default="unet")
    parser.add_argument("--sizes", default="64,128")
    parser.add_argument("--width", type=int, default=16)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--device", default="auto", choices=["auto", "cpu", "cuda"])
    parser.add_argument("--as-it-comes", action="store_true", help="freed memory is not kept")
    given = parser.parse_args()
    kept = not given.as_it_comes and keep_freed_memory()
    torch.set_num_threads(1)
    device = resolve_device(given.device)
    name = torch.cuda.get_device_name() if device.type == "cuda" else "CPU, one thread"
    print(
        f"{name}, torch {torch.__version__}, {os.cpu_count()} processors, "
        f"load {os.getloadavg()[0]:.1f}"
    )
    print(
        f"{given.network}, width {given.width}, batch {given.batch}, {given.steps} steps a round; "
        f"freed memory is {'kept' if kept else 'returned'}\n"
    )
    print(" size  loop                           images/s   ratio  spread")
    for size in map(int, given.sizes.split(",")):
        plan = RunPlan(
            sites=SITES, network=given.network, width=given.width, size=size, phantoms=True,
            batch_size=given.batch, steps_per_round=given.steps, rounds=2 * given.repeats + 4,
            strategy="fdfed", loss="fd+exch", learning_rate_schedule="constant",
            # As the bare loop computes it.
            method=MethodPlan(bound="none"),
        )  # fmt: skip
        compare(plan, device, given.repeats)


if __name__ == "__main__":
    main()
