"""What the coordinator's operator writes: `federation.toml` and the roster beside it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field, model_validator

from fdfed.config import Frozen, RunPlan, parse, read_toml
from fdfed.membership.roster import Roster, SiteIdentity

__all__ = ["FederationConfig", "Port", "Roster", "ServerConfig", "SiteIdentity"]

Port = Annotated[int, Field(ge=1, le=65535)]


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
    metrics_bind: str = "127.0.0.1"
    """Address at which the metrics are served; they name sites and scores, so mind who can read."""
    metrics_port: int = Field(default=9464, ge=0, le=65535)
    """Prometheus reads `/metrics` here, over HTTP; 0: nobody does. A port that is taken is a
    warning."""
    console_bind: str = "127.0.0.1"
    """Address of the console. It speaks HTTP: put a proxy with TLS before it, or a tunnel, rather
    than another address."""
    console_port: int = Field(default=8080, ge=0, le=65535)
    """The console's page; 0: none. A port that is taken is a warning."""
    console_hosts: tuple[str, ...] = ("localhost", "127.0.0.1", "[::1]")
    """Names under which a browser may ask for the console; others are refused."""
    ca: Path = Path("ca.pem")
    certificate: Path = Path("server.pem")
    key: Path = Path("server.key")
    hpke_key: Path = Path("hpke.key")
    """The private key to which the sites seal what they send on the exchange."""
    plan_key: Path = Path("plan.key")
    """The private key that signs the run plan; the roster names its public half."""
    roster: Path = Path("roster.json")
    """Signed: `roster.sig` lies beside it."""
    consortium_key: Path = Path("consortium.pub")
    """The key that signs the roster, pinned. The coordinator has its public half alone."""
    invited: Path = Path("invited.json")
    """Who may leave an enrolment request at this coordinator; the consortium writes it."""
    answers: Path = Path("answers")
    """Folder in which the consortium puts its answers, for the sites to fetch."""
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
        names = (
            *("ca", "certificate", "key", "hpke_key", "plan_key", "roster", "consortium_key"),
            *("invited", "answers", "state"),
        )
        paths = {name: base / getattr(config.server, name) for name in names}
        return config.model_copy(update={"server": config.server.model_copy(update=paths)})

    def on_this_machine(
        self, *, state: Path | None = None, watch_bind: str | None = None
    ) -> FederationConfig:
        """The same with what the command line says of the machine, where it says something.

        Args:
            watch_bind: address of metrics, health and console.
        """
        update: dict[str, object] = {}
        if state is not None:
            update["state"] = state.resolve()
        if watch_bind is not None:
            update |= {"metrics_bind": watch_bind, "console_bind": watch_bind}
        return self.model_copy(update={"server": self.server.model_copy(update=update)})
