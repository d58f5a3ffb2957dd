"""The per-batch exchange: how prototypes are laid out, framed and swapped for cotangents."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fdfed.process import lazy

if TYPE_CHECKING:
    from fdfed.exchange.blinding import BlindedExchange, BlindingSecret
    from fdfed.exchange.codes import ExchangeCode, FrameRefused
    from fdfed.exchange.frames import (
        INSECURE_SITE_HEADER,
        MAX_MAGNITUDE,
        MAX_MESSAGE_BYTES,
        PROTOCOL_VERSION,
        CotangentFrame,
        PrototypeFrame,
        StepKey,
    )
    from fdfed.exchange.hpke import HpkePrivateKey, HpkePublicKey, HpkeSuite
    from fdfed.exchange.isometry import padded_layout
    from fdfed.exchange.late_replies import ModelledDelay, NewestReply, is_usable, staleness
    from fdfed.exchange.layout import TapLayout
    from fdfed.exchange.protocol import Exchange, ExchangeStats, StatsRecorder
    from fdfed.exchange.sealing import (
        NO_SEALING,
        NoSealing,
        Session,
        accept_session,
        new_challenge,
        open_session,
    )

__all__ = [
    "INSECURE_SITE_HEADER",
    "MAX_MAGNITUDE",
    "MAX_MESSAGE_BYTES",
    "NO_SEALING",
    "PROTOCOL_VERSION",
    "BlindedExchange",
    "BlindingSecret",
    "CotangentFrame",
    "Exchange",
    "ExchangeCode",
    "ExchangeStats",
    "FrameRefused",
    "HpkePrivateKey",
    "HpkePublicKey",
    "HpkeSuite",
    "ModelledDelay",
    "NewestReply",
    "NoSealing",
    "PrototypeFrame",
    "Session",
    "StatsRecorder",
    "StepKey",
    "TapLayout",
    "accept_session",
    "is_usable",
    "new_challenge",
    "open_session",
    "padded_layout",
    "staleness",
]

__getattr__ = lazy.exports(
    __name__,
    {
        "blinding": ("BlindedExchange", "BlindingSecret"),
        "codes": ("ExchangeCode", "FrameRefused"),
        "frames": (
            "INSECURE_SITE_HEADER",
            "MAX_MAGNITUDE",
            "MAX_MESSAGE_BYTES",
            "PROTOCOL_VERSION",
            "CotangentFrame",
            "PrototypeFrame",
            "StepKey",
        ),
        "hpke": ("HpkePrivateKey", "HpkePublicKey", "HpkeSuite"),
        "isometry": ("padded_layout",),
        "layout": ("TapLayout",),
        "protocol": ("Exchange", "ExchangeStats", "StatsRecorder"),
        "sealing": (
            "NO_SEALING",
            "NoSealing",
            "Session",
            "accept_session",
            "new_challenge",
            "open_session",
        ),
        "late_replies": ("ModelledDelay", "NewestReply", "is_usable", "staleness"),
    },
)
