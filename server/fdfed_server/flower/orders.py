"""What the coordinator tells the SuperLink's process when it starts it."""

from __future__ import annotations

from pathlib import Path

from fdfed.config import Frozen


class SuperLinkOrders(Frozen):
    """The one argument of `python -m fdfed_server.flower`, as JSON. It holds no secret, since other
    users of a machine can read arguments: `secret` is the name of a file."""

    parent: int
    """Process id of the coordinator; the SuperLink does not outlive it."""
    state: Path
    ca: Path
    certificate: Path
    key: Path
    secret: Path
    invited: Path
    """Who may leave a request at the enrolment desk; `enrolment_desk.py` says the rest."""
    requests: Path
    answers: Path
    protocol: str
    """What /health says of the formats that the coordinator speaks."""
    fleet_socket: int
    """File descriptors of sockets that listen already. The coordinator keeps them open, so that
    the ports stay its own, and connections wait, while a SuperLink that died is replaced."""
    control_socket: int

    @property
    def tls_files(self) -> tuple[Path, Path, Path]:
        """Authority, certificate and key, in Flower's order."""
        return self.ca, self.certificate, self.key
