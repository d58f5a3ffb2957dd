"""Prints how long a swap takes: two sites, each a process, over mutual TLS on loopback.

    python tests/benchmarks/bench_exchange.py [--swaps 1000] [--repeats 3]

The frames are those of the full-width U-Net (nine taps, 5,888 numbers, 23.6 kB each way in fp32).
The first table separates the way through gRPC, the barrier and back (`wire`: the hub computes
nothing) from the whole (`paper`: Eq. 4 in fp64). The second one is the computation alone, by the
number of sites. Run it on an idle machine; three processes want a core each.
"""

from __future__ import annotations

import argparse
import multiprocessing as mp
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from fdfed.exchange import ExchangeStats, PrototypeFrame, StepKey, TapLayout
from fdfed_client.exchange import ExchangeStream
from fdfed_client.exchange_link import SiteIdentity
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
    site: str, folder: Path, address: str, swaps: int, results: mp.Queue[ExchangeStats]
) -> None:
    mine = folder / "sites" / site
    identity = SiteIdentity(
        certificate=(mine / "site.pem").read_bytes(),
        key=(mine / "site.key").read_bytes(),
        ca_certificate=(mine / "ca.pem").read_bytes(),
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


def measure(folder: Path, *, terms: str, swaps: int) -> list[ExchangeStats]:
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
        context.Process(target=train, args=(site, folder, address, swaps, results))
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
        f"{'hub computes':14}{'p50 ms':>9}{'p99 ms':>9}{'answered':>10}{'bytes up':>10}{'down':>8}"
    )
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "federation"
        provision(SITES, folder)
        for _ in range(repeats):
            for terms in ("wire", "paper"):
                stats = measure(folder, terms=terms, swaps=swaps)
                print(
                    f"{terms:14}{max(s.swap_ms_p50 for s in stats):9.2f}"
                    f"{max(s.swap_ms_p99 for s in stats):9.2f}{stats[0].answered:10}"
                    f"{stats[0].bytes_up / swaps:10.0f}{stats[0].bytes_down / swaps:8.0f}"
                )


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
    print_swaps(arguments.swaps, arguments.repeats)
    print_terms()


if __name__ == "__main__":
    main()
