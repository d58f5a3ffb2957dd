"""Certificates are spoken of thirty days before they end."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from fdfed.membership.expiry import days_left, expiry_notice, expiry_notices

NOW = datetime(2030, 1, 1, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("days", "text"),
    [
        (31, ""),
        (30.01, ""),
        (30, "in 30 day(s)"),
        (0.5, "in 1 day(s)"),
        (-0.5, "expired on 2030-01-01"),
    ],
)
def test_a_certificate_is_named_from_thirty_days_before_its_end(days: float, text: str) -> None:
    notice = expiry_notice("the certificate of tnbc", NOW + timedelta(days=days), now=NOW)
    assert (text in notice) if text else notice == ""
    assert not notice or notice.startswith("the certificate of tnbc")


def test_what_ends_first_is_told_first() -> None:
    ends = {"a": NOW + timedelta(days=9), "b": NOW + timedelta(days=2), "c": NOW.replace(year=2040)}
    first, second = expiry_notices(ends, now=NOW)
    assert first.startswith("b")
    assert second.startswith("a")


def test_days_left_is_a_number_for_metrics() -> None:
    assert days_left(NOW + timedelta(hours=36), now=NOW) == pytest.approx(1.5)
