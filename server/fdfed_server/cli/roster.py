"""`fdfed-server roster`: who may take part, and the signatures that this needs."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fdfed.errors import InvalidInput

if TYPE_CHECKING:
    from fdfed_server.vault import Vault

DEFAULT_CONSORTIUM = Path("federation/consortium")
Consortium = Annotated[
    Path, typer.Option(help="The consortium's folder; server/ and sites/ may lie beside it.")
]

app = typer.Typer(
    help="Who may take part: invite, add, renew and remove sites, and sign the change.\n\n"
    "A change is drafted, signed by as many signers as the policy asks for, and published. Where "
    "the only signer's key lies in the consortium's folder, one command does all three.",
    no_args_is_help=True,
)


@app.command()
def show(consortium: Consortium = DEFAULT_CONSORTIUM) -> None:
    """Show the roster that holds, the draft of the next one, and requests that wait."""
    from fdfed_server.cli.roster_text import print_draft, print_requests, print_roster
    from fdfed_server.vault import Vault

    vault = Vault(consortium)
    print_roster(vault)
    print_requests(vault, consortium.parent)
    print_draft(vault)


@app.command()
def invite(
    site: Annotated[str, typer.Argument(help="Name of the hospital.")],
    consortium: Consortium = DEFAULT_CONSORTIUM,
) -> None:
    """Make an enrolment pack for one more hospital: public keys and a one-time token."""
    from fdfed_server.provision import provision_site

    provision_site(site, consortium.parent, with_site_keys=False)
    pack = consortium.parent / "sites" / site
    _say(f"{pack} goes to the hospital {site}, which runs: fdfed-client enrol {site}")


@app.command()
def add(
    request: Annotated[Path, typer.Argument(help="The hospital's request.json.")],
    fingerprint: Annotated[
        str | None, typer.Option(help="As the hospital gave it by telephone; must match.")
    ] = None,
    replace_keys: Annotated[
        bool, typer.Option("--replace-keys", help="The site's old keys are lost or must go.")
    ] = False,
    days: Annotated[int, typer.Option(min=1, help="Days that the certificate is valid.")] = 365,
    consortium: Consortium = DEFAULT_CONSORTIUM,
) -> None:
    """Certify a hospital that has asked to join, or a member that renews, and list it."""
    from fdfed.membership.enrolment import EnrolmentRequest
    from fdfed_server.roster_change import draft_site
    from fdfed_server.vault import Vault

    vault = Vault(consortium)
    try:
        asked = EnrolmentRequest.parse(request.read_bytes(), source=str(request))
    except OSError as err:
        raise InvalidInput(f"{request} cannot be read ({err.strerror})") from err
    draft_site(vault, asked, days=days, fingerprint=fingerprint, replace_keys=replace_keys)
    _say(f"{asked.site}: fingerprint {asked.fingerprint}")
    if fingerprint is None:
        _say("Compare it with the hospital by telephone before you sign.")
    _finish(vault)


@app.command()
def remove(
    site: Annotated[str, typer.Argument(help="Name of the site.")],
    consortium: Consortium = DEFAULT_CONSORTIUM,
) -> None:
    """Revoke a site: a running coordinator cuts its streams within a second of publishing."""
    from fdfed_server.roster_change import draft_removal
    from fdfed_server.vault import Vault

    vault = Vault(consortium)
    draft_removal(vault, site)
    _finish(vault)


@app.command()
def retire(
    site: Annotated[str, typer.Argument(help="Name of the site.")],
    consortium: Consortium = DEFAULT_CONSORTIUM,
) -> None:
    """Take a renewed site's old certificate no more, before it expires by itself."""
    from fdfed_server.roster_change import end_retirement
    from fdfed_server.vault import Vault

    vault = Vault(consortium)
    end_retirement(vault, site)
    _finish(vault)


@app.command()
def key(
    file: Annotated[Path, typer.Argument(help="New file for the private key; FILE.pub beside it.")],
) -> None:
    """Make a signer's key, on the signer's own machine; hand out FILE.pub alone."""
    from cryptography.hazmat.primitives.asymmetric import ed25519

    from fdfed.files.private_file import line, write_private
    from fdfed.membership.signing_key import write_signing_key

    made = ed25519.Ed25519PrivateKey.generate()
    write_signing_key(file, made)
    public = made.public_key().public_bytes_raw().hex()
    write_private(file.with_name(file.name + ".pub"), line(public))
    _say(f"{file} stays with you; {file}.pub holds {public}")


@app.command()
def signers(
    signers: Annotated[str, typer.Argument(help="All of them: alice=alice.key.pub,bob=HEX,…")],
    threshold: Annotated[int, typer.Option(min=1, help="Signatures that a change will need.")],
    consortium: Consortium = DEFAULT_CONSORTIUM,
) -> None:
    """Draft other signers; the present ones sign first, then the new ones the roster."""
    from fdfed.config import parse
    from fdfed.membership.consortium import SigningPolicy
    from fdfed_server.roster_change import draft_policy
    from fdfed_server.vault import Vault

    named = dict(_public_key(part) for part in signers.split(",") if part.strip())
    values = {"threshold": threshold, "signers": named}
    vault = Vault(consortium)
    draft_policy(vault, parse(SigningPolicy, values, source="the signers that were given"))
    _finish(vault)


@app.command()
def sign(
    key: Annotated[Path, typer.Option(help="The signer's private key.")],
    out: Annotated[
        Path | None, typer.Option(help="Write the signature there, to be sent, and nowhere else.")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    consortium: Consortium = DEFAULT_CONSORTIUM,
) -> None:
    """Sign what is drafted, after it was shown."""
    from fdfed.files.private_file import replace_private
    from fdfed.membership.consortium import signatures_text
    from fdfed_server.cli.roster_text import print_draft
    from fdfed_server.roster_change import add_signature
    from fdfed_server.vault import Vault, read_signer_key

    vault, signing_key = Vault(consortium), read_signer_key(key)
    print_draft(vault)
    if not yes and not (sys.stdin.isatty() and typer.confirm("Sign this?")):
        raise InvalidInput("nothing was signed; say yes at a terminal, or give --yes")
    signature = add_signature(vault, signing_key)
    if out is not None:
        replace_private(out, signatures_text([signature]))
    _say(f"signed by {signature.signer}")


@app.command()
def publish(
    signatures: Annotated[
        list[Path] | None, typer.Argument(help="Signatures that were sent, from `sign --out`.")
    ] = None,
    consortium: Consortium = DEFAULT_CONSORTIUM,
) -> None:
    """Put the draft into force, once enough have signed, and hand it to the folders beside."""
    from fdfed.membership.consortium import parse_signatures
    from fdfed_server.roster_change import merge_signatures
    from fdfed_server.vault import Vault

    vault = Vault(consortium)
    for path in signatures or ():
        merge_signatures(vault, parse_signatures(path.read_bytes(), source=str(path)))
    _publish(vault)


def _finish(vault: Vault) -> None:
    """Signs and publishes at once where the only signer's key is at hand; else says what is due."""
    from fdfed_server.cli.roster_text import print_draft
    from fdfed_server.roster_change import add_signature
    from fdfed_server.vault import SIGNER_KEY, read_signer_key

    print_draft(vault)
    path, policy = vault.folder / SIGNER_KEY, vault.roster.policies[-1].policy
    if policy.threshold > 1 or not path.exists():
        _say(f"drafted; {policy.summary} must sign: fdfed-server roster sign --key KEY")
        return
    changes_signers = vault.policy_draft is not None
    add_signature(vault, read_signer_key(path))
    if changes_signers:
        _say("the change of signers is signed; the new signers sign the roster next")
        return
    _publish(vault)


def _publish(vault: Vault) -> None:
    from fdfed_server.handing_out import hand_out
    from fdfed_server.roster_change import publish as put_into_force

    before = vault.roster.sites
    roster = put_into_force(vault)
    folders = hand_out(vault, roster, vault.folder.parent, before=before)
    _say(f"roster version {roster.roster.version} is in force; written to:")
    for folder in folders:
        _say(f"  {folder}")
    _say("A coordinator elsewhere needs roster.json, roster.sig and answers/ in its folder.")


def _public_key(part: str) -> tuple[str, str]:
    name, _, value = part.strip().partition("=")
    path = Path(value)
    return name, path.read_text().strip() if path.is_file() else value


def _say(text: str) -> None:
    typer.echo(text)
