"""Late replies over real gRPC, and hubs that are slow, gone or wrong: training goes on."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from fdfed.config import RunPlan
from fdfed.exchange import (
    BlindedExchange,
    BlindingSecret,
    CotangentFrame,
    Exchange,
    ExchangeCode,
    ExchangeStats,
    HpkePrivateKey,
    PrototypeFrame,
    StepKey,
    TapLayout,
    padded_layout,
)
from fdfed.exchange import exchange_pb2 as pb
from fdfed.training.initialise import initial_network
from fdfed.training.local_round import ExchangeIncomplete, LocalRound, RoundOutcome, train_round_
from fdfed.training.step import layout_of
from fdfed_client.exchange import ExchangeStream
from fdfed_client.exchange_identity import InsecureIdentity
from fdfed_server.exchange_service import ExchangeService
from fdfed_server.hub import ExchangeHub
from fdfed_server.terms import cross_site_terms

KEY = HpkePrivateKey.generate()
LAYOUT = TapLayout(("Enc1", "Bot"), (8, 32))
SITES = ("ad", "tnbc")
STEPS = 6
Answer = Callable[[PrototypeFrame], "CotangentFrame | None"]


class HeldHub(ExchangeHub):
    """A hub whose replies come when the test lets them, or are of the test's own making."""

    def __init__(self) -> None:
        super().__init__(cross_site_terms)
        self.hold = False
        self.answer: Answer | None = None
        self._held: deque[tuple[Future[CotangentFrame], Future[CotangentFrame]]] = deque()
        self._count = threading.Condition()

    def submit(self, site: str, frame: PrototypeFrame) -> Future[CotangentFrame]:
        future: Future[CotangentFrame] = Future()
        if self.answer is not None:
            made = self.answer(frame)
            if made is not None:
                future.set_result(made)
            return future
        real = super().submit(site, frame)
        if not self.hold:
            return real
        with self._count:
            self._held.append((real, future))
            self._count.notify_all()
        return future

    def wait_for(self, frames: int) -> None:
        with self._count:
            assert self._count.wait_for(lambda: len(self._held) >= frames, timeout=20)

    def release(self, frames: int) -> None:
        for _ in range(frames):
            real, future = self._held.popleft()
            future.set_result(real.result(10))


@pytest.fixture
def hub() -> Iterator[HeldHub]:
    hub = HeldHub()
    yield hub
    hub.close()


@pytest.fixture
def service(hub: HeldHub) -> Iterator[ExchangeService]:
    service = ExchangeService(hub, address="localhost:0", sites=SITES, hpke_key=KEY, insecure=True)
    service.start()
    yield service
    service.stop(grace=0)


@pytest.fixture
def stream(service: ExchangeService) -> Iterator[Callable[..., ExchangeStream]]:
    opened: list[ExchangeStream] = []

    def make(site: str, **options: Any) -> ExchangeStream:
        identity = InsecureIdentity(site=site, server_hpke_key=KEY.public)
        values: dict[str, Any] = {"reply_seconds": 20.0, "connect_seconds": 10.0}
        address = f"localhost:{service.port}"
        opened.append(ExchangeStream(address, identity, **(values | options)))
        return opened[-1]

    yield make
    for exchange in opened:
        exchange.close()


def _open(
    hub: ExchangeHub, sites: tuple[str, ...], layout: TapLayout = LAYOUT, **changes: Any
) -> None:
    values: dict[str, Any] = {
        "steps": 40,
        "deadline_seconds": 20.0,
        "max_missed_steps": 3,
        "dtype": np.float64,
    }
    hub.open_round("0" * 16, 1, 1, sites=sites, layout=layout, **(values | changes))


def _frame(site: str, step: int) -> PrototypeFrame:
    rng = np.random.default_rng([step, *site.encode()])
    key = StepKey("0" * 16, 1, 1, step)
    return PrototypeFrame(key, rng.normal(size=LAYOUT.size), np.ones(2, np.bool_))


def _until(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"waited {seconds} s in vain"
        time.sleep(0.01)


def test_a_site_goes_on_with_late_replies_and_waits_only_at_the_bound(
    hub: HeldHub, stream: Callable[..., ExchangeStream]
) -> None:
    _open(hub, SITES[:1], max_staleness=2)
    exchange = stream("ad", max_staleness=2)
    first = exchange.swap(_frame("ad", 0))
    assert first is not None
    hub.hold = True
    for step in (1, 2):
        reply = exchange.swap(_frame("ad", step))
        assert reply is not None
        assert reply.key.step == 0
    found: list[CotangentFrame | None] = []
    waiting = threading.Thread(target=lambda: found.append(exchange.swap(_frame("ad", 3))))
    waiting.start()
    # Three frames are at the hub, reply 0 is too old for step 3: the site waits for reply 1.
    hub.wait_for(3)
    assert found == []
    hub.release(1)
    waiting.join(timeout=20)
    (third,) = found
    assert third is not None
    assert third.key.step == 1
    stats = exchange.take_stats()
    assert (stats.answered, stats.dropped, stats.staleness_max) == (4, 0, 2)
    assert stats.staleness_mean == (0 + 1 + 2 + 2) / 4


def test_late_replies_are_those_of_lockstep_at_their_own_step_bit_for_bit(
    hub: HeldHub, stream: Callable[..., ExchangeStream]
) -> None:
    frames = [[_frame(site, step) for site in SITES] for step in range(30)]
    _open(hub, SITES, max_staleness=3)
    used: dict[str, list[CotangentFrame]] = {site: [] for site in SITES}

    def train(index: int, site: str) -> None:
        exchange = stream(site, max_staleness=3)
        for step in range(30):
            reply = exchange.swap(frames[step][index])
            assert reply is not None
            used[site].append(reply)
        stats = exchange.take_stats()
        assert (stats.answered, stats.dropped) == (30, 0)
        assert stats.staleness_max <= 3

    threads = [threading.Thread(target=train, args=pair) for pair in enumerate(SITES)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    for index, site in enumerate(SITES):
        assert len(used[site]) == 30
        for step, reply in enumerate(used[site]):
            assert 0 <= step - reply.key.step <= 3
            vectors = np.stack([frame.vector for frame in frames[reply.key.step]])
            terms = cross_site_terms(LAYOUT, vectors, np.ones((2, 2), np.bool_))
            assert reply.vector.tobytes() == terms.cotangents[index].tobytes()


def test_a_hub_that_ends_in_the_middle_leaves_the_newest_reply_until_it_is_too_old(
    hub: HeldHub, service: ExchangeService, stream: Callable[..., ExchangeStream]
) -> None:
    _open(hub, SITES[:1], max_staleness=2)
    exchange = stream("ad", max_staleness=2, reply_seconds=5.0)
    assert exchange.swap(_frame("ad", 0)) is not None
    service.stop(grace=0)
    served = [exchange.swap(_frame("ad", step)) for step in range(1, 6)]
    assert [reply is None for reply in served] == [False, False, True, True, True]
    stats = exchange.take_stats()
    assert (stats.answered, stats.dropped) == (3, 3)


def test_more_frames_than_the_round_allows_are_refused_in_order_and_the_stream_lives(
    hub: HeldHub, stream: Callable[..., ExchangeStream]
) -> None:
    _open(hub, SITES, max_staleness=1)
    # This site believes in a bound of 4, the round's is 1: its third frame is refused, so that no
    # reply is left to wait for but those of the first two.
    exchange, peer = stream("ad", max_staleness=4), stream("tnbc", max_staleness=4)
    found: list[Any] = []
    ad = threading.Thread(target=lambda: found.append(exchange.swap(_frame("ad", 0))))
    ad.start()
    assert peer.swap(_frame("tnbc", 0)) is not None
    ad.join(timeout=20)
    served = [exchange.swap(_frame("ad", step)) for step in range(1, 5)]
    assert [reply is not None and reply.key.step for reply in served] == [0] * 4
    # Steps 3 and 4 are refused at once, but their refusals come behind the answers of 1 and 2.
    _until(lambda: hub.snapshot().refused == {ExchangeCode.WRONG_STEP: 2})
    for step in (1, 2, 3):
        assert peer.swap(_frame("tnbc", step)) is not None
    last = exchange.swap(_frame("ad", 5))
    assert last is not None
    assert last.key.step >= 1
    assert set(hub.snapshot().refused) == {ExchangeCode.WRONG_STEP}


# --- a whole round of training against a hub that is slow, gone or wrong


class Images:
    """Two images a step, with a rectangle of foreground that moves with the step."""

    def training_batch(self, global_step: int) -> tuple[Tensor, Tensor]:
        rng = torch.Generator().manual_seed(global_step)
        mask = torch.zeros(2, 1, 32, 32, dtype=torch.float64)
        mask[:, :, 4 + global_step % 7 : 16 + global_step % 7, 8:22] = 1
        noise = torch.rand(2, 1, 32, 32, generator=rng, dtype=torch.float64)
        return (0.3 * noise + 0.5 * mask).clamp(0, 1), mask

    def training_patients(self, global_step: int) -> tuple[str, ...]:
        return ("one", "other")


class Silent:
    """An exchange that drops every step."""

    def swap(self, frame: PrototypeFrame) -> CotangentFrame | None:
        return None

    def take_stats(self) -> ExchangeStats:
        return ExchangeStats()

    def close(self) -> None: ...


def _plan(**exchange: Any) -> RunPlan:
    return RunPlan.model_validate(
        {
            "sites": ["ad", "tnbc"], "width": 5, "in_channels": 1, "size": 32, "rounds": 1,
            "steps_per_round": STEPS, "batch_size": 2, "precision": "fp64", "exchange": exchange,
        }
    )  # fmt: skip


def _train(plan: RunPlan, exchange: Exchange) -> tuple[dict[str, Tensor], RoundOutcome]:
    network = initial_network(plan).double()
    blinded = BlindedExchange(
        exchange,
        BlindingSecret.known_to_all(0),
        layout_of(network),
        max_staleness=plan.exchange.max_staleness,
    )
    request = LocalRound(
        plan=plan, run_id="0" * 16, server_round=1, attempt=1, alpha=np.full(9, 0.01),
        exchange=blinded, cotangent_scale=2.0,
    )  # fmt: skip
    outcome = train_round_(network, Images(), request)
    return network.state_dict(), outcome


class RawFrame(CotangentFrame):
    """Cotangents that leave the hub unchecked."""

    def to_proto(self) -> pb.Cotangents:
        whole = replace(
            CotangentFrame(self.key, self.vector, self.pair_terms, self.site_terms, self.peers),
            vector=np.zeros_like(self.vector),
        ).to_proto()
        payload = pb.CotangentPayload.FromString(whole.payload)
        payload.vector = self.vector.tobytes()
        return pb.Cotangents(
            key=whole.key, element_type=whole.element_type, payload=payload.SerializeToString()
        )


def _answer(frame: PrototypeFrame, vector: Any = None, **key: Any) -> CotangentFrame:
    terms = np.zeros(frame.valid.size)
    vector = np.zeros_like(frame.vector) if vector is None else vector
    return RawFrame(replace(frame.key, **key), vector, terms, terms, 1)


WRONG: dict[str, Answer] = {
    "silent": lambda frame: None,
    "of a later step": lambda f: _answer(f, step=f.key.step + 1),
    "of another round": lambda f: _answer(f, server_round=2),
    "not a number": lambda f: _answer(f, np.full_like(f.vector, np.nan)),
    "infinite": lambda f: _answer(f, np.full_like(f.vector, np.inf)),
    "too long": lambda f: _answer(f, np.zeros(f.vector.size + 2)),
    "of another type": lambda f: _answer(f, np.zeros(f.vector.size, np.float32)),
    "no combination of what was sent": lambda f: _answer(f, np.ones_like(f.vector)),
    "beyond what Eq. 4 can give": lambda f: _answer(f, 1e9 * (np.arange(f.vector.size) % 2 - 0.5)),
}


@pytest.mark.parametrize("bound", [0, 2])
@pytest.mark.parametrize("wrong", list(WRONG))
def test_training_goes_on_without_the_term_as_if_the_hub_had_never_answered(
    hub: HeldHub, stream: Callable[..., ExchangeStream], wrong: str, bound: int
) -> None:
    plan = _plan(max_staleness=bound)
    layout = padded_layout(layout_of(initial_network(plan)))
    _open(hub, SITES, layout, steps=STEPS, max_staleness=bound)
    hub.answer = WRONG[wrong]
    exchange = stream("ad", max_staleness=bound, reply_seconds=0.2)
    weights, outcome = _train(plan, exchange)
    expected, _ = _train(plan, Silent())
    assert outcome.means.answered == 0
    assert exchange.take_stats().steps == STEPS
    for name, tensor in weights.items():
        assert torch.equal(tensor, expected[name]), name


@pytest.mark.parametrize("wrong", ["silent", "not a number"])
@pytest.mark.parametrize("bound", [0, 2])
def test_where_the_exchange_is_required_such_a_hub_voids_the_round(
    hub: HeldHub, stream: Callable[..., ExchangeStream], wrong: str, bound: int
) -> None:
    plan = _plan(max_staleness=bound, required=True)
    layout = padded_layout(layout_of(initial_network(plan)))
    _open(hub, SITES, layout, steps=STEPS, max_staleness=bound)
    hub.answer = WRONG[wrong]
    with pytest.raises(ExchangeIncomplete, match=r"step 0 .* exchange.required = true"):
        _train(plan, stream("ad", max_staleness=bound, reply_seconds=0.2))
