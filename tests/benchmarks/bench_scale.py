"""Prints what the exchange hub takes from 2 to 1,000 simulated sites, and how that grows.

    python tests/benchmarks/bench_scale.py [--sites 2,10,100,1000] [--steps 20] [--minutes 0]
                                           [--channels 64,128,256,512,1024,512,256,128,64]

Each site is a stream of its own over mutual TLS, sealed as in a hospital; all of them live in one
process beside the hub's, in one event loop. Every site posts a step when it has the answer to the
one before, so that the hub is never idle for their sake: what is measured is what it carries.
`--minutes` goes on with the largest number for so long, and prints the hub's memory on the way.

`µs a frame` is processor time of the hub's process, terms and TLS included; a load process that
takes more than that itself is what the clock then shows, so that both are printed. `exponent` is b
of the fit cost of a step ~ sites^b over the rows with ten sites or more.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import multiprocessing as mp
import os
import platform
import resource
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import grpc
import numpy as np

from fdfed.exchange import (
    HpkePrivateKey,
    HpkePublicKey,
    PrototypeFrame,
    StepKey,
    TapLayout,
    open_session,
)
from fdfed.exchange import exchange_pb2 as pb
from fdfed.exchange import exchange_pb2_grpc as pb_grpc
from fdfed_server.exchange_service import ExchangeService
from fdfed_server.hub import ExchangeHub
from fdfed_server.provision import provision
from fdfed_server.terms import cross_site_terms

RUN = "scale"


def layout_of(channels: str) -> TapLayout:
    widths = tuple(map(int, channels.split(",")))
    return TapLayout(tuple(f"tap{index}" for index in range(len(widths))), widths)


async def _site(
    name: str,
    folder: Path,
    address: str,
    *,
    steps: int,
    layout: TapLayout,
    waits: list[float],
    on_open: Callable[[], None],
) -> None:
    mine = folder / "sites" / name
    credentials = grpc.ssl_channel_credentials(
        (mine / "ca.pem").read_bytes(), (mine / "site.key").read_bytes(),
        (mine / "site.pem").read_bytes(),
    )  # fmt: skip
    vector = np.random.default_rng(len(waits)).uniform(size=layout.size).astype(np.float32)
    valid = np.ones(layout.taps, np.bool_)
    # A connection of its own: gRPC would let all of a process share one.
    options = (("grpc.use_local_subchannel_pool", 1),)
    async with grpc.aio.secure_channel(address, credentials, options=options) as channel:
        call = pb_grpc.ExchangeStub(channel).Stream()  # type: ignore[no-untyped-call]
        challenge = (await call.read()).challenge.nonce
        session, hello = open_session(
            HpkePublicKey.read(mine / "server-hpke.pub"), site=name, challenge=challenge
        )
        await call.write(pb.SiteFrame(hello=hello))
        session.unseal((await call.read()).sealed)
        on_open()
        for step in range(steps):
            frame = PrototypeFrame(StepKey(RUN, 1, 1, step), vector, valid)
            content = pb.SiteContent(prototypes=frame.to_proto()).SerializeToString()
            began = time.perf_counter()
            await call.write(pb.SiteFrame(sealed=session.seal(content)))
            answer = pb.HubContent.FromString(session.unseal((await call.read()).sealed))
            if answer.WhichOneof("content") != "cotangents":
                raise RuntimeError(f"{name}, step {step}: {answer.refusal.code}")
            if step:
                waits.append(time.perf_counter() - began)
        await call.done_writing()


def load(
    folder: Path, address: str, told: mp.Queue[Any], *, sites: int, steps: int, layout: TapLayout
) -> None:
    """The process of the simulated sites; its processor time is told from the first step on."""
    waits: list[float] = []
    began: list[float] = []

    async def run() -> None:
        names = [f"site{number}" for number in range(sites)]
        tasks = [
            _site(
                name,
                folder,
                address,
                steps=steps,
                layout=layout,
                waits=waits,
                on_open=lambda: began.append(time.process_time()),
            )
            for name in names
        ]
        await asyncio.gather(*tasks)

    asyncio.run(run())
    p50, p99 = np.percentile(waits, (50, 99)) if waits else (0.0, 0.0)
    told.put((float(p50), float(p99), time.process_time() - began[-1]))


def resident_mib() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20


def measure(
    folder: Path, sites: int, steps: int, layout: TapLayout, minutes: float
) -> dict[str, float]:
    hub = ExchangeHub(cross_site_terms)
    server = folder / "server"
    names = tuple(f"site{number}" for number in range(sites))
    service = ExchangeService(
        hub,
        address="localhost:0",
        sites=names,
        server_certificate=(server / "server.pem").read_bytes(),
        server_key=(server / "server.key").read_bytes(),
        ca_certificate=(server / "ca.pem").read_bytes(),
        hpke_key=HpkePrivateKey.read(server / "hpke.key"),
    )
    service.start()
    before = resident_mib()
    steps = max(steps, 3)
    if minutes:
        steps = 10**6
    hub.open_round(
        RUN, 1, 1, sites=names, layout=layout, steps=steps, deadline_seconds=600.0,
        max_missed_steps=3,
    )  # fmt: skip
    context = mp.get_context("spawn")
    told: mp.Queue[Any] = context.Queue()
    process = context.Process(
        target=load,
        args=(folder, f"localhost:{service.port}", told),
        kwargs={"sites": sites, "steps": steps, "layout": layout},
    )
    process.start()
    # From the second step on: connecting and opening 1,000 sessions is another thing.
    while hub.snapshot().frames_out < sites and process.is_alive():
        time.sleep(0.005)
    marks = [(time.perf_counter(), time.process_time(), hub.snapshot().frames_out)]
    until = time.monotonic() + 60 * minutes
    seen = [(0.0, resident_mib())]
    pause = 0.02 if not minutes else 10.0
    goal = sites * steps
    while hub.snapshot().frames_out < goal and process.is_alive():
        if minutes and time.monotonic() > until:
            break
        time.sleep(pause)
        seen.append((time.perf_counter() - marks[0][0], resident_mib()))
    marks.append((time.perf_counter(), time.process_time(), hub.snapshot().frames_out))
    waits = (float("nan"),) * 3
    if minutes:
        process.terminate()
        _print_memory(seen, sites)
    else:
        waits = told.get(timeout=600)
    process.join()
    hub.close()
    service.stop(grace=0)
    wall, cpu, frames = (end - start for start, end in zip(*marks, strict=True))
    return {
        "sites": sites,
        "frames/s": frames / wall,
        "p50 ms": 1e3 * waits[0],
        "p99 ms": 1e3 * waits[1],
        "µs a frame": 1e6 * cpu / max(frames, 1),
        "load µs": 1e6 * waits[2] / max(sites * steps, 1),
        "MiB": max(mib for _, mib in seen),
        "MiB a site": (max(mib for _, mib in seen) - before) / sites,
    }


def _print_memory(seen: list[tuple[float, float]], sites: int) -> None:
    half = seen[len(seen) // 5 :]
    seconds, mib = np.array([t for t, _ in half]), np.array([m for _, m in half])
    slope = np.polyfit(seconds, mib, 1)[0] if len(half) > 2 else float("nan")
    print(f"{sites} sites for {seen[-1][0] / 60:.1f} minutes; hub MiB by minute:")
    marks = [next(m for t, m in seen if t >= 60 * k) for k in range(int(seen[-1][0] // 60) + 1)]
    print("  " + " ".join(f"{value:.0f}" for value in marks))
    print(f"  after the first fifth it grows by {60 * slope:+.2f} MiB a minute\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sites", default="2,10,100,1000")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--minutes", type=float, default=0.0)
    parser.add_argument("--channels", default="64,128,256,512,1024,512,256,128,64")
    arguments = parser.parse_args()
    # The service warns, rightly, that nobody is revoked here.
    logging.getLogger("fdfed_server").setLevel(logging.ERROR)
    counts = sorted(map(int, arguments.sites.split(",")))
    layout = layout_of(arguments.channels)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, max(soft, 8192)), hard))
    print(
        f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC, {platform.machine()}, {os.cpu_count()} "
        f"processors, load {os.getloadavg()[0]:.1f}; frames of {layout.size} numbers, "
        f"{layout.taps} taps"
    )
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "federation"
        provision([f"site{number}" for number in range(counts[-1])], folder, days=2)
        if arguments.minutes:
            measure(folder, counts[-1], 0, layout, arguments.minutes)
            return
        rows = []
        for count in counts:
            steps = arguments.steps if count < 500 else max(3, arguments.steps // 5)
            rows.append(measure(folder, count, steps, layout, 0.0))
            if len(rows) == 1:
                print("| " + " | ".join(rows[0]) + " |\n|" + "---|" * len(rows[0]))
            print("| " + " | ".join(f"{value:.4g}" for value in rows[-1].values()) + " |")
    large = [row for row in rows if row["sites"] >= 10]
    if len(large) > 1:
        cost = np.log([row["µs a frame"] * row["sites"] for row in large])
        print(f"exponent {np.polyfit(np.log([row['sites'] for row in large]), cost, 1)[0]:.2f}")


if __name__ == "__main__":
    main()
