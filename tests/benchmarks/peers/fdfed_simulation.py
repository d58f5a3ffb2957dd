"""fdfed's simulation, all sites in one process: `fdfed_simulation.py SITES ROUNDS FOLDER`.

A site receives its model as the round starts, and reports the seconds of its training itself.
"""

from __future__ import annotations

import sys
from pathlib import Path

from common import IMAGES, LEARNING_RATE, SIDE, tell

from fdfed.config import RunPlan
from fdfed.evaluation.results import RoundRecord
from fdfed.simulation import Progress, simulate
from fdfed_server.observer import Observer


class Telling(Observer):
    def round_started(self, server_round: int, phase: int, attempt: int) -> None:
        tell("received", site=0, round=server_round - 1)

    def round_finished(self, record: RoundRecord) -> None:
        for number, site in enumerate(record.sites.values()):
            tell("stepped", site=number, round=record.round - 1, seconds=site.seconds)


def main() -> None:
    count, rounds, folder = int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])
    plan = RunPlan(
        sites=tuple(f"site{number}" for number in range(count)),
        network="peers-unet",
        strategy="fedavg",
        loss="seg",
        optimizer="sgd",
        learning_rate=LEARNING_RATE,
        learning_rate_schedule="constant",
        in_channels=1,
        size=SIDE,
        batch_size=IMAGES,
        rounds=rounds,
        steps_per_round=1,
        evaluate_every=rounds,
        phantoms=True,
        precision="fp32",
    )
    simulate(plan, data=None, out=folder / "run", progress=Progress(observer=Telling()))
    tell("ended")


if __name__ == "__main__":
    main()
