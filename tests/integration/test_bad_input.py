"""What a hostile or broken party sends to the exchange, over real gRPC with mutual TLS.

A row each: it is refused with a public code of its own, logged and counted at the hub, and two
honest sites complete their round through it without losing a step.
"""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from fdfed.exchange import (
    CotangentFrame,
    ExchangeCode,
    HpkePrivateKey,
    HpkePublicKey,
    PrototypeFrame,
    Session,
    StepKey,
    open_session,
)
from fdfed.exchange import exchange_pb2 as pb
from fdfed_client.exchange import ExchangeStream
from tests.integration.raw_exchange import HUB_KEY, LAYOUT, Authority, Coordinator, RawStream

ROOT = Path(__file__).parents[2]
HONEST = ("busi", "tnbc")
STEPS = 4
BAD = 1
"""The step in which the offence is committed."""


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority()


@pytest.fixture
def coordinator(authority: Authority) -> Iterator[Coordinator]:
    coordinator = Coordinator(authority)
    yield coordinator
    coordinator.close()


def frame(site: str, step: int) -> PrototypeFrame:
    rng = np.random.default_rng([step, *site.encode()])
    vector = rng.normal(size=LAYOUT.size)
    return PrototypeFrame(StepKey("run", 1, 0, step), vector, np.ones(LAYOUT.taps, np.bool_))


class HonestSites:
    """Two sites that train on, each in a thread of its own."""

    def __init__(self, authority: Authority, coordinator: Coordinator) -> None:
        self.streams = {
            site: ExchangeStream(coordinator.address, authority.site(site), reply_seconds=30.0)
            for site in HONEST
        }
        for stream in self.streams.values():
            stream.connect()
        self._threads = ThreadPoolExecutor(len(HONEST))

    def begin(self, step: int) -> list[Future[CotangentFrame | None]]:
        return [
            self._threads.submit(stream.swap, frame(site, step))
            for site, stream in self.streams.items()
        ]

    def lost_nothing(self) -> None:
        for stream in self.streams.values():
            stats = stream.take_stats()
            assert (stats.answered, stats.dropped) == (STEPS, 0)

    def close(self) -> None:
        for stream in self.streams.values():
            stream.close()
        self._threads.shutdown()


@pytest.fixture
def honest(authority: Authority, coordinator: Coordinator) -> Iterator[HonestSites]:
    sites = HonestSites(authority, coordinator)
    yield sites
    sites.close()


def peers(answers: list[Future[CotangentFrame | None]]) -> list[int]:
    found = [answer.result(timeout=30) for answer in answers]
    return [-1 if reply is None else reply.peers for reply in found]


def content(sent: PrototypeFrame) -> bytes:
    return pb.SiteContent(prototypes=sent.to_proto()).SerializeToString()


def changed(**values: Any) -> bytes:
    """The frame of the bad step with another key."""
    good = frame("ad", BAD)
    return content(replace(good, key=replace(good.key, **values)))


def with_payload(vector: np.ndarray) -> bytes:
    """The frame of the bad step with numbers that no honest site's code would let out."""
    sent = pb.SiteContent(prototypes=frame("ad", BAD).to_proto())
    payload = pb.PrototypePayload.FromString(sent.prototypes.payload)
    payload.vector = vector.tobytes()
    sent.prototypes.payload = payload.SerializeToString()
    return sent.SerializeToString()


@dataclass
class Member:
    """The site `ad` of the round, which sends what it likes through a session that is in order."""

    raw: RawStream
    session: Session
    sent: list[bytes] = field(default_factory=list)

    def seal(self, data: bytes) -> bytes:
        return pb.SiteFrame(sealed=self.session.seal(data)).SerializeToString()

    def send(self, message: bytes) -> None:
        self.sent.append(message)
        self.raw.send(message)

    def answer(self) -> pb.HubContent:
        answer: pb.HubContent = pb.HubContent.FromString(
            self.session.unseal(self.raw.read().sealed)
        )
        return answer


def edited(message: bytes, edit: Callable[[pb.Sealed], None]) -> bytes:
    sent = pb.SiteFrame.FromString(message)
    edit(sent.sealed)
    return sent.SerializeToString()


def truncated(member: Member) -> bytes:
    def cut(sealed: pb.Sealed) -> None:
        sealed.body = sealed.body[:-5]

    return edited(member.seal(changed()), cut)


def flipped(member: Member) -> bytes:
    def flip(sealed: pb.Sealed) -> None:
        sealed.body = bytes([sealed.body[0] ^ 1]) + sealed.body[1:]

    return edited(member.seal(changed()), flip)


def reordered(member: Member) -> bytes:
    member.seal(changed())
    return member.seal(changed(step=BAD + 1))


FRAMES: dict[str, tuple[Callable[[Member], bytes], ExchangeCode]] = {
    "replayed": (lambda member: member.sent[0], ExchangeCode.REPLAYED),
    "reordered": (reordered, ExchangeCode.OUT_OF_ORDER),
    "truncated": (truncated, ExchangeCode.TRUNCATED),
    "bit-flipped": (flipped, ExchangeCode.ALTERED),
    "oversized": (lambda _: bytes(5 << 20), ExchangeCode.TOO_LARGE),
    "wrong shape": (
        lambda member: member.seal(with_payload(np.zeros(LAYOUT.size - 2))),
        ExchangeCode.WRONG_SHAPE,
    ),
    "NaN": (
        lambda member: member.seal(with_payload(np.full(LAYOUT.size, np.nan))),
        ExchangeCode.NOT_FINITE,
    ),
    "wrong round": (lambda member: member.seal(changed(server_round=2)), ExchangeCode.WRONG_ROUND),
    "wrong step": (lambda member: member.seal(changed(step=STEPS)), ExchangeCode.WRONG_STEP),
}
STAYS = {"wrong shape", "NaN", "wrong round", "wrong step"}
"""Where sealing is in order, the frame is refused and its sender may send a better one."""


@pytest.mark.parametrize("row", FRAMES)
def test_a_bad_frame_of_a_member_is_refused_by_its_code_and_the_others_complete_the_round(
    authority: Authority,
    coordinator: Coordinator,
    honest: HonestSites,
    caplog: pytest.LogCaptureFixture,
    row: str,
) -> None:
    caplog.set_level(logging.WARNING)
    make, code = FRAMES[row]
    raw = RawStream(coordinator.address, authority.site("ad"))
    member = Member(raw, raw.greet())
    coordinator.open(("ad", *HONEST), steps=STEPS)

    answers = honest.begin(0)
    member.send(member.seal(content(frame("ad", 0))))
    assert member.answer().cotangents.key.step == 0
    assert peers(answers) == [2, 2]

    answers = honest.begin(BAD)
    member.send(make(member))
    assert member.answer().refusal.code == code
    if row in STAYS:
        member.send(member.seal(content(frame("ad", BAD))))
        assert member.answer().cotangents.key.step == BAD
    assert peers(answers) == ([2, 2] if row in STAYS else [1, 1])

    assert raw.rest() == []
    for step in range(BAD + 1, STEPS):
        assert peers(honest.begin(step)) == [1, 1]
    honest.lost_nothing()
    snapshot = coordinator.hub.snapshot()
    assert snapshot.refused == {code: 1}
    assert (snapshot.steps_complete, snapshot.steps_past_deadline) == (STEPS, 0)
    assert f"site ad: exchange refused with {code.name}" in caplog.text


def wrong_key(authority: Authority, coordinator: Coordinator) -> pb.Refusal:
    foreign: HpkePublicKey = HpkePrivateKey.generate(HUB_KEY.suite).public
    raw = RawStream(coordinator.address, authority.site("ad"))
    _, hello = open_session(foreign, site="ad", challenge=raw.challenge)
    raw.send(pb.SiteFrame(hello=hello).SerializeToString())
    (last,) = raw.rest()
    return last.refusal


def turned_away(authority: Authority, coordinator: Coordinator, site: str) -> pb.Refusal:
    raw = RawStream(coordinator.address, authority.site(site))
    assert raw.rest() == []
    return raw.first.refusal


OPENINGS: dict[str, tuple[str, Callable[[Authority, Coordinator], pb.Refusal], ExchangeCode]] = {
    "wrong key": ("ad", wrong_key, ExchangeCode.BAD_OPENING),
    "unknown site": (
        "mallory",
        lambda authority, coordinator: turned_away(authority, coordinator, "mallory"),
        ExchangeCode.UNKNOWN_SITE,
    ),
    "two agents with one identity": (
        HONEST[0],
        lambda authority, coordinator: turned_away(authority, coordinator, HONEST[0]),
        ExchangeCode.DUPLICATE_STREAM,
    ),
}


@pytest.mark.parametrize("row", OPENINGS)
def test_a_stream_that_may_not_open_is_refused_by_its_code_and_the_others_complete_the_round(
    authority: Authority,
    coordinator: Coordinator,
    honest: HonestSites,
    caplog: pytest.LogCaptureFixture,
    row: str,
) -> None:
    caplog.set_level(logging.WARNING)
    site, attempt, code = OPENINGS[row]
    coordinator.open(HONEST, steps=STEPS)
    for step in range(STEPS):
        answers = honest.begin(step)
        if step == BAD:
            assert attempt(authority, coordinator).code == code
        assert peers(answers) == [1, 1]
    honest.lost_nothing()
    assert coordinator.hub.snapshot().refused == {code: 1}
    assert f"site {site}: exchange refused with {code.name}" in caplog.text


def test_every_row_has_a_public_code_and_a_text_of_its_own() -> None:
    codes = [code for _, code in FRAMES.values()] + [code for *_, code in OPENINGS.values()]
    assert len({code.public_message for code in codes}) == len(set(codes)) == len(codes) == 12


HANDSHAKES = {
    "expired": "certificate has expired",
    "foreign": "certificate signature failure",
}


def knock(authority: Authority, coordinator: Coordinator, row: str) -> None:
    """Comes with a certificate that does not hold. The honest client would not even try with such
    files (`SiteIdentity`); gRPC's own does."""
    forger = authority if row == "expired" else Authority()
    certificate, key = forger.issue("ad", days=-1 if row == "expired" else 1)
    with pytest.raises(grpc.RpcError) as caught:
        RawStream(coordinator.address, _Files(certificate, key, authority.certificate))
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


@pytest.mark.parametrize("row", HANDSHAKES)
def test_a_certificate_that_does_not_hold_ends_in_the_handshake_and_the_others_go_on(
    authority: Authority,
    coordinator: Coordinator,
    honest: HonestSites,
    row: str,
) -> None:
    coordinator.open(HONEST, steps=STEPS)
    for step in range(STEPS):
        answers = honest.begin(step)
        if step == BAD:
            knock(authority, coordinator, row)
        assert peers(answers) == [1, 1]
    honest.lost_nothing()
    # No message was read, so the hub has nothing to count.
    assert coordinator.hub.snapshot().refused == {}


KNOCKING = """
from fdfed_server.cli import main, start
from fdfed_server import coordinator
from tests.integration.raw_exchange import Authority, Coordinator
from tests.integration.test_bad_input import HANDSHAKES, knock

authority = Authority()
hub = Coordinator(authority)
for row in HANDSHAKES:
    knock(authority, hub, row)
hub.close()
"""


def test_the_coordinators_process_says_why_a_certificate_was_not_accepted() -> None:
    # In a process of its own that imports what the coordinator's does: Flower silences gRPC.
    path = os.pathsep.join(str(ROOT / part) for part in (".", "server", "client"))
    said = subprocess.run(
        [sys.executable, "-c", KNOCKING],
        cwd=ROOT,
        env={k: v for k, v in os.environ.items() if k != "GRPC_VERBOSITY"} | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=True,
    ).stderr
    for reason in HANDSHAKES.values():
        assert reason in said


@dataclass(frozen=True)
class _Files:
    """The PEM files of a site, unchecked."""

    certificate: bytes
    key: bytes
    ca_certificate: bytes
