"""`fdfed study hostile`: one hostile site in four, trial by trial."""

from __future__ import annotations

from fdfed.cli.study_run import StudyRun


def study_hostile(run: StudyRun) -> None:
    """Runs the trials that are missing, then writes what all of them say."""
    import torch

    from fdfed.studies.hostile import (
        SOURCES,
        load_hostile_results,
        run_hostile_study,
        write_hostile_page,
        write_hostile_study,
    )

    run.only_one_worker("hostile")
    try:
        if run.data is not None:
            run.check(SOURCES)
            torch.set_num_threads(1)
            done = run_hostile_study(
                run.data,
                run.out,
                stop_after_seconds=run.stop_after_seconds,
                on_trial=run.told,
            )
            run.ended(complete=done)
    finally:
        results = load_hostile_results(run.out)
        write_hostile_study(run.out, results)
        if run.page is not None:
            write_hostile_page(run.page, results)
        run.wrote(f"{len(results)} trials", "hostile.csv")
