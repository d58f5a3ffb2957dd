"""Prints what aggregation takes at the coordinator, for each form in which updates travel.

    python tests/benchmarks/bench_aggregation.py [--sites 8] [--network unet] [--width 0]
                                                 [--repeats 3] [--folder DIR] [--kinds bare,plain]

The updates are those of the whole U-Net (31 M parameters), written to `--folder` first as Flower's
objects: 4 bytes a parameter plain, 2 as changes in fp16 or bf16 (`update_precision`), and 8 masked;
the masks are real ones of all sites and cancel.
The coordinator's work is `Strategy.aggregate_train`, from the first reply to the new model, one
reply after the other; each is fetched object by object as from the SuperLink, its large arrays
going to disk meanwhile. All kinds run in processes of their own. `bare` is the running sum alone,
of the same tensors in memory: `total += n * update` in fp64, and a division.

`seconds` is processor time less that in which the next reply is fetched, the best of the repeats;
other programs on the machine lengthen it less than wall time. `fetch` is that time, by reply.
`peak` is that of resident memory above what the process held before the first reply came (the
global model among it), the arriving reply included; in models of 4 bytes a parameter, and in
updates as they travel. `site` is what masking, or half precision, takes a site beyond packing:
rounding, and the streams of its peers. `up` is what the sites send in a round, in all.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
from flwr.app import Metadata, RecordDict
from flwr.app.message import make_message
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects

from fdfed.config import RunPlan
from fdfed.privacy import ContributionLayout, KeyContext, MaskingKey, Measures, Signer
from fdfed.wire import HalfPrecision, MaskedResult, TrainResult, changes_of
from fdfed_server.flower.pieces import Pieces
from fdfed_server.run_state import RunState
from fdfed_server.strategy import SiteReply, Strategy

RUN = "ab" * 8
HALVES: tuple[HalfPrecision, ...] = ("fp16", "bf16")
KINDS = ("bare", "plain", *HALVES, "masked")
EXAMPLES = 100


def plan_of(kind: str, arguments: argparse.Namespace) -> RunPlan:
    return RunPlan.model_validate(
        {
            "sites": [f"site{number}" for number in range(arguments.sites)],
            "network": arguments.network,
            "width": arguments.width or None,
            "strategy": "fedavg",
            "aggregation": "masked" if kind == "masked" else "plain",
            "update_precision": kind if kind in HALVES else "full",
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
            began = time.process_time()
            if plan.update_precision != "full":
                trained = {n for n in weights if not n.endswith(("mean", "var", "tracked"))}
                residual = {n: np.zeros(weights[n].shape, np.float32) for n in trained}
                weights, _ = changes_of(
                    weights,
                    state.model.weights,
                    residual,
                    trained=trained,
                    precision=plan.update_precision,
                )
            seconds = time.process_time() - began
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
                seconds,
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
    """Answers on disk as Flower's objects, each of which is fetched when it is due, as the grid
    fetches it from the SuperLink."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.reading = 0.0
        self._ids: dict[str, tuple[str, list[str]]] = {}

    def add(self, site: str, record: RecordDict) -> int:
        part = "masked" if "masked" in record else "weights"
        ((_, array),) = record[part].items()  # type: ignore[union-attr]
        size = len(array.data)
        message = make_message(Metadata(1, "", 2, 1, "", "", 0.0, 60.0, "train"), record)
        objects = get_all_nested_objects(message)
        for key in list(objects):
            (self.folder / f"{site}-{key}").write_bytes(objects[key].deflate())
        self._ids[site] = (message.object_id, list(objects))
        return size

    def replies(self) -> Iterator[SiteReply]:
        for site, (message_id, keys) in self._ids.items():
            began = time.process_time()
            pieces = Pieces(partial(self._pull, site), folder=self.folder)
            contents = {key: pieces.pull(key) for key in keys}
            message = pieces.put_together(message_id, contents, limit=2**31)
            reply = SiteReply(site=site, record=message.content)
            del message, pieces, contents
            self.reading += time.process_time() - began
            yield reply
            del reply

    def _pull(self, site: str, key: str) -> bytes:
        return (self.folder / f"{site}-{key}").read_bytes()


def resident() -> int:
    """Bytes of memory that the process holds now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def measure(kind: str, arguments: argparse.Namespace) -> dict[str, float]:
    """Seconds and bytes of one kind; this process does nothing else."""
    plan = plan_of(kind, arguments)
    strategy = Strategy(plan)
    state = strategy.initial_state(RUN)
    if kind == "bare":
        return measure_bare(plan, state, arguments.repeats)
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
        start_high_water()
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
        "fetch": stored.reading / len(plan.sites),
    }


def measure_bare(plan: RunPlan, state: RunState, repeats: int) -> dict[str, float]:
    """The same sum without anything around it."""
    best, peak = float("inf"), 0
    for _ in range(repeats):
        start_high_water()
        before, spent, total = resident(), 0.0, {}
        for site in plan.sites:
            update = updates(state, site)
            began = time.process_time()
            for name, value in update.items():
                term = value.astype(np.float64) * EXAMPLES
                total[name] = total[name] + term if name in total else term
            spent += time.process_time() - began
            del update
        began = time.process_time()
        for name, value in state.model.weights.items():
            total[name] = (total[name] / (EXAMPLES * len(plan.sites))).astype(value.dtype)
        spent += time.process_time() - began
        best, peak = min(best, spent), max(peak, high_water() - before)
        del total
    parameters = sum(w.size for w in state.model.weights.values())
    travels = sum(w.nbytes for w in state.model.weights.values())
    return {"seconds": best, "peak": peak, "travels": travels, "parameters": parameters,
            "site": 0.0, "fetch": 0.0}  # fmt: skip


def start_high_water() -> None:
    """Begins the mark anew, with what was freed before given back to the system."""
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")


def high_water() -> int:
    """The most bytes of memory that the process has held since the mark was cleared."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def print_table(found: dict[str, dict[str, float]], sites: int) -> None:
    bare = found["bare"]["seconds"] if "bare" in found else float("nan")
    print(f"{sites} sites, {next(iter(found.values()))['parameters'] / 1e6:.1f} M parameters")
    print(
        f"{'aggregation':13}{'seconds':>9}{'ratio':>7}{'update MB':>11}{'peak MB':>9}"
        f"{'fp32 models':>13}{'updates':>9}{'fetch s':>9}{'site s':>8}{'up MB':>8}"
    )
    for kind, row in found.items():
        print(
            f"{kind:13}{row['seconds']:9.2f}{row['seconds'] / bare:7.2f}"
            f"{row['travels'] / 1e6:11.0f}{row['peak'] / 1e6:9.0f}"
            f"{row['peak'] / (4 * row['parameters']):13.2f}{row['peak'] / row['travels']:9.2f}"
            f"{row['fetch']:9.2f}{row['site']:8.2f}{sites * row['travels'] / 1e6:8.0f}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sites", type=int, default=8)
    parser.add_argument("--network", default="unet")
    parser.add_argument("--width", type=int, default=0, help="0: the paper's")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--folder", help="for the updates on disk; 0.25 GB a site")
    parser.add_argument("--kinds", default=",".join(KINDS), help="of the table, with commas")
    parser.add_argument("--kind", choices=KINDS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.kind:
        print(json.dumps(measure(arguments.kind, arguments)))
        return
    found = {}
    for kind in arguments.kinds.split(","):
        with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
            command = [sys.executable, __file__, *sys.argv[1:], "--kind", kind, "--folder", folder]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            found[kind] = json.loads(done.stdout.splitlines()[-1])
    print_table(found, arguments.sites)


if __name__ == "__main__":
    main()
