"""The sealed session: what opens it, what it refuses and by which code, and that it says no more
than counter, length and ciphertext."""

import ast
import hashlib
import hmac
import os
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from google.protobuf.message import DecodeError
from hypothesis import given, settings
from hypothesis import strategies as st

import fdfed
import fdfed_client
import fdfed_server
from fdfed.errors import CryptoError
from fdfed.exchange import (
    NO_SEALING,
    PROTOCOL_VERSION,
    ExchangeCode,
    FrameRefused,
    HpkePrivateKey,
    HpkeSuite,
    Session,
    accept_session,
    new_challenge,
    open_session,
)
from fdfed.exchange import exchange_pb2 as pb
from fdfed.exchange.sealing import MAX_CONTENT_BYTES, Ratchet, SealedSession

KEYS = {suite: HpkePrivateKey.generate(suite) for suite in HpkeSuite}
KEY = KEYS[HpkeSuite.X25519]
CONTENT = bytes(range(100))
suites = pytest.mark.parametrize("suite", list(HpkeSuite))


def _pair(key: HpkePrivateKey = KEY, site: str = "ad") -> tuple[Session, Session]:
    """The site's and the hub's end of one stream."""
    challenge = new_challenge()
    mine, hello = open_session(key.public, site=site, challenge=challenge)
    return mine, accept_session(key, site=site, challenge=challenge, hello=hello)


def _code(session: Session, frame: pb.Sealed) -> ExchangeCode:
    with pytest.raises(FrameRefused) as caught:
        session.unseal(frame)
    return caught.value.code


def _hello_code(key: object, hello: pb.Hello, *, site: str, challenge: bytes) -> ExchangeCode:
    with pytest.raises(FrameRefused) as caught:
        accept_session(key, site=site, challenge=challenge, hello=hello)  # type: ignore[arg-type]
    return caught.value.code


@suites
def test_contents_cross_in_both_directions_in_order(suite: HpkeSuite) -> None:
    site, hub = _pair(KEYS[suite])
    for number in range(20):
        up, down = os.urandom(number), os.urandom(3 * number)
        assert hub.unseal(site.seal(up)) == up
        assert site.unseal(hub.seal(down)) == down


def _expand(secret: bytes, info: bytes, size: int) -> bytes:
    return hmac.digest(secret, info + b"\x01", "sha256")[:size]


def _site_secret(key: HpkePrivateKey, challenge: bytes, hello: pb.Hello) -> bytes:
    """T_hub,0 by the equations at the head of `sealing.py`, from hashes alone."""
    parts = (b"fdfed exchange", b"2", key.suite.value.encode(), b"ad", challenge)
    info = b"".join(len(part).to_bytes(2, "big") + part for part in parts)
    secret = key.open(hello.opening, info=info)
    salt = hashlib.sha256(info + hello.opening).digest()
    return _expand(hmac.digest(salt, secret, "sha256"), b"fdfed exchange to hub", 32)


@suites
def test_frames_open_by_the_equations_written_out_by_hand(suite: HpkeSuite) -> None:
    challenge = bytes(range(32))
    site, hello = open_session(KEYS[suite].public, site="ad", challenge=challenge)
    assert (
        (hello.protocol_version, hello.suite) == (PROTOCOL_VERSION, suite.value) == (2, suite.value)
    )
    secret = _site_secret(KEYS[suite], challenge, hello)
    key = _expand(secret, b"fdfed exchange key", 32)
    iv = _expand(secret, b"fdfed exchange iv", 12)
    for counter in range(3):
        frame = site.seal(CONTENT)
        assert (frame.counter, frame.length) == (counter, 100)
        nonce = bytes(a ^ b for a, b in zip(iv, counter.to_bytes(12, "big"), strict=True))
        header = counter.to_bytes(8, "big") + (100).to_bytes(4, "big") + b"fdfed exchange to hub"
        assert AESGCM(key).decrypt(nonce, frame.body, header) == CONTENT


def test_a_replayed_frame_is_refused() -> None:
    site, hub = _pair()
    first, second = site.seal(CONTENT), site.seal(CONTENT)
    hub.unseal(first)
    hub.unseal(second)
    assert _code(hub, first) is ExchangeCode.REPLAYED


def test_a_frame_before_its_turn_is_refused() -> None:
    site, hub = _pair()
    site.seal(CONTENT)
    assert _code(hub, site.seal(CONTENT)) is ExchangeCode.OUT_OF_ORDER


def test_a_cut_frame_is_refused() -> None:
    for size in (0, 1, 15, 16, 17, 115):
        site, hub = _pair()
        frame = site.seal(CONTENT)
        frame.body = frame.body[:size]
        assert _code(hub, frame) is ExchangeCode.TRUNCATED


def test_a_cut_frame_whose_length_was_made_to_fit_is_refused() -> None:
    site, hub = _pair()
    frame = site.seal(CONTENT)
    frame.body = frame.body[:-1]
    frame.length -= 1
    assert _code(hub, frame) is ExchangeCode.ALTERED


def test_a_longer_frame_is_refused() -> None:
    site, hub = _pair()
    frame = site.seal(CONTENT)
    frame.body += b"\0"
    assert _code(hub, frame) is ExchangeCode.ALTERED


def test_an_oversized_frame_is_refused_before_it_is_opened_and_never_sealed() -> None:
    site, hub = _pair()
    assert _code(hub, pb.Sealed(body=bytes(MAX_CONTENT_BYTES + 17))) is ExchangeCode.TOO_LARGE
    _, hub = _pair()
    assert _code(hub, pb.Sealed(length=MAX_CONTENT_BYTES + 1)) is ExchangeCode.TOO_LARGE
    with pytest.raises(FrameRefused, match="TOO_LARGE"):
        site.seal(bytes(MAX_CONTENT_BYTES + 1))
    _, hub = pair = _pair()
    assert hub.unseal(pair[0].seal(bytes(MAX_CONTENT_BYTES))) == bytes(MAX_CONTENT_BYTES)


def test_a_frame_sent_back_to_its_sender_is_refused() -> None:
    site, _ = _pair()
    assert _code(site, site.seal(CONTENT)) is ExchangeCode.ALTERED


def test_a_frame_of_another_stream_is_refused() -> None:
    _, hub = _pair()
    other, _ = _pair()
    assert _code(hub, other.seal(CONTENT)) is ExchangeCode.ALTERED


def test_after_one_refusal_a_session_opens_nothing_more() -> None:
    site, hub = _pair()
    good = site.seal(CONTENT)
    bad = pb.Sealed()
    bad.CopyFrom(good)
    bad.body = bytes(len(bad.body))
    assert _code(hub, bad) is ExchangeCode.ALTERED
    assert _code(hub, good) is ExchangeCode.ALTERED


def test_every_single_altered_byte_of_a_whole_message_is_refused() -> None:
    # All 255 changes of every byte, also of protobuf's own tags and lengths.
    site, _ = pair = _pair()
    pair[1].unseal(site.seal(b"first"))
    message = pb.SiteFrame(sealed=site.seal(b"step")).SerializeToString()
    ratchet = pair[1]._receiving  # type: ignore[attr-defined]
    for place in range(len(message)):
        for change in range(1, 256):
            bent = bytearray(message)
            bent[place] ^= change
            frame = pb.SiteFrame()
            try:
                frame.ParseFromString(bytes(bent))
            except DecodeError:
                continue
            hub = SealedSession(sending=ratchet, receiving=ratchet)
            assert _code(hub, frame.sealed) in {
                ExchangeCode.ALTERED,
                ExchangeCode.TRUNCATED,
                ExchangeCode.REPLAYED,
                ExchangeCode.OUT_OF_ORDER,
                ExchangeCode.TOO_LARGE,
            }
    assert pair[1].unseal(pb.SiteFrame.FromString(message).sealed) == b"step"


@settings(deadline=None)
@given(data=st.data(), content=st.binary(max_size=300))
def test_a_frame_altered_anywhere_by_anything_is_never_accepted(
    data: st.DataObject, content: bytes
) -> None:
    site, hub = _pair()
    frame = site.seal(content)
    changed = pb.Sealed(
        counter=data.draw(st.one_of(st.just(0), st.integers(0, 2**64 - 1))),
        length=data.draw(st.one_of(st.just(len(content)), st.integers(0, 2**32 - 1))),
        body=data.draw(
            st.one_of(
                st.just(frame.body),
                st.binary(max_size=len(frame.body) + 3),
                st.integers(0, len(frame.body) - 1).map(lambda i: _flipped(frame.body, i)),
            )
        ),
    )
    if changed == frame:
        assert hub.unseal(changed) == content
    else:
        _code(hub, changed)


def _flipped(body: bytes, place: int) -> bytes:
    return body[:place] + bytes([body[place] ^ 1]) + body[place + 1 :]


@settings(deadline=None)
@given(order=st.lists(st.integers(0, 4), min_size=1, max_size=8))
def test_only_frames_in_the_order_they_were_sealed_get_through(order: list[int]) -> None:
    site, hub = _pair()
    frames = [site.seal(bytes([number])) for number in range(5)]
    through = []
    for number in order:
        try:
            through.append(hub.unseal(frames[number])[0])
        except FrameRefused:
            break
    assert through == list(range(len(through)))


def test_keys_change_after_their_share_of_frames_and_frames_still_open() -> None:
    secret = bytes(range(32))
    sender, receiver = (Ratchet(secret, b"to hub", frames_per_key=4) for _ in range(2))
    bodies = [sender.encrypt(CONTENT) for _ in range(10)]
    assert [receiver.decrypt(body) for body in bodies] == [CONTENT] * 10
    # T_1 = HKDF-Expand(T_0, "next"); the counter, and so the nonce, goes on.
    second = _expand(secret, b"fdfed exchange next", 32)
    key = _expand(second, b"fdfed exchange key", 32)
    iv = int.from_bytes(_expand(second, b"fdfed exchange iv", 12), "big")
    header = (4).to_bytes(8, "big") + (100).to_bytes(4, "big") + b"to hub"
    assert AESGCM(key).decrypt((iv ^ 4).to_bytes(12, "big"), bodies[4], header) == CONTENT


def test_a_receiver_that_does_not_change_keys_opens_nothing_after_the_change() -> None:
    sender = Ratchet(bytes(32), b"d", frames_per_key=1)
    receiver = Ratchet(bytes(32), b"d", frames_per_key=2)
    assert receiver.decrypt(sender.encrypt(CONTENT)) == CONTENT
    with pytest.raises(FrameRefused, match="ALTERED"):
        receiver.decrypt(sender.encrypt(CONTENT))


def test_no_two_streams_share_a_secret_even_under_one_challenge() -> None:
    challenge = new_challenge()
    frames = []
    for _ in range(2):
        session, _ = open_session(KEY.public, site="ad", challenge=challenge)
        frames.append(session.seal(CONTENT).body)
    assert frames[0] != frames[1]


@suites
def test_an_opening_fits_its_stream_its_site_and_its_coordinator_alone(suite: HpkeSuite) -> None:
    key, challenge = KEYS[suite], new_challenge()
    _, hello = open_session(key.public, site="ad", challenge=challenge)
    bad = ExchangeCode.BAD_OPENING
    assert _hello_code(key, hello, site="ad", challenge=new_challenge()) is bad
    assert _hello_code(key, hello, site="tnbc", challenge=challenge) is bad
    other = HpkePrivateKey.generate(suite)
    assert _hello_code(other, hello, site="ad", challenge=challenge) is bad
    hello.opening = hello.opening[:-1]
    assert _hello_code(key, hello, site="ad", challenge=challenge) is bad


@settings(deadline=None)
@given(data=st.data())
def test_an_altered_opening_opens_nothing(data: st.DataObject) -> None:
    challenge = new_challenge()
    _, hello = open_session(KEY.public, site="ad", challenge=challenge)
    place = data.draw(st.integers(0, len(hello.opening) - 1))
    hello.opening = _flipped(hello.opening, place)
    assert _hello_code(KEY, hello, site="ad", challenge=challenge) is ExchangeCode.BAD_OPENING


def test_nobody_talks_a_hub_down_to_another_suite_or_to_none() -> None:
    challenge, wrong = new_challenge(), ExchangeCode.WRONG_SUITE
    _, weaker = open_session(KEY.public, site="ad", challenge=challenge)
    hybrid = KEYS[HpkeSuite.HYBRID]
    assert _hello_code(hybrid, weaker, site="ad", challenge=challenge) is wrong
    _, clear = open_session(NO_SEALING, site="ad", challenge=challenge)
    assert _hello_code(hybrid, clear, site="ad", challenge=challenge) is wrong
    _, sealed = open_session(hybrid.public, site="ad", challenge=challenge)
    assert _hello_code(NO_SEALING, sealed, site="ad", challenge=challenge) is wrong
    sealed.suite = "x25519"
    assert _hello_code(hybrid, sealed, site="ad", challenge=challenge) is wrong


def test_a_challenge_of_another_length_is_not_answered() -> None:
    with pytest.raises(CryptoError, match="0 bytes of challenge"):
        open_session(KEY.public, site="ad", challenge=b"")


def test_without_sealing_contents_cross_as_they_are_and_in_order() -> None:
    site, hello = open_session(NO_SEALING, site="ad", challenge=b"")
    hub = accept_session(NO_SEALING, site="ad", challenge=b"", hello=hello)
    first, second = site.seal(CONTENT), site.seal(CONTENT)
    assert first.body == CONTENT
    assert hub.unseal(first) == CONTENT
    assert _code(hub, first) is ExchangeCode.REPLAYED
    assert hub.unseal(second) == CONTENT


def _calls(path: Path) -> list[tuple[str, set[str | None]]]:
    """Each call of a plain name, with the keywords it is given."""
    return [
        (node.func.id, {word.arg for word in node.keywords})
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    ]


def test_no_module_of_the_product_makes_an_exchange_without_sealing_or_tls() -> None:
    # `exchange_identity` and `exchange_service` define the switch of the tests; none throws it.
    calls = 0
    for package in (fdfed, fdfed_client, fdfed_server):
        for path in Path(package.__path__[0]).rglob("*.py"):
            for name, keywords in _calls(path):
                assert name != "InsecureIdentity", path
                if name == "ExchangeService":
                    assert "insecure" not in keywords, path
                    calls += 1
            text = path.read_text()
            if path.parent.name != "exchange":
                assert text.count("NO_SEALING") <= 3, path
                assert "NO_SEALING" not in text or path.stem.startswith("exchange_"), path
    assert calls == 1, "only the coordinator hosts the exchange"
