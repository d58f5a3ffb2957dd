"""`fdfed study advisor`: does the shift of prototypes foretell what a candidate brings?"""

from __future__ import annotations

import itertools
import time

from fdfed.cli.study_run import StudyRun


def study_advisor(run: StudyRun) -> None:
    """Trains what is missing, images first, then writes what all trainings say."""
    import torch

    from fdfed.studies.advisor import study as advisor
    from fdfed.studies.advisor.files import write_page, write_study

    run.only_one_worker(advisor.STUDY)
    torch.set_num_threads(1)
    deadline = time.monotonic() + run.stop_after_seconds
    folders = {kind: run.out / kind / "sites" for kind in ("images", "phantoms")}
    if run.data is not None:
        run.check(advisor.SITES)
        advisor.write_phantom_sites(folders["phantoms"])
        advisor.write_sites(run.data, folders["images"])
    sites = {
        kind: tuple(sorted(path.name for path in folder.glob("*") if path.is_dir()))
        for kind, folder in folders.items()
    }
    try:
        # All of one seed before the next, so that a study that is cut is still a whole one.
        stages = itertools.product(range(advisor.SEEDS), folders.items())
        for seed, (kind, folder) in stages if run.data is not None else ():
            advisor.train(
                folder,
                sites[kind],
                out=run.out / kind,
                seed=seed,
                phantoms=kind == "phantoms",
                deadline=deadline,
                told=run.told,
            )
    finally:
        found = {
            kind: advisor.observations(
                folder, sites[kind], out=run.out / kind, phantoms=kind == "phantoms"
            )
            for kind, folder in folders.items()
        }
        asked = {kind: advisor.SEEDS * len(advisor.groups(names)) for kind, names in sites.items()}
        trials = {kind: (advisor.runs_done(run.out / kind), asked[kind]) for kind in folders}
        write_study(run.out, found, trials=trials)
        if run.page is not None:
            write_page(run.page, found, trials=trials)
        done = sum(done for done, _ in trials.values())
        run.wrote(f"{done} runs", "study.json")
