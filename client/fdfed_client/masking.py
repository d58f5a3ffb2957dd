"""The site's part in masked aggregation: a key when an attempt begins, masks for its one answer.

Keys live in memory, for one attempt. What is kept on disk is the last attempt of each run that
was begun, written before anything is computed for it, so that no restart lets one be answered
twice.
"""

from __future__ import annotations

import hashlib
import json
import logging
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fdfed.config import RunPlan
from fdfed.errors import CryptoError, RefusedByPolicy
from fdfed.exchange.group_secret import Member
from fdfed.files import atomic_file
from fdfed.privacy import (
    ContributionLayout,
    KeyContext,
    MaskingKey,
    Measures,
    PairwiseMasks,
    Signer,
)
from fdfed.training.local_round import tap_losses
from fdfed.wire import MaskedResult, Ready, ReadyRequest, TrainInstruction, TrainResult

log = logging.getLogger(__name__)


class Masking:
    """What one site does about masked aggregation.

    Args:
        signer: the site's signing key, and those of its peers under the roster now in force.
        folder: where the last attempt of each run is kept.
        min_sites: fewest sites in a sum that this site enters, itself included.
        required: whether this site refuses to send an update that is not masked.
    """

    def __init__(
        self,
        signer: Callable[[], Signer],
        folder: Path,
        *,
        min_sites: int = 3,
        required: bool = False,
    ) -> None:
        self._signer = signer
        self._folder = folder
        self._min_sites = min_sites
        self._required = required
        self._lock = threading.Lock()
        self._key: tuple[ReadyRequest, str, MaskingKey] | None = None
        self._told: tuple[str, ...] | None = None

    def check(self, plan: RunPlan) -> None:
        """Whether this site takes part in a run of this plan.

        Raises:
            RefusedByPolicy: if it would send updates unmasked and this site requires masks, or the
                plan has too few sites for masks to hide one.
        """
        if plan.aggregation != "masked" and self._required and plan.strategy != "local":
            raise RefusedByPolicy(
                f"the plan has aggregation = {plan.aggregation}: the coordinator would read this "
                "site's update. Set it to masked in federation.toml, or require_masking = false in "
                "site.toml"
            )
        if plan.aggregation == "masked":
            self._check_size(plan.sites)

    def ready(self, request: ReadyRequest) -> Ready:
        """A fresh key for an attempt; one that was announced before is forgotten.

        Raises:
            CryptoError: if the attempt is not later than the last that was begun here.
        """
        with self._lock:
            self._check_new(request)
            signer = self._signer()
            context = KeyContext(
                roster=signer.roster,
                run_id=request.run_id,
                server_round=request.server_round,
                attempt=request.attempt,
            )
            key = MaskingKey(signer, context)
            self._key = (request, signer.roster, key)
        return Ready(announcement=key.announcement)

    def masks_of(self, message: TrainInstruction) -> PairwiseMasks:
        """The masks of the attempt that `message` begins; it is used up by this call.

        Raises:
            CryptoError: if no key was announced for it, or one of the set does not verify.
            RefusedByPolicy: if too few sites are in the set.
        """
        with self._lock:
            request = ReadyRequest(
                run_id=message.run_id, server_round=message.server_round, attempt=message.attempt
            )
            # Also after a roster in which a site may have been revoked since.
            announced, now = self._key, self._signer().roster
            self._key = None
            if announced is None or announced[:2] != (request, now):
                raise CryptoError(
                    f"no masking key was announced for round {message.server_round}, attempt "
                    f"{message.attempt} under the roster now in force, or it has been used; no "
                    "update leaves without masks. The coordinator must begin a new attempt"
                )
            self._check_new(request)
            masks, members = announced[2].masks(message.masking_keys, inputs=_inputs(message))
            self._check_size(members)
            self._keep(request)
        self._tell(members)
        return masks

    def _check_size(self, sites: tuple[str, ...]) -> None:
        if len(sites) < self._min_sites:
            raise RefusedByPolicy(
                f"aggregation = masked among {len(sites)} site(s) ({', '.join(sites)}), but "
                f"min_masked_sites is {self._min_sites}: of two, each has the other's update when "
                "it takes its own from the sum. Wait for more sites, or lower min_masked_sites in "
                "site.toml"
            )

    def _check_new(self, request: ReadyRequest) -> None:
        last = self._last(request.run_id)
        if (request.server_round, request.attempt) <= last:
            raise CryptoError(
                f"round {request.server_round}, attempt {request.attempt} is asked for, but round "
                f"{last[0]}, attempt {last[1]} has been answered or begun here; each is answered "
                "once. The coordinator must begin a new attempt"
            )

    def _last(self, run_id: str) -> tuple[int, int]:
        path = self._folder / run_id
        try:
            server_round, attempt = path.read_text(encoding="ascii").split()
            return int(server_round), int(attempt)
        except FileNotFoundError:
            return 0, 0
        except ValueError as err:
            raise CryptoError(
                f"{path} does not hold the last masked attempt; restore it from a backup. Without "
                "it one attempt could be answered twice"
            ) from err

    def _keep(self, request: ReadyRequest) -> None:
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        atomic_file.write_text(
            self._folder / request.run_id, f"{request.server_round} {request.attempt}\n"
        )

    def _tell(self, members: tuple[str, ...]) -> None:
        if members == self._told:
            return
        self._told = members
        log.info(
            "aggregation: masked among %s; the coordinator reads their sum alone",
            ", ".join(members),
        )
        if len(members) == 2:
            log.warning(
                "two sites alone: masking hides nothing from the other, which takes its own update "
                "from the sum"
            )


def signer_of(member: Member) -> Signer:
    """The signer of a site of the signed roster, which knows the peers that it has approved."""

    def public_key_of(site: str) -> str:
        member.check_members([site])
        return member.roster.roster.sites[site].signing_public_key

    return Signer(member.site, member.roster.digest, member.signing_key, public_key_of)


def _inputs(message: TrainInstruction) -> bytes:
    """SHA-256 of all that a site is sent to train from, less the keys: sites that were sent
    different things share no masks."""
    digest = hashlib.sha256()
    scalars = [
        message.plan.to_json(),
        message.phase,
        message.total_examples,
        message.best_round,
        message.offer,
        [[name, w.dtype.str, w.shape] for name, w in message.weights.items()],
    ]
    digest.update(json.dumps(scalars).encode() + b"\n")
    for vector in (message.alpha, message.target):
        digest.update(_bytes(np.empty(0) if vector is None else vector))
    for weight in message.weights.values():
        digest.update(_bytes(weight))
    return digest.digest()


def _bytes(array: NDArray[Any]) -> memoryview:
    return np.require(array, requirements="C").reshape(-1).view(np.uint8).data


def masked_result(result: TrainResult, masks: PairwiseMasks, *, plan: RunPlan) -> MaskedResult:
    """`result` as one site's part of a sum, under its masks."""
    measures = Measures(
        loss_seg=result.loss_seg,
        alpha=result.alpha,
        fd=result.fd,
        exch=result.exch,
        total=tap_losses(plan, result.fd, result.exch),
    )
    layout = ContributionLayout.of(result.weights, taps=len(result.alpha))
    values = layout.contribution(result.weights, measures, num_examples=result.num_examples)
    masks.add_(values)
    return MaskedResult(
        run_id=result.run_id,
        server_round=result.server_round,
        attempt=result.attempt,
        seconds=result.seconds,
        exchange=result.exchange,
        values=values,
    )
