"""The roster, its draft and waiting requests, as text for the signers."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from rich.console import Console

from fdfed.errors import FdfedError
from fdfed.membership.enrolment import EnrolmentRequest
from fdfed.membership.expiry import expiry_notice
from fdfed_server.roster_difference import Difference
from fdfed_server.vault import Vault


def print_roster(vault: Vault) -> None:
    """The roster that holds: version, signers, and each site's keys and certificate."""
    console, roster = _console(), vault.roster
    if vault.current is None:
        console.print("no roster has been signed yet")
        return
    policy = roster.policies[-1].policy
    console.print(f"roster version {roster.version}, signed by {policy.summary}")
    console.print(f"policy {policy.digest}")
    # Not as a table: a narrow terminal would cut the fingerprints that people compare.
    for name, site in roster.sites.items():
        ends = site.certificate_expires
        until = "" if ends is None else f", certificate until {ends:%Y-%m-%d}"
        console.print(f"  {name}: {site.fingerprint}{until}")
    for name, site in roster.sites.items():
        if site.certificate_expires is not None:
            notice = expiry_notice(f"the certificate of {name}", site.certificate_expires)
            if notice:
                console.print(notice)


def print_requests(vault: Vault, out: Path) -> None:
    """Requests that wait beside the folder, at the coordinator or in a site's folder."""
    console, roster = _console(), vault.roster
    waiting = sorted((out / "server" / "state" / "enrolment").glob("*.json"))
    waiting += sorted((out / "sites").glob("*/request.json"))
    for path in waiting:
        try:
            request = EnrolmentRequest.parse(path.read_bytes(), source=str(path))
        except (OSError, FdfedError) as err:
            console.print(f"request {path}: cannot be used: {err}")
            continue
        if vault.is_answered(request):
            continue
        known = roster.sites.get(request.site)
        kind = "joins" if known is None else "renews, or has new keys"
        console.print(f"request {path}: {request.site} {kind}, {request.fingerprint}")


def print_draft(vault: Vault) -> None:
    """What the draft would change, and who has signed it so far."""
    console = _console()
    if (change := vault.policy_draft) is not None:
        console.print(f"drafted: the signers become {change.step.policy.summary}")
        console.print(f"  policy {change.step.policy.digest}")
        for name, public in change.step.policy.signers.items():
            console.print(f"  {name}: {public}")
        console.print(_signed(entry.signer for entry in change.step.signatures))
        return
    draft = vault.draft
    if draft is None:
        return
    difference = Difference.between(vault.roster, draft)
    console.print(f"drafted: roster version {draft.version}")
    for name, site in difference.added.items():
        console.print(f"  {name} joins: {site.fingerprint}")
    for name, site in difference.replaced.items():
        console.print(f"  {name} has OTHER KEYS: {site.fingerprint}")
    for name in difference.renewed:
        console.print(f"  {name} has another certificate, and the same keys")
    for name in difference.removed:
        console.print(f"  {name} is removed")
    if difference.plan_key is not None:
        console.print(f"  run plans are signed with ANOTHER KEY: {difference.plan_key}")
    policy = draft.policies[-1].policy
    if policy != vault.roster.policies[-1].policy:
        console.print(f"  the signers become {policy.summary}: {policy.digest}")
    console.print(_signed(entry.signer for entry in vault.draft_signatures))


def _signed(names: Iterable[str]) -> str:
    return f"signed so far by: {', '.join(names) or 'nobody'}"


def _console() -> Console:
    return Console(soft_wrap=True, markup=False, highlight=False)
