"""Sealing over real gRPC with mutual TLS: what someone inside TLS sees, and what becomes of it when
they change something. The honest site of each test goes on through all of it."""

import logging
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from fdfed.errors import CryptoError
from fdfed.exchange import (
    NO_SEALING,
    ExchangeCode,
    FrameRefused,
    HpkePrivateKey,
    HpkePublicKey,
    HpkeSuite,
    NoSealing,
    PrototypeFrame,
    StepKey,
    TapLayout,
)
from fdfed.exchange import exchange_pb2 as pb
from fdfed_client.exchange import ExchangeStream
from fdfed_client.exchange_identity import SiteIdentity
from fdfed_server.exchange_service import ExchangeService
from fdfed_server.hub import ExchangeHub
from fdfed_server.provision import provision
from fdfed_server.terms import cross_site_terms

LAYOUT = TapLayout(("Enc1", "Bot"), (16, 32))
SITES = ("ad", "tnbc")
Change = Callable[[int, bytes], bytes]


@pytest.fixture(scope="module", params=list(HpkeSuite), ids=lambda suite: suite.value)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("federation")
    provision(SITES, out, hpke_suite=request.param, days=2)
    return out


class Wire:
    """A site's identity whose channel passes through someone inside TLS, who sees every message
    and may put another in its place. Messages are numbered from 0 in each direction."""

    def __init__(
        self, folder: Path, site: str, key: HpkePublicKey | NoSealing | None = None
    ) -> None:
        mine = folder / "sites" / site
        self._identity = SiteIdentity(
            certificate=(mine / "site.pem").read_bytes(),
            key=(mine / "site.key").read_bytes(),
            ca_certificate=(mine / "ca.pem").read_bytes(),
            server_hpke_key=key or HpkePublicKey.read(mine / "server-hpke.pub"),
        )
        self.site, self.server_hpke_key = self._identity.site, self._identity.server_hpke_key
        self.up: list[bytes] = []
        self.down: list[bytes] = []
        self.change_up: Change = lambda _, message: message
        self.change_down: Change = lambda _, message: message

    def channel(self, address: str) -> Any:
        return _Tapped(self._identity.channel(address), self)


class _Tapped:
    """A channel with a tap on both directions of its stream."""

    def __init__(self, channel: grpc.Channel, wire: Wire) -> None:
        self._channel, self._wire = channel, wire

    def stream_stream(
        self,
        method: str,
        request_serializer: Callable[[Any], bytes],
        response_deserializer: Callable[[bytes], Any],
        **options: Any,
    ) -> Any:
        wire = self._wire

        def up(message: Any) -> bytes:
            wire.up.append(request_serializer(message))
            return wire.change_up(len(wire.up) - 1, wire.up[-1])

        def down(data: bytes) -> Any:
            wire.down.append(data)
            return response_deserializer(wire.change_down(len(wire.down) - 1, data))

        return self._channel.stream_stream(method, up, down, **options)

    def close(self) -> None:
        self._channel.close()


class Federation:
    """A hub in service, one honest site and one whose wire is tapped."""

    def __init__(self, folder: Path, key: HpkePrivateKey | NoSealing | None = None) -> None:
        server = folder / "server"
        self.hub = ExchangeHub(cross_site_terms)
        self.service = ExchangeService(
            self.hub,
            address="localhost:0",
            sites=SITES,
            server_certificate=(server / "server.pem").read_bytes(),
            server_key=(server / "server.key").read_bytes(),
            ca_certificate=(server / "ca.pem").read_bytes(),
            hpke_key=key or HpkePrivateKey.read(server / "hpke.key"),
        )
        self.service.start()
        self.folder = folder
        self.streams: list[ExchangeStream] = []

    def stream(self, identity: Any) -> ExchangeStream:
        address = f"localhost:{self.service.port}"
        self.streams.append(ExchangeStream(address, identity, reply_seconds=20.0))
        return self.streams[-1]

    def open(self, *sites: str, deadline_seconds: float = 15.0) -> None:
        self.hub.open_round(
            "run",
            1,
            0,
            sites=sites,
            layout=LAYOUT,
            steps=1000,
            deadline_seconds=deadline_seconds,
            max_missed_steps=3,
        )

    def close(self) -> None:
        for stream in self.streams:
            stream.close()
        self.hub.close()
        self.service.stop(grace=0)


@pytest.fixture
def federation(folder: Path) -> Iterator[Federation]:
    federation = Federation(folder)
    yield federation
    federation.close()


@pytest.fixture
def wire(folder: Path) -> Wire:
    return Wire(folder, "ad")


def _frame(site: str, step: int) -> PrototypeFrame:
    rng = np.random.default_rng([step, *site.encode()])
    return PrototypeFrame(
        StepKey("run", 1, 0, step),
        rng.normal(size=LAYOUT.size).astype(np.float32),
        np.ones(LAYOUT.taps, np.bool_),
    )


def _together(*calls: Callable[[], Any]) -> list[Any]:
    results: list[Any] = [None] * len(calls)

    def run(number: int) -> None:
        try:
            results[number] = calls[number]()
        except Exception as err:
            results[number] = err

    threads = [threading.Thread(target=run, args=(number,)) for number in range(len(calls))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    return results


def _until(condition: Callable[[], bool], seconds: float = 10.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"waited {seconds} s in vain"
        time.sleep(0.01)


def _windows(data: bytes, size: int = 8) -> set[bytes]:
    return {data[i : i + size] for i in range(len(data) - size + 1)}


def _swap_both(federation: Federation, wire: Wire, steps: int) -> list[Any]:
    """Swaps of both sites; the frames that the tapped site sent and the answers it got."""
    ad, tnbc = federation.stream(wire), federation.stream(Wire(federation.folder, "tnbc"))
    federation.open(*SITES)
    told = []
    for step in range(steps):
        mine = _frame("ad", step)
        answers = _together(
            lambda mine=mine: ad.swap(mine), lambda step=step: tnbc.swap(_frame("tnbc", step))
        )
        assert [answer.peers for answer in answers] == [1, 1]
        told += [mine, answers[0]]
    return told


def test_nothing_that_crosses_holds_eight_bytes_of_a_prototype_or_a_cotangent(
    federation: Federation, wire: Wire
) -> None:
    told = _swap_both(federation, wire, 5)
    crossed = _windows(b"".join(wire.up)) | _windows(b"".join(wire.down))
    assert len(wire.up) == len(wire.down) - 1 == 6, "challenge, hello / welcome, five swaps"
    for frame in told:
        secret = _windows(frame.vector.tobytes())
        assert len(secret) > LAYOUT.size
        assert not secret & crossed
    for message in wire.up[1:]:
        assert {f.name for f, _ in pb.SiteFrame.FromString(message).sealed.ListFields()} <= {
            "counter",
            "length",
            "body",
        }


def test_the_transcript_test_sees_prototypes_where_nothing_is_sealed(folder: Path) -> None:
    federation = Federation(folder, NO_SEALING)
    wire = Wire(folder, "ad", NO_SEALING)
    try:
        federation.open("ad")
        stream, frame = federation.stream(wire), _frame("ad", 0)
        assert stream.swap(frame) is not None
    finally:
        federation.close()
    assert _windows(frame.vector.tobytes()) <= _windows(b"".join(wire.up))


def _sealed(message: bytes) -> pb.SiteFrame:
    return pb.SiteFrame.FromString(message)


def _flip(message: bytes) -> bytes:
    frame = _sealed(message)
    body = bytearray(frame.sealed.body)
    body[len(body) // 2] ^= 1
    frame.sealed.body = bytes(body)
    return frame.SerializeToString()


def _cut(message: bytes) -> bytes:
    frame = _sealed(message)
    frame.sealed.body = frame.sealed.body[:-5]
    return frame.SerializeToString()


def _swell(message: bytes) -> bytes:
    frame = _sealed(message)
    frame.sealed.body += bytes(int(3.5 * 2**20))
    return frame.SerializeToString()


def _skip(message: bytes) -> bytes:
    frame = _sealed(message)
    frame.sealed.counter += 1
    return frame.SerializeToString()


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (_flip, ExchangeCode.ALTERED),
        (_cut, ExchangeCode.TRUNCATED),
        (_swell, ExchangeCode.TOO_LARGE),
        (_skip, ExchangeCode.OUT_OF_ORDER),
        (None, ExchangeCode.REPLAYED),
        (lambda _: b"\xff\xff", ExchangeCode.MALFORMED),
    ],
    ids=["flipped", "cut", "oversized", "withheld", "replayed", "garbled"],
)
def test_a_frame_changed_on_the_way_is_refused_by_its_code_and_the_others_go_on(
    federation: Federation,
    wire: Wire,
    caplog: pytest.LogCaptureFixture,
    change: Callable[[bytes], bytes] | None,
    code: ExchangeCode,
) -> None:
    caplog.set_level(logging.WARNING)
    # Message 0 is Hello, 1 the first swap; the second one is hit. A replay puts the first there.
    wire.change_up = lambda n, message: (
        message if n != 2 else wire.up[1] if change is None else change(message)
    )
    ad, tnbc = federation.stream(wire), federation.stream(Wire(federation.folder, "tnbc"))
    ad.connect()
    tnbc.connect()
    # The site comes back in the middle of a step, for which the other then waits in vain.
    federation.open(*SITES, deadline_seconds=4.0)

    def both(step: int) -> list[Any]:
        return _together(
            lambda: ad.swap(_frame("ad", step)), lambda: tnbc.swap(_frame("tnbc", step))
        )

    assert [answer.peers for answer in both(0)] == [1, 1]
    refused, answered = both(1)
    assert isinstance(refused, FrameRefused)
    assert refused.code is code
    assert answered.peers == 0, "answered without the site whose stream was closed"
    assert federation.hub.snapshot().refused == {code: 1}
    assert f"site ad: exchange refused with {code.name}" in caplog.text
    # A new stream, a new secret: the site comes back, and the step it lost is all that is lost.
    _until(lambda: federation.service.connected == {"tnbc"})
    step = 1

    def back() -> bool:
        nonlocal step
        step += 1
        answers = both(step)
        assert answers[1] is not None
        return answers[0] is not None

    _until(back, seconds=40.0)
    hellos = [_sealed(message).hello for message in wire.up if _sealed_kind(message) == "hello"]
    assert len(hellos) == 2
    assert hellos[0].opening != hellos[1].opening


def _sealed_kind(message: bytes) -> str | None:
    return _sealed(message).WhichOneof("frame")


def _bent_answer(message: bytes) -> bytes:
    frame = pb.HubFrame.FromString(message)
    frame.sealed.body = frame.sealed.body[:-1] + bytes([frame.sealed.body[-1] ^ 1])
    return frame.SerializeToString()


def _cut_answer(message: bytes) -> bytes:
    frame = pb.HubFrame.FromString(message)
    frame.sealed.body = frame.sealed.body[:40]
    return frame.SerializeToString()


FORGED_REFUSAL = pb.HubFrame(refusal=pb.Refusal(code="CODE_TOO_LATE")).SerializeToString()


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (_bent_answer, "ALTERED"),
        (_cut_answer, "TRUNCATED"),
        (None, "REPLAYED"),
        (lambda _: FORGED_REFUSAL, "MALFORMED"),
        (lambda _: b"", "MALFORMED"),
    ],
    ids=["flipped", "cut", "replayed", "forged refusal", "emptied"],
)
def test_an_answer_changed_on_the_way_is_an_error_at_the_site_and_never_a_cotangent(
    federation: Federation, wire: Wire, change: Callable[[bytes], bytes] | None, code: str
) -> None:
    # Down: 0 is the challenge, 1 the welcome, 2 the first answer, 3 the one that is hit.
    wire.change_down = lambda n, message: (
        message if n != 3 else wire.down[2] if change is None else change(message)
    )
    ad = federation.stream(wire)
    federation.open("ad")
    assert ad.swap(_frame("ad", 0)) is not None
    with pytest.raises(CryptoError, match=rf"not the one it sealed \({code}\)"):
        ad.swap(_frame("ad", 1))
    assert ad.take_stats().dropped == 1
    _until(lambda: not federation.service.connected)


def test_a_coordinator_with_another_key_is_found_out_before_any_prototype_is_sent(
    folder: Path, federation: Federation
) -> None:
    foreign = HpkePrivateKey.generate(HpkePrivateKey.read(folder / "server" / "hpke.key").suite)
    wire = Wire(folder, "ad", foreign.public)
    federation.open("ad")
    stream = federation.stream(wire)
    with pytest.raises(CryptoError, match=r"BAD_OPENING.*Compare the fingerprints"):
        stream.swap(_frame("ad", 0))
    assert [_sealed_kind(message) for message in wire.up] == ["hello"]
    assert federation.hub.snapshot().refused == {ExchangeCode.BAD_OPENING: 1}
    assert federation.hub.snapshot().frames_in == 0


def test_a_hub_that_only_pretends_to_have_the_key_is_found_out_too(
    federation: Federation, wire: Wire
) -> None:
    # It lets the site in without opening anything, and says Welcome under a key it made up.
    welcome = pb.Sealed(counter=0, length=30, body=bytes(46))
    wire.change_down = lambda n, message: (
        message if n == 0 else pb.HubFrame(sealed=welcome).SerializeToString()
    )
    stream = federation.stream(wire)
    with pytest.raises(CryptoError, match="not the coordinator whose key is pinned"):
        stream.swap(_frame("ad", 0))
    assert [_sealed_kind(message) for message in wire.up] == ["hello"]


def test_neither_side_goes_on_without_sealing_when_the_other_does_not_seal(
    folder: Path, federation: Federation
) -> None:
    clear = Wire(folder, "ad", NO_SEALING)
    with pytest.raises(CryptoError, match="WRONG_SUITE"):
        federation.stream(clear).swap(_frame("ad", 0))
    unsealed = Federation(folder, NO_SEALING)
    wire = Wire(folder, "ad")
    try:
        with pytest.raises(CryptoError, match="WRONG_SUITE"):
            unsealed.stream(wire).swap(_frame("ad", 0))
    finally:
        unsealed.close()
    for tapped in (clear, wire):
        assert [_sealed_kind(message) for message in tapped.up] == ["hello"]


def test_a_recorded_stream_played_to_the_hub_again_is_refused_at_its_opening(
    federation: Federation, wire: Wire
) -> None:
    federation.open("ad")
    first = federation.stream(wire)
    assert first.swap(_frame("ad", 0)) is not None
    first.close()
    _until(lambda: not federation.service.connected)
    recorded = list(wire.up)
    again = Wire(federation.folder, "ad")
    again.change_up = lambda n, _: recorded[n]
    with pytest.raises(CryptoError, match="BAD_OPENING"):
        federation.stream(again).swap(_frame("ad", 1))
    assert federation.hub.snapshot().frames_in == 1
