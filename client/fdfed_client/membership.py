"""This site as a member of the consortium: its keys, and the roster that is in force."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives.asymmetric import ed25519

from fdfed.errors import CryptoError
from fdfed.exchange import HpkePrivateKey
from fdfed.exchange.group_secret import Member
from fdfed.membership.roster import SignedRoster
from fdfed.membership.roster_keeper import RosterKeeper
from fdfed.membership.signing_key import read_signing_key
from fdfed_client.config import SiteConfig

_USED: Final = "roster-used.json"


class Membership:
    """Follows the roster's file while the agent runs, and takes a newer one that is relayed.

    Args:
        member: the site's keys, and the roster as it stands.
        keeper: holds the roster.
        approved: fingerprints that the site's configuration names; None: all of the roster.
    """

    def __init__(
        self, member: Member, keeper: RosterKeeper, *, approved: frozenset[str] | None
    ) -> None:
        self._keeper = keeper
        self._approved = approved
        self._lock = threading.Lock()
        self._member = self._under(member, keeper.current)

    @classmethod
    def of(cls, config: SiteConfig) -> Membership:
        """The membership of the site that `config` describes.

        Raises:
            InvalidInput: if a file is missing.
            CryptoError: if the roster does not verify, is older than one that was used here, or
                does not list this site with its keys.
        """
        keeper = RosterKeeper(
            config.roster, public_key=config.consortium_key, used=config.state / _USED
        )
        member = Member(
            config.site,
            keeper.current,
            read_site_key(config.signing_key),
            HpkePrivateKey.read(config.hpke_key),
        )
        approved = None if config.approved is None else frozenset(config.approved)
        return cls(member, keeper, approved=approved)

    @property
    def member(self) -> Member:
        """The site under the newest roster on its disk.

        Raises:
            CryptoError: if that roster does not list this site with its keys any more.
        """
        self._keeper.refresh()
        roster = self._keeper.current
        with self._lock:
            if roster.digest != self._member.roster.digest:
                self._member = self._under(self._member, roster)
            return self._member

    def check(self) -> str:
        """For readiness: why this site is no member any more, if it is none."""
        try:
            self.member  # noqa: B018  (looks at the newest roster)
        except CryptoError:
            return "does not list this site with its keys any more"
        return ""

    def adopt(self, text: bytes, signatures: bytes) -> SignedRoster:
        """The roster in force, after one that the coordinator relayed was looked at.

        Raises:
            InvalidInput: if it is not of the agreed form.
            CryptoError: if it is not signed by the consortium, or does not follow the current one.
        """
        self._keeper.adopt(text, signatures, source="the roster that the coordinator relayed")
        return self._keeper.current

    def _under(self, member: Member, roster: SignedRoster) -> Member:
        entry = roster.roster.sites.get(member.site)
        own = (
            member.signing_key.public_key().public_bytes_raw().hex(),
            member.hpke_key.public.text,
        )
        if entry is None or (entry.signing_public_key, entry.hpke_public_key) != own:
            raise CryptoError(
                f"the roster of version {roster.roster.version} does not list {member.site} with "
                "the keys that are here: it was signed before this site was enrolled, or the site "
                "was removed since. Ask whoever keeps the consortium's keys"
            )
        approved = None if self._approved is None else self._approved | {entry.fingerprint}
        return replace(member, roster=roster, approved=approved)


def read_site_key(path: Path) -> ed25519.Ed25519PrivateKey:
    """The key in the file `path`, with which the site signs what it seals, and its audit log.

    Raises:
        InvalidInput: if the file is missing.
        CryptoError: if it holds no key.
    """
    return read_signing_key(
        path,
        whence="`fdfed-client enrol` makes it, and a folder of an earlier version lacks it",
    )
