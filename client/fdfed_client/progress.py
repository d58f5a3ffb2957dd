"""The steps of the round at hand, as a bar below the agent's log."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn


@contextmanager
def step_bar(console: Console | None) -> Iterator[Callable[[int, int, int], None] | None]:
    """A callback for (server_round, steps done, steps of the round); None without a console."""
    if console is None:
        yield None
        return
    columns = (TextColumn("{task.description}"), BarColumn(bar_width=32), MofNCompleteColumn())
    with Progress(*columns, console=console, transient=True) as bars:
        bar = bars.add_task("", total=None, visible=False)

        def step_done(server_round: int, done: int, total: int) -> None:
            bars.update(
                bar,
                description=f"steps of round {server_round}",
                completed=done,
                total=total,
                visible=done < total,
            )

        yield step_done
