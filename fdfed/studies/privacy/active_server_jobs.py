"""Attack 6 end to end: a training step with blinding on, whose answer was forged."""

from __future__ import annotations

import logging

import numpy as np
import torch

from fdfed.exchange import (
    BlindedExchange,
    BlindingSecret,
    CotangentFrame,
    ExchangeStats,
    PrototypeFrame,
    StepKey,
    TapLayout,
    padded_layout,
)
from fdfed.studies.privacy.active_server import FORGERIES, Forge, LyingExchange, verdict
from fdfed.studies.privacy.rows import Row
from fdfed.studies.privacy.setting import Images, Population, Setting
from fdfed.training.initialise import initial_network
from fdfed.training.step import RemoteTerm, layout_of, step_losses
from fdfed_server.terms import cross_site_terms


class _OnePeer:
    """The hub's answer to a site whose only peer has sent `peer`."""

    def __init__(self, layout: TapLayout, peer: PrototypeFrame) -> None:
        self._layout, self._peer = layout, peer

    def swap(self, frame: PrototypeFrame) -> CotangentFrame:
        vectors = np.stack([frame.vector, self._peer.vector]).astype(np.float64)
        terms = cross_site_terms(self._layout, vectors, np.stack([frame.valid, self._peer.valid]))
        return CotangentFrame(
            key=frame.key,
            vector=terms.cotangents[0].astype(frame.vector.dtype),
            pair_terms=terms.pair_terms,
            site_terms=terms.site_terms[0],
            peers=1,
        )

    def take_stats(self) -> ExchangeStats:
        return ExchangeStats()

    def close(self) -> None: ...


class _Keep:
    """Takes the first frame that a site sends, and answers nothing."""

    def __init__(self) -> None:
        self.frame: PrototypeFrame | None = None

    def swap(self, frame: PrototypeFrame) -> None:
        self.frame = frame

    def take_stats(self) -> ExchangeStats:
        return ExchangeStats()

    def close(self) -> None: ...


def active_server_rows(setting: Setting, population: Population) -> list[Row]:
    """Of so many steps, the share in which each forgery is used; one that is refused or dropped
    does no harm but the lost term."""
    # Every refusal is the point here, and no news.
    log = logging.getLogger("fdfed.exchange.blinding")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        return _rows(setting, population)
    finally:
        log.setLevel(level)


def _rows(setting: Setting, population: Population) -> list[Row]:
    rows = []
    for padding in (False, True):
        # Widths that are no power of two leave padding, in which a forgery shows.
        width = 3 * setting.width // 2 if padding else setting.width
        for name, forge in FORGERIES.items():
            verdicts = [
                _try(setting, population.members, width, forge, step)
                for step in range(setting.forgeries)
            ]
            rows.append(
                Row(
                    part="isometry",
                    attack="6 forged cotangents",
                    defence="checks of the site, padded width" if padding else "checks of the site",
                    setting=name,
                    measure="forgeries that enter the gradient",
                    value=verdicts.count("used") / len(verdicts),
                    reference=1.0,
                    n=len(verdicts),
                )
            )
    return rows


def _try(setting: Setting, images: Images, width: int, forge: Forge, step: int) -> str:
    plan = setting.plan.model_copy(update={"width": width, "strategy": "fdfed"})
    network = initial_network(plan)
    layout, secret = layout_of(network), BlindingSecret.known_to_all(0)
    alpha = np.full(layout.taps, 0.01)
    rng = np.random.default_rng(step)
    # One image a patient, so that both batches are above the floor for what may be sent.
    first = list({patient: i for i, patient in enumerate(images.patients)}.values())
    drawn = rng.permutation(first).tolist()
    peer, mine = images.take(drawn[: len(drawn) // 2][:4]), images.take(drawn[-4:])

    def remote(exchange: BlindedExchange, batch: Images) -> RemoteTerm:
        key = StepKey("0" * 16, 1, 1, step)
        return RemoteTerm(exchange=exchange, key=key, scale=2.0, patients=batch.patients)

    def train(inner: _Keep | LyingExchange, batch: Images) -> bool:
        blinding = BlindedExchange(inner, secret, layout)
        losses = step_losses(
            network,
            batch.image,
            batch.mask,
            plan=plan,
            alpha=alpha,
            remote=remote(blinding, batch),
        )
        return losses.exch is not None

    keep = _Keep()
    with torch.no_grad():
        train(keep, peer)
    if keep.frame is None:
        return "dropped"
    hub = _OnePeer(padded_layout(layout), keep.frame)
    return verdict(lambda: train(LyingExchange(hub, forge, rng), mine))
