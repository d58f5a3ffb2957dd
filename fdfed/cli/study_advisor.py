"""`fdfed study advisor`: does the shift of prototypes foretell what a candidate brings?"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

    from fdfed.studies import Trial
    from fdfed.studies.schedule import Agenda


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
    """Trains what is missing, phantoms first, then writes what all trainings say.

    Args:
        data: None trains nothing.
        check: refuses images whose held-out patients are not the recorded ones.
    """
    from fdfed.cli.study_progress import StudyBars
    from fdfed.studies import advisor, load_results, run_agenda
    from fdfed.studies.advisor_files import write_page, write_study

    deadline = time.monotonic() + stop_after_seconds
    folders = {kind: out / kind / "sites" for kind in ("phantoms", "images")}
    if data is not None:
        check(advisor.SITES)
        names = {
            "phantoms": advisor.write_phantom_sites(folders["phantoms"]),
            "images": advisor.write_sites(data, folders["images"]),
        }
    else:
        names = {
            kind: tuple(sorted(path.name for path in folder.glob("*") if path.is_dir()))
            for kind, folder in folders.items()
        }
    agendas = {
        kind: advisor.agenda(sites, phantoms=kind == "phantoms") for kind, sites in names.items()
    }
    try:
        for kind, agenda in agendas.items() if data is not None else ():
            with StudyBars(console, out / kind) as bars:
                run_agenda(
                    _always(agenda),
                    data=folders[kind],
                    out=out / kind,
                    workers=workers,
                    stop_after_seconds=max(0.0, deadline - time.monotonic()),
                    watcher=bars,
                )
    finally:
        results = {kind: load_results(out / kind) for kind in folders}
        found = {
            kind: advisor.observations(
                results[kind], data=folder, out=out / kind, phantoms=kind == "phantoms"
            )
            for kind, folder in folders.items()
        }
        trials = {kind: (len(results[kind]), len(agendas[kind])) for kind in folders}
        write_study(out, found, trials=trials)
        if page is not None:
            write_page(page, found, trials=trials)
        done = sum(map(len, results.values()))
        console.print(f"{done} trials: {out / 'study.json'}", soft_wrap=True)


def _always(trials: Sequence[Trial]) -> Agenda:
    """An agenda that does not depend on results."""
    return lambda _: trials
