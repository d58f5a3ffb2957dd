"""`fdfed study hostile`: one hostile site in four, trial by trial."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console


def attack_by_a_site(
    console: Console,
    *,
    data: Path | None,
    out: Path,
    stop_after_seconds: float,
    check: Callable[[Sequence[str]], None],
    page: Path | None,
) -> None:
    """Runs the trials that are missing, then writes what all of them say.

    Args:
        data: None runs none of them.
        check: refuses images whose held-out patients are not the recorded ones.
    """
    import torch

    from fdfed.studies.hostile import (
        SOURCES,
        load_hostile_results,
        run_hostile_study,
        write_hostile_page,
        write_hostile_study,
    )

    try:
        if data is not None:
            check(SOURCES)
            torch.set_num_threads(1)
            done = run_hostile_study(
                data,
                out,
                stop_after_seconds=stop_after_seconds,
                on_trial=lambda name, seconds: console.print(f"{name}: {seconds:.0f} s"),
            )
            console.print("The study is complete." if done else "The time is up; start it again.")
    finally:
        results = load_hostile_results(out)
        write_hostile_study(out, results)
        if page is not None:
            write_hostile_page(page, results)
        console.print(f"{len(results)} trials: {out / 'hostile.csv'}", soft_wrap=True)
