from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from fdfed.errors import CryptoError, InvalidInput
from fdfed.exchange import (
    BlindedExchange,
    BlindingSecret,
    CotangentFrame,
    ExchangeStats,
    FrameRefused,
    PrototypeFrame,
    StepKey,
    TapLayout,
    padded_layout,
)

LAYOUT = TapLayout(("shallow", "odd", "deep"), (8, 12, 64))
KNOWN = BlindingSecret.known_to_all(0)
SECRET = BlindingSecret(KNOWN.data, epoch=7)
KEY = StepKey("0" * 16, 3, 1, 5)


class Recorder:
    """An exchange that keeps what it is sent, and answers with it or with what it is told to."""

    def __init__(self) -> None:
        self.sent: list[PrototypeFrame] = []
        self.answer: np.ndarray[Any, Any] | None = None
        self.silent = False
        self.closed = False

    def swap(self, frame: PrototypeFrame) -> CotangentFrame | None:
        self.sent.append(frame)
        if self.silent:
            return None
        nothing = np.full(frame.valid.size, np.nan)
        vector = frame.vector if self.answer is None else self.answer
        return CotangentFrame(frame.key, vector, nothing, nothing, 1)

    def take_stats(self) -> ExchangeStats:
        return ExchangeStats(steps=4)

    def close(self) -> None:
        self.closed = True


def frame_of(vector: np.ndarray[Any, Any], key: StepKey = KEY, **valid: bool) -> PrototypeFrame:
    flags = np.array([valid.get(name, True) for name in LAYOUT.names])
    return PrototypeFrame(key, vector, flags)


def prototypes(seed: int = 0) -> np.ndarray[Any, Any]:
    return np.random.default_rng(seed).uniform(size=LAYOUT.size)


def blinded(inner: Recorder, secret: BlindingSecret = SECRET) -> BlindedExchange:
    return BlindedExchange(inner, secret, LAYOUT)


def sent_of(
    vector: np.ndarray[Any, Any], secret: BlindingSecret = SECRET, key: StepKey = KEY
) -> Any:
    inner = Recorder()
    inner.silent = True
    assert blinded(inner, secret).swap(frame_of(vector, key)) is None
    return inner.sent[0].vector


def test_the_hub_sees_no_prototype_but_their_differences_lengths() -> None:
    first, second = prototypes(0), prototypes(1)
    sent = sent_of(first), sent_of(second)
    assert sent[0].size == padded_layout(LAYOUT).size
    for name, span, _ in padded_layout(LAYOUT).spans():
        plain = dict(zip(LAYOUT.names, LAYOUT.spans(), strict=True))[name][1]
        length = np.linalg.norm(sent[0][span] - sent[1][span])
        assert length == pytest.approx(np.linalg.norm(first[plain] - second[plain]), rel=1e-12)
        assert not np.isclose(np.linalg.norm(sent[0][span]), np.linalg.norm(first[plain]), rtol=0.1)


def test_cotangents_come_back_turned() -> None:
    inner = Recorder()
    inner.answer = sent_of(prototypes(1)) - sent_of(prototypes(2))
    reply = blinded(inner).swap(frame_of(prototypes(0)))
    assert reply is not None
    np.testing.assert_allclose(reply.vector, prototypes(1) - prototypes(2), atol=1e-12)
    assert reply.vector.shape == (LAYOUT.size,)


@pytest.mark.parametrize(
    "other",
    [
        replace(KEY, step=6),
        replace(KEY, attempt=2),
        replace(KEY, server_round=4),
        replace(KEY, run_id="1" * 16),
    ],
)
def test_every_part_of_the_index_changes_the_map(other: StepKey) -> None:
    assert not np.allclose(sent_of(prototypes()), sent_of(prototypes(), key=other), atol=0.1)


def test_a_secret_that_hides_nothing_gives_every_run_and_attempt_the_same_map() -> None:
    usual = sent_of(prototypes(), KNOWN)
    for other in (replace(KEY, attempt=2), replace(KEY, run_id="1" * 16)):
        np.testing.assert_array_equal(usual, sent_of(prototypes(), KNOWN, key=other))
    assert not np.allclose(usual, sent_of(prototypes(), KNOWN, key=replace(KEY, step=6)), atol=0.1)


def test_epoch_and_secret_change_the_map() -> None:
    usual = sent_of(prototypes())
    for secret in (BlindingSecret(SECRET.data, epoch=1), BlindingSecret.known_to_all(1)):
        assert not np.allclose(usual, sent_of(prototypes(), secret), atol=0.1)


def test_what_is_not_valid_is_not_sent_not_even_the_translation() -> None:
    inner = Recorder()
    inner.silent = True
    blinded(inner).swap(frame_of(prototypes(), odd=False))
    foreground, background = padded_layout(LAYOUT).split(inner.sent[0].vector[None])
    assert not foreground["odd"].any()
    assert not background["odd"].any()
    assert foreground["deep"].all()


def test_the_type_on_the_wire_is_the_callers() -> None:
    inner = Recorder()
    inner.answer = (sent_of(prototypes(1)) - sent_of(prototypes(2))).astype(np.float32)
    reply = blinded(inner).swap(frame_of(prototypes().astype(np.float32)))
    assert inner.sent[0].vector.dtype == np.float32
    assert reply is not None
    assert reply.vector.dtype == np.float32


def test_the_same_frame_may_be_sent_again_another_one_of_its_index_may_not() -> None:
    exchange = blinded(Recorder())
    exchange._inner.silent = True  # type: ignore[attr-defined]
    exchange.swap(frame_of(prototypes()))
    exchange.swap(frame_of(prototypes()))
    with pytest.raises(CryptoError, match="two plaintexts"):
        exchange.swap(frame_of(prototypes(1)))


@pytest.mark.parametrize(
    "earlier", [replace(KEY, step=4), replace(KEY, server_round=2), replace(KEY, run_id="1" * 16)]
)
def test_an_index_before_the_last_is_refused(earlier: StepKey) -> None:
    inner = Recorder()
    inner.silent = True
    exchange = blinded(inner)
    exchange.swap(frame_of(prototypes()))
    with pytest.raises(CryptoError, match="needs a new secret"):
        exchange.swap(frame_of(prototypes(), earlier))
    assert len(inner.sent) == 1


def test_an_answer_that_is_no_difference_of_blinded_prototypes_drops_the_term(
    caplog: pytest.LogCaptureFixture,
) -> None:
    inner = Recorder()
    inner.answer = np.random.default_rng(0).normal(size=padded_layout(LAYOUT).size)
    assert blinded(inner).swap(frame_of(prototypes())) is None
    assert "no combination" in caplog.text


def test_cotangents_of_the_unpadded_size_drop_the_term() -> None:
    inner = Recorder()
    inner.answer = np.zeros(LAYOUT.size)
    assert blinded(inner).swap(frame_of(prototypes())) is None


def test_a_frame_that_diverged_is_left_for_the_wire_to_name() -> None:
    vector = prototypes().astype(np.float32)
    vector[3], vector[9] = np.inf, 1e38
    inner = Recorder()
    inner.silent = True
    blinded(inner).swap(frame_of(vector))
    with pytest.raises(FrameRefused, match="NOT_FINITE"):
        inner.sent[0].check_numbers()


@pytest.mark.bad_input
def test_a_frame_of_another_layout_is_refused() -> None:
    with pytest.raises(InvalidInput, match="layout of"):
        blinded(Recorder()).swap(PrototypeFrame(KEY, np.zeros(4), np.ones(1, bool)))


@pytest.mark.bad_input
def test_a_short_secret_is_refused() -> None:
    with pytest.raises(CryptoError, match="32 bytes"):
        BlindingSecret(bytes(16), epoch=0)


def test_a_secret_shows_itself_to_nobody_who_prints_it() -> None:
    assert "data" not in repr(BlindingSecret(b"\x07" * 32, epoch=3))


def test_counters_and_closing_are_the_inner_exchanges() -> None:
    inner = Recorder()
    exchange = blinded(inner)
    assert exchange.take_stats().steps == 4
    exchange.close()
    assert inner.closed


class LateHub(Recorder):
    """Answers each frame with the cotangents of the one `age` steps before, of what it was sent."""

    def __init__(self, age: int) -> None:
        super().__init__()
        self.age = age

    def swap(self, frame: PrototypeFrame) -> CotangentFrame | None:
        self.sent.append(frame)
        if len(self.sent) <= self.age:
            return None
        old = self.sent[-1 - self.age]
        # The first of two sites, and a second one at the origin of the blinded space of that step:
        # any difference of blinded prototypes turns back with the map of its own step alone.
        size, taps = old.vector.size, old.valid.size
        half = size // 2
        difference = old.vector[:half] - old.vector[half:]
        vector = np.concatenate([difference, -difference])
        return CotangentFrame(old.key, vector, np.zeros(taps), np.zeros(taps), 1)


def test_a_late_reply_is_turned_back_with_the_map_of_its_own_step() -> None:
    hub = LateHub(age=2)
    exchange = BlindedExchange(hub, SECRET, LAYOUT, max_staleness=2)
    vectors = [prototypes(step) for step in range(5)]
    for step, vector in enumerate(vectors):
        reply = exchange.swap(frame_of(vector, replace(KEY, step=step)))
        if step < 2:
            assert reply is None
            continue
        assert reply is not None
        half = LAYOUT.size // 2
        difference = vectors[step - 2][:half] - vectors[step - 2][half:]
        np.testing.assert_allclose(
            reply.vector, np.concatenate([difference, -difference]), rtol=1e-9, atol=1e-9
        )


def test_a_reply_older_than_the_bound_cannot_be_turned_back_and_is_dropped() -> None:
    exchange = BlindedExchange(LateHub(age=2), SECRET, LAYOUT, max_staleness=1)
    for step in range(5):
        assert exchange.swap(frame_of(prototypes(step), replace(KEY, step=step))) is None
