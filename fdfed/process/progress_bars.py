"""Progress bars on a terminal, in the one look that all commands have."""

from __future__ import annotations

from types import TracebackType
from typing import TypeVar

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TextColumn,
    TimeElapsedColumn,
)

_Bars = TypeVar("_Bars", bound="TerminalBars")


class TerminalBars:
    """Shows bars while its `with` block runs, and none without a terminal."""

    def __init__(self, console: Console, *more: ProgressColumn, label_width: int) -> None:
        """
        Args:
            more: columns behind label, bar, count and time.
            label_width: of what a bar is of, in characters.
        """
        self._console = console
        self._bars = Progress(
            TextColumn(f"{{task.description:<{label_width}}}"),
            BarColumn(bar_width=32),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            *more,
            console=console,
            disable=not console.is_terminal,
        )

    # Not `Self`, which the shape checks of the tests cannot read on a method.
    def __enter__(self: _Bars) -> _Bars:
        self._bars.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._bars.stop()
