"""Who this hospital is: its files, its certificate, and whether the consortium lists it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from fdfed.errors import CryptoError, FdfedError, InvalidInput
from fdfed.exchange import HpkePrivateKey, HpkePublicKey
from fdfed.membership.expiry import WARN_DAYS, days_left
from fdfed.membership.roster import Roster, SignedRoster
from fdfed_client.check.result import CheckResult, note, ok, problem, warning
from fdfed_client.config import SiteConfig
from fdfed_client.exchange_identity import SiteIdentity
from fdfed_client.flower.fleet import load_node_key
from fdfed_client.membership import read_site_key

_NEW_FILES = "put back the files of this site's enrolment, all of one time; keys never travel"
_FRESH_ROSTER = "fetch roster.json and roster.sig anew from whoever keeps the consortium's keys"


@dataclass(frozen=True, slots=True)
class _Keys:
    """The public halves of what is here, as the roster would list them."""

    node: str
    hpke: str
    signing: str
    certificate_sha256: str
    certificate_serial: str


def check_identity(config: SiteConfig) -> Iterator[CheckResult]:
    """Files, certificate and roster, each only where the one before it could be read."""
    open_to_others = [path.name for path in _private(config) if _is_open(path)]
    if open_to_others:
        yield warning(
            "private files",
            f"{', '.join(open_to_others)} can be read by other users of this machine",
            "chmod 600 on each of them",
        )
    try:
        identity, keys = _read(config)
    except FdfedError as err:
        yield problem("keys", str(err), _NEW_FILES, exit_code=err.exit_code)
        return
    yield ok("keys", "all are here, and belong together")
    yield _expiry(identity)
    yield from _roster(config, keys)


def identity_of(config: SiteConfig) -> SiteIdentity:
    """The site's TLS identity.

    Raises:
        InvalidInput: if a file is missing.
        CryptoError: if they do not belong together, or not to this day.
    """
    return SiteIdentity(
        certificate=_bytes(config.certificate),
        key=_bytes(config.key),
        ca_certificate=_bytes(config.ca),
        server_hpke_key=HpkePublicKey.read(config.server_hpke_key),
    )


def _read(config: SiteConfig) -> tuple[SiteIdentity, _Keys]:
    identity = identity_of(config)
    certificate = x509.load_pem_x509_certificate(identity.certificate)
    if identity.site != config.site:
        raise CryptoError(
            f"the certificate in {config.certificate} is that of {identity.site}, not of "
            f"{config.site}"
        )
    node = load_node_key(_bytes(config.node_key)).public_key()
    keys = _Keys(
        node=node.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode(),
        hpke=HpkePrivateKey.read(config.hpke_key).public.text,
        signing=read_site_key(config.signing_key).public_key().public_bytes_raw().hex(),
        certificate_sha256=certificate.fingerprint(hashes.SHA256()).hex(),
        certificate_serial=f"{certificate.serial_number:x}",
    )
    return identity, keys


def _expiry(identity: SiteIdentity) -> CheckResult:
    expires = x509.load_pem_x509_certificate(identity.certificate).not_valid_after_utc
    left = days_left(expires)
    if left <= WARN_DAYS:
        return warning(
            "certificate",
            f"expires on {expires:%Y-%m-%d}, in {max(0, int(left))} day(s)",
            "have it renewed before: fdfed-client enrol, then a new roster",
        )
    return ok("certificate", f"valid until {expires:%Y-%m-%d}, {int(left)} days from now")


def _roster(config: SiteConfig, keys: _Keys) -> Iterator[CheckResult]:
    try:
        signed = SignedRoster.load(config.roster, public_key=config.consortium_key)
    except FdfedError as err:
        yield problem("roster", str(err), _FRESH_ROSTER)
        return
    roster = signed.roster
    title = f"version {roster.version}, {len(roster.sites)} site(s), signed by the consortium"
    found = _unlisted(config.site, roster, keys)
    if found:
        yield problem(
            "registration",
            found,
            "ask whoever keeps the consortium's keys: is this site enrolled, or was it removed? "
            f"Then {_FRESH_ROSTER}",
        )
        return
    digest = hashlib.sha256(config.roster.read_bytes()).hexdigest()
    yield ok("roster", f"{title}; hash {digest[:16]}…")
    yield ok("registration", "this site is listed, with the keys that are here")
    if roster.plan_key is None and config.policy.require_signed_plan:
        yield warning(
            "plan key",
            "the roster names no key that signs run plans, so no plan will be trained for",
            _FRESH_ROSTER,
        )
    if len(roster.sites) < config.min_sites:
        yield note(
            "sites", f"min_sites is {config.min_sites}: there will be no exchange until then"
        )


def _unlisted(site: str, roster: Roster, keys: _Keys) -> str:
    """Why the roster does not know this site as it is here; empty if it does."""
    entry = roster.sites.get(site)
    if entry is None:
        return f"the roster does not list {site}: it was never enrolled, or it was removed"
    if entry.node_public_key.split()[:2] != keys.node.split()[:2]:
        return "the node key that is here is not the one that the roster lists"
    if (entry.hpke_public_key, entry.signing_public_key) != (keys.hpke, keys.signing):
        return "hpke.key or signing.key is not the one that the roster lists"
    if not entry.has_certificate(sha256=keys.certificate_sha256, serial=keys.certificate_serial):
        return "the certificate that is here is not the one that the roster lists: it was replaced"
    return ""


def _private(config: SiteConfig) -> list[Path]:
    return [config.key, config.node_key, config.hpke_key, config.signing_key]


def _is_open(path: Path) -> bool:
    return path.exists() and bool(path.stat().st_mode & 0o077)


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as err:
        raise InvalidInput(f"{path} cannot be read ({err.strerror})") from err
