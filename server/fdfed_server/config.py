"""What the coordinator's operator writes: `federation.toml` and the roster beside it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_ssh_public_key
from pydantic import Field, field_validator, model_validator

from fdfed.config import Frozen, RunPlan, SiteName, parse, read_toml
from fdfed.errors import CryptoError, InvalidInput
from fdfed.exchange.hpke import HpkePublicKey

Port = Annotated[int, Field(ge=1, le=65535)]
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class ServerConfig(Frozen):
    """The `[server]` table: where the coordinator listens, and the files that say who it is."""

    hosts: tuple[str, ...] = Field(default=("localhost", "127.0.0.1"), min_length=1)
    """Names and addresses under which the sites reach the coordinator; the certificate holds
    them. The first one is written into each `site.toml`."""
    bind: str = "0.0.0.0"  # noqa: S104  (the two public ports are for other machines)
    """Address of the two public ports. The control port is on 127.0.0.1 whatever this says."""
    fleet_port: Port = 8443
    """Public: weights, α and metrics, once a round (TLS, node keys)."""
    exchange_port: Port = 8444
    """Public: prototypes and cotangents, every batch (mutual TLS)."""
    control_port: Port = 8445
    """Loopback: the coordinator's own calls to its SuperLink."""
    ca: Path = Path("ca.pem")
    certificate: Path = Path("server.pem")
    key: Path = Path("server.key")
    hpke_key: Path = Path("hpke.key")
    """The private key to which the sites seal what they send on the exchange."""
    roster: Path = Path("roster.json")
    state: Path = Path("state")
    """Folder of everything that a restart needs."""

    @model_validator(mode="after")
    def _check(self) -> ServerConfig:
        ports = (self.fleet_port, self.exchange_port, self.control_port)
        if len(set(ports)) != len(ports):
            raise ValueError(
                f"fleet_port, exchange_port and control_port are {ports}; each needs its own"
            )
        return self


class FederationConfig(Frozen):
    """The whole of `federation.toml`."""

    server: ServerConfig = ServerConfig()
    run: RunPlan = RunPlan()

    @classmethod
    def load(cls, path: Path) -> FederationConfig:
        """The configuration in the file `path`; its relative paths are relative to that file.

        Raises:
            InvalidInput: if the file is missing, is not TOML, or holds an unknown or wrong key.
        """
        config = parse(cls, read_toml(path), source=str(path))
        base = path.resolve().parent
        names = ("ca", "certificate", "key", "hpke_key", "roster", "state")
        paths = {name: base / getattr(config.server, name) for name in names}
        return config.model_copy(update={"server": config.server.model_copy(update=paths)})


class SiteIdentity(Frozen):
    """How the coordinator knows one site: by key and certificate, never by what it claims."""

    node_public_key: str
    """OpenSSH form of the elliptic-curve key with which the site signs each Flower request."""
    certificate_sha256: Digest
    """Fingerprint of the certificate that the site shows to the exchange hub."""
    certificate_serial: Annotated[str, Field(pattern=r"^[0-9a-f]+$")]
    hpke_public_key: str
    """The key, in the text form of `HpkePublicKey`, to which other sites seal what is for this
    site alone."""

    @field_validator("hpke_public_key")
    @classmethod
    def _is_hpke(cls, text: str) -> str:
        try:
            HpkePublicKey.parse(text)
        except CryptoError as err:
            raise ValueError(f"is not an HPKE public key: {err}") from err
        return text

    @field_validator("node_public_key")
    @classmethod
    def _is_elliptic(cls, text: str) -> str:
        try:
            key = load_ssh_public_key(text.encode())
        except (ValueError, UnsupportedAlgorithm) as err:
            raise ValueError("is not an OpenSSH public key") from err
        if not isinstance(key, ec.EllipticCurvePublicKey):
            raise ValueError("is not an elliptic-curve key (ecdsa-sha2-nistp256 or -nistp384)")
        return text


class Roster(Frozen):
    """Who may take part. A site that is not listed is refused on both public ports."""

    sites: dict[SiteName, SiteIdentity] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _check(self) -> Roster:
        seen: dict[str, str] = {}
        for name, site in self.sites.items():
            twin = seen.setdefault(site.node_public_key, name)
            if twin != name:
                raise ValueError(f"{twin} and {name} have one node key; each site needs its own")
        return self

    @property
    def node_keys(self) -> dict[str, str]:
        """Site name → OpenSSH public key of its Flower node."""
        return {name: site.node_public_key for name, site in self.sites.items()}

    @classmethod
    def load(cls, path: Path) -> Roster:
        """The roster in the file `path`.

        Raises:
            InvalidInput: if the file is missing, is not JSON, lists a site in a wrong way, or was
                made before sites had HPKE keys.
        """
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError as err:
            raise InvalidInput(
                f"{path} does not exist; `fdfed-server provision` writes it, and [server] roster "
                "in federation.toml says where it is"
            ) from err
        except ValueError as err:
            raise InvalidInput(f"{path} is not valid JSON: {err}") from err
        _check_age(values, path)
        return parse(cls, values, source=str(path))


def _check_age(values: Any, path: Path) -> None:
    sites = values.get("sites") if isinstance(values, dict) else None
    entries = sites.items() if isinstance(sites, dict) else ()
    old = [name for name, e in entries if isinstance(e, dict) and "hpke_public_key" not in e]
    if old:
        raise InvalidInput(
            f"{path} has no hpke_public_key for {', '.join(old)}: an earlier version made it. "
            "Provision the consortium anew with `fdfed-server provision`, into an empty folder, "
            "and hand out the folders again"
        )
