"""`fdfed study`: a whole experiment, resumable, with its tables and figures."""

from __future__ import annotations

import signal
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Literal

import typer

if TYPE_CHECKING:
    from rich.console import Console

Name = Literal[
    "defaults", "staleness", "privacy", "advisor", "hostile", "baselines", "data-addition",
    "unseen-site", "ablation-averaging", "ablation-layers", "ablation-warm-start", "theory",
    "table1", "table2", "table3", "table4", "figure1", "figure2", "figure4", "figure5", "figure6",
    "figure7", "figure8", "figure10",
]  # fmt: skip
StageName = Literal["tuning", "rehearsal", "confirmatory"]

_SECONDS_PER_HOUR = 3600.0


def study(
    name: Annotated[Name, typer.Argument(help="Which study to run.")],
    data: Annotated[Path, typer.Option(help="Folder with one folder per site.")],
    out: Annotated[
        Path, typer.Option(help="Folder for trials and results; resumes what is there.")
    ],
    budget_hours: Annotated[
        float, typer.Option(help="Begin no trial after this many hours; those under way end.")
    ] = 6.0,
    workers: Annotated[int, typer.Option(min=1, help="Trials at a time, one core each.")] = 1,
    device: Annotated[
        Literal["auto", "cuda", "cpu"],
        typer.Option(help="Where to train; workers share a GPU. Each result says where it was."),
    ] = "auto",
    held_out: Annotated[
        Path,
        typer.Option(help="Record of the patients whom no choice may see; refused if it differs."),
    ] = Path("docs/studies/held_out.json"),
    page: Annotated[
        Path | None,
        typer.Option(help="Page whose results section is rewritten, with its CSV and figures."),
    ] = None,
    stage: Annotated[
        StageName,
        typer.Option(
            help="Of all but the first five. Only `confirmatory` opens the patients of the "
            "record, and only with a frozen configuration."
        ),
    ] = "rehearsal",
    configuration: Annotated[
        Path, typer.Option(help="Of the same: methods, parameters and seeds.")
    ] = Path("docs/studies/baselines.toml"),
    seeds: Annotated[
        int | None,
        typer.Option(min=1, help="Of the same: train the first so many seeds, no more."),
    ] = None,
    report_only: Annotated[
        bool, typer.Option("--report-only", help="Train nothing; write tables of what is done.")
    ] = False,
) -> None:
    """Run a study from where it stopped, then write the tables and figures of all that is done.

    Leaves OUT/trials/, OUT/<study>.csv, figures and study.json. Ctrl-C loses nothing: a trial that
    is cut goes on after its last complete round. `privacy` has jobs in place of trials, in one
    process; a job that is cut begins anew.
    """
    # Slow to import; --help must not wait for them.
    from rich.console import Console

    from fdfed.cli.study_advisor import study_advisor
    from fdfed.cli.study_hostile import study_hostile
    from fdfed.cli.study_privacy import study_privacy
    from fdfed.cli.study_progress import StudyBars
    from fdfed.cli.study_run import StudyRun
    from fdfed.errors import InvalidInput
    from fdfed.process.kept_memory import keep_freed_memory
    from fdfed.studies import load_results, run_agenda
    from fdfed.studies.baselines.configuration import read_configuration
    from fdfed.studies.catalogue import COMPARISONS, STUDIES, staged_study

    keep_freed_memory()
    console = Console()
    run = StudyRun(
        console,
        data=None if report_only else data,
        out=out,
        stop_after_seconds=budget_hours * _SECONDS_PER_HOUR,
        workers=workers,
        check=lambda sites: _check_patients(console, sites, data, held_out),
        page=page,
    )
    # A service manager ends a process with SIGTERM; it loses no more than Ctrl-C does.
    signal.signal(signal.SIGTERM, _interrupt)
    if seeds is not None and name not in COMPARISONS:
        raise InvalidInput(f"the study {name} has seeds of its own; leave out --seeds")
    own = {"privacy": study_privacy, "advisor": study_advisor, "hostile": study_hostile}
    if name in own:
        own[name](run)
        return
    if name in COMPARISONS:
        chosen = staged_study(name, stage, read_configuration(configuration), data)
        chosen = chosen if seeds is None else chosen.of_first_seeds(seeds)
    else:
        chosen = STUDIES[name]
    try:
        if not report_only:
            run.check(chosen.sites)
            with StudyBars(console, out) as bars:
                done = run_agenda(
                    chosen.agenda,
                    data=chosen.prepare(data, out),
                    out=out,
                    workers=workers,
                    device=device,
                    stop_after_seconds=run.stop_after_seconds,
                    watcher=bars,
                )
            run.ended(complete=done)
    finally:
        results = load_results(out)
        chosen.write_study(out, results)
        if page is not None:
            chosen.write_page(page, results)
        run.wrote(f"{len(results)} trials", "study.json")


def _check_patients(console: Console, sites: Sequence[str], data: Path, record: Path) -> None:
    from fdfed.studies.held_out import check_held_out, draw_held_out, write_held_out

    drawn = draw_held_out(data, sites)
    if not record.exists():
        write_held_out(record, drawn)
        console.print(f"Held-out patients recorded in {record}.")
    check_held_out(record, drawn)


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt
