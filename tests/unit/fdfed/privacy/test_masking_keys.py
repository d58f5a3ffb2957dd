"""Masking keys: what a coordinator can try with them, each refused at the site, or of no use."""

from __future__ import annotations

import json
from collections.abc import Sequence

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric import ed25519

from fdfed.errors import CryptoError
from fdfed.privacy import KeyContext, MaskingKey, Signer, announced_by

SITES = ("tnbc", "monuseg", "udiat", "busi")


class Consortium:
    """Signers of four sites, and keys of three of them for one attempt."""

    def __init__(self) -> None:
        self.signers = Signer.circle(SITES)
        self.context = KeyContext(
            roster=self.signers["tnbc"].roster, run_id="ab" * 8, server_round=3, attempt=2
        )
        self.keys = {site: self.key(site) for site in SITES[:3]}

    def key(self, site: str, **changes: object) -> MaskingKey:
        context = self.context.model_copy(update=changes)
        return MaskingKey(self.signers[site], context)

    @property
    def announced(self) -> dict[str, str]:
        return {site: key.announcement for site, key in self.keys.items()}


@pytest.fixture
def consortium() -> Consortium:
    return Consortium()


def sums_to_zero(
    keys: dict[str, MaskingKey],
    shown: dict[str, Sequence[str]],
    inputs: dict[str, bytes] | None = None,
) -> bool:
    total = np.zeros(8, np.uint64)
    for site, key in keys.items():
        masks, _ = key.masks(shown[site], inputs=(inputs or {}).get(site, b"model"))
        values = np.zeros(8, np.uint64)
        masks.add_(values)
        total += values
    return not total.any()


def refused(consortium: Consortium, announced: Sequence[str], reason: str) -> None:
    with pytest.raises(CryptoError, match=reason):
        consortium.keys["tnbc"].masks(announced, inputs=b"model")


def test_masks_of_one_set_cancel_whatever_the_order_of_the_keys(consortium: Consortium) -> None:
    announced = list(consortium.announced.values())
    shown = dict(zip(consortium.keys, (announced, announced[::-1], announced), strict=True))
    assert sums_to_zero(consortium.keys, shown)


def test_the_members_are_named_in_order(consortium: Consortium) -> None:
    announced = list(consortium.announced.values())
    _, members = consortium.keys["tnbc"].masks(announced, inputs=b"")
    assert members == ("monuseg", "tnbc", "udiat")


def test_every_key_is_fresh(consortium: Consortium) -> None:
    assert consortium.key("tnbc").announcement != consortium.key("tnbc").announcement


# a puppet site


def test_a_puppet_that_signs_with_a_key_of_its_own_is_refused(consortium: Consortium) -> None:
    puppet = Signer(
        "puppet",
        consortium.context.roster,
        ed25519.Ed25519PrivateKey.generate(),
        lambda site: "",
    )
    key = MaskingKey(puppet, consortium.context)
    refused(consortium, [*consortium.announced.values(), key.announcement], "puppet is none of")


def test_a_key_in_a_members_name_but_not_by_its_hand_is_refused(consortium: Consortium) -> None:
    forger = Signer(
        "udiat", consortium.context.roster, ed25519.Ed25519PrivateKey.generate(), lambda site: ""
    )
    forged = MaskingKey(forger, consortium.context).announcement
    refused(
        consortium,
        list((consortium.announced | {"udiat": forged}).values()),
        "in the name of udiat is not signed by that site's key",
    )


# a swapped key


def edited(text: str, **changes: object) -> str:
    return json.dumps(json.loads(text) | changes)


def test_a_swapped_public_key_is_refused(consortium: Consortium) -> None:
    other = json.loads(consortium.announced["monuseg"])["public_key"]
    swapped = edited(consortium.announced["udiat"], public_key=other)
    refused(
        consortium,
        list((consortium.announced | {"udiat": swapped}).values()),
        "is not signed by that site's key",
    )


def test_a_key_that_is_relabelled_for_another_site_is_refused(consortium: Consortium) -> None:
    relabelled = edited(consortium.announced["udiat"], site="busi")
    refused(
        consortium,
        list((consortium.announced | {"udiat": relabelled}).values()),
        "in the name of busi is not signed by that site's key",
    )


def test_the_sites_own_key_exchanged_or_left_out_is_refused(consortium: Consortium) -> None:
    announced = consortium.announced
    earlier = consortium.key("tnbc").announcement
    for shown in ([announced["monuseg"], announced["udiat"]], [earlier, announced["udiat"]]):
        refused(consortium, shown, "lacks the key that tnbc announced")


# a replayed key


@pytest.mark.parametrize(
    "changes", [{"attempt": 1}, {"server_round": 2}, {"run_id": "cd" * 8}, {"roster": "1" * 64}]
)
def test_a_key_for_something_else_is_refused(
    consortium: Consortium, changes: dict[str, object]
) -> None:
    replayed = consortium.key("udiat", **changes).announcement
    refused(
        consortium,
        list((consortium.announced | {"udiat": replayed}).values()),
        "udiat announced a masking key for round",
    )


def test_a_replayed_key_that_claims_this_attempt_is_not_signed(consortium: Consortium) -> None:
    old = consortium.key("udiat", attempt=1).announcement
    claimed = edited(old, context=consortium.context.model_dump())
    refused(
        consortium,
        list((consortium.announced | {"udiat": claimed}).values()),
        "is not signed by that site's key",
    )


# a changed set


def test_two_keys_of_one_site_are_refused(consortium: Consortium) -> None:
    twice = [*consortium.announced.values(), consortium.key("udiat").announcement]
    refused(consortium, twice, "two masking keys of udiat")


def test_a_set_of_one_is_refused(consortium: Consortium) -> None:
    refused(consortium, [consortium.announced["tnbc"]], "would be alone in the sum")


def test_a_site_does_not_answer_again_for_another_set(consortium: Consortium) -> None:
    announced = consortium.announced
    consortium.keys["tnbc"].masks(list(announced.values()), inputs=b"model")
    refused(consortium, [announced["tnbc"], announced["udiat"]], "it answers once")


def test_sites_that_were_shown_different_sets_share_no_mask(consortium: Consortium) -> None:
    everybody = list(consortium.announced.values())
    consortium.keys["busi"] = consortium.key("busi")
    more = list(consortium.announced.values())
    shown = {"tnbc": everybody, "monuseg": more, "udiat": more, "busi": more}
    assert not sums_to_zero(consortium.keys, shown)


def test_a_re_encoded_announcement_makes_another_set(consortium: Consortium) -> None:
    announced = list(consortium.announced.values())
    spaced = [consortium.announced["tnbc"], edited(consortium.announced["monuseg"]), announced[2]]
    shown = {"tnbc": spaced, "monuseg": announced, "udiat": announced}
    assert not sums_to_zero(consortium.keys, shown)


def test_sites_that_were_sent_different_models_share_no_mask(consortium: Consortium) -> None:
    announced = list(consortium.announced.values())
    inputs = {"tnbc": b"model", "monuseg": b"crafted", "udiat": b"crafted"}
    assert not sums_to_zero(consortium.keys, dict.fromkeys(consortium.keys, announced), inputs)


# bytes of a stranger


@pytest.mark.parametrize("text", ["", "{}", "[]", "null", '{"context": 1}', "x" * 5000])
def test_an_announcement_that_is_none_is_refused(consortium: Consortium, text: str) -> None:
    with pytest.raises(CryptoError, match=r"announcement of 5000|no masking key that can be read"):
        announced_by(text)
    with pytest.raises(CryptoError):
        consortium.keys["tnbc"].masks([consortium.announced["tnbc"], text], inputs=b"")


def test_a_point_of_low_order_is_refused_even_when_signed(consortium: Consortium) -> None:
    signer = consortium.signers["udiat"]
    weak = json.loads(consortium.announced["udiat"]) | {"public_key": "0" * 64}
    statement = {key: weak[key] for key in ("context", "site", "public_key")}
    encoded = json.dumps(statement, sort_keys=True, separators=(",", ":")).encode()
    weak["signature"] = signer.signing_key.sign(b"fdfed masking key 1\n" + encoded).hex()
    refused(
        consortium,
        list((consortium.announced | {"udiat": json.dumps(weak)}).values()),
        "the masking key of udiat is no usable X25519 key",
    )
