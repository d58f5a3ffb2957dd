"""An agent's health: registered and heard, or not ready, whatever the process itself believes."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from fdfed.process.health import SILENT_SECONDS
from fdfed_client.config import SiteConfig
from fdfed_client.flower.link import Link
from fdfed_client.flower.presence import Presence
from fdfed_client.membership import Membership
from fdfed_client.watching import agent_health
from fdfed_server.provision import provision
from tests.unit.fdfed_client.test_flower_node import _app, _echo, _Fleet, _Node, _OpenGate


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


class Deafened(_Fleet):
    """A coordinator that answers every request of a node, but takes no heartbeat while `deaf`."""

    deaf = True

    def beat(self, node_id: int) -> bool:
        if self.deaf:
            raise httpx.ReadTimeout("the heartbeat's answer never came")
        return True


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_a_node_that_is_alive_but_not_heard_is_live_and_not_ready() -> None:
    fleet, presence, stop = Deafened(), Presence(), threading.Event()
    link = Link(
        fleet,
        server="h:1",
        stop=stop,
        heartbeat_seconds=0.3,
        patience=0,
        tell=lambda _: None,
        presence=presence,
    )
    served: list[int] = []

    def answer(*received: object) -> object:
        served.append(1)
        return _echo(*received)  # type: ignore[arg-type]

    node = _Node(
        _app(answer),  # type: ignore[arg-type]
        fleet,
        link,
        gate=_OpenGate(),
        site="udiat",
        max_bytes=10**6,
        tell=lambda _: None,
    )
    thread = threading.Thread(target=lambda: _serve_twice(node, stop))
    thread.start()
    try:
        until(lambda: "no heartbeat has got through" in presence.check())
        assert presence.loop.check() == ""
        fleet.deaf = False
        until(lambda: presence.check() == "")
        fleet.deaf = True
        # Two intervals later the node gives its membership up and joins again: not ready all along.
        until(lambda: "no heartbeat" in presence.check())
        until(lambda: "no heartbeat has got through yet" in presence.check())
        assert presence.loop.check() == ""
    finally:
        stop.set()
        thread.join()
    assert presence.check() == "not registered with the coordinator"


def _serve_twice(node: _Node, stop: threading.Event) -> None:
    while not stop.is_set():
        node.serve(stop, 0.001)


def test_a_coordinator_that_does_not_answer_makes_the_agent_not_ready_at_once() -> None:
    clock = Clock()
    presence = Presence(clock)
    presence.joined(15)
    presence.heard()
    assert presence.check() == ""
    presence.note_away("cannot be reached (ConnectError)")
    assert presence.check() == "the coordinator cannot be reached (ConnectError)"
    presence.note_back()
    clock.now = 15.5
    assert presence.check() == "no heartbeat got through for 16 s"


def test_a_loop_that_hangs_in_one_request_is_not_live() -> None:
    clock = Clock()
    presence = Presence(clock)
    link = Link(
        _Fleet(),
        server="h:1",
        stop=threading.Event(),
        heartbeat_seconds=10,
        patience=0,
        tell=lambda _: None,
        presence=presence,
    )
    clock.now = 5_000

    def hang() -> None:
        clock.now += SILENT_SECONDS + 1

    link.persist(hang)
    assert "has not gone round" in presence.loop.check()
    link.persist(lambda: None)
    assert presence.loop.check() == ""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> SiteConfig:
    folder = tmp_path_factory.mktemp("agent") / "federation"
    provision(("tnbc", "monuseg"), folder, days=2)
    config = SiteConfig.load(folder / "sites" / "tnbc" / "site.toml")
    config.state.mkdir(exist_ok=True)
    return config


def checks(config: SiteConfig, presence: Presence) -> tuple[int, dict[str, str]]:
    health = agent_health(config, membership=Membership.of(config), presence=presence)
    answer = health.answer("/readyz")
    assert answer is not None
    return answer[0], json.loads(answer[1])["checks"]


def test_an_agent_is_ready_with_coordinator_roster_certificate_and_state(site: SiteConfig) -> None:
    presence = Presence()
    presence.joined(15)
    presence.heard()
    names = ("agent loop", "coordinator", "roster", "certificate", "state")
    assert checks(site, presence) == (200, dict.fromkeys(names, "ok"))


def test_an_agent_without_a_place_for_its_state_is_not_ready(
    site: SiteConfig, tmp_path: Path
) -> None:
    presence = Presence()
    presence.joined(15)
    presence.heard()
    lost = site.model_copy(update={"state": tmp_path / "unmounted"})
    membership = Membership.of(site)
    answer = agent_health(lost, membership=membership, presence=presence).answer("/readyz")
    assert answer is not None
    assert answer[0] == 503
    assert "cannot be written" in json.loads(answer[1])["checks"]["state"]
