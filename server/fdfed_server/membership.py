"""Who takes part now: the consortium's roster, followed while the coordinator runs."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from datetime import UTC, date, datetime
from typing import Final, Self

from cryptography import x509
from cryptography.hazmat.primitives import hashes

from fdfed.exchange import ExchangeCode, FrameRefused
from fdfed.membership.expiry import expiry_notices
from fdfed.membership.roster import Roster, SignedRoster
from fdfed.membership.roster_keeper import RosterKeeper
from fdfed.process.health import not_expired

log = logging.getLogger(__name__)

_LOOK_SECONDS: Final = 1.0
"""Between two looks at the roster's file: how long a revoked site may at most go on."""


class Membership:
    """The roster in force, and who must hear when there is a newer one.

    Use as a context manager: inside, the roster's file is looked at every second. A roster on disk
    counts only if its version is higher and the consortium signed it; this process cannot sign.

    Args:
        own_certificates: until when the coordinator's own certificates are valid, by what they are.
    """

    def __init__(
        self, keeper: RosterKeeper, *, own_certificates: Mapping[str, datetime] | None = None
    ) -> None:
        self._keeper = keeper
        self._own_certificates = dict(own_certificates or {})
        self._told_on: date | None = None
        self._ever: frozenset[str] = frozenset(keeper.current.roster.sites)
        self._listeners: list[Callable[[Roster], None]] = []
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="roster", daemon=True)

    @property
    def signed(self) -> SignedRoster:
        """The roster in force, as it was signed."""
        return self._keeper.current

    @property
    def roster(self) -> Roster:
        """The roster in force."""
        return self._keeper.current.roster

    @property
    def certificate_ends(self) -> dict[str, datetime]:
        """Until when each certificate is valid, the coordinator's own ones and every site's."""
        sites = self.roster.sites.items()
        ends = {f"the certificate of {n}": s.certificate_expires for n, s in sites}
        return self._own_certificates | {what: end for what, end in ends.items() if end is not None}

    def notices(self) -> tuple[str, ...]:
        """What the operator must hear of certificates that end within 30 days."""
        return expiry_notices(self.certificate_ends)

    def check(self) -> str:
        """For readiness: why revocations are not heard of here, if they are not."""
        return "" if self._thread.is_alive() else "is not followed: no run has begun, or it ended"

    def check_own_certificates(self) -> str:
        """For readiness: which of the coordinator's own certificates has expired, if one has."""
        return not_expired(self._own_certificates)

    @property
    def removed(self) -> frozenset[str]:
        """Sites that an earlier roster of this process's life listed, and this one does not. A site
        that is invited and not enrolled yet is none of them."""
        return self._ever - self.roster.sites.keys()

    def on_change(self, tell: Callable[[Roster], None]) -> None:
        """Has `tell` called, in a thread of this object, with every newer roster."""
        self._listeners.append(tell)

    def check_certificate(self, site: str, pem: bytes) -> None:
        """Nothing, if the roster lists this very certificate for the site.

        The authority's signature, which TLS has checked, is not enough: a site that was removed
        still has its certificate, and so may have whoever took it.

        Raises:
            FrameRefused: with REVOKED.
        """
        certificate = x509.load_pem_x509_certificate(pem)
        sha256 = certificate.fingerprint(hashes.SHA256()).hex()
        entry = self.roster.sites.get(site)
        if entry is None:
            why = f"roster version {self.roster.version} does not list the site"
        elif not entry.has_certificate(sha256=sha256, serial=f"{certificate.serial_number:x}"):
            why = f"certificate {certificate.serial_number:x} is not the one in the roster"
        elif certificate.not_valid_after_utc < datetime.now(UTC):
            why = f"the certificate expired on {certificate.not_valid_after_utc:%Y-%m-%d}"
        else:
            return
        raise FrameRefused(ExchangeCode.REVOKED, why)

    def look(self) -> None:
        """Takes up a newer roster now, if there is one, and tells everyone."""
        before = self.roster
        if not self._keeper.refresh():
            return
        self._ever |= self.roster.sites.keys()
        _tell(before, self.roster)
        for tell in self._listeners:
            try:
                tell(self.roster)
            except Exception:
                # One that fails must not keep the others from hearing of a revocation.
                log.exception("a newer roster could not be put into force everywhere")

    def remind(self, *, today: date | None = None) -> None:
        """Puts the notices into the log, once a day."""
        day = today or datetime.now(UTC).date()
        if day == self._told_on:
            return
        self._told_on = day
        for notice in self.notices():
            log.warning("%s", notice)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _watch(self) -> None:
        self.remind()
        while not self._ended.wait(_LOOK_SECONDS):
            self.look()
            self.remind()


def _tell(before: Roster, now: Roster) -> None:
    for site in sorted(before.sites.keys() - now.sites.keys()):
        log.warning("site %s is not in roster version %d any more", site, now.version)
    for site in sorted(now.sites.keys() - before.sites.keys()):
        log.info("site %s is in roster version %d", site, now.version)
    for site in sorted(now.sites.keys() & before.sites.keys()):
        if now.sites[site] != before.sites[site]:
            log.info("site %s has another certificate or other keys now", site)
