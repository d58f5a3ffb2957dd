"""`fdfed study privacy`: attacks on what leaves a hospital, job by job."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from fdfed.errors import InvalidInput

if TYPE_CHECKING:
    from rich.console import Console


def attack(
    console: Console,
    *,
    data: Path | None,
    out: Path,
    stop_after_seconds: float,
    workers: int,
    check: Callable[[Sequence[str]], None],
    page: Path | None,
) -> None:
    """Runs the jobs that are missing, then writes what all of them say.

    Args:
        data: None runs none of them.
        check: refuses images whose held-out patients are not the recorded ones.

    Raises:
        InvalidInput: for more than one worker.
    """
    import torch

    from fdfed.studies.privacy import (
        Setting,
        load_rows,
        run_privacy_study,
        write_privacy_page,
        write_privacy_study,
    )

    if workers > 1:
        raise InvalidInput(
            f"--workers is {workers}, but the privacy study runs its jobs one after the other; "
            "leave the option out"
        )
    setting = Setting()
    try:
        if data is not None:
            check(setting.sites)
            torch.set_num_threads(1)
            done = run_privacy_study(
                setting,
                data=data,
                out=out,
                stop_after_seconds=stop_after_seconds,
                on_job=lambda name, seconds: console.print(f"{name}: {seconds:.0f} s"),
            )
            console.print("The study is complete." if done else "The time is up; start it again.")
    finally:
        rows, seconds = load_rows(out)
        write_privacy_study(out, rows, seconds=seconds, setting=setting)
        if page is not None:
            write_privacy_page(page, rows, seconds=seconds)
        console.print(f"{len(rows)} numbers: {out / 'privacy.csv'}", soft_wrap=True)
