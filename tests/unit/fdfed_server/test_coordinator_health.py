"""What the coordinator's readiness looks at, and that each part can say no."""

from __future__ import annotations

import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from fdfed.membership.roster_keeper import RosterKeeper
from fdfed.process.health import Pulse
from fdfed_server.config import FederationConfig
from fdfed_server.exchange_service import ExchangeService
from fdfed_server.hub import ExchangeHub
from fdfed_server.membership import Membership
from fdfed_server.provision import provision
from fdfed_server.run_control import RunControl


def test_the_exchange_is_ready_while_its_loop_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    hub = ExchangeHub(lambda *_: None)  # type: ignore[arg-type, return-value]
    service = ExchangeService(hub, address="localhost:0", sites=("tnbc",), insecure=True)
    assert service.check() == "is not served"
    service.start()
    try:
        assert service.check() == ""
        monkeypatch.setattr("fdfed_server.exchange_service._TURN_SECONDS", 0.05)
        going = threading.Event()
        assert service._loop is not None
        service._loop.call_soon_threadsafe(going.wait)
        try:
            assert service.check() == "is served by a loop that stands still"
        finally:
            going.set()
    finally:
        service.stop()
    assert service.check() == "is not served"


@pytest.fixture
def keeper(tmp_path: Path) -> RosterKeeper:
    provision(("tnbc", "monuseg"), tmp_path / "federation", days=2)
    server = FederationConfig.load(tmp_path / "federation" / "server" / "federation.toml").server
    return RosterKeeper(
        server.roster, public_key=server.consortium_key, used=tmp_path / "roster-used.json"
    )


def test_a_coordinator_that_follows_no_roster_is_not_ready(keeper: RosterKeeper) -> None:
    membership = Membership(keeper)
    assert "is not followed" in membership.check()
    with membership:
        assert membership.check() == ""
    assert "is not followed" in membership.check()


def test_a_coordinator_whose_certificate_has_expired_is_not_ready(keeper: RosterKeeper) -> None:
    now = datetime.now(UTC)
    ends = {"the coordinator's certificate": now - timedelta(hours=1)}
    found = Membership(keeper, own_certificates=ends).check_own_certificates()
    assert found.startswith("the coordinator's certificate expired on")
    good = {"the coordinator's certificate": now + timedelta(hours=1)}
    assert Membership(keeper, own_certificates=good).check_own_certificates() == ""


def test_a_paused_run_is_live() -> None:
    beats = threading.Event()

    class Seen(Pulse):
        def beat(self) -> None:
            beats.set()

    control = RunControl(lambda: None, pulse=Seen())
    control.pause()
    waiting = threading.Thread(target=control.await_permission)
    waiting.start()
    assert beats.wait(20)
    control.resume()
    waiting.join(20)
    assert not waiting.is_alive()
