"""`fdfed study advisor`: does the shift of prototypes foretell what a candidate brings?"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console


def study_advisor(
    console: Console,
    *,
    data: Path | None,
    out: Path,
    stop_after_seconds: float,
    workers: int,
    check: Callable[[Sequence[str]], None],
    page: Path | None,
) -> None:
    """Trains what is missing, images first, then writes what all trainings say.

    Args:
        data: None trains nothing.
        check: refuses images whose held-out patients are not the recorded ones.
    """
    import torch

    from fdfed.errors import InvalidInput
    from fdfed.studies import advisor
    from fdfed.studies.advisor_files import write_page, write_study

    if workers > 1:
        raise InvalidInput(
            f"--workers is {workers}, but the advisor study trains one run after the other; leave "
            "the option out"
        )
    torch.set_num_threads(1)
    deadline = time.monotonic() + stop_after_seconds
    folders = {kind: out / kind / "sites" for kind in ("images", "phantoms")}
    if data is not None:
        check(advisor.SITES)
        advisor.write_phantom_sites(folders["phantoms"])
        advisor.write_sites(data, folders["images"])
    sites = {
        kind: tuple(sorted(path.name for path in folder.glob("*") if path.is_dir()))
        for kind, folder in folders.items()
    }
    try:
        # All of one seed before the next, so that a study that is cut is still a whole one.
        stages = itertools.product(range(advisor.SEEDS), folders.items())
        for seed, (kind, folder) in stages if data is not None else ():
            advisor.train(
                folder,
                sites[kind],
                out=out / kind,
                seed=seed,
                phantoms=kind == "phantoms",
                deadline=deadline,
                told=lambda name, seconds: console.print(f"{name}: {seconds:.0f} s"),
            )
    finally:
        found = {
            kind: advisor.observations(
                folder, sites[kind], out=out / kind, phantoms=kind == "phantoms"
            )
            for kind, folder in folders.items()
        }
        asked = {kind: advisor.SEEDS * len(advisor.groups(names)) for kind, names in sites.items()}
        trials = {kind: (advisor.runs_done(out / kind), asked[kind]) for kind in folders}
        write_study(out, found, trials=trials)
        if page is not None:
            write_page(page, found, trials=trials)
        done = sum(done for done, _ in trials.values())
        console.print(f"{done} runs: {out / 'study.json'}", soft_wrap=True)
