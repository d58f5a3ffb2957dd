"""What an operator should look at, from what the rounds and the exchange say."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from fdfed.evaluation.results import RoundRecord, is_known

Severity = Literal["serious", "warning"]

DICE_DROP: Final = 0.05
"""A site's Dice this far below its own best is worth a look."""
BUDGET_SHARE: Final = 0.9
_DICE_ROUNDS: Final = 3
"""... in so many scored rounds, one after the other: one round's dip is noise."""


@dataclass(frozen=True, slots=True)
class Alert:
    """One finding, in a sentence, with what to do."""

    severity: Severity
    text: str


def alerts(
    rounds: Sequence[RoundRecord],
    *,
    sites: Sequence[str],
    missing: Collection[str],
    lost: Collection[str],
    refused: int,
    idle_seconds: float,
    round_deadline_seconds: float,
    certificate_notices: Sequence[str],
    budget: float | None,
) -> list[Alert]:
    """The findings, the serious ones first.

    Args:
        missing: sites that the round loop waits for.
        lost: sites whose exchange stream was open before and is not now.
        refused: frames and streams that the hub refused since it started.
        idle_seconds: since the round loop last did anything.
        round_deadline_seconds: of the plan; a round that is older has gone wrong.
        certificate_notices: sentences about certificates that end soon.
        budget: ε of the plan; None without differential privacy.
    """
    found = [
        *_absent(missing, lost),
        *_stuck(idle_seconds, round_deadline_seconds),
        *_left_out(rounds),
        *_falling(rounds, sites),
        *_refused(refused),
        *(Alert("warning", notice) for notice in certificate_notices),
        *_nearly_spent(rounds, budget),
    ]
    return sorted(found, key=lambda alert: alert.severity != "serious")


def _absent(missing: Collection[str], lost: Collection[str]) -> Iterator[Alert]:
    for site in sorted(missing):
        yield Alert(
            "serious", f"{site} is not there; ask its staff whether the agent runs, and for its log"
        )
    for site in sorted(lost):
        yield Alert(
            "warning",
            f"the exchange stream of {site} is closed; steps go on without its prototypes until it "
            "is back",
        )


def _stuck(idle_seconds: float, deadline_seconds: float) -> Iterator[Alert]:
    if idle_seconds > deadline_seconds:
        yield Alert(
            "serious",
            f"nothing has happened for {idle_seconds / 60:.0f} minutes, longer than a round may "
            "take; see the coordinator's log",
        )


def _left_out(rounds: Sequence[RoundRecord]) -> Iterator[Alert]:
    for site, entry in rounds[-1].sites.items() if rounds else ():
        if entry.refused is not None:
            yield Alert(
                "warning", f"the last round went without the update of {site}: {entry.refused}"
            )


def _falling(rounds: Sequence[RoundRecord], sites: Sequence[str]) -> Iterator[Alert]:
    for site in sites:
        scores = [record.sites[site].val_dice for record in rounds if site in record.sites]
        known = [score for score in scores if is_known(score)]
        best, last = max(known, default=0.0), known[-_DICE_ROUNDS:]
        if len(last) == _DICE_ROUNDS and max(last) < best - DICE_DROP:
            yield Alert(
                "warning",
                f"the Dice of {site} has been at least {DICE_DROP * 100:.0f} points below its best "
                f"({best:.3f}) for {_DICE_ROUNDS} rounds; the common model may no longer suit it",
            )


def _refused(count: int) -> Iterator[Alert]:
    if count:
        yield Alert(
            "warning", f"the hub has refused {count} frame(s) or stream(s); the table says why"
        )


def _nearly_spent(rounds: Sequence[RoundRecord], budget: float | None) -> Iterator[Alert]:
    for site, entry in rounds[-1].sites.items() if rounds and budget else ():
        if budget and entry.privacy is not None and entry.privacy.epsilon > BUDGET_SHARE * budget:
            yield Alert(
                "warning",
                f"{site} has spent ε = {entry.privacy.epsilon:.2f} of {budget:g}; it stops "
                "training before it would spend more",
            )
