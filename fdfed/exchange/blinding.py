"""Blinding: the hub computes on prototypes that a secret of the sites has turned and moved.

Every site applies the same isometry, drawn afresh for each step and tap from a keyed function of
the full index (epoch, run, round, attempt, step). The hub sees distances within one step and
nothing that links two steps; it needs no more for its terms. What it does learn, and what a site
that conspires with it gives away, is in `docs/THREAT_MODEL.md`. It is not encryption.
"""

from __future__ import annotations

import hashlib
import logging
from dataclasses import dataclass, field, replace
from typing import Final

import numpy as np
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.kdf.hkdf import HKDF, HKDFExpand
from numpy.typing import NDArray

from fdfed.errors import CryptoError, InvalidInput
from fdfed.exchange.codes import ExchangeCode, FrameRefused
from fdfed.exchange.frames import CotangentFrame, PrototypeFrame, StepKey
from fdfed.exchange.isometry import Isometry, geometry
from fdfed.exchange.late_replies import is_usable
from fdfed.exchange.layout import TapLayout
from fdfed.exchange.protocol import Exchange, ExchangeStats

log = logging.getLogger(__name__)

SECRET_BYTES: Final = 32
_LABEL: Final = b"fdfed blinding 1"
_STRAY: Final = 1e-3
"""Share of a cotangent's length that may lie in the padding, where only rounding belongs."""

_KNOWN: Final = 0
"""The epoch of a secret that everybody knows; sites make secrets from epoch 1 on."""


@dataclass(frozen=True, slots=True)
class BlindingSecret:
    """What the sites of one epoch share and the coordinator never holds."""

    data: bytes = field(repr=False)
    epoch: int

    def __post_init__(self) -> None:
        if len(self.data) != SECRET_BYTES or self.epoch < 0:
            raise CryptoError(
                f"a blinding secret of {len(self.data)} bytes, epoch {self.epoch}; it must have "
                f"{SECRET_BYTES} bytes and an epoch of 0 or more"
            )

    @classmethod
    def known_to_all(cls, seed: int) -> BlindingSecret:
        """A secret that follows from the plan's seed, **for simulations and tests alone**.

        Whoever has the plan has it, the coordinator too: it hides nothing. It is there so that one
        process and several compute the same bits, in the first attempt at a round or in a later
        one: its maps depend on round and step alone, where those of a real secret never repeat.
        """
        kdf = HKDF(hashes.SHA256(), SECRET_BYTES, salt=None, info=_LABEL + b", from the seed")
        return cls(kdf.derive(seed.to_bytes(8, "big")), epoch=_KNOWN)

    def stream(self, key: StepKey, length: int) -> bytes:
        """`length` pseudo-random bytes that belong to this step of this epoch and to no other."""
        # HKDF gives the step its own key, SHAKE-256 stretches that one: prefix-keying a sponge is
        # a sound pseudo-random function, and one call makes the whole stream.
        run, attempt = key.run_id.encode(), key.attempt
        if self.epoch == _KNOWN:
            run, attempt = b"", 0
        info = _encode(
            _LABEL,
            self.epoch.to_bytes(8, "big"),
            run,
            key.server_round.to_bytes(8, "big"),
            attempt.to_bytes(8, "big"),
            key.step.to_bytes(8, "big"),
        )
        step_key = HKDFExpand(hashes.SHA256(), SECRET_BYTES, info).derive(self.data)
        return hashlib.shake_256(step_key).digest(length)


class BlindedExchange:
    """An `Exchange` whose other end sees blinded prototypes; its caller notices nothing.

    Prototypes that are not valid are not sent at all: their entries are zeros, not even t. A frame
    is refused here if its index would serve a second, different plaintext. A reply that is late is
    turned back with the map of the step that it answers.

    Args:
        inner: where the blinded frames go.
        layout: of the caller's frames; the hub's is `padded_layout(layout)`.
        unit_length: as in `Isometry`.
        max_staleness: steps by which the inner exchange's replies may be late.
    """

    def __init__(
        self,
        inner: Exchange,
        secret: BlindingSecret,
        layout: TapLayout,
        *,
        unit_length: bool = False,
        max_staleness: int = 0,
    ) -> None:
        self._inner = inner
        self._secret = secret
        self._shape = geometry(layout)
        self._unit_length = unit_length
        self._max_staleness = max_staleness
        self._guard = IndexGuard()
        self._maps: dict[StepKey, Isometry] = {}
        self._warned = False

    def swap(self, frame: PrototypeFrame) -> CotangentFrame | None:
        """The cotangents of the caller's own prototypes, or None where the term is dropped.

        It is also dropped for an answer that is no combination of differences of blinded
        prototypes, or answers no step that was sent.

        Raises:
            CryptoError: if this index has served another plaintext.
            FrameRefused: as the inner exchange does.
            InvalidInput: if the frame is not of the layout.
        """
        isometry = self._isometry(frame)
        self._keep(frame.key, isometry)
        reply = self._inner.swap(self._blinded(frame, isometry))
        if reply is None:
            return None
        try:
            return self._unblinded(reply)
        except FrameRefused as err:
            log.log(logging.DEBUG if self._warned else logging.WARNING, "term dropped: %s", err)
            self._warned = True
            return None

    def take_stats(self) -> ExchangeStats:
        """The inner exchange's counters."""
        return self._inner.take_stats()

    def close(self) -> None:
        """Closes the inner exchange."""
        self._inner.close()

    def _keep(self, key: StepKey, isometry: Isometry) -> None:
        """Keeps the maps of the steps whose reply may still serve."""
        kept = {k: m for k, m in self._maps.items() if is_usable(k, key, self._max_staleness)}
        self._maps = {**kept, key: isometry}

    def _isometry(self, frame: PrototypeFrame) -> Isometry:
        layout = self._shape.layout
        if frame.vector.shape != (layout.size,) or frame.valid.shape != (layout.taps,):
            raise InvalidInput(
                f"a frame of {frame.vector.size} elements and {frame.valid.size} taps for a "
                f"layout of {layout.size} and {layout.taps}; blind the taps of one network"
            )
        self._guard.admit(frame)
        stream = self._secret.stream(frame.key, self._shape.stream_bytes)
        return Isometry(self._shape, stream, unit_length=self._unit_length)

    def _blinded(self, frame: PrototypeFrame, isometry: Isometry) -> PrototypeFrame:
        # A step that diverged is for the wire's own check to name; a sum of infinities warns.
        with np.errstate(invalid="ignore", over="ignore"):
            wide = isometry.blind(
                np.where(_by_entry(frame.valid, self._shape.layout), frame.vector, 0)
            )
            sent = np.where(_by_entry(frame.valid, self._shape.padded), wide, 0)
            return replace(frame, vector=sent.astype(frame.vector.dtype))

    def _unblinded(self, reply: CotangentFrame) -> CotangentFrame:
        isometry = self._maps.get(reply.key)
        if isometry is None:
            raise FrameRefused(ExchangeCode.WRONG_STEP, "an answer to no step that may serve")
        if reply.vector.shape != (self._shape.padded.size,):
            raise FrameRefused(
                ExchangeCode.WRONG_SHAPE, f"{reply.vector.size} cotangents of blinded prototypes"
            )
        wide = isometry.unblind(reply.vector)
        plain = wide[self._shape.places]
        _check_padding(wide, plain)
        return replace(reply, vector=plain.astype(reply.vector.dtype))


class IndexGuard:
    """Refuses that one index serves two plaintexts: they would be two views of one map.

    Steps only ever go forward, except that the very same frame may be sent again.
    """

    def __init__(self) -> None:
        self._last: tuple[StepKey, bytes] | None = None

    def admit(self, frame: PrototypeFrame) -> None:
        """Notes the frame.

        Raises:
            CryptoError: if its index is before the last one, or is the last one's with other
                numbers.
        """
        digest = hashlib.sha256(frame.vector.tobytes() + frame.valid.tobytes()).digest()
        if self._last is not None:
            last, seen = self._last
            if _order(frame.key) < _order(last) or frame.key.run_id != last.run_id:
                raise CryptoError(
                    f"blinding refuses step {frame.key.step} of round {frame.key.server_round} "
                    f"after step {last.step} of round {last.server_round}: its map may have "
                    "served already. A repeated round needs a new secret"
                )
            if frame.key == last and digest != seen:
                raise CryptoError(
                    f"blinding refuses a second, different frame for step {frame.key.step} of "
                    f"round {frame.key.server_round}: one map must never serve two plaintexts"
                )
        self._last = (frame.key, digest)


def _order(key: StepKey) -> tuple[int, int, int]:
    return key.server_round, key.attempt, key.step


def _by_entry(valid: NDArray[np.bool_], layout: TapLayout) -> NDArray[np.bool_]:
    return np.tile(np.repeat(valid, layout.channels), 2)


def _check_padding(wide: NDArray[np.float64], plain: NDArray[np.float64]) -> None:
    """Differences of blinded prototypes have nothing in the padding once they are turned back."""
    total = float(wide @ wide)
    stray = total - float(plain @ plain)
    if stray > _STRAY**2 * total:
        raise FrameRefused(
            ExchangeCode.MALFORMED,
            "the cotangents are no combination of blinded prototypes; hub and sites differ, or "
            "the sites do not share one secret",
        )


def _encode(*parts: bytes) -> bytes:
    """The parts with their lengths: no two lists of parts have one encoding."""
    return b"".join(len(part).to_bytes(4, "big") + part for part in parts)
