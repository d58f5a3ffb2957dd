"""The checks on one screen."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Final

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from fdfed_client.check.result import CheckResult, Level

_MARKS: Final[dict[Level, tuple[str, str]]] = {
    "ok": ("ok", "green"),
    "note": ("note", "cyan"),
    "warning": ("warning", "yellow"),
    "problem": ("PROBLEM", "bold red"),
}
_TOPIC_WIDTH: Final = 15


def show(results: Iterable[tuple[str, CheckResult]], console: Console) -> list[CheckResult]:
    """Prints each line as it comes, and a summary; the lines."""
    seen: list[CheckResult] = []
    heading = ""
    for title, result in results:
        if title != heading:
            heading = title
            console.print(Text(f"\n{title}" if seen else title, style="bold"))
        _line(result, console)
        seen.append(result)
    _summary(seen, console)
    return seen


def _line(result: CheckResult, console: Console) -> None:
    mark, style = _MARKS[result.level]
    row = Table.grid(padding=(0, 2, 0, 0))
    row.add_column(width=7, no_wrap=True)
    row.add_column(width=_TOPIC_WIDTH, no_wrap=True)
    row.add_column(overflow="fold")
    row.add_row(Text(mark, style=style), Text(result.topic), Text(result.found))
    if result.remedy:
        # Words, not colour alone, say what to do.
        row.add_row("", "", Text(f"→ {result.remedy}", style="dim" if style == "cyan" else style))
    console.print(Padding(row, (0, 0, 0, 2), expand=False))


def _summary(seen: list[CheckResult], console: Console) -> None:
    counts = Counter(result.level for result in seen)
    if counts["problem"]:
        text = f"{counts['problem']} problem(s): this hospital cannot take part yet"
        console.print(Text(f"\n{text}", style="bold red"))
    elif counts["warning"]:
        text = f"ready, with {counts['warning']} warning(s)"
        console.print(Text(f"\n{text}", style="yellow"))
    else:
        console.print(Text("\nready: start the agent with fdfed-client --site NAME", style="green"))
