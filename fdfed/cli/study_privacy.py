"""`fdfed study privacy`: attacks on what leaves a hospital, job by job."""

from __future__ import annotations

from fdfed.cli.study_run import StudyRun


def study_privacy(run: StudyRun) -> None:
    """Runs the jobs that are missing, then writes what all of them say."""
    import torch

    from fdfed.studies.privacy import (
        Setting,
        load_rows,
        run_privacy_study,
        write_privacy_page,
        write_privacy_study,
    )

    run.only_one_worker("privacy")
    setting = Setting()
    try:
        if run.data is not None:
            run.check(setting.sites)
            torch.set_num_threads(1)
            done = run_privacy_study(
                setting,
                data=run.data,
                out=run.out,
                stop_after_seconds=run.stop_after_seconds,
                on_job=run.told,
            )
            run.ended(complete=done)
    finally:
        rows, seconds = load_rows(run.out)
        write_privacy_study(run.out, rows, seconds=seconds, setting=setting)
        if run.page is not None:
            write_privacy_page(run.page, rows, seconds=seconds)
        run.wrote(f"{len(rows)} numbers", "privacy.csv")
