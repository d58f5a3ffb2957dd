"""Prints how long a swap takes: two sites, each a process, over mutual TLS on loopback.

    python tests/benchmarks/bench_exchange.py [--swaps 1000] [--repeats 3]

The frames are those of the full-width U-Net (nine taps, 5,888 numbers, 23.6 kB each way in fp32).
The first table separates the way through gRPC, the barrier and back (`wire`: the hub computes
nothing) from the whole (`paper`: Eq. 4 in fp64), each with and without sealing. The second is what
sealing takes by itself, the third the computation alone, by the number of sites. Run it on an idle
machine; three processes want a core each.
"""

from __future__ import annotations

import argparse
import logging
import multiprocessing as mp
import tempfile
import time
from collections.abc import Callable
from functools import partial
from itertools import product
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from fdfed.exchange import (
    NO_SEALING,
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
from fdfed_server.terms import Terms, cross_site_terms

SITES = ("first", "second")
WARM_UP = 50
LAYOUT = TapLayout(
    tuple(f"tap{index}" for index in range(9)), (64, 128, 256, 512, 1024, 512, 256, 128, 64)
)


def no_terms(layout: TapLayout, vectors: NDArray[np.float64], valid: NDArray[np.bool_]) -> Terms:
    return Terms(np.zeros(layout.taps), np.zeros(valid.shape), vectors)


def train(
    site: str,
    folder: Path,
    address: str,
    swaps: int,
    *,
    sealed: bool,
    results: mp.Queue[ExchangeStats],
) -> None:
    mine = folder / "sites" / site
    identity = SiteIdentity(
        certificate=(mine / "site.pem").read_bytes(),
        key=(mine / "site.key").read_bytes(),
        ca_certificate=(mine / "ca.pem").read_bytes(),
        server_hpke_key=HpkePublicKey.read(mine / "server-hpke.pub") if sealed else NO_SEALING,
    )
    exchange = ExchangeStream(address, identity, reply_seconds=30.0)
    rng = np.random.default_rng(len(site))
    vector = rng.normal(size=LAYOUT.size).astype(np.float32)
    valid = np.ones(LAYOUT.taps, np.bool_)
    for step in range(WARM_UP + swaps):
        if step == WARM_UP:
            exchange.take_stats()
        exchange.swap(PrototypeFrame(StepKey("bench", 1, 0, step), vector, valid))
    results.put(exchange.take_stats())
    exchange.close()


def measure(folder: Path, *, terms: str, sealed: bool, swaps: int) -> list[ExchangeStats]:
    """Both sites' statistics of one round."""
    hub = ExchangeHub(no_terms if terms == "wire" else cross_site_terms)
    server = folder / "server"
    service = ExchangeService(
        hub,
        address="localhost:0",
        sites=SITES,
        server_certificate=(server / "server.pem").read_bytes(),
        server_key=(server / "server.key").read_bytes(),
        ca_certificate=(server / "ca.pem").read_bytes(),
        hpke_key=HpkePrivateKey.read(server / "hpke.key") if sealed else NO_SEALING,
    )
    service.start()
    hub.open_round(
        "bench",
        1,
        0,
        sites=SITES,
        layout=LAYOUT,
        steps=WARM_UP + swaps,
        deadline_seconds=30.0,
        max_missed_steps=3,
    )
    # A fork would take gRPC's threads with it.
    context = mp.get_context("spawn")
    results = context.Queue()
    address = f"localhost:{service.port}"
    processes = [
        context.Process(
            target=train,
            args=(site, folder, address, swaps),
            kwargs={"sealed": sealed, "results": results},
        )
        for site in SITES
    ]
    for process in processes:
        process.start()
    stats = [results.get(timeout=120) for _ in processes]
    for process in processes:
        process.join()
    hub.close()
    service.stop(grace=0)
    return stats


def print_swaps(swaps: int, repeats: int) -> None:
    print(
        f"{'hub computes':14}{'sealed':>8}{'p50 ms':>9}"
        f"{'p99 ms':>9}{'answered':>10}{'bytes up':>10}{'down':>8}"
    )
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "federation"
        provision(SITES, folder)
        for _ in range(repeats):
            for terms, sealed in product(("wire", "paper"), (False, True)):
                stats = measure(folder, terms=terms, sealed=sealed, swaps=swaps)
                print(
                    f"{terms:14}{'yes' if sealed else 'no':>8}"
                    f"{max(s.swap_ms_p50 for s in stats):9.2f}"
                    f"{max(s.swap_ms_p99 for s in stats):9.2f}{stats[0].answered:10}"
                    f"{stats[0].bytes_up / swaps:10.0f}{stats[0].bytes_down / swaps:8.0f}"
                )


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
        print(f"{f'opening at the site, {suite.value}':34}{median_us(opened):11.1f}")
        print(f"{f'opening at the hub, {suite.value}':34}{median_us(accepted):11.1f}")
    frames: list[pb.Sealed] = []
    sealing = median_us(lambda: frames.append(site.seal(content)))
    waiting = iter(frames)
    unsealing = median_us(lambda: hub.unseal(next(waiting)))
    print(f"{'seal a frame of 23.6 kB':34}{sealing:11.1f}\n{'unseal it':34}{unsealing:11.1f}")


def median_us(function: Callable[[], object], repeats: int = 300) -> float:
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        function()
        seconds.append(time.perf_counter() - start)
    return float(np.median(seconds)) * 1e6


def print_terms() -> None:
    print(f"\n{'sites':>6}{'terms ms':>12}")
    for sites in (2, 3, 5, 10, 30, 100, 300, 1000):
        vectors = np.random.default_rng(0).normal(size=(sites, LAYOUT.size))
        valid = np.ones((sites, LAYOUT.taps), np.bool_)
        seconds = []
        for _ in range(max(2, 1000 // sites)):
            start = time.perf_counter()
            cross_site_terms(LAYOUT, vectors, valid)
            seconds.append(time.perf_counter() - start)
        print(f"{sites:6}{np.median(seconds) * 1e3:12.3f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--swaps", type=int, default=1000)
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    # The service warns, rightly, when it is told not to seal.
    logging.getLogger("fdfed_server").setLevel(logging.ERROR)
    print_swaps(arguments.swaps, arguments.repeats)
    print_sealing()
    print_terms()


if __name__ == "__main__":
    main()
