"""What an operator is told to look at."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fdfed.evaluation.results import RoundRecord, SitePrivacy, SiteRound
from fdfed_server.console.alerts import alerts

QUIET: dict[str, Any] = {
    "sites": ("tnbc", "monuseg"),
    "missing": (),
    "lost": (),
    "refused": 0,
    "idle_seconds": 1.0,
    "round_deadline_seconds": 3600.0,
    "certificate_notices": (),
    "budget": None,
}


def rounds(*scores: float | None, refused: str | None = None) -> Sequence[RoundRecord]:
    return [
        RoundRecord(round=i + 1, phase=1, sites={"tnbc": SiteRound(val_dice=s, refused=refused)})
        for i, s in enumerate(scores)
    ]


def texts(history: Sequence[RoundRecord] = (), **changes: Any) -> list[str]:
    return [alert.text for alert in alerts(history, **QUIET | changes)]


def test_a_run_in_order_has_no_alert() -> None:
    assert texts(rounds(0.7, 0.8, 0.79)) == []


def test_a_missing_site_a_stuck_run_and_refusals_are_named_the_serious_first() -> None:
    found = texts(refused=3, missing=("monuseg",), idle_seconds=7200.0)
    assert "monuseg is not there" in found[0]
    assert "for 120 minutes" in found[1]
    assert "refused 3" in found[2]


def test_the_last_round_s_refusal_is_named_and_an_old_one_is_not() -> None:
    (alert,) = texts(rounds(None, refused="not finite"))
    assert "without the update of tnbc: not finite" in alert
    old = [*rounds(None, refused="not finite"), *rounds(0.5)]
    assert texts(old) == []


def test_a_dice_that_stays_below_its_best_is_named_and_a_dip_is_not() -> None:
    # 0.80 - 0.05 = 0.75: three rounds below it are an alert, two are not.
    (alert,) = texts(rounds(0.80, 0.74, 0.70, 0.73))
    assert "Dice of tnbc" in alert
    assert "(0.800)" in alert
    assert texts(rounds(0.80, 0.76, 0.70, 0.73)) == []
    assert texts(rounds(0.80, 0.70, 0.73)) == []
    assert texts(rounds(0.80, None, 0.70, 0.73)) == []


def test_a_certificate_that_ends_soon_is_named() -> None:
    assert texts(certificate_notices=("it ends on Monday",)) == ["it ends on Monday"]


def test_a_budget_is_announced_when_nine_tenths_are_spent() -> None:
    def spent(epsilon: float) -> Sequence[RoundRecord]:
        privacy = SitePrivacy(epsilon=epsilon, delta=0.01, unit="patient", units=30)
        return [RoundRecord(round=1, phase=1, sites={"tnbc": SiteRound(privacy=privacy)})]

    assert texts(spent(7.1), budget=8.0) == []
    (alert,) = texts(spent(7.3), budget=8.0)
    assert "spent ε = 7.30 of 8" in alert
    assert texts(spent(7.3)) == []
