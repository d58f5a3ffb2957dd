"""The bars of all commands: started and stopped with their block, and none without a terminal."""

from __future__ import annotations

import io

import pytest
from rich.console import Console
from rich.progress import TextColumn

from fdfed.process.progress_bars import TerminalBars


class Bars(TerminalBars):
    def __init__(self, console: Console) -> None:
        super().__init__(console, TextColumn("{task.fields[note]}"), label_width=8)
        task = self._bars.add_task("rounds", total=4, note="phase 2")
        self._bars.update(task, completed=3)


@pytest.mark.parametrize("terminal", [True, False])
def test_a_bar_is_shown_on_a_terminal_alone(terminal: bool) -> None:
    written = io.StringIO()
    with Bars(Console(file=written, force_terminal=terminal, width=100)):
        pass
    shown = [text in written.getvalue() for text in ("rounds", "3/4", "phase 2")]
    assert shown == [terminal] * 3


def test_an_error_stops_the_bars_and_goes_on() -> None:
    bars = Bars(Console(file=io.StringIO(), force_terminal=True))
    with pytest.raises(LookupError), bars:
        raise LookupError
    assert not bars._bars.live.is_started
