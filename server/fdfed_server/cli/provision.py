"""`fdfed-server provision`: keys, certificates and configuration of a new consortium."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer


def provision(
    sites: Annotated[str, typer.Option(help="Names of the hospitals, such as tnbc,monuseg.")],
    out: Annotated[Path, typer.Option(help="Folder to write to; nothing is overwritten.")] = Path(
        "federation"
    ),
    hosts: Annotated[
        str, typer.Option(help="Names and addresses at which sites reach the coordinator.")
    ] = "localhost,127.0.0.1",
    fleet_port: Annotated[int, typer.Option(help="Public port of weights and metrics.")] = 8443,
    exchange_port: Annotated[int, typer.Option(help="Public port of the exchange.")] = 8444,
    control_port: Annotated[int, typer.Option(help="Loopback port of the coordinator.")] = 8445,
    days: Annotated[int, typer.Option(help="Days that the certificates are valid.")] = 365,
    hpke_suite: Annotated[
        Literal["mlkem768-x25519", "x25519"],
        typer.Option(help="Keys of the sealed exchange; the hybrid resists quantum computers."),
    ] = "mlkem768-x25519",
    signers: Annotated[
        str, typer.Option(help="Who signs for the consortium, such as alice,bob,carol.")
    ] = "consortium",
    threshold: Annotated[
        int, typer.Option(min=1, help="How many of the signers a change of the roster needs.")
    ] = 1,
    with_site_keys: Annotated[
        bool,
        typer.Option(
            "--with-site-keys",
            help="Make the hospitals' private keys here too: for a trial on one machine.",
        ),
    ] = False,
) -> None:
    """Make a new consortium: its own keys, the coordinator's folder, and a pack for each hospital.

    consortium/ holds the authority (keep it offline), server/ is the coordinator's, and each folder
    below sites/ is an enrolment pack without any private key: the hospital makes its own with
    `fdfed-client enrol`.
    """
    from rich.console import Console
    from rich.table import Table

    from fdfed.exchange.hpke import HpkeSuite
    from fdfed_server.provision import provision as make

    names = [name.strip() for name in sites.split(",") if name.strip()]
    make(
        names,
        out,
        hosts=[host.strip() for host in hosts.split(",") if host.strip()],
        fleet_port=fleet_port,
        exchange_port=exchange_port,
        control_port=control_port,
        days=days,
        hpke_suite=HpkeSuite(hpke_suite),
        signers=[name.strip() for name in signers.split(",") if name.strip()],
        threshold=threshold,
        with_site_keys=with_site_keys,
    )
    table = Table("folder", "goes to", box=None)
    table.add_row(str(out / "consortium"), "a safe: it signs new sites and is not needed to run")
    if (out / "signers").is_dir():
        table.add_row(str(out / "signers"), "its signers: NAME.key to each, and kept nowhere else")
    table.add_row(str(out / "server"), "the coordinator")
    for name in names:
        table.add_row(str(out / "sites" / name), f"the hospital {name}")
    console = Console(soft_wrap=True, markup=False, highlight=False)
    console.print(table)
    console.print(f"\nNext: edit {out / 'server' / 'federation.toml'} if you like, then")
    console.print(f"  fdfed-server start --config {out / 'server' / 'federation.toml'}")
    for name in names:
        folder = out / "sites" / name
        if not with_site_keys:
            console.print(f"  fdfed-client enrol {folder}")
            continue
        site = folder / "site.toml"
        console.print(f"  fdfed-client --site {name} --config {site} --data DATA")
    if with_site_keys:
        console.print(
            "\nEvery private key was made here: hand the folders over by a safe way, keep none. "
            "Between hospitals, leave out --with-site-keys."
        )
    else:
        vault = out / "consortium"
        console.print(f"  fdfed-server roster show --consortium {vault}")
        console.print(f"  fdfed-server roster add REQUEST --consortium {vault}")
