"""The coordinator carries the newest roster to each site once, and names who does not take it."""

from __future__ import annotations

from pathlib import Path

import pytest

from fdfed.membership.roster import SignedRoster
from fdfed.wire import RosterInForce, RosterRelay, SecretRequest
from fdfed_server.provision import provision, provision_site
from fdfed_server.roster_carrier import RosterCarrier
from fdfed_server.site_reply import SiteReply


@pytest.fixture
def out(tmp_path: Path) -> Path:
    provision(["tnbc"], tmp_path / "out")
    return tmp_path / "out"


def newest(out: Path) -> SignedRoster:
    folder = out / "server"
    return SignedRoster.load(folder / "roster.json", public_key=folder / "consortium.pub")


class Sites:
    """Sites that answer with a digest of their own choice, or fail."""

    def __init__(self, out: Path) -> None:
        self.out = out
        self.asked: list[str] = []
        self.stubborn: dict[str, str] = {}

    def __call__(self, site: str, request: SecretRequest | RosterRelay) -> SiteReply:
        assert isinstance(request, RosterRelay)
        self.asked.append(site)
        if site in self.stubborn:
            return SiteReply(site=site, record=None, failure=self.stubborn[site])
        roster = newest(self.out)
        assert request.roster.encode() == roster.text
        held = RosterInForce(version=roster.roster.version, digest=roster.digest)
        return SiteReply(site=site, record=held.to_record())


def test_each_site_is_brought_each_roster_once(out: Path) -> None:
    sites, carrier = Sites(out), RosterCarrier(lambda: newest(out))
    carrier.bring(sites, ["tnbc", "udiat"])
    carrier.bring(sites, ["tnbc", "udiat", "busi"])
    assert sites.asked == ["tnbc", "udiat", "busi"]
    provision_site("monuseg", out)
    carrier.bring(sites, ["tnbc"])
    assert sites.asked[3:] == ["tnbc"]


def test_a_site_that_does_not_take_it_is_named_and_asked_again(
    out: Path, caplog: pytest.LogCaptureFixture
) -> None:
    sites, carrier = Sites(out), RosterCarrier(lambda: newest(out))
    sites.stubborn["tnbc"] = "CryptoError"
    carrier.bring(sites, ["tnbc"])
    assert "site tnbc did not take the roster: CryptoError" in caplog.text
    sites.stubborn.clear()
    carrier.bring(sites, ["tnbc"])
    carrier.bring(sites, ["tnbc"])
    assert sites.asked == ["tnbc", "tnbc"]
