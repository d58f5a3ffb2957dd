"""The commands that the deployment files contain, started as they stand, as processes of the
topology that they describe: a coordinator and two sites.

No container, pod or unit is started: paths inside them become paths in a temporary folder, by the
files' own mounts, and the name of the coordinator's service becomes `localhost`."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import sqlite3
import ssl
import subprocess
import sysconfig
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
import tomli_w
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from fdfed.audit import verify
from fdfed.config import read_toml
from fdfed.data import write_phantoms
from fdfed.membership.enrolment import DESK_PATH, INVITATION_HEADER
from fdfed_client.flower.fleet import load_node_key
from fdfed_server.config import FederationConfig
from fdfed_server.provision import provision
from tests.integration.test_flower_link import attacks
from tests.processes import free_ports
from tests.unit.test_deploy import UNITS, unit
from tests.unit.test_deploy_files import ROOT, compose, instructions, pod

pytestmark = [pytest.mark.thorough, pytest.mark.timeout(900)]

SITES = ("tnbc", "monuseg")
RUN = {"sites": list(SITES), "width": 4, "size": 32, "batch_size": 4, "rounds": 2}
Paths = Mapping[str, Path]
"""What a path inside is outside, by its beginning."""


def outside(words: list[str], paths: Paths) -> list[str]:
    """The words of a command with every path inside a container or host replaced."""
    found = []
    for word in words:
        before, equals, value = word.rpartition("=")
        for inside in sorted(paths, key=len, reverse=True):
            if value == inside or value.startswith(f"{inside}/"):
                value = f"{paths[inside]}{value.removeprefix(inside)}"
                break
        found.append(f"{before}{equals}{value}")
    assert not [word for word in found if re.match(r"(.*=)?/(etc|var|opt|data)(/|$)", word)], found
    return found


def of_compose(service: str, folder: Path) -> list[str]:
    """The command of a service: the image's entry point, and what the compose file adds to it."""
    described = compose()["services"][service]
    entry = json.loads(instructions(described["build"]["target"])["ENTRYPOINT"])
    mounted = {}
    for volume in described["volumes"]:
        source, inside = re.fullmatch(r"(.+?):(/[^:]+)(?::ro)?", volume).groups()  # type: ignore[union-attr]
        source = source.replace("${FDFED_FEDERATION:-../federation}", str(folder / "federation"))
        source = source.replace("${FDFED_DATA:-../data}", str(folder / "data"))
        named = not source.startswith("/")
        mounted[inside] = folder / "volumes" / source if named else Path(source)
        if Path(inside).name == Path(source).name:
            # /data is the folder of what is mounted at /data/tnbc.
            mounted.setdefault(str(Path(inside).parent), Path(source).parent)
    return outside([*entry, *described["command"]], mounted)


def of_unit(name: str, folder: Path, *, instance: str = "") -> list[str]:
    """The command of a systemd unit, for one instance of a template."""
    (path,) = [path for path in UNITS if path.name == name]
    words = shlex.split(unit(path)["Service"]["ExecStart"].replace("%i", instance))
    assert words[0].startswith("/opt/fdfed/bin/")
    places = {"/etc/fdfed": folder / "federation", "/var/lib/fdfed": folder / "var"}
    return outside([Path(words[0]).name, *words[1:]], places)


def of_pod(folder: Path) -> list[str]:
    """The command of the pod, on the volumes of the compose file's coordinator."""
    (container,) = pod()["containers"]
    volumes = {"server": folder / "federation" / "server"}
    volumes["state"] = folder / "volumes" / "coordinator-state"
    mounted = {
        mount["mountPath"]: volumes[mount["name"]]
        for mount in container["volumeMounts"]
        if mount["name"] in volumes
    }
    entry = json.loads(instructions("coordinator")["ENTRYPOINT"])
    return outside([*entry, *container["args"]], mounted)


@dataclass
class Host:
    """A folder, and the processes that were started on it."""

    folder: Path
    watch_ports: Mapping[str, int]
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def start(self, name: str, command: list[str]) -> None:
        scripts = os.pathsep.join((sysconfig.get_path("scripts"), os.environ["PATH"]))
        places = os.pathsep.join(str(ROOT / part) for part in ("", "server", "client"))
        with (self.folder / f"{name}.log").open("ab") as log:
            self.processes[name] = subprocess.Popen(
                command,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=os.environ | {"PATH": scripts, "PYTHONPATH": places, "OMP_NUM_THREADS": "1"},
            )

    def log(self, name: str) -> str:
        return (self.folder / f"{name}.log").read_text()

    def await_log(self, name: str, text: str, seconds: float = 300) -> None:
        end = time.monotonic() + seconds
        while text not in self.log(name):
            ended = self.processes[name].poll() is not None
            if time.monotonic() > end or (ended and text not in self.log(name)):
                raise AssertionError(f"{name} never said {text!r}:\n{self.log(name)}")
            time.sleep(0.05)

    def end(self, name: str, seconds: float = 300) -> int:
        """The exit code, once it has ended by itself."""
        return self.processes[name].wait(seconds)

    def stop(self, name: str, seconds: float = 60) -> int:
        self.processes[name].send_signal(signal.SIGTERM)
        return self.end(name, seconds)

    def get(self, name: str, probe: str) -> tuple[int, str]:
        """What a probe of its container is answered."""
        url = f"http://127.0.0.1:{self.watch_ports[name]}/{probe}"
        answer = httpx.get(url, trust_env=False, timeout=8)
        return answer.status_code, answer.text

    def await_ready(self, name: str, seconds: float = 200) -> None:
        end, answer = time.monotonic() + seconds, None
        while time.monotonic() < end:
            try:
                answer = self.get(name, "readyz")
            except httpx.TransportError:
                time.sleep(0.2)
                continue
            if answer[0] == 200:
                return
            time.sleep(0.2)
        raise AssertionError(f"{name} is not ready: {answer}\n{self.log(name)}")


def images(folder: Path, site: str) -> None:
    """A small site's folder that is not marked as phantoms, as a hospital's is."""
    made = write_phantoms(folder / "made", site, images=14, size=32)
    for kind in ("images", "masks"):
        (folder / site / kind).mkdir(parents=True)
        for path in (made / kind).iterdir():
            name = path.name.replace("phantom_", "case-")
            shutil.copyfile(path, folder / site / kind / name)


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    """A machine with a provisioned federation and images, as deploy/README.md says to make them."""
    folder = tmp_path_factory.mktemp("host")
    ports = free_ports(7)
    provision(
        SITES,
        folder / "federation",
        hosts=["localhost"],
        fleet_port=ports[0],
        exchange_port=ports[1],
        control_port=ports[2],
        days=2,
    )
    watch = {"coordinator": ports[3], "site-tnbc": ports[4], "site-monuseg": ports[5]}
    configure(folder, RUN | {"steps_per_round": 2})
    config = folder / "federation" / "server" / "federation.toml"
    tables = read_toml(config)
    tables["server"] |= {"metrics_port": watch["coordinator"], "console_port": ports[6]}
    config.write_text(tomli_w.dumps(tables))
    for site in SITES:
        images(folder / "data", site)
        with (folder / "federation" / "sites" / site / "site.toml").open("a") as settings:
            settings.write(f"metrics_port = {watch[f'site-{site}']}\nconsole_port = 0\n")
            # As a hospital without containers names its images.
            settings.write(f'data = "{folder / "data"}"\ndrain_seconds = 200\n')
    (folder / "volumes").mkdir(mode=0o700)
    # An engine makes the volume; only what is in it is ours.
    (folder / "volumes" / "coordinator-state").mkdir(mode=0o700)
    host = Host(folder, watch)
    yield host
    for process in host.processes.values():
        if process.poll() is None:
            process.terminate()
    for process in host.processes.values():
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def configure(folder: Path, run: Mapping[str, object]) -> None:
    config = folder / "federation" / "server" / "federation.toml"
    tables = read_toml(config)
    tables["run"] = dict(run)
    config.write_text(tomli_w.dumps(tables))


@dataclass
class Composed:
    """What was seen of the compose file's federation while it ran, and what it left."""

    host: Host
    seen: dict[str, tuple[bytes, bytes]]
    """Arguments and environment of each process, the SuperLink's too."""
    results: dict[str, Any]


@pytest.fixture(scope="module")
def composed(host: Host) -> Composed:
    """The compose file's three services, to the end of their run."""
    for name in ("coordinator", "site-tnbc", "site-monuseg"):
        host.start(name, of_compose(name, host.folder))
    host.await_log("coordinator", "round 1 begins")
    seen = {}
    for name, process in host.processes.items():
        for pid in (process.pid, *children(process.pid)):
            place = Path("/proc") / str(pid)
            seen[f"{name} {pid}"] = (
                (place / "cmdline").read_bytes(),
                (place / "environ").read_bytes(),
            )
    for name in ("site-tnbc", "site-monuseg"):
        host.await_ready(name)
    assert host.end("coordinator") == 0, host.log("coordinator")
    path = host.folder / "volumes" / "coordinator-state" / "state" / "results" / "results.json"
    return Composed(host, seen, json.loads(path.read_text()))


def children(pid: int) -> list[int]:
    tasks = Path(f"/proc/{pid}/task").glob("*/children")
    return [int(child) for path in tasks for child in path.read_text().split()]


def test_the_commands_of_the_compose_file_run_a_federation_to_its_end(composed: Composed) -> None:
    results = composed.results
    assert set(results["sites"]) == set(SITES)
    assert len(results["rounds"]) == 2
    assert results["phantoms"] is False
    assert results["exchange"]["answered"] == results["exchange"]["steps"] > 0
    for site in SITES:
        assert verify(composed.host.folder / "federation" / "sites" / site / "state").sound
        assert composed.host.log(f"site-{site}").startswith('{"time": ')
    # Its coordinator has ended in order; the agents wait for the next one.
    assert [composed.host.processes[f"site-{site}"].poll() for site in SITES] == [None, None]


def secrets_below(folder: Path) -> dict[str, list[bytes]]:
    """By file: the lines of each private key, token and secret, as text and as bytes of theirs."""
    found: dict[str, list[bytes]] = {}
    names = ("*.key", "*.token", "*.secret", "invitation*.json")
    for path in (path for name in names for path in folder.rglob(name)):
        content = path.read_bytes()
        lines = [content.hex().encode()] if path.suffix == ".secret" else content.split(b"\n")
        found[str(path)] = [
            # The first characters of a key of one kind are the same for all keys.
            line[-40:]
            for line in lines
            if len(line) >= 40 and b"-----" not in line and b'"' not in line
        ]
        found[str(path)] += re.findall(rb'"token": ?"([^"]+)"', content)
        if path.name == "node.key":
            # OpenSSH's form holds the public key too, which stands in the roster.
            public = load_node_key(content).public_key()
            known = public.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)
            found[str(path)] = [line for line in found[str(path)] if line not in known]
            assert len(found[str(path)]) >= 2
    return {path: needles for path, needles in found.items() if needles}


def test_no_secret_is_in_arguments_the_environment_a_log_or_another_file(
    composed: Composed,
) -> None:
    folder = composed.host.folder
    secrets = secrets_below(folder)
    assert len(secrets) >= 2 * 4 + 5, "keys of two sites and of the coordinator, and its tokens"
    assert len(composed.seen) >= 4, "a coordinator, its SuperLink and two agents"
    for name, parts in composed.seen.items():
        for path, needles in secrets.items():
            assert not [n for part in parts for n in needles if n in part], f"{path}: {name}"
    files = [path for path in folder.rglob("*") if path.is_file() and "data" not in path.parts]
    for file in files:
        content = file.read_bytes()
        for path, needles in secrets.items():
            if Path(path).name != file.name:
                assert not [n for n in needles if n in content], f"{path} in {file}"


def test_all_that_a_run_leaves_is_its_owners_alone(composed: Composed) -> None:
    folder = composed.host.folder
    open_to_others = [
        f"{path.relative_to(folder)} {path.stat().st_mode & 0o777:o}"
        for part in ("federation", "volumes")
        for path in (folder / part, *(folder / part).rglob("*"))
        if path.stat().st_mode & 0o077
    ]
    assert open_to_others == []


def test_what_a_run_leaves_is_bounded_by_the_model_and_not_by_the_rounds(
    composed: Composed,
) -> None:
    folder = composed.host.folder
    state = folder / "volumes" / "coordinator-state" / "state"
    names = sorted(path.name for path in (state / "run").rglob("*") if path.is_file())
    assert len([name for name in names if name.startswith("round-")]) == 1
    assert len([name for name in names if name.startswith("best-")]) == 1
    assert not list(state.rglob("spool/*")), "updates of single sites are left"
    for site in SITES:
        kept = folder / "federation" / "sites" / site / "state" / "rounds"
        assert len(list(kept.rglob("*.safetensors"))) <= 3
    with sqlite3.connect(f"file:{state / 'superlink.db'}?mode=ro", uri=True) as database:
        tables = [row[0] for row in database.execute("select name from sqlite_master")]
        assert "objects" in tables, tables
        (left,) = database.execute("select count(*) from objects").fetchone()
    assert left == 0, "weights are left in the SuperLink's store"


def test_the_pods_command_stays_with_a_complete_run_refuses_strangers_and_ends_on_sigterm(
    composed: Composed,
) -> None:
    host = composed.host
    host.start("coordinator", of_pod(host.folder))
    host.await_log("coordinator", "stay until this process is stopped")
    assert host.get("coordinator", "healthz")[0] == 200
    assert_strangers_get_nowhere(host)
    assert host.stop("coordinator") == 0, host.log("coordinator")


def assert_strangers_get_nowhere(host: Host) -> None:
    """Tries of someone who reaches the coordinator's ports and has the authority's certificate."""
    server = FederationConfig.load(host.folder / "federation/server/federation.toml").server
    address = f"127.0.0.1:{server.fleet_port}"
    assert set(attacks(address, server.ca.read_bytes()).values()) == {404}
    trusted = ssl.create_default_context(cafile=str(server.ca))
    with httpx.Client(base_url=f"https://{address}", verify=trusted, trust_env=False) as public:
        # Enrolment: nobody is invited any more, and no path leads anywhere else.
        for site in ("tnbc", "intruder", "..%2ftnbc"):
            answer = public.put(
                f"{DESK_PATH}{site}", content=b"{}", headers={INVITATION_HEADER: "x"}
            )
            assert answer.status_code == 404, answer
        # What is served elsewhere is not served here.
        for path in ("/metrics", "/readyz", "/api/state", "/login", "/docs", "/openapi.json"):
            assert public.get(path).status_code == 404, path
    # The exchange: no stream without a certificate of the roster.
    credentials = grpc.ssl_channel_credentials(server.ca.read_bytes())
    with (
        grpc.secure_channel(f"localhost:{server.exchange_port}", credentials) as channel,
        pytest.raises(grpc.FutureTimeoutError),
    ):
        grpc.channel_ready_future(channel).result(timeout=2)
    # The console: nothing without a session, nothing for a viewer but looking, no foreign name.
    with httpx.Client(
        base_url=f"http://127.0.0.1:{server.console_port}", trust_env=False
    ) as console:
        ours = {"x-fdfed-console": "1"}
        assert console.get("/api/state").status_code == 401
        assert console.post("/api/stop", headers=ours).status_code == 401
        assert console.get("/login", headers={"host": "evil.example.org"}).status_code == 400
        assert console.post("/login", data={"token": "guess"}).status_code == 403
        tokens = host.folder / "volumes/coordinator-state/state/console"
        token = (tokens / "viewer.token").read_text()
        assert console.post("/login", data={"token": token}).status_code == 303
        assert console.get("/api/state").status_code == 200
        assert console.post("/api/stop", headers=ours).status_code == 403
    assert host.processes["coordinator"].poll() is None


def trainings(audit: Path) -> int:
    """How often the agent was sent weights to train."""
    return audit.read_text().count('"direction":"in","kind":"train"')


def test_the_units_commands_run_and_an_agent_that_is_stopped_ends_its_round_first(
    composed: Composed,
) -> None:
    host = composed.host
    for site in SITES:
        assert host.stop(f"site-{site}") == 0, host.log(f"site-{site}")
    configure(host.folder, RUN | {"steps_per_round": 100, "strategy": "fedavg"})
    audit = host.folder / "federation" / "sites" / "monuseg" / "state" / "audit.log"
    before = trainings(audit)
    host.start("unit", of_unit("fdfed-server.service", host.folder))
    for site in SITES:
        host.start(site, of_unit("fdfed-client@.service", host.folder, instance=site))
    host.await_log("unit", "round 1 begins")
    end = time.monotonic() + 300
    while trainings(audit) == before:
        assert time.monotonic() < end, host.log("monuseg")
        time.sleep(0.02)
    assert host.stop("monuseg", 400) == 0, host.log("monuseg")
    assert "told to stop: the work under way has 200 s to end" in host.log("monuseg")
    assert verify(audit.parent).sound
    last = json.loads(audit.read_text().splitlines()[-1])
    assert (last["direction"], last["kind"]) == ("here", "closed")

    host.start("monuseg", of_unit("fdfed-client@.service", host.folder, instance="monuseg"))
    assert host.end("unit") == 0, host.log("unit")
    results = json.loads((host.folder / "var/coordinator/results/results.json").read_text())
    assert [entry["attempt"] for entry in results["rounds"]] == [1, 1]
    for entry in results["rounds"]:
        assert [site["refused"] for site in entry["sites"].values()] == [None, None]
