"""What a hospital's administrator writes: `site.toml`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from fdfed.config import Frozen, SiteName, parse, read_toml
from fdfed_client.egress import Policy

Port = Annotated[int, Field(ge=1, le=65535)]
Fingerprint = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class SiteConfig(Frozen):
    """The whole of `site.toml`: who this site is, where the coordinator is, and what is local."""

    site: SiteName
    server: str = Field(default="localhost", min_length=1)
    """Name or address of the coordinator, as in its certificate; without a port."""
    fleet_port: Port = 8443
    exchange_port: Port = 8444
    ca: Path = Path("ca.pem")
    """Certificate of the consortium's authority: the only one that is trusted."""
    certificate: Path = Path("site.pem")
    key: Path = Path("site.key")
    node_key: Path = Path("node.key")
    hpke_key: Path = Path("hpke.key")
    """The private key to which other sites seal what is for this site alone."""
    server_hpke_key: Path = Path("server-hpke.pub")
    """The coordinator's public key, pinned: everything on the exchange is sealed to it."""
    signing_key: Path = Path("signing.key")
    """The private key that shows other sites who sealed something for them."""
    roster: Path = Path("roster.json")
    """Who may take part; `roster.sig` beside it is the consortium's signature."""
    consortium_key: Path = Path("consortium.pub")
    """The consortium's public key, pinned: it signs the roster, and is not the coordinator's."""
    approved: tuple[Fingerprint, ...] | None = None
    """Fingerprints of the sites with which this one shares a secret; `None`: all of the roster."""
    min_sites: int = Field(default=2, ge=2)
    """This site takes part in an exchange only with at least so many, itself included; with two,
    each learns the other's prototypes exactly. The plan may ask for more, never for fewer."""
    min_patients: int = Field(default=2, ge=1)
    """Fewest patients behind a prototype that this site sends. The plan may ask for more, never
    for fewer."""
    min_masked_sites: int = Field(default=3, ge=2)
    """This site enters a masked sum only with at least so many, itself included; of two, each has
    the other's update when it takes its own from the sum."""
    require_masking: bool = False
    """Whether this site refuses a plan by which the coordinator would read its update."""
    allow_deterministic: bool = False
    """Whether a run whose blinding secret the coordinator knows may use this site: for tests."""
    state: Path = Path("state")
    """Folder of the audit log, local results and checkpoints."""
    metrics_bind: str = "127.0.0.1"
    """Address at which the metrics are served."""
    metrics_port: int = Field(default=9465, ge=0, le=65535)
    """Prometheus reads `/metrics` here, over HTTP; 0: nobody does. A port that is taken is a
    warning."""
    console_bind: str = "127.0.0.1"
    """Address of the hospital's console. It speaks HTTP: reach it through a tunnel, or a proxy with
    TLS, rather than under another address."""
    console_port: int = Field(default=8081, ge=0, le=65535)
    """The console's page; 0: none. A port that is taken is a warning."""
    console_hosts: tuple[str, ...] = ("localhost", "127.0.0.1", "[::1]")
    """Names under which a browser may ask for the console; others are refused."""
    data: Path | None = None
    """Folder that holds `images/` and `masks/`, or one such folder under this site's name."""
    device: Literal["auto", "cuda", "cpu"] = "auto"
    """Where to train; `auto` is the GPU where PyTorch can use one."""
    drain_seconds: float = Field(default=60, ge=0)
    """How long the work under way may go on once the agent was told to stop (SIGTERM); then it is
    given up, and the coordinator told. What was sent, the coordinator has as long again to fetch. A
    service manager must wait for both before it kills."""
    local_baseline: bool = False
    """Whether to train, in idle time, a model on this site's images alone, so that the site's own
    report says whether joining helped. It costs as much training again; nobody else is told."""
    min_count: int = Field(default=3, ge=1)
    """Fewest images behind a score that this site hands on. The plan may ask for more, never for
    fewer."""

    policy: Policy = Policy()
    """What may leave this hospital, whatever a coordinator asks."""

    @property
    def fleet_address(self) -> str:
        """`host:port` of the coordinator's Flower port."""
        return f"{bracketed(self.server)}:{self.fleet_port}"

    @property
    def exchange_address(self) -> str:
        """`host:port` of the coordinator's exchange port."""
        return f"{bracketed(self.server)}:{self.exchange_port}"

    @classmethod
    def load(cls, path: Path) -> SiteConfig:
        """The configuration in the file `path`; its relative paths are relative to that file.

        Raises:
            InvalidInput: if the file is missing, is not TOML, or holds an unknown or wrong key.
        """
        config = parse(cls, read_toml(path), source=str(path))
        base = path.resolve().parent
        names = (
            "ca",
            "certificate",
            "key",
            "node_key",
            "hpke_key",
            "server_hpke_key",
            "signing_key",
            "roster",
            "consortium_key",
            "state",
            "data",
        )
        given = {name: getattr(config, name) for name in names}
        return config.model_copy(
            update={name: base / value for name, value in given.items() if value is not None}
        )


def bracketed(host: str) -> str:
    """`host` as an address with a port wants it: an IPv6 address in brackets."""
    return f"[{host}]" if ":" in host and not host.startswith("[") else host
