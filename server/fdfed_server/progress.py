"""A run as a person wants to watch it: one bar for the rounds, one for each site's steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.console import Console
from rich.progress import TaskID, TextColumn

from fdfed.config import RunPlan
from fdfed.evaluation.results import RoundRecord
from fdfed.process.progress_bars import TerminalBars
from fdfed.wire import EvaluateResult, Prepared
from fdfed_server.observer import Observer


class ProgressBars(TerminalBars, Observer):
    """Shows a run on a terminal; without a terminal, prints a line a round."""

    def __init__(self, console: Console) -> None:
        # What a site says of its failure is shown as it is, brackets and all.
        note = TextColumn("{task.fields[note]}", markup=False)
        super().__init__(console, note, label_width=14)
        self._rounds = self._bars.add_task("rounds", total=None, note="", visible=False)
        self._sites: dict[str, TaskID] = {}
        self._stepping: set[str] = set()
        self._total = 0

    def loaded(self, site: str, done: int, total: int) -> None:
        """A site has read `done` of its images."""
        bar = self._site(site)
        self._bars.update(bar, completed=done, total=total, note="reading images")

    def step_done(self, site: str, server_round: int, done: int, total: int) -> None:
        """A site has made `done` steps of the round."""
        self._stepping.add(site)
        self._bars.update(
            self._site(site), completed=done, total=total, note=f"steps of round {server_round}"
        )

    def run_started(self, plan: RunPlan, completed_rounds: int) -> None:
        if completed_rounds:
            self._console.print(f"Resuming after round {completed_rounds} of {plan.rounds}.")
        self._total = plan.rounds
        self._bars.update(self._rounds, total=plan.rounds, completed=completed_rounds, visible=True)

    def waiting_for(self, sites: Sequence[str]) -> None:
        if sites:
            self._console.print(f"Waiting for {', '.join(sites)} …")

    def site_prepared(self, prepared: Prepared) -> None:
        kind = " phantoms" if prepared.phantoms else ""
        self._console.print(
            f"{prepared.site}: {prepared.num_train} training, {prepared.num_validation} "
            f"validation, {prepared.num_test} test{kind}"
        )

    def site_answered(self, site: str, server_round: int, failure: str) -> None:
        if site not in self._stepping:
            note = failure or f"answered in round {server_round}"
            self._bars.update(
                self._site(site), completed=server_round, total=self._total, note=note
            )

    def attempt_failed(self, server_round: int, attempt: int, reason: str) -> None:
        self._console.print(reason, style="yellow", markup=False, highlight=False)

    def round_finished(self, record: RoundRecord) -> None:
        score = record.mean_val_dice
        note = f"phase {record.phase}" + ("" if score is None else f"  validation Dice {score:.3f}")
        self._bars.update(self._rounds, completed=record.round, note=note)
        for site, entry in record.sites.items():
            if entry.refused is not None:
                text = f"{site} was left out: {entry.refused}"
                self._console.print(text, style="yellow", markup=False, highlight=False)
            if entry.why_bounded is not None:
                text = f"{site} {entry.why_bounded}"
                self._console.print(text, style="yellow", markup=False, highlight=False)
        if not self._console.is_terminal:
            self._console.print(f"round {record.round}  {note}", highlight=False)

    def test_finished(self, results: Mapping[str, EvaluateResult]) -> None:
        for bar in self._sites.values():
            self._bars.update(bar, visible=False)

    def _site(self, site: str) -> TaskID:
        if site not in self._sites:
            self._sites[site] = self._bars.add_task(site, total=None, note="")
        return self._sites[site]
