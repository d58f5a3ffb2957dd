"""The one table of reasons for which a frame, or a whole stream, is refused.

A code and its public text cross the wire; what the hub knows beyond that stays in its log.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from fdfed.errors import WireError


class ExchangeCode(enum.IntEnum):
    """Why a frame was refused; the numbers are those of `Code` in `exchange.proto`."""

    MALFORMED = 1
    WRONG_PROTOCOL = 2
    UNKNOWN_SITE = 3
    DUPLICATE_STREAM = 4
    WRONG_SHAPE = 5
    WRONG_TYPE = 6
    NOT_FINITE = 7
    TOO_LARGE = 8
    WRONG_ROUND = 9
    WRONG_STEP = 10
    DUPLICATE_FRAME = 11
    TOO_LATE = 12
    ABSENT = 13
    ROUND_CLOSED = 14
    INTERNAL = 15
    WRONG_SUITE = 16
    BAD_OPENING = 17
    REPLAYED = 18
    OUT_OF_ORDER = 19
    TRUNCATED = 20
    ALTERED = 21
    REVOKED = 22

    @property
    def public_message(self) -> str:
        """What both sides may know of it."""
        return PUBLIC_MESSAGES[self]

    @property
    def drops_the_step(self) -> bool:
        """Whether training may go on without the cross-site term of this one step.

        The other codes say that the two sides do not agree on who they are or on what they
        exchange: no later step would fare better.
        """
        return self in _DROPS_THE_STEP

    @property
    def ends_the_stream(self) -> bool:
        """Whether the hub closes the stream with it: sealing is not agreed on, or broken."""
        return self in _ENDS_THE_STREAM


PUBLIC_MESSAGES: Final[Mapping[ExchangeCode, str]] = MappingProxyType(
    {
        ExchangeCode.MALFORMED: "the frame cannot be read; both sides need the same fdfed version",
        ExchangeCode.WRONG_PROTOCOL: (
            "the two sides speak different versions of the exchange; install the same fdfed version"
        ),
        ExchangeCode.UNKNOWN_SITE: (
            "the common name of the client certificate is not a site of this federation; enrol "
            "the site, or use the certificate that was issued for it"
        ),
        ExchangeCode.DUPLICATE_STREAM: (
            "a stream of this site is open already; stop the other agent, or wait until the hub "
            "has noticed that the old connection is gone"
        ),
        ExchangeCode.WRONG_SHAPE: (
            "the frame does not fit the taps of this round; both sides must build the same network"
        ),
        ExchangeCode.WRONG_TYPE: (
            "the frame's element type is not the one of this round; both sides must use the same "
            "precision"
        ),
        ExchangeCode.NOT_FINITE: "the frame holds NaN or infinity; the site's training diverged",
        ExchangeCode.TOO_LARGE: "the frame, or a number in it, is larger than the protocol allows",
        ExchangeCode.WRONG_ROUND: "the frame belongs to a run, round or attempt that is not open",
        ExchangeCode.WRONG_STEP: "the frame's step is outside the round or before the site's last",
        ExchangeCode.DUPLICATE_FRAME: "the site has posted a frame for this step already",
        ExchangeCode.TOO_LATE: "the step was answered without this site; its term is dropped",
        ExchangeCode.ABSENT: (
            "the site missed too many steps in a row and is absent for the rest of the round"
        ),
        ExchangeCode.ROUND_CLOSED: "the round was closed before the step was complete",
        ExchangeCode.INTERNAL: "the hub could not compute the step; see its log",
        ExchangeCode.WRONG_SUITE: (
            "the site does not seal with the suite of the coordinator's key; use the "
            "server-hpke.pub that was provisioned for this coordinator"
        ),
        ExchangeCode.BAD_OPENING: (
            "the session does not open with the coordinator's key, for this site, on this stream; "
            "site and coordinator need the files of one provisioning"
        ),
        ExchangeCode.REPLAYED: (
            "a sealed frame came a second time; something between site and coordinator repeats "
            "messages, inside TLS"
        ),
        ExchangeCode.OUT_OF_ORDER: (
            "a sealed frame is missing before this one; something between site and coordinator "
            "withholds or reorders messages, inside TLS"
        ),
        ExchangeCode.TRUNCATED: (
            "a sealed frame was cut short; something between site and coordinator shortens "
            "messages, inside TLS"
        ),
        ExchangeCode.ALTERED: (
            "a sealed frame is not what was sent; something between site and coordinator changes "
            "messages, inside TLS"
        ),
        ExchangeCode.REVOKED: (
            "the certificate is not one that the consortium's roster lists for this site now: the "
            "site was removed, its certificate was replaced, or it has expired; ask whoever keeps "
            "the consortium's keys"
        ),
    }
)

_DROPS_THE_STEP: Final = frozenset(
    {
        # A mixed-precision step that overflowed is skipped by its gradient scaler and is no
        # reason to stop; the term of that step is dropped with it.
        ExchangeCode.NOT_FINITE,
        ExchangeCode.DUPLICATE_STREAM,
        ExchangeCode.WRONG_ROUND,
        ExchangeCode.WRONG_STEP,
        ExchangeCode.DUPLICATE_FRAME,
        ExchangeCode.TOO_LATE,
        ExchangeCode.ABSENT,
        ExchangeCode.ROUND_CLOSED,
        ExchangeCode.INTERNAL,
    }
)

_ENDS_THE_STREAM: Final = frozenset(
    {
        ExchangeCode.WRONG_PROTOCOL,
        ExchangeCode.UNKNOWN_SITE,
        ExchangeCode.DUPLICATE_STREAM,
        ExchangeCode.WRONG_SUITE,
        ExchangeCode.BAD_OPENING,
        ExchangeCode.REPLAYED,
        ExchangeCode.OUT_OF_ORDER,
        ExchangeCode.TRUNCATED,
        ExchangeCode.ALTERED,
        ExchangeCode.REVOKED,
    }
)


class FrameRefused(WireError):
    """A frame, or the stream, was refused with `code`; `detail` is for the local log only."""

    def __init__(self, code: ExchangeCode, detail: str = "") -> None:
        self.code = code
        self.detail = detail
        text = f"exchange refused with {code.name}: {code.public_message}"
        super().__init__(f"{text} ({detail})" if detail else text)
