"""Brings a roster that was put into force to the parties whose folders are still here."""

from __future__ import annotations

import json
from collections.abc import Collection
from pathlib import Path

import tomli_w

from fdfed.config import read_toml
from fdfed.files.private_file import line, replace_private
from fdfed.membership.enrolment import EnrolmentAnswer
from fdfed.membership.roster import SignedRoster
from fdfed_server.vault import Vault


def hand_out(
    vault: Vault, roster: SignedRoster, out: Path, *, before: Collection[str] = ()
) -> list[Path]:
    """Writes roster and signatures into `out/server` and every folder below `out/sites`, each
    site's answer to where the site or the coordinator finds it, and the sites into `[run] sites`;
    returns the folders of parties. One that has gone to its owner already is left out.

    A running coordinator takes the roster up within a second, and brings it to the sites.

    Args:
        before: the sites that the roster before this one listed.
    """
    server, below = out / "server", out / "sites"
    sites = sorted(path for path in below.iterdir() if path.is_dir()) if below.is_dir() else []
    folders = [folder for folder in (server, *sites) if folder.is_dir()]
    for folder in folders:
        # The signatures first: a coordinator that looks in between tries again.
        replace_private(folder / "roster.sig", roster.signatures)
        replace_private(folder / "roster.json", roster.text)
    for site in roster.roster.sites:
        certificate = vault.certificate_of(site)
        if certificate is not None:
            _put_answer(vault, site, certificate, roster, out)
    hand_out_invitations(vault, out)
    if (server / "federation.toml").exists():
        _set_sites(server / "federation.toml", roster, before)
    return folders


def hand_out_invitations(vault: Vault, out: Path) -> None:
    """Lets the coordinator know from whom to take enrolment requests: invited and listed sites."""
    if not (out / "server").is_dir() or not vault.relays:
        return
    welcome = vault.tokens.keys() | vault.roster.sites.keys()
    invited = {site: digest for site, digest in vault.relays.items() if site in welcome}
    replace_private(out / "server" / "invited.json", line(json.dumps(invited, indent=2)))


def _put_answer(
    vault: Vault, site: str, certificate: bytes, roster: SignedRoster, out: Path
) -> None:
    answer = EnrolmentAnswer(
        site=site,
        certificate=certificate.decode(),
        roster=roster.text.decode(),
        signatures=roster.signatures.decode(),
    )
    text = line(answer.model_dump_json())
    replace_private(vault.folder / "answers" / f"{site}.json", text)
    if (out / "server").is_dir():
        replace_private(out / "server" / "answers" / f"{site}.json", text)
    if (out / "sites" / site / "request.json").exists():
        replace_private(out / "sites" / site / "answer.json", text)


def _set_sites(path: Path, roster: SignedRoster, before: Collection[str]) -> None:
    """Adds the roster's sites to `[run] sites`, and takes out those that were removed.

    A site that is named there and invited, but not enrolled yet, stays. Comments in the file are
    lost, so it is left alone where nothing changes.
    """
    tables = read_toml(path)
    listed, named = roster.roster.sites, tables.get("run", {}).get("sites", [])
    wanted = [name for name in named if name in listed or name not in before]
    wanted += [name for name in listed if name not in named]
    if wanted != named:
        tables.setdefault("run", {})["sites"] = wanted
        replace_private(path, tomli_w.dumps(tables).encode())
