"""The exchange over real gRPC with mutual TLS on loopback.

Long, because every case needs the same certificates, hub and streams; one file makes them once."""

import functools
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import numpy as np
import pytest

from fdfed.errors import ConnectionFailed, CryptoError, InvalidInput
from fdfed.exchange import (
    PROTOCOL_VERSION,
    ExchangeCode,
    FrameRefused,
    PrototypeFrame,
    Session,
    StepKey,
)
from fdfed.exchange import exchange_pb2 as pb
from fdfed_client.exchange import ExchangeStream
from fdfed_client.exchange_identity import InsecureIdentity, SiteIdentity
from fdfed_client.exchange_link import HubUnavailable
from fdfed_server.exchange_service import ExchangeService
from fdfed_server.terms import cross_site_terms
from tests.integration.raw_exchange import (
    HUB_KEY,
    LAYOUT,
    SITES,
    Authority,
    Coordinator,
    RawStream,
)


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority()


@pytest.fixture
def coordinator(authority: Authority) -> Iterator[Coordinator]:
    coordinator = Coordinator(authority)
    yield coordinator
    coordinator.close()


@pytest.fixture
def stream(authority: Authority, coordinator: Coordinator) -> Iterator[Callable[..., Any]]:
    streams: list[ExchangeStream] = []

    def make(site: str, **changes: Any) -> ExchangeStream:
        values = {"reply_seconds": 30.0} | changes
        streams.append(ExchangeStream(coordinator.address, authority.site(site), **values))
        return streams[-1]

    yield make
    for made in streams:
        made.close()


def _frame(site: str, step: int, dtype: Any = np.float64) -> PrototypeFrame:
    rng = np.random.default_rng([step, *site.encode()])
    return PrototypeFrame(
        StepKey("run", 1, 0, step), rng.normal(size=LAYOUT.size).astype(dtype), rng.random(3) < 0.8
    )


def _until(condition: Callable[[], bool], seconds: float = 10.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"waited {seconds} s in vain"
        time.sleep(0.01)


def _in_threads(functions: list[Callable[[], None]]) -> None:
    failures: list[BaseException] = []

    def run(function: Callable[[], None]) -> None:
        try:
            function()
        except BaseException as err:
            failures.append(err)

    threads = [threading.Thread(target=run, args=(function,)) for function in functions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    if failures:
        raise failures[0]


@pytest.mark.parametrize("count", [2, 3, 5])
def test_cotangents_over_the_wire_are_those_computed_directly_bit_for_bit(
    coordinator: Coordinator, stream: Callable[..., ExchangeStream], count: int
) -> None:
    sites = SITES[:count]
    coordinator.open(sites)
    replies: dict[tuple[str, int], Any] = {}

    def train(site: str) -> None:
        exchange = stream(site)
        for step in range(20):
            replies[site, step] = exchange.swap(_frame(site, step))
        stats = exchange.take_stats()
        assert (stats.answered, stats.dropped, stats.peers_mean) == (20, 0, count - 1)
        assert stats.bytes_up > 20 * LAYOUT.size * 8
        assert 0 < stats.swap_ms_p50 <= stats.swap_ms_p99

    _in_threads([lambda site=site: train(site) for site in sites])  # type: ignore[misc]
    for step in range(20):
        frames = [_frame(site, step) for site in sites]
        terms = cross_site_terms(
            LAYOUT, np.stack([f.vector for f in frames]), np.stack([f.valid for f in frames])
        )
        for row, site in enumerate(sites):
            reply = replies[site, step]
            assert reply.key.step == step
            assert reply.vector.tobytes() == terms.cotangents[row].tobytes()
            np.testing.assert_array_equal(reply.pair_terms, terms.pair_terms)
            np.testing.assert_array_equal(reply.site_terms, terms.site_terms[row])


def test_a_stream_lives_over_rounds_and_the_next_round_goes_on_at_once(
    coordinator: Coordinator, stream: Callable[..., ExchangeStream]
) -> None:
    exchange = stream("ad")
    for _ in range(3):
        coordinator.open(("ad",))
        assert exchange.swap(_frame("ad", 0)) is not None
        coordinator.hub.close_round()
        assert exchange.swap(_frame("ad", 1)) is None, "no round is open"
    assert coordinator.events == ["+ad"]
    assert coordinator.service.connected == {"ad"}


def test_past_the_deadline_a_site_is_answered_without_the_others(
    coordinator: Coordinator, stream: Callable[..., ExchangeStream]
) -> None:
    coordinator.open(("ad", "tnbc"), deadline_seconds=0.1)
    reply = stream("ad").swap(_frame("ad", 0))
    assert reply is not None
    assert reply.peers == 0
    assert stream("tnbc").swap(_frame("tnbc", 0)) is None, "too late"


def test_a_site_that_hangs_up_is_not_waited_for_and_may_come_back(
    coordinator: Coordinator, stream: Callable[..., ExchangeStream]
) -> None:
    coordinator.open(("ad", "tnbc"))
    ad, tnbc = stream("ad"), stream("tnbc")
    tnbc.connect()
    tnbc.close()
    _until(lambda: coordinator.hub.snapshot().absent == ("tnbc",))
    reply = ad.swap(_frame("ad", 0))
    assert reply is not None
    assert reply.peers == 0

    peers = []

    def swap(exchange: ExchangeStream, site: str) -> None:
        answer = exchange.swap(_frame(site, 1))
        assert answer is not None
        peers.append(answer.peers)

    def join() -> None:
        _until(lambda: coordinator.hub.snapshot().absent == ())
        swap(ad, "ad")

    _in_threads([join, lambda: swap(tnbc, "tnbc")])
    assert peers == [1, 1]


def test_a_hub_that_restarts_costs_dropped_steps_and_the_stream_comes_back(
    coordinator: Coordinator, stream: Callable[..., ExchangeStream]
) -> None:
    coordinator.open(("ad",), steps=100_000)
    exchange = stream("ad")
    assert exchange.swap(_frame("ad", 0)) is not None
    coordinator.restart()
    step = 1

    def answered() -> bool:
        nonlocal step
        step += 1
        return exchange.swap(_frame("ad", step)) is not None

    _until(answered)
    stats = exchange.take_stats()
    assert stats.answered == 2
    assert stats.dropped >= 1


def test_a_hub_that_is_down_never_holds_up_the_training(
    coordinator: Coordinator, stream: Callable[..., ExchangeStream]
) -> None:
    coordinator.open(("ad",), steps=100_000)
    coordinator.service.stop(grace=0)
    exchange = stream("ad", connect_seconds=2.0)
    start = time.perf_counter()
    for step in range(500):
        assert exchange.swap(_frame("ad", step)) is None
    assert time.perf_counter() - start < 10
    assert exchange.take_stats().dropped == 500
    with pytest.raises(HubUnavailable, match="check address, port and firewall"):
        exchange.connect()


def test_a_hub_that_is_silent_is_left_after_a_bounded_time(
    coordinator: Coordinator, stream: Callable[..., ExchangeStream]
) -> None:
    coordinator.open(("ad", "tnbc"), deadline_seconds=60.0)
    exchange = stream("ad", reply_seconds=0.3)
    exchange.connect()
    start = time.perf_counter()
    assert exchange.swap(_frame("ad", 0)) is None
    assert 0.3 <= time.perf_counter() - start < 5
    _until(lambda: "-ad" in coordinator.events)


def test_a_site_that_the_federation_does_not_know_is_refused(
    authority: Authority, coordinator: Coordinator
) -> None:
    exchange = ExchangeStream(coordinator.address, authority.site("mallory"), reply_seconds=5.0)
    with pytest.raises(FrameRefused, match="UNKNOWN_SITE"):
        exchange.connect()
    with pytest.raises(FrameRefused, match="UNKNOWN_SITE"):
        exchange.swap(_frame("ad", 0))
    assert coordinator.hub.snapshot().refused == {ExchangeCode.UNKNOWN_SITE: 2}


def test_a_second_stream_of_one_site_is_refused_and_the_first_lives_on(
    coordinator: Coordinator, stream: Callable[..., ExchangeStream]
) -> None:
    coordinator.open(("ad",))
    first, second = stream("ad"), stream("ad")
    first.connect()
    with pytest.raises(FrameRefused, match="DUPLICATE_STREAM"):
        second.connect()
    assert first.swap(_frame("ad", 0)) is not None
    first.close()
    _until(lambda: not coordinator.service.connected)
    second.connect()


def test_a_hub_that_another_authority_vouches_for_is_not_spoken_to(
    coordinator: Coordinator,
) -> None:
    stranger = Authority().site("ad")
    exchange = ExchangeStream(coordinator.address, stranger, reply_seconds=5.0)
    with pytest.raises(CryptoError, match="the consortium's CA did not sign"):
        exchange.swap(_frame("ad", 0))
    assert coordinator.events == []


class _Forged(InsecureIdentity):
    """Makes its channel from any credentials, as an intruder would."""

    credentials: Any = None

    def channel(self, address: str) -> grpc.Channel:
        return grpc.secure_channel(address, type(self).credentials)


@pytest.mark.parametrize("kind", ["none", "foreign", "plaintext"])
def test_a_site_without_a_certificate_of_this_authority_gets_no_stream(
    authority: Authority, coordinator: Coordinator, kind: str
) -> None:
    identity: InsecureIdentity = InsecureIdentity(site="ad")
    if kind != "plaintext":
        certificate, key = Authority().issue("ad") if kind == "foreign" else (None, None)
        identity = _Forged(site="ad")
        _Forged.credentials = grpc.ssl_channel_credentials(authority.certificate, key, certificate)
    exchange = ExchangeStream(coordinator.address, identity, reply_seconds=5.0)
    with pytest.raises(HubUnavailable, match="certificate may not be accepted"):
        exchange.connect()
    assert coordinator.events == []


def test_a_hub_under_another_name_is_not_spoken_to(
    authority: Authority, coordinator: Coordinator
) -> None:
    certificate, key = authority.issue("hub")
    service = ExchangeService(
        coordinator.hub,
        address="127.0.0.2:0",
        sites=SITES,
        server_certificate=certificate,
        server_key=key,
        ca_certificate=authority.certificate,
        hpke_key=HUB_KEY,
    )
    service.start()
    exchange = ExchangeStream(f"127.0.0.2:{service.port}", authority.site("ad"), reply_seconds=5.0)
    with pytest.raises(CryptoError, match="not for the name in"):
        exchange.connect()
    service.stop(grace=0)


def test_files_that_do_not_belong_together_are_named_before_any_connection(
    authority: Authority,
) -> None:
    certificate, key = authority.issue("ad")
    ca = authority.certificate
    identity = functools.partial(SiteIdentity, server_hpke_key=HUB_KEY.public)
    with pytest.raises(CryptoError, match="not the one its certificate was issued for"):
        identity(certificate=certificate, key=authority.issue("ad")[1], ca_certificate=ca)
    with pytest.raises(CryptoError, match="not issued by the CA"):
        identity(certificate=certificate, key=key, ca_certificate=Authority().certificate)
    with pytest.raises(CryptoError, match="not readable PEM"):
        identity(certificate=b"", key=key, ca_certificate=ca)
    old, old_key = authority.issue("ad", days=-1)
    with pytest.raises(CryptoError, match="check this machine's clock"):
        identity(certificate=old, key=old_key, ca_certificate=ca)


def _sealed(session: Session, content: bytes) -> bytes:
    return pb.SiteFrame(sealed=session.seal(content)).SerializeToString()


def _content(site: str, step: int) -> bytes:
    return pb.SiteContent(prototypes=_frame(site, step).to_proto()).SerializeToString()


def _code(refusal: pb.Refusal) -> str:
    return pb.Code.Name(refusal.code)


@pytest.mark.parametrize(
    ("first", "code"),
    [
        (b"\xff\xff\xff", "CODE_MALFORMED"),
        (b"", "CODE_MALFORMED"),
        (
            pb.SiteFrame(sealed=pb.Sealed(length=1, body=bytes(17))).SerializeToString(),
            "CODE_MALFORMED",
        ),
        (
            pb.SiteFrame(hello=pb.Hello(protocol_version=1)).SerializeToString(),
            "CODE_WRONG_PROTOCOL",
        ),
        (
            pb.SiteFrame(hello=pb.Hello(protocol_version=PROTOCOL_VERSION)).SerializeToString(),
            "CODE_WRONG_SUITE",
        ),
        (
            pb.SiteFrame(
                hello=pb.Hello(
                    protocol_version=PROTOCOL_VERSION, suite="mlkem768-x25519", opening=bytes(1168)
                )
            ).SerializeToString(),
            "CODE_BAD_OPENING",
        ),
    ],
)
def test_a_stream_that_does_not_greet_properly_is_refused_and_closed(
    authority: Authority, coordinator: Coordinator, first: bytes, code: str
) -> None:
    raw = RawStream(coordinator.address, authority.site("ad"))
    raw.send(first)
    raw.send(first)
    (reply,) = raw.rest()
    assert _code(reply.refusal) == code
    _until(lambda: not coordinator.service.connected)
    assert sum(coordinator.hub.snapshot().refused.values()) == 1


def test_hostile_contents_are_refused_one_by_one_and_the_stream_goes_on(
    authority: Authority, coordinator: Coordinator, stream: Callable[..., ExchangeStream]
) -> None:
    coordinator.open(("ad",))
    huge = pb.SiteContent(prototypes=_frame("ad", 0).to_proto())
    huge.prototypes.payload = pb.PrototypePayload(vector=bytes(0x280000)).SerializeToString()
    raw = RawStream(coordinator.address, authority.site("ad"))
    session = raw.greet()
    codes = []
    for content in (b"\xff" * 50, b"", huge.SerializeToString(), _content("ad", 0)[:-7]):
        raw.send(_sealed(session, content))
        answer = pb.HubContent.FromString(session.unseal(raw.read().sealed))
        codes.append(_code(answer.refusal))
    assert codes == ["CODE_MALFORMED", "CODE_MALFORMED", "CODE_TOO_LARGE", "CODE_MALFORMED"]
    raw.send(_sealed(session, _content("ad", 0)))
    answer = pb.HubContent.FromString(session.unseal(raw.read().sealed))
    assert answer.HasField("cotangents")
    assert raw.rest() == []
    _until(lambda: not coordinator.service.connected)
    assert stream("ad").swap(_frame("ad", 1)) is not None


def test_random_contents_never_crash_the_service(
    authority: Authority, coordinator: Coordinator, stream: Callable[..., ExchangeStream]
) -> None:
    rng = np.random.default_rng(0)
    noise = [rng.bytes(int(rng.integers(1, 200))) for _ in range(300)]
    for _ in range(300):
        bent = bytearray(_content("ad", 0))
        bent[int(rng.integers(len(bent)))] ^= 1 << int(rng.integers(8))
        noise.append(bytes(bent))
    raw = RawStream(coordinator.address, authority.site("ad"))
    session = raw.greet()
    for content in noise:
        raw.send(_sealed(session, content))
        assert pb.HubContent.FromString(session.unseal(raw.read().sealed)).HasField("refusal")
    raw.rest()
    _until(lambda: not coordinator.service.connected)
    coordinator.open(("ad",))
    assert stream("ad").swap(_frame("ad", 0)) is not None


def test_a_message_beyond_the_size_limit_is_refused_by_its_code_and_ends_the_stream_only(
    authority: Authority, coordinator: Coordinator, stream: Callable[..., ExchangeStream]
) -> None:
    raw = RawStream(coordinator.address, authority.site("ad"))
    session = raw.greet()
    raw.send(bytes(5 << 20))
    answer = pb.HubContent.FromString(session.unseal(raw.read().sealed))
    assert _code(answer.refusal) == "CODE_TOO_LARGE"
    assert raw.rest() == []
    assert coordinator.hub.snapshot().refused == {ExchangeCode.TOO_LARGE: 1}
    _until(lambda: not coordinator.service.connected)
    stream("ad").connect()


def test_a_message_beyond_any_limit_ends_the_stream_only(
    authority: Authority, coordinator: Coordinator, stream: Callable[..., ExchangeStream]
) -> None:
    raw = RawStream(coordinator.address, authority.site("ad"))
    raw.greet()
    raw.send(bytes(17 << 20))
    with pytest.raises(grpc.RpcError) as caught:
        raw.read()
    assert caught.value.code() in (
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        grpc.StatusCode.CANCELLED,
    )
    _until(lambda: not coordinator.service.connected)
    stream("ad").connect()


def test_without_tls_only_on_explicit_demand_and_with_a_loud_warning(
    coordinator: Coordinator, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(InvalidInput, match="make them with `fdfed-server provision`"):
        ExchangeService(coordinator.hub, address="localhost:0", sites=SITES)
    with pytest.raises(InvalidInput, match="needs hpke_key"):
        ExchangeService(
            coordinator.hub,
            address="localhost:0",
            sites=SITES,
            server_certificate=b"pem",
            server_key=b"pem",
            ca_certificate=b"pem",
        )
    with pytest.raises(InvalidInput, match="takes no certificates"):
        ExchangeService(coordinator.hub, address="x", sites=SITES, server_key=b"key", insecure=True)
    service = ExchangeService(coordinator.hub, address="localhost:0", sites=SITES, insecure=True)
    service.start()
    assert "EXCHANGE WITHOUT TLS" in caplog.text
    assert "EXCHANGE NOT SEALED" in caplog.text
    coordinator.open(("ad",))
    exchange = ExchangeStream(
        f"localhost:{service.port}", InsecureIdentity(site="ad"), reply_seconds=5.0
    )
    assert exchange.swap(_frame("ad", 0)) is not None
    exchange.close()
    service.stop(grace=0)


def test_a_port_that_is_taken_is_an_error(authority: Authority, coordinator: Coordinator) -> None:
    certificate, key = authority.issue("hub")
    service = ExchangeService(
        coordinator.hub,
        address=coordinator.address,
        sites=SITES,
        server_certificate=certificate,
        server_key=key,
        ca_certificate=authority.certificate,
        hpke_key=HUB_KEY,
    )
    with pytest.raises(ConnectionFailed, match="cannot listen on"):
        service.start()
    service.stop()
