"""When certificates end, and who must hear of it in time."""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Final

WARN_DAYS: Final = 30
"""So long before its end a certificate is spoken of: time enough for a request and signatures."""
_DAY_SECONDS: Final = 86_400


def days_left(expires: datetime, *, now: datetime | None = None) -> float:
    """Days until `expires`; below 0 afterwards. Metrics export this number."""
    return (expires - (now or datetime.now(UTC))).total_seconds() / _DAY_SECONDS


def expiry_notice(what: str, expires: datetime, *, now: datetime | None = None) -> str:
    """A sentence for people if `what` ends within 30 days or has ended, else nothing."""
    left = days_left(expires, now=now)
    if left > WARN_DAYS:
        return ""
    if left < 0:
        return f"{what} expired on {expires:%Y-%m-%d}; renew it (docs/OPERATIONS.md)"
    return (
        f"{what} expires on {expires:%Y-%m-%d}, in {math.ceil(left)} day(s); renew it before "
        "(docs/OPERATIONS.md)"
    )


def expiry_notices(ends: Mapping[str, datetime], *, now: datetime | None = None) -> tuple[str, ...]:
    """The notices for several things, by name, those that end first at the front."""
    ordered = sorted(ends.items(), key=lambda item: item[1])
    notices = (expiry_notice(what, expires, now=now) for what, expires in ordered)
    return tuple(notice for notice in notices if notice)
