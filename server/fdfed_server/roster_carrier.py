"""Brings the sites the newest roster, so that no file has to be mailed when it changes.

The coordinator only carries it: each site verifies the signatures against the policy that it has
pinned, and takes no older roster and no fork.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable

from fdfed.errors import WireError
from fdfed.membership.roster import SignedRoster
from fdfed.wire import RosterInForce, RosterRelay
from fdfed_server.secret_relay import Asking

log = logging.getLogger(__name__)


class RosterCarrier:
    """Remembers which roster each site goes by, and asks only those that lack the newest.

    Args:
        newest: the roster in force at the coordinator.
    """

    def __init__(self, newest: Callable[[], SignedRoster]) -> None:
        self._newest = newest
        self._held: dict[str, str] = {}

    def bring(self, asking: Asking, sites: Iterable[str]) -> None:
        """Has every one of `sites` take the newest roster. One that does not is named in the log;
        it will share no secret with the others, and so leaves the round by itself."""
        roster = self._newest()
        relay = RosterRelay(roster=roster.text.decode(), signatures=roster.signatures.decode())
        for site in sites:
            if self._held.get(site) == roster.digest:
                continue
            reply = asking(site, relay)
            try:
                if reply.record is None:
                    raise WireError(reply.failure)
                answer = RosterInForce.from_record(reply.record)
            except WireError as err:
                log.warning("site %s did not take the roster: %s", site, err)
                continue
            self._held[site] = answer.digest
            if answer.digest != roster.digest:
                log.warning(
                    "site %s goes by roster version %d, this coordinator by version %d; the newer "
                    "one must reach this coordinator's folder",
                    site,
                    answer.version,
                    roster.roster.version,
                )
