"""The site's part in the secret that blinds: makes it when asked, accepts it when it is due.

The secret lives in memory for one attempt of one round. What is kept on disk is the last epoch,
written before the secret is used, so that no restart can bring an old one back.
"""

from __future__ import annotations

import logging
import secrets
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from fdfed.config import ExchangePlan
from fdfed.errors import CryptoError, RefusedByPolicy
from fdfed.exchange import BlindingSecret
from fdfed.exchange.blinding import SECRET_BYTES
from fdfed.exchange.group_secret import Expected, Member, OfferContext
from fdfed.files import atomic_file
from fdfed.wire import SecretOffer, SecretRequest, TrainInstruction
from fdfed_client.config import SiteConfig
from fdfed_client.membership import Membership

log = logging.getLogger(__name__)

_AHEAD_MS: Final = 24 * 3600 * 1000
"""How far an epoch may be ahead of this site's clock, in milliseconds: beyond it, an epoch would
lock the sites out of the run's next rounds."""


class GroupSecrets:
    """What one site does about group secrets.

    An epoch is the maker's clock in milliseconds, and later than any that it has seen: makers that
    take over from each other need not agree on a counter.

    Args:
        member: gives the site's keys, and the roster that is in force when it is called.
        state: folder in which the last epoch is kept.
        min_sites: the site's own minimum; the plan may ask for more.
        allow_deterministic: whether a secret that the coordinator knows may be used.
    """

    def __init__(
        self,
        member: Callable[[], Member],
        state: Path,
        *,
        min_sites: int = 2,
        allow_deterministic: bool = False,
        clock_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
    ) -> None:
        self._member = member
        self._file = state / "group-epoch"
        self._min_sites = min_sites
        self._allow_deterministic = allow_deterministic
        self._clock_ms = clock_ms
        self._lock = threading.Lock()
        self._made = 0
        self._told: tuple[str, ...] | None = None

    @classmethod
    def of(cls, config: SiteConfig) -> GroupSecrets:
        """The group secrets of the site that `config` describes.

        Raises:
            InvalidInput: if a file is missing.
            CryptoError: if the roster's signature or a key does not verify, it is older than one
                that was used here, or this site's keys are not the ones it lists.
        """
        return cls.over(Membership.of(config), config)

    @classmethod
    def over(cls, membership: Membership, config: SiteConfig) -> GroupSecrets:
        """The same, over a membership that the caller holds."""
        return cls(
            lambda: membership.member,
            config.state,
            min_sites=config.min_sites,
            allow_deterministic=config.allow_deterministic,
        )

    def make(self, request: SecretRequest) -> SecretOffer:
        """A fresh secret, sealed to each of the request's members and signed.

        Raises:
            CryptoError: if a member is not in the signed roster or not approved, or the
                coordinator asks for an epoch far ahead.
        """
        member = self._member()
        with self._lock:
            now = self._clock_ms()
            if request.after_epoch > now + _AHEAD_MS:
                raise CryptoError(
                    f"the coordinator asks for an epoch after {request.after_epoch}, more than a "
                    "day ahead of this site's clock; set the clocks of all sites"
                )
            epoch = max(self._last() + 1, self._made + 1, request.after_epoch + 1, now)
            secret = BlindingSecret(secrets.token_bytes(SECRET_BYTES), epoch=epoch)
            context = OfferContext(
                roster=member.roster.digest,
                run_id=request.run_id,
                server_round=request.server_round,
                attempt=request.attempt,
                epoch=epoch,
                maker=member.site,
            )
            text = member.offer(secret, context, request.members)
            self._made = epoch
        return SecretOffer(epoch=epoch, text=text)

    def secret_of(self, message: TrainInstruction) -> BlindingSecret:
        """The secret of the round that `message` begins; its epoch is used up by this call.

        Raises:
            CryptoError: if the offer in the message does not verify in every respect.
            RefusedByPolicy: if too few sites take part, or the secret would be the coordinator's.
        """
        plan = message.plan.exchange
        if plan.blinding == "deterministic":
            return self._deterministic(message.plan.seed)
        if not message.offer:
            raise CryptoError(
                "the coordinator relayed no secret for this round; prototypes never leave without "
                "one. Both sides need the same fdfed version"
            )
        member = self._member()
        with self._lock:
            expected = Expected.of(message, after_epoch=self._last())
            secret, members = member.accept(message.offer, expected)
            self._check_epoch(secret.epoch)
            self._check_size(members, plan)
            atomic_file.write_text(self._file, f"{secret.epoch}\n")
        self._tell(members)
        return secret

    def _deterministic(self, seed: int) -> BlindingSecret:
        if not self._allow_deterministic:
            raise RefusedByPolicy(
                "the plan has exchange.blinding = deterministic: the coordinator could undo the "
                "blinding. Set it to on; for a test without patients, this site can allow it with "
                "allow_deterministic = true in site.toml"
            )
        log.warning("blinding: deterministic, from the plan's seed; it hides nothing (test only)")
        return BlindingSecret.known_to_all(seed)

    def _check_epoch(self, epoch: int) -> None:
        if epoch > self._clock_ms() + _AHEAD_MS:
            raise CryptoError(
                f"the secret's epoch {epoch} is more than a day ahead of this site's clock; set "
                "the clocks of all sites"
            )

    def _check_size(self, members: tuple[str, ...], plan: ExchangePlan) -> None:
        needed = max(self._min_sites, plan.min_sites)
        if len(members) < needed:
            raise RefusedByPolicy(
                f"{len(members)} site(s) would share this round's exchange; min_sites asks for "
                f"{needed}. Wait for more sites, or lower it where it is set (site.toml, or "
                "[run.exchange] in federation.toml)"
            )

    def _tell(self, members: tuple[str, ...]) -> None:
        if members == self._told:
            return
        self._told = members
        log.info(
            "blinding: on, with a secret of %s that the coordinator does not hold; it learns the "
            "distances between their prototypes, step by step",
            ", ".join(members),
        )
        if len(members) == 2:
            log.warning(
                "two sites alone: each can compute the other's batch-mean prototypes exactly from "
                "the cotangents it gets; min_sites = 3 in site.toml refuses this"
            )

    def _last(self) -> int:
        try:
            return int(self._file.read_text())
        except FileNotFoundError:
            return 0
        except ValueError as err:
            raise CryptoError(
                f"{self._file} does not hold the last epoch; restore it from a backup. Without it "
                "an old secret could come back"
            ) from err
