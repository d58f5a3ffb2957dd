"""Prints how long a swap takes, where its time goes, and what the hub carries.

    python tests/benchmarks/bench_exchange.py [--swaps 500] [--repeats 3]

The frames are those of the full-width CMUNet and U-Net (nine taps, 5,888 numbers, 23.6 kB each way
in fp32). Four tables:

1. a swap of two sites, each a process, over mutual TLS on loopback: with neither layer, sealed,
   sealed and blinded. Medians over repeats that take turns, and the ratio to the first;
2. where the time of such a swap goes, each part by itself in processor time; the rest is the wire;
3. what the hub carries from simulated sites that go ahead by two steps: frames a second by the
   clock, its own processor time a frame, and its memory on the way;
4. the hub's processor time a frame, by the number of sites, and the share of the pair matrix.

Ratios and processor times hold on a busy machine, milliseconds only on an idle one; three processes
want a core each.
"""

from __future__ import annotations

import argparse
import logging
import multiprocessing as mp
import os
import resource
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from itertools import count
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from fdfed.exchange import (
    NO_SEALING,
    BlindedExchange,
    BlindingSecret,
    CotangentFrame,
    Exchange,
    ExchangeStats,
    HpkePrivateKey,
    HpkePublicKey,
    HpkeSuite,
    PrototypeFrame,
    StepKey,
    TapLayout,
    accept_session,
    new_challenge,
    open_session,
)
from fdfed.exchange import exchange_pb2 as pb
from fdfed_client.exchange import ExchangeStream
from fdfed_client.exchange_identity import SiteIdentity
from fdfed_server.exchange_service import ExchangeService
from fdfed_server.hub import ExchangeHub
from fdfed_server.provision import provision
from fdfed_server.terms import cross_site_terms

SITES = ("first", "second")
WARM_UP = 50
AHEAD = 2
"""Steps that a simulated site of the load goes ahead."""
LAYOUT = TapLayout(
    tuple(f"tap{index}" for index in range(9)), (64, 128, 256, 512, 1024, 512, 256, 128, 64)
)


def train(
    site: str,
    folder: Path,
    address: str,
    swaps: int,
    *,
    sealed: bool,
    blinded: bool,
    results: mp.Queue[list[float]],
) -> None:
    torch.set_num_threads(1)
    mine = folder / "sites" / site
    identity = SiteIdentity(
        certificate=(mine / "site.pem").read_bytes(),
        key=(mine / "site.key").read_bytes(),
        ca_certificate=(mine / "ca.pem").read_bytes(),
        server_hpke_key=HpkePublicKey.read(mine / "server-hpke.pub") if sealed else NO_SEALING,
    )
    exchange: Exchange = ExchangeStream(address, identity, reply_seconds=30.0)
    if blinded:
        exchange = BlindedExchange(exchange, BlindingSecret.known_to_all(0), LAYOUT)
    rng = np.random.default_rng(len(site))
    vector = rng.uniform(size=LAYOUT.size).astype(np.float32)
    valid = np.ones(LAYOUT.taps, np.bool_)
    seconds = []
    for step in range(WARM_UP + swaps):
        frame = PrototypeFrame(StepKey("bench", 1, 0, step), vector, valid)
        start = time.perf_counter()
        if exchange.swap(frame) is None:
            raise RuntimeError(f"step {step} was dropped")
        seconds.append(time.perf_counter() - start)
    results.put([float(s) * 1e3 for s in np.percentile(seconds[WARM_UP:], (50, 99))])
    exchange.close()


def serve(
    folder: Path, hub: ExchangeHub, sites: tuple[str, ...], *, sealed: bool
) -> ExchangeService:
    server = folder / "server"
    service = ExchangeService(
        hub,
        address="localhost:0",
        sites=sites,
        server_certificate=(server / "server.pem").read_bytes(),
        server_key=(server / "server.key").read_bytes(),
        ca_certificate=(server / "ca.pem").read_bytes(),
        hpke_key=HpkePrivateKey.read(server / "hpke.key") if sealed else NO_SEALING,
    )
    service.start()
    return service


def open_round(hub: ExchangeHub, sites: tuple[str, ...], *, steps: int, late: int = 0) -> None:
    hub.open_round(
        "bench", 1, 0, sites=sites, layout=LAYOUT, steps=steps, deadline_seconds=120.0,
        max_missed_steps=3, max_staleness=late,
    )  # fmt: skip


def measure(folder: Path, *, sealed: bool, blinded: bool, swaps: int) -> list[list[float]]:
    """(p50, p99) in milliseconds of both sites."""
    hub = ExchangeHub(cross_site_terms)
    service = serve(folder, hub, SITES, sealed=sealed)
    open_round(hub, SITES, steps=WARM_UP + swaps)
    # A fork would take gRPC's threads with it.
    context = mp.get_context("spawn")
    results = context.Queue()
    address = f"localhost:{service.port}"
    processes = [
        context.Process(
            target=train,
            args=(site, folder, address, swaps),
            kwargs={"sealed": sealed, "blinded": blinded, "results": results},
        )
        for site in SITES
    ]
    for process in processes:
        process.start()
    waits = [results.get(timeout=600) for _ in processes]
    for process in processes:
        process.join()
    hub.close()
    service.stop(grace=0)
    return waits


def print_swaps(swaps: int, repeats: int) -> float:
    """Prints the first table; the p50 with both layers, in milliseconds."""
    layers = {
        "neither": {"sealed": False, "blinded": False},
        "sealed": {"sealed": True, "blinded": False},
        "sealed, blinded": {"sealed": True, "blinded": True},
    }
    found: dict[str, list[list[float]]] = {name: [] for name in layers}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "federation"
        provision(SITES, folder)
        for _ in range(repeats):
            for name, options in layers.items():
                found[name] += measure(folder, swaps=swaps, **options)
    print(f"{'layers':18}{'p50 ms':>9}{'p99 ms':>9}{'p50 ratio':>11}{'p99 ratio':>11}")
    plain = np.median(found["neither"], axis=0)
    for name, waits in found.items():
        p50, p99 = np.median(waits, axis=0)
        print(f"{name:18}{p50:9.2f}{p99:9.2f}{p50 / plain[0]:11.2f}{p99 / plain[1]:11.2f}")
    return float(np.median(found["sealed, blinded"], axis=0)[0])


class Echo:
    """An exchange without a hub: what blinding takes by itself."""

    def swap(self, frame: PrototypeFrame) -> CotangentFrame:
        nothing = np.zeros(LAYOUT.taps)
        # Of these prototypes less their own mirror: what a hub could answer.
        half = frame.vector.size // 2
        difference = frame.vector[:half] - frame.vector[half:]
        vector = np.concatenate([difference, -difference])
        return CotangentFrame(frame.key, vector, nothing, nothing, 1)

    def take_stats(self) -> ExchangeStats:
        return ExchangeStats()

    def close(self) -> None: ...


def print_parts(p50: float) -> None:
    """Prints the second table: what lies one after the other in a swap of two sites."""
    rng = np.random.default_rng(0)
    vector, valid = rng.uniform(size=LAYOUT.size).astype(np.float32), np.ones(LAYOUT.taps, np.bool_)
    frames = (PrototypeFrame(StepKey("bench", 1, 0, n), vector, valid) for n in count())
    frame = next(frames)
    blinded = BlindedExchange(Echo(), BlindingSecret.known_to_all(0), LAYOUT)
    content = bytes(4 * LAYOUT.size)
    key = HpkePrivateKey.generate()
    challenge = new_challenge()
    site, hello = open_session(key.public, site="first", challenge=challenge)
    hub = accept_session(key, site="first", challenge=challenge, hello=hello)
    answer = CotangentFrame(frame.key, vector, np.zeros(LAYOUT.taps), np.zeros(LAYOUT.taps), 1)
    vectors = rng.normal(size=(2, LAYOUT.size))
    parts = {
        # Up and down: sealed and opened twice.
        "crypto": 2 * processor_us(lambda: hub.unseal(site.seal(content))),
        "blinding": processor_us(lambda: blinded.swap(next(frames))),
        # The hub reads both sites' frames before it can answer, and writes both answers.
        "framing": processor_us(lambda: PrototypeFrame.from_proto(frame.to_proto())) * 1.5
        + processor_us(lambda: CotangentFrame.from_proto(answer.to_proto())) * 1.5,
        "terms": processor_us(
            lambda: cross_site_terms(LAYOUT, vectors, np.ones((2, LAYOUT.taps), np.bool_))
        ),
    }
    print(f"\n{'part of a swap':18}{'µs':>9}{'share':>9}")
    rest = 1e3 * p50 - sum(parts.values())
    for name, spent in (parts | {"wire and waiting": rest}).items():
        print(f"{name:18}{spent:9.0f}{spent / (1e3 * p50):9.0%}")


def simulate(
    folder: Path, address: str, sites: tuple[str, ...], steps: int, done: mp.Queue[int]
) -> None:
    """A process of simulated sites, a thread each."""

    def run(site: str) -> None:
        mine = folder / "sites" / site
        identity = SiteIdentity(
            certificate=(mine / "site.pem").read_bytes(),
            key=(mine / "site.key").read_bytes(),
            ca_certificate=(mine / "ca.pem").read_bytes(),
            server_hpke_key=HpkePublicKey.read(mine / "server-hpke.pub"),
        )
        exchange = ExchangeStream(
            address, identity, reply_seconds=300.0, connect_seconds=60.0, max_staleness=AHEAD
        )
        vector = np.random.default_rng(0).uniform(size=LAYOUT.size).astype(np.float32)
        valid = np.ones(LAYOUT.taps, np.bool_)
        exchange.connect()
        for step in range(steps):
            exchange.swap(PrototypeFrame(StepKey("bench", 1, 0, step), vector, valid))
        done.put(exchange.take_stats().answered)
        exchange.close()

    threads = [threading.Thread(target=run, args=(site,)) for site in sites]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def resident_mb() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20


def print_load(sites: int, steps: int) -> None:
    """Prints the third table."""
    names = tuple(f"site{number}" for number in range(sites))
    with tempfile.TemporaryDirectory() as folder_name:
        folder = Path(folder_name) / "federation"
        provision(names, folder)
        hub = ExchangeHub(cross_site_terms)
        service = serve(folder, hub, names, sealed=True)
        open_round(hub, names, steps=steps, late=AHEAD)
        context = mp.get_context("spawn")
        done = context.Queue()
        process = context.Process(
            target=simulate, args=(folder, f"localhost:{service.port}", names, steps, done)
        )
        process.start()
        while hub.snapshot().frames_out < sites * steps // 10:
            time.sleep(0.02)
        marks = [(time.perf_counter(), time.process_time(), hub.snapshot().frames_out)]
        memory = [resident_mb()]
        for quarter in (4, 6, 8, 10):
            while hub.snapshot().frames_out < sites * steps * quarter // 10:
                time.sleep(0.02)
            memory.append(resident_mb())
        marks.append((time.perf_counter(), time.process_time(), hub.snapshot().frames_out))
        answered = [done.get(timeout=300) for _ in names]
        process.join()
        hub.close()
        service.stop(grace=0)
    (wall, cpu, frames) = (end - start for start, end in zip(*marks, strict=True))
    print(f"\n{sites} simulated sites, {sum(answered)} of {sites * steps} steps answered")
    print(f"{'frames/s by the clock':40}{frames / wall:9.0f}")
    print(f"{'hub: processor µs a frame':40}{1e6 * cpu / frames:9.0f}")
    print(f"{'hub: frames/s on one core of its own':40}{frames / cpu:9.0f}")
    print(f"{'hub: MiB on the way':40}" + " ".join(f"{mb:9.1f}" for mb in memory))


def print_sites() -> None:
    """Prints the fourth table."""
    print(f"\n{'sites':>6}{'µs a frame':>12}{'pair matrix':>13}{'the rest':>10}")
    for sites in (2, 10, 50, 200):
        rng = np.random.default_rng(0)
        vectors = rng.normal(size=(sites, LAYOUT.size))
        names = tuple(f"site{number}" for number in range(sites))
        frames = [vector.astype(np.float32) for vector in vectors]
        valid = np.ones(LAYOUT.taps, np.bool_)
        hub = ExchangeHub(cross_site_terms)
        open_round(hub, names, steps=10_000)
        steps = count()

        def one_step(
            names: tuple[str, ...] = names, frames: list[NDArray[np.float32]] = frames,
            hub: ExchangeHub = hub, steps: Iterator[int] = steps, valid: NDArray[np.bool_] = valid,
        ) -> None:  # fmt: skip
            step = next(steps)
            for name, vector in zip(names, frames, strict=True):
                frame = PrototypeFrame(StepKey("bench", 1, 0, step), vector, valid)
                last = hub.submit(name, PrototypeFrame.from_proto(frame.to_proto()))
            last.result(0)

        repeats = max(10, 400 // sites)
        whole = processor_us(one_step, repeats) / sites
        pairs = processor_us(partial(pair_products, vectors), repeats) / sites
        hub.close()
        print(f"{sites:6}{whole:12.1f}{pairs:13.1f}{whole - pairs:10.1f}")


def pair_products(vectors: NDArray[np.float64]) -> None:
    """What alone grows with the square of the sites: the products of S x S matrices, tap by tap."""
    F, B = LAYOUT.split(vectors)
    for name in LAYOUT.names:
        inner = F[name] @ B[name].T
        _ = inner @ B[name], inner.T @ F[name]


def processor_us(function: Callable[[], object], repeats: int = 300) -> float:
    """Median processor time of this thread, in microseconds: what a busy machine changes least."""
    seconds = []
    for _ in range(repeats):
        start = time.thread_time()
        function()
        seconds.append(time.thread_time() - start)
    return float(np.median(seconds)) * 1e6


def print_sealing() -> None:
    """Time of the parts: the opening of a stream, by suite, and one frame's way."""
    print(f"\n{'sealing':34}{'median µs':>11}")
    challenge, content = new_challenge(), bytes(4 * LAYOUT.size)
    for suite in HpkeSuite:
        key = HpkePrivateKey.generate(suite)
        opened = partial(open_session, key.public, site="first", challenge=challenge)
        site, hello = opened()
        accepted = partial(accept_session, key, site="first", challenge=challenge, hello=hello)
        hub = accepted()
        print(f"{f'opening at the site, {suite.value}':34}{processor_us(opened):11.1f}")
        print(f"{f'opening at the hub, {suite.value}':34}{processor_us(accepted):11.1f}")
    frames: list[pb.Sealed] = []
    sealing = processor_us(lambda: frames.append(site.seal(content)))
    waiting = iter(frames)
    unsealing = processor_us(lambda: hub.unseal(next(waiting)))
    print(f"{'seal a frame of 23.6 kB':34}{sealing:11.1f}\n{'unseal it':34}{unsealing:11.1f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--swaps", type=int, default=500)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--sites", type=int, default=8, help="simulated sites of the load")
    parser.add_argument("--steps", type=int, default=500, help="steps of each of them")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    # The service warns, rightly, when it is told not to seal.
    logging.getLogger("fdfed_server").setLevel(logging.ERROR)
    print(f"load of the machine: {os.getloadavg()[0]:.1f} on {os.cpu_count()} processors\n")
    print_parts(print_swaps(arguments.swaps, arguments.repeats))
    print_load(arguments.sites, arguments.steps)
    print_sites()
    print_sealing()


if __name__ == "__main__":
    main()
