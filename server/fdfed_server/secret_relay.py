"""The coordinator's part in the blinding secret: it has a site make one, and relays it sealed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Final

from flwr.app import RecordDict
from flwr.serverapp import Grid

from fdfed.errors import QuorumNotMet, WireError
from fdfed.wire import RosterRelay, SecretOffer, SecretRequest
from fdfed_server.asking import ask
from fdfed_server.site_reply import SiteReply

OFFER_SECONDS: Final = 60.0
"""How long a site may take to make a secret before the next one is asked; its work takes
milliseconds."""

Asking = Callable[[str, SecretRequest | RosterRelay], SiteReply]
"""Asks one site, by name, and returns its reply or the reason why there is none."""


class SecretRelay:
    """Has a fresh secret made for each attempt of a round that exchanges.

    The coordinator cannot open what it relays, and each site checks whatever it is handed; all that
    this decides is which site makes it: the first of the round that will.

    Args:
        min_sites: the plan's `exchange.min_sites`.
    """

    def __init__(self, *, min_sites: int) -> None:
        self._min_sites = min_sites
        self._epoch = 0

    def offer(
        self,
        asking: Asking,
        *,
        run_id: str,
        server_round: int,
        attempt: int,
        sites: tuple[str, ...],
    ) -> str:
        """The offer of a secret to `sites`, as the text that goes with the instruction to train.

        Raises:
            QuorumNotMet: if there are fewer sites than `min_sites`, or none of them made a secret.
        """
        if len(sites) < self._min_sites:
            raise QuorumNotMet(
                f"{len(sites)} site(s) are there for round {server_round}, but exchange.min_sites "
                f"is {self._min_sites}; wait for more, or lower it"
            )
        request = SecretRequest(
            run_id=run_id,
            server_round=server_round,
            attempt=attempt,
            members=sites,
            after_epoch=self._epoch,
        )
        failures = []
        for site in sites:
            reply = asking(site, request)
            try:
                if reply.record is None:
                    raise WireError(reply.failure)
                made = SecretOffer.from_record(reply.record)
            except WireError as err:
                failures.append(f"{site}: {err}")
                continue
            self._epoch = max(self._epoch, made.epoch)
            return made.text
        raise QuorumNotMet(
            f"no site made the secret that blinds round {server_round}: {'; '.join(failures)}"
        )


def asking_over(grid: Grid, nodes: Mapping[str, int], *, poll_seconds: float) -> Asking:
    """Asks over Flower."""

    def asking(site: str, request: SecretRequest | RosterRelay) -> SiteReply:
        records: dict[str, RecordDict] = {site: request.to_record()}
        replies: Iterator[SiteReply] = ask(
            grid,
            {site: nodes[site]},
            records,
            kind="query.roster" if isinstance(request, RosterRelay) else "query.secret",
            group=0 if isinstance(request, RosterRelay) else request.server_round,
            deadline_seconds=OFFER_SECONDS,
            poll_seconds=poll_seconds,
        )
        return next(replies)

    return asking
