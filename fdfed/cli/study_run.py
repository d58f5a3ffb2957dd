"""What every study's command is given."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from fdfed.errors import InvalidInput

if TYPE_CHECKING:
    from rich.console import Console


@dataclass(frozen=True, slots=True)
class StudyRun:
    """One call of `fdfed study`."""

    console: Console
    data: Path | None
    """None: nothing is trained, and what is done is reported."""
    out: Path
    stop_after_seconds: float
    workers: int
    check: Callable[[Sequence[str]], None]
    """Refuses images of these sites whose held-out patients are not the recorded ones."""
    page: Path | None

    def only_one_worker(self, study: str) -> None:
        """Nothing, unless more was asked of a study that does one thing after the other.

        Raises:
            InvalidInput: for more than one worker.
        """
        if self.workers > 1:
            raise InvalidInput(
                f"--workers is {self.workers}, but the {study} study does one thing after the "
                "other; leave the option out"
            )

    def told(self, name: str, seconds: float) -> None:
        """Prints what is finished and how long it took."""
        self.console.print(f"{name}: {seconds:.0f} s")

    def ended(self, *, complete: bool) -> None:
        """Prints how a study stopped."""
        self.console.print(
            "All that was asked for is done." if complete else "The time is up; start it again."
        )

    def wrote(self, what: str, name: str) -> None:
        """Prints what there is, and the file in `out` that has it."""
        self.console.print(f"{what}: {self.out / name}", soft_wrap=True)
