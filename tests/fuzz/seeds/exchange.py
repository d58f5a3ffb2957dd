"""Seeds of the exchange's stream."""

from __future__ import annotations

import numpy as np

from fdfed.exchange import (
    CotangentFrame,
    HpkeSuite,
    PrototypeFrame,
    StepKey,
    open_session,
)
from fdfed.exchange import exchange_pb2 as pb
from tests.fuzz import parties
from tests.fuzz.parties import NONCE, RUN
from tests.fuzz.seeds.kinds import Seeds

VECTOR = np.arange(8, dtype=np.float32)
KEY = StepKey(RUN, 1, 1, 2)


def exchange() -> Seeds:
    """Openings, sealed frames, and what they hold."""
    for suite in HpkeSuite:
        public = parties.hpke_key(0, suite).public
        _, hello = open_session(public, site="ad", challenge=NONCE)
        yield "exchange-opening", suite.value, pb.SiteFrame(hello=hello).SerializeToString()
    yield "exchange-opening", "unsealed", pb.SiteFrame(hello=pb.Hello()).SerializeToString()
    for dtype in (np.float32, np.float64):
        sent = PrototypeFrame(KEY, VECTOR.astype(dtype), np.array([True, False]))
        content = pb.SiteContent(prototypes=sent.to_proto()).SerializeToString()
        site, _ = parties.session_pair()
        frame = pb.SiteFrame(sealed=site.seal(content)).SerializeToString()
        yield "exchange-sealed", np.dtype(dtype).name, frame
        yield "exchange-prototypes", np.dtype(dtype).name, content
        terms = np.array([0.5, np.nan])
        answer = CotangentFrame(KEY, VECTOR.astype(dtype), terms, terms, 1).to_proto()
        content = pb.HubContent(cotangents=answer).SerializeToString()
        yield "exchange-answer", np.dtype(dtype).name, content
    later = pb.Sealed(counter=3, length=4, body=bytes(20))
    yield "exchange-sealed", "later", pb.SiteFrame(sealed=later).SerializeToString()
    spoilt = PrototypeFrame(KEY, np.full(4, np.nan), np.ones(1, np.bool_))
    payload = pb.PrototypePayload(vector=spoilt.vector.tobytes(), valid=b"\x01")
    nan = pb.Prototypes(key=KEY.to_proto(), element_type=2, payload=payload.SerializeToString())
    yield "exchange-prototypes", "nan", pb.SiteContent(prototypes=nan).SerializeToString()
    for content_name, content in (
        ("refusal", pb.HubContent(refusal=pb.Refusal(code="CODE_TOO_LATE", key=KEY.to_proto()))),
        ("welcome", pb.HubContent(welcome=pb.Welcome(protocol_version=2, site="ad"))),
    ):
        yield "exchange-answer", content_name, content.SerializeToString()
