from __future__ import annotations

import pytest
from flwr.app import RecordDict

from fdfed.errors import QuorumNotMet
from fdfed.wire import SecretOffer, SecretRequest
from fdfed_server.secret_relay import SecretRelay
from fdfed_server.site_reply import SiteReply

SITES = ("tnbc", "monuseg", "udiat")


class Sites:
    """Sites that answer as they are told to: with an epoch, a reason, or nonsense."""

    def __init__(self, **answers: int | str | RecordDict) -> None:
        self.answers = answers
        self.asked: list[tuple[str, SecretRequest]] = []

    def __call__(self, site: str, request: SecretRequest) -> SiteReply:
        self.asked.append((site, request))
        answer = self.answers[site]
        if isinstance(answer, str):
            return SiteReply(site=site, record=None, failure=answer)
        if isinstance(answer, int):
            answer = SecretOffer(epoch=answer, text=f"by {site}").to_record()
        return SiteReply(site=site, record=answer)


def offer(relay: SecretRelay, sites: Sites, *, names: tuple[str, ...] = SITES) -> str:
    return relay.offer(sites, run_id="0" * 16, server_round=3, attempt=1, sites=names)


def test_the_first_site_makes_it_for_all() -> None:
    sites = Sites(tnbc=7, monuseg=8, udiat=9)
    assert offer(SecretRelay(min_sites=2), sites) == "by tnbc"
    ((site, request),) = sites.asked
    assert site == "tnbc"
    assert request.members == SITES


def test_a_site_that_refuses_or_answers_nonsense_is_passed_over() -> None:
    sites = Sites(tnbc="has not approved udiat", monuseg=RecordDict(), udiat=9)
    assert offer(SecretRelay(min_sites=2), sites) == "by udiat"


def test_the_next_maker_is_told_the_latest_epoch() -> None:
    relay = SecretRelay(min_sites=2)
    offer(relay, Sites(tnbc=7, monuseg=0, udiat=0))
    later = Sites(tnbc="gone", monuseg=8, udiat=0)
    offer(relay, later)
    assert [request.after_epoch for _, request in later.asked] == [7, 7]


def test_without_any_secret_the_attempt_is_void_and_says_why() -> None:
    sites = Sites(tnbc="clock", monuseg="disk", udiat="policy")
    with pytest.raises(QuorumNotMet, match=r"tnbc: clock; monuseg: disk; udiat: policy"):
        offer(SecretRelay(min_sites=2), sites)


def test_too_few_sites_are_not_even_asked() -> None:
    sites = Sites(tnbc=7, monuseg=8)
    with pytest.raises(QuorumNotMet, match="min_sites is 3"):
        offer(SecretRelay(min_sites=3), sites, names=("tnbc", "monuseg"))
    assert sites.asked == []
