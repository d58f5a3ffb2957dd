"""What a site does about masked aggregation, under keys as they are provisioned."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fdfed.config import RunPlan
from fdfed.errors import CryptoError, RefusedByPolicy
from fdfed.membership.roster import Roster
from fdfed.privacy import Signer
from fdfed.wire import ReadyRequest, TrainInstruction
from fdfed_client.config import SiteConfig
from fdfed_client.masking import Masking, signer_of
from fdfed_client.membership import Membership
from fdfed_server.provision import provision

RUN = "0" * 16
SITES = ("tnbc", "monuseg", "udiat")
REQUEST = ReadyRequest(run_id=RUN, server_round=3, attempt=1)


@pytest.fixture(scope="module")
def consortium(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("consortium")
    provision((*SITES, "puppet"), out)
    return out


def masking_of(consortium: Path, site: str, state: Path, **settings: Any) -> Masking:
    approved = settings.pop("approved", None)
    config = SiteConfig.load(consortium / "sites" / site / "site.toml")
    config = config.model_copy(update={"approved": approved, "state": state / site})
    membership = Membership.of(config)
    return Masking(lambda: signer_of(membership.member), state / site / "masking", **settings)


@pytest.fixture
def sites(consortium: Path, tmp_path: Path) -> dict[str, Masking]:
    return {site: masking_of(consortium, site, tmp_path) for site in SITES}


def announced(sites: dict[str, Masking], request: ReadyRequest = REQUEST) -> tuple[str, ...]:
    return tuple(masking.ready(request).announcement for masking in sites.values())


def instruction(keys: tuple[str, ...], **changes: Any) -> TrainInstruction:
    base = TrainInstruction(
        plan=RunPlan(sites=SITES, aggregation="masked"),
        run_id=RUN,
        server_round=3,
        attempt=1,
        phase=1,
        total_examples=9,
        best_round=0,
        masking_keys=keys,
        alpha=np.zeros(2),
        target=None,
        weights={"w": np.arange(3.0), "k": np.array(4)},
    )
    return replace(base, **changes)


def total(sites: dict[str, Masking], messages: dict[str, TrainInstruction]) -> np.ndarray:
    sums = np.zeros(4, np.uint64)
    for site, masking in sites.items():
        values = np.zeros(4, np.uint64)
        masking.masks_of(messages[site]).add_(values)
        sums += values
    return sums


def test_the_masks_of_provisioned_sites_cancel(
    sites: dict[str, Masking], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    message = instruction(announced(sites))
    received = TrainInstruction.from_record(message.to_record())
    assert not total(sites, dict.fromkeys(SITES, received)).any()
    assert "aggregation: masked among monuseg, tnbc, udiat" in caplog.text
    assert "two sites alone" not in caplog.text


@pytest.mark.parametrize(
    "changes",
    [
        {"weights": {"w": np.array([0.0, 1.0, 2.5]), "k": np.array(4)}},
        {"weights": {"k": np.array(4), "w": np.arange(3.0)}},
        {"alpha": np.array([0.0, 0.01])},
        {"target": np.zeros(2)},
        {"phase": 2},
        {"total_examples": 10},
        {"offer": "another"},
        {"plan": RunPlan(sites=SITES, aggregation="masked", learning_rate=0.5)},
    ],
    ids=str,
)
def test_a_site_that_is_sent_something_else_than_its_peers_shares_no_mask_with_them(
    sites: dict[str, Masking], changes: dict[str, Any]
) -> None:
    message = instruction(announced(sites))
    messages = dict.fromkeys(SITES, message) | {"tnbc": replace(message, **changes)}
    assert total(sites, messages).all()


def test_an_attempt_is_answered_once(sites: dict[str, Masking]) -> None:
    keys = announced(sites)
    sites["tnbc"].masks_of(instruction(keys))
    for shown in (keys, keys[:2]):
        with pytest.raises(CryptoError, match="or it has been used"):
            sites["tnbc"].masks_of(instruction(shown))
    with pytest.raises(CryptoError, match="each is answered once"):
        sites["tnbc"].ready(REQUEST)


def test_an_attempt_is_answered_once_also_over_a_restart(
    sites: dict[str, Masking], consortium: Path, tmp_path: Path
) -> None:
    sites["tnbc"].masks_of(instruction(announced(sites)))
    restarted = masking_of(consortium, "tnbc", tmp_path)
    for earlier in (REQUEST, replace(REQUEST, server_round=2, attempt=9)):
        with pytest.raises(CryptoError, match="round 3, attempt 1 has been answered"):
            restarted.ready(earlier)
    restarted.ready(replace(REQUEST, attempt=2))
    restarted.ready(replace(REQUEST, server_round=4))
    restarted.ready(replace(REQUEST, run_id="1" * 16))


def test_a_damaged_note_of_the_last_attempt_closes_the_site(
    sites: dict[str, Masking], tmp_path: Path
) -> None:
    sites["tnbc"].masks_of(instruction(announced(sites)))
    (tmp_path / "tnbc" / "masking" / RUN).write_text("?")
    with pytest.raises(CryptoError, match="restore it from a backup"):
        sites["tnbc"].ready(replace(REQUEST, attempt=2))


def test_a_key_that_was_asked_for_twice_before_the_answer_serves_in_its_last_form(
    sites: dict[str, Masking],
) -> None:
    first = announced(sites)
    again = announced(sites)
    with pytest.raises(CryptoError, match="lacks the key that tnbc announced"):
        sites["tnbc"].masks_of(instruction(first))
    assert first != again


def test_an_instruction_for_which_no_key_was_announced_is_refused(
    sites: dict[str, Masking],
) -> None:
    with pytest.raises(CryptoError, match="no masking key was announced for round 3"):
        sites["tnbc"].masks_of(instruction(()))
    keys = announced(sites)
    with pytest.raises(CryptoError, match="no masking key was announced for round 4"):
        sites["tnbc"].masks_of(instruction(keys, server_round=4))


def test_a_key_that_was_announced_under_an_earlier_roster_is_of_no_use(tmp_path: Path) -> None:
    signers = [Signer.circle(SITES)["tnbc"] for _ in range(2)]
    masking = Masking(lambda: signers[0], tmp_path)
    keys = (masking.ready(REQUEST).announcement,)
    signers.reverse()
    with pytest.raises(CryptoError, match="under the roster now in force"):
        masking.masks_of(instruction(keys))


def test_a_site_that_is_in_the_roster_but_not_approved_is_refused(
    consortium: Path, tmp_path: Path
) -> None:
    config = SiteConfig.load(consortium / "sites" / "tnbc" / "site.toml")
    roster = Roster.load(config.roster)
    approved = tuple(roster.sites[site].fingerprint for site in SITES)
    sites = {
        site: masking_of(consortium, site, tmp_path, approved=approved)
        for site in (*SITES, "puppet")
    }
    with pytest.raises(CryptoError, match="tnbc has not approved its keys"):
        sites["tnbc"].masks_of(instruction(announced(sites)))


def test_fewer_sites_than_the_site_asks_for_are_refused_before_and_in_a_round(
    sites: dict[str, Masking],
) -> None:
    two = {site: sites[site] for site in SITES[:2]}
    with pytest.raises(RefusedByPolicy, match=r"among 2 site\(s\) .* min_masked_sites is 3"):
        two["tnbc"].masks_of(instruction(announced(two)))
    with pytest.raises(RefusedByPolicy, match="min_masked_sites is 3"):
        sites["tnbc"].check(RunPlan(sites=SITES[:2], aggregation="masked"))
    sites["tnbc"].check(RunPlan(sites=SITES, aggregation="masked"))


def test_a_site_that_allows_two_is_told_what_that_is_worth(
    consortium: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    sites = {site: masking_of(consortium, site, tmp_path, min_sites=2) for site in SITES[:2]}
    message = instruction(announced(sites), plan=RunPlan(sites=SITES[:2], aggregation="masked"))
    assert not total(sites, dict.fromkeys(sites, message)).any()
    assert "two sites alone: masking hides nothing from the other" in caplog.text


def test_a_site_that_requires_masks_refuses_a_plan_without_them(
    consortium: Path, tmp_path: Path
) -> None:
    strict = masking_of(consortium, "tnbc", tmp_path, required=True)
    with pytest.raises(RefusedByPolicy, match="the coordinator would read this site's update"):
        strict.check(RunPlan(sites=SITES))
    with pytest.raises(RefusedByPolicy, match="aggregation = robust: the coordinator would read"):
        strict.check(RunPlan(sites=(*SITES, "more")[:4], aggregation="robust"))
    strict.check(RunPlan(sites=SITES, aggregation="masked"))
    # Nothing is sent that could be masked.
    strict.check(RunPlan(sites=SITES, strategy="local"))
