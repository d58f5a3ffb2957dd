"""Seeds of keys, rosters, offers and certificates."""

from __future__ import annotations

import hashlib
import json

from fdfed.audit.line import Head, write_line
from fdfed.exchange import (
    BlindingSecret,
    HpkeSuite,
)
from fdfed.membership.consortium import (
    PolicyStep,
    SigningPolicy,
    lineage_digests,
    policy_statement,
    sign,
)
from fdfed.membership.roster import Roster, sign_roster
from tests.fuzz import parties
from tests.fuzz.parties import SITES
from tests.fuzz.seeds import certificates
from tests.fuzz.seeds.kinds import Seeds


def trust() -> Seeds:
    """Keys, roster, offers, certificates."""
    for suite in HpkeSuite:
        key = parties.hpke_key(1, suite)
        yield "hpke-key", f"public-{suite.value}", key.public.text.encode()
        yield "hpke-key", f"seed-{suite.value}", f"{suite.value} {'AQ' * 21}A=".encode()
        if suite is HpkeSuite.X25519:
            yield "hpke-ciphertext", suite.value, key.public.seal(b"secret", info=b"")
    yield "hpke-key", "small-order", b"x25519 " + b"A" * 43 + b"="
    text = parties.ROSTER.text
    yield "roster", "two-sites", text
    yield "roster", "empty", b"{}"
    yield "roster", "old", b'{"sites": {"ad": {"node_public_key": "ecdsa"}}}'
    signatures, policy = sign_roster(text, parties.signing_key(0)), parties.POLICY.text.encode()
    yield "signed-roster", "text", text
    yield "signed-roster", "followed", _followed()
    yield "signed-roster", "unsigned", text + b"\n--\n[]"
    yield "signed-roster", "all", b"\n--\n".join((text, signatures, policy))
    digest = hashlib.sha256(b"").hexdigest()
    files = dict.fromkeys(("model.safetensors", "model-card.json", "model-card.md"), digest)
    manifest = json.dumps({"released": "2026-01-01T00:00:00Z", "files": files}).encode()
    yield "release", "empty-files", manifest
    yield "release", "unsigned", manifest + b"\n--\n" + b"0" * 128
    yield "release", "no-model", b'{"released": "2026-01-01T00:00:00Z", "files": {}}'
    for direction, number in (("out", 1), ("in", 2)):
        key = parties.signing_key(number)
        line = write_line(direction, "trained", {}, number=number, previous="0" * 64, key=key)
        yield "audit-line", direction, line
    yield "audit-line", "head", Head(7, "0" * 64).to_text(parties.signing_key(1))
    made = parties.member("ad").offer(BlindingSecret(b"s" * 32, epoch=7), parties.CONTEXT, SITES)
    yield "group-offer", "offer", made.encode()
    yield "group-offer", "unsealed", made.replace('"tnbc":"', '"tnbc":"YWFh').encode()
    authority = certificates.certificate("test CA", 3, ca=True)
    site = certificates.certificate("tnbc", 2)
    yield "certificate", "site", site
    yield "certificate", "expired", certificates.certificate("tnbc", 2, until=2001)
    yield "certificate", "authority", authority
    yield "certificate", "both", site + b"\n--\n" + authority
    yield "certificate", "another-key", certificates.certificate("tnbc", 4)


def _followed() -> bytes:
    """A roster whose policy followed upon another one."""
    key, new = parties.signing_key(0), parties.signing_key(5)
    first = PolicyStep(policy=parties.POLICY)
    policy = SigningPolicy(threshold=1, signers={"new": new.public_key().public_bytes_raw().hex()})
    statement = policy_statement(lineage_digests([first])[0], policy)
    step = PolicyStep(policy=policy, signatures=(sign(statement, signer="consortium", key=key),))
    text = Roster(policies=(first, step)).text
    return text + b"\n--\n" + sign_roster(text, new, signer="new")
