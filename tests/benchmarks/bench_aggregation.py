"""Prints what aggregation takes at the coordinator: masked updates over plain ones.

    python tests/benchmarks/bench_aggregation.py [--sites 8] [--network unet] [--width 0]
                                                 [--repeats 3] [--folder DIR]

The updates are those of the whole U-Net (31 M parameters), written to `--folder` first, 4 bytes a
parameter plain and 8 masked; the masks are real ones of all sites and cancel. The coordinator's
work is `Strategy.aggregate_train`, from the records as they have arrived to the new model, one
reply after the other. Both kinds run in processes of their own.

`seconds` is processor time less that in which the next reply is read from disk, the best of the
repeats; other programs on the machine lengthen it less than wall time.
`peak` is that of resident memory above what the process held before the first reply came (the
global model among it), the arriving reply included; in models of 4 bytes a parameter, and in
updates as they travel. `site` is what masking takes a site beyond packing: rounding, and the
streams of its peers.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from flwr.app import Array, ArrayRecord, RecordDict

from fdfed.config import RunPlan
from fdfed.privacy import ContributionLayout, KeyContext, MaskingKey, Measures, Signer
from fdfed.wire import MaskedResult, TrainResult
from fdfed_server.run_state import RunState
from fdfed_server.strategy import SiteReply, Strategy

RUN = "ab" * 8
KINDS = ("plain", "masked")
EXAMPLES = 100


def plan_of(kind: str, arguments: argparse.Namespace) -> RunPlan:
    return RunPlan.model_validate(
        {
            "sites": [f"site{number}" for number in range(arguments.sites)],
            "network": arguments.network,
            "width": arguments.width or None,
            "strategy": "fedavg",
            "aggregation": kind,
        }
    )


def updates(state: RunState, site: str) -> dict[str, np.ndarray]:
    """The model, moved a little, as a site's training would."""
    rng = np.random.default_rng(int(site.removeprefix("site")))
    return {
        name: w + 1 if w.dtype.kind == "i" else w + 0.01 * rng.random(w.shape, dtype=np.float32)
        for name, w in state.model.weights.items()
    }


def records(
    plan: RunPlan, strategy: Strategy, state: RunState
) -> Iterator[tuple[str, RecordDict, float]]:
    """Each site's answer of a round, and what masking it took."""
    taps = len(strategy.taps)
    unknown = np.full(taps, np.nan)
    signers = Signer.circle(plan.sites)
    context = KeyContext(
        roster=signers[plan.sites[0]].roster, run_id=RUN, server_round=1, attempt=1
    )
    keys = {site: MaskingKey(signer, context) for site, signer in signers.items()}
    announced = [key.announcement for key in keys.values()]
    for site in plan.sites:
        weights = updates(state, site)
        common = {"run_id": RUN, "server_round": 1, "attempt": 1, "seconds": 1.0}
        if plan.aggregation == "plain":
            yield (
                site,
                TrainResult(
                    **common,
                    num_examples=EXAMPLES,
                    loss_seg=1.0,
                    alpha=np.zeros(taps),
                    fd=unknown,
                    exch=unknown,
                    valid=np.zeros(taps),
                    weights=weights,
                ).to_record(),
                0.0,
            )
            continue
        measures = Measures(
            loss_seg=1.0, alpha=np.zeros(taps), fd=unknown, exch=unknown, total=unknown
        )
        began = time.process_time()
        layout = ContributionLayout.of(weights, taps=taps)
        values = layout.contribution(weights, measures, num_examples=EXAMPLES)
        keys[site].masks(announced, inputs=b"")[0].add_(values)
        seconds = time.process_time() - began
        yield site, MaskedResult(**common, values=values).to_record(), seconds


class Stored:
    """Answers on disk, each of which is read when it is due."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.reading = 0.0
        self._small: dict[str, RecordDict] = {}
        self._arrays: dict[str, tuple[str, Array]] = {}

    def add(self, site: str, record: RecordDict) -> int:
        part = "masked" if "masked" in record else "weights"
        ((name, array),) = record[part].items()  # type: ignore[union-attr]
        (self.folder / site).write_bytes(array.data)
        self._small[site] = RecordDict({key: v for key, v in record.items() if key != part})
        empty = Array(array.dtype, array.shape, array.stype, b"")
        self._arrays[site] = (f"{part} {name}", empty)
        return len(array.data)

    def replies(self) -> Iterator[SiteReply]:
        for site, small in self._small.items():
            began = time.process_time()
            where, array = self._arrays[site]
            part, name = where.split()
            full = Array(array.dtype, array.shape, array.stype, (self.folder / site).read_bytes())
            record = RecordDict({**small, part: ArrayRecord({name: full})})
            del full
            reply = SiteReply(site=site, record=record)
            del record
            self.reading += time.process_time() - began
            yield reply
            del reply


def resident() -> int:
    """Bytes of memory that the process holds now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def measure(kind: str, arguments: argparse.Namespace) -> dict[str, float]:
    """Seconds and bytes of one kind; this process does nothing else."""
    plan = plan_of(kind, arguments)
    strategy = Strategy(plan)
    state = strategy.initial_state(RUN)
    stored = Stored(Path(arguments.folder))
    site_seconds, travels = [], 0
    for site, record, seconds in records(plan, strategy, state):
        travels = stored.add(site, record)
        site_seconds.append(seconds)
        del record
    examples = dict.fromkeys(plan.sites, EXAMPLES)
    best, peak = float("inf"), 0
    for _ in range(arguments.repeats):
        # Linux: the high-water mark begins anew.
        Path("/proc/self/clear_refs").write_text("5")
        before, stored.reading, began = resident(), 0.0, time.process_time()
        trained = strategy.aggregate_train(state, 1, 1, examples, stored.replies())
        best = min(best, time.process_time() - began - stored.reading)
        peak = max(peak, high_water() - before)
        assert len(trained.accepted) == len(plan.sites)
        del trained
    parameters = sum(w.size for w in state.model.weights.values())
    return {
        "seconds": best,
        "peak": peak,
        "travels": travels,
        "parameters": parameters,
        "site": min(site_seconds),
    }


def high_water() -> int:
    """The most bytes of memory that the process has held since the mark was cleared."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def print_table(found: dict[str, dict[str, float]], sites: int) -> None:
    plain = found["plain"]["seconds"]
    print(f"{sites} sites, {found['plain']['parameters'] / 1e6:.1f} M parameters")
    print(
        f"{'aggregation':13}{'seconds':>9}{'ratio':>7}{'update MB':>11}{'peak MB':>9}"
        f"{'fp32 models':>13}{'updates':>9}{'site s':>8}"
    )
    for kind, row in found.items():
        print(
            f"{kind:13}{row['seconds']:9.2f}{row['seconds'] / plain:7.2f}"
            f"{row['travels'] / 1e6:11.0f}{row['peak'] / 1e6:9.0f}"
            f"{row['peak'] / (4 * row['parameters']):13.2f}{row['peak'] / row['travels']:9.2f}"
            f"{row['site']:8.2f}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sites", type=int, default=8)
    parser.add_argument("--network", default="unet")
    parser.add_argument("--width", type=int, default=0, help="0: the paper's")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--folder", help="for the updates on disk; 0.25 GB a site")
    parser.add_argument("--kind", choices=KINDS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.kind:
        print(json.dumps(measure(arguments.kind, arguments)))
        return
    found = {}
    for kind in KINDS:
        with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
            command = [sys.executable, __file__, *sys.argv[1:], "--kind", kind, "--folder", folder]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            found[kind] = json.loads(done.stdout.splitlines()[-1])
    print_table(found, arguments.sites)


if __name__ == "__main__":
    main()
