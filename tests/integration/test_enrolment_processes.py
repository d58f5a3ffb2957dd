"""Hospitals that make their own keys, two signers of three, and a removal, as separate processes.

The hospitals' folders lie apart from the consortium's: whatever reaches them went through the
coordinator."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import tomli_w

from fdfed.config import read_toml
from fdfed.errors import ConnectionFailed
from fdfed.membership.enrolment import EnrolmentRequest
from fdfed.membership.roster import Roster
from fdfed_client.enrolment import SiteFolder
from fdfed_client.enrolment_relay import EnrolmentRelay
from fdfed_server.handing_out import hand_out
from fdfed_server.provision import provision
from fdfed_server.roster_change import add_signature, draft_removal, draft_site, publish
from fdfed_server.vault import Vault, read_signer_key
from tests.processes import end_processes, free_ports, start_process

SITES = ("tnbc", "monuseg", "udiat")
RUN = {
    "phantoms": True,
    "width": 4,
    "size": 32,
    "rounds": 3,
    "steps_per_round": 2,
    "batch_size": 4,
}


@dataclass
class Consortium:
    """A provisioned consortium; its hospitals' packs have gone to folders of their own."""

    out: Path
    hospitals: Path
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    @property
    def config(self) -> Path:
        return self.out / "server" / "federation.toml"

    @property
    def vault(self) -> Vault:
        return Vault(self.out / "consortium")

    def start(self, name: str) -> None:
        if name == "server":
            command = ["fdfed_server.cli", "start", "--config", str(self.config)]
        else:
            site = self.hospitals / name / "site.toml"
            command = ["fdfed_client.cli", "--site", name, "--config", str(site), "--phantoms"]
            command += ["--threads", "1"]
        self.processes[name] = start_process(command, self.out / f"{name}.log")

    def log(self, name: str) -> str:
        return (self.out / f"{name}.log").read_text()

    def await_log(self, name: str, text: str, seconds: float = 120) -> None:
        end = time.monotonic() + seconds
        while text not in self.log(name):
            assert time.monotonic() < end, f"{name} never said {text!r}:\n{self.log(name)}"
            time.sleep(0.1)

    def sign_and_publish(self) -> None:
        before = self.vault.roster.sites
        for name in ("alice", "carol"):
            add_signature(self.vault, read_signer_key(self.out / "signers" / f"{name}.key"))
        hand_out(self.vault, publish(self.vault), self.out, before=before)

    def stop(self) -> None:
        end_processes(self.processes.values())


@pytest.fixture
def consortium(tmp_path: Path) -> Iterator[Consortium]:
    fleet, exchange, control, metrics, console = free_ports(5)
    out = tmp_path / "federation"
    provision(
        SITES,
        out,
        fleet_port=fleet,
        exchange_port=exchange,
        control_port=control,
        days=2,
        signers=("alice", "bob", "carol"),
        threshold=2,
        with_site_keys=False,
    )
    tables = read_toml(out / "server" / "federation.toml")
    tables["server"] |= {"metrics_port": metrics, "console_port": console}
    tables["run"] |= RUN
    (out / "server" / "federation.toml").write_text(tomli_w.dumps(tables))
    hospitals = Path(shutil.move(out / "sites", tmp_path / "hospitals"))
    consortium = Consortium(out, hospitals)
    yield consortium
    consortium.stop()


def join(consortium: Consortium, waiting: Path) -> None:
    """Every hospital asks by way of the coordinator; two signers admit all of them."""
    desks = {}
    for name in SITES:
        site = SiteFolder.open(consortium.hospitals / name)
        desks[name] = EnrolmentRelay(site.config, site.relay_key)
        desks[name].leave(site.request())
        assert desks[name].answer() is None
        request = EnrolmentRequest.parse((waiting / f"{name}.json").read_bytes(), source=name)
        draft_site(consortium.vault, request, days=2)
    consortium.sign_and_publish()
    for name, desk in desks.items():
        answer = desk.answer()
        assert answer is not None
        SiteFolder.open(consortium.hospitals / name).complete(answer, source="the desk")
        desk.close()


@pytest.mark.thorough
def test_hospitals_enrol_by_way_of_a_running_coordinator_and_one_is_removed_in_mid_run(
    consortium: Consortium,
) -> None:
    consortium.start("server")
    consortium.await_log("server", "waiting for tnbc, monuseg, udiat")
    stranger = SiteFolder.open(consortium.hospitals / "tnbc")
    desk = EnrolmentRelay(stranger.config, "0" * 64)
    with pytest.raises(ConnectionFailed, match="does not know this invitation"):
        desk.leave(stranger.request())
    desk.close()
    join(consortium, consortium.out / "server" / "state" / "enrolment")

    for name in SITES:
        consortium.start(name)
    consortium.await_log("server", "round 1 is complete")
    draft_removal(consortium.vault, "udiat")
    consortium.sign_and_publish()
    assert consortium.processes["server"].wait(200) == 0, consortium.log("server")

    log = consortium.log("server")
    assert "site udiat is not in roster version 3 any more" in log
    assert "round 3 is complete" in log
    results = json.loads(
        (consortium.out / "server" / "state" / "results" / "results.json").read_text()
    )
    assert results["sites"]["udiat"]["dice"] is None
    assert results["sites"]["tnbc"]["dice"] is not None
    # Nobody but the coordinator brought the others the roster without the site.
    for name in ("tnbc", "monuseg"):
        held = Roster.load(consortium.hospitals / name / "roster.json")
        assert (held.version, set(held.sites)) == (3, {"tnbc", "monuseg"})
        assert "with a secret of monuseg, tnbc" in consortium.log(name)
    assert Roster.load(consortium.hospitals / "udiat" / "roster.json").version == 2
    assert "HTTP 401" in consortium.log("udiat")
    # It goes on asking for a while, and then ends as one that is not let in.
    assert consortium.processes["udiat"].poll() in (None, 4)
