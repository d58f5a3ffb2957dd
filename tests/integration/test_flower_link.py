"""The real SuperLink process, real TLS on loopback, and agents that serve as its nodes.

Long, because most cases share one SuperLink, whose start is what takes the time."""

from __future__ import annotations

import io
import os
import signal
import statistics
import subprocess
import sys
import threading
import time
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

import httpx
import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.common.serde import fab_to_proto
from flwr.proto.control_pb2 import (
    ListNodesRequest,
    ListRunsRequest,
    RegisterNodeRequest,
    StartRunRequest,
)
from flwr.proto.fab_pb2 import GetFabRequest
from flwr.proto.fleet_pb2 import RegisterNodeFleetRequest
from flwr.proto.node_pb2 import Node
from flwr.proto.runtime_pb2 import AcquireTaskRequest
from flwr.serverapp import Grid, ServerApp
from flwr.supercore.control.control_http_client import ControlHttpClient
from flwr.supercore.inflatable.inflatable_object import iterate_object_tree
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents
from flwr.supercore.primitives.asymmetric import public_key_to_bytes
from flwr.supercore.runtime import RuntimeHttpClient
from flwr.supernode.fleet_http_client import FleetHttpClient
from flwr.supernode.node_auth_http_interceptor import NodeAuthHttpInterceptor

from fdfed.errors import CryptoError, DataError, InvalidInput
from fdfed.wire import unbundled
from fdfed_client.config import SiteConfig
from fdfed_client.egress import Cleared, EgressGate, public_reason
from fdfed_client.flower import MessageTooLarge, run_node
from fdfed_client.flower.fleet import Fleet, load_node_key
from fdfed_client.flower.known_node import KnownNode
from fdfed_server.config import FederationConfig, Roster, ServerConfig
from fdfed_server.flower import (
    ServerSession,
    SuperLink,
    open_run,
    register_sites,
    run_server_app,
    site_nodes,
)
from fdfed_server.flower.bundle import config_only_bundle, pack
from fdfed_server.flower.calls import connect
from fdfed_server.flower.deliveries import MAX_RETURNS
from fdfed_server.provision import provision
from tests.processes import free_ports

pytestmark = pytest.mark.timeout(90)
HEARTBEAT = 10.0


def _new_consortium(out: Path, *sites: str) -> ServerConfig:
    fleet, exchange, control = free_ports(3)
    provision(sites, out, fleet_port=fleet, exchange_port=exchange, control_port=control)
    config = FederationConfig.load(out / "server" / "federation.toml").server
    return config.model_copy(update={"bind": "127.0.0.1"})


@pytest.fixture(scope="module", autouse=True)
def unchanged_process() -> Iterator[None]:
    """`run_node` sets the process up for Flower; other tests must not notice."""
    before, mask = dict(os.environ), os.umask(0o022)
    os.umask(mask)
    yield
    os.umask(mask)
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture(scope="module")
def consortium(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("federation")


@pytest.fixture(scope="module")
def config(consortium: Path) -> ServerConfig:
    return _new_consortium(consortium, "udiat", "busi", "tnbc")


@pytest.fixture(scope="module")
def node_keys(config: ServerConfig) -> dict[str, str]:
    return Roster.load(config.roster).node_keys


@pytest.fixture(scope="module")
def superlink(config: ServerConfig, node_keys: dict[str, str]) -> Iterator[SuperLink]:
    with SuperLink(config) as link:
        register_sites(link, node_keys)
        yield link


class _OpenGate(EgressGate):
    """Clears every reply, as these tests' records are of no kind; the calls are gated as ever."""

    def __init__(self) -> None:
        self._calls: Counter[str] = Counter()
        self._guard = threading.Lock()

    def arrived(self, message: Message) -> None: ...

    def clear(self, reply: Message, *, asked: str) -> Cleared:
        return Cleared(reply)

    def note_connection(self, event: str) -> None: ...


def _echo_app() -> ClientApp:
    app = ClientApp()

    @app.query()
    def echo(message: Message, context: Context) -> Message:
        content = RecordDict(dict(message.content))
        content["who"] = ConfigRecord({"claims": context.node_config["site"]})
        return Message(content, reply_to=message)

    @app.query("slow")
    def slow(message: Message, _: Context) -> Message:
        time.sleep(1.0)
        return Message(message.content, reply_to=message)

    @app.train()
    def fail(message: Message, context: Context) -> Message:
        raise DataError("/data/patients/anna.png is broken")

    @app.train("bug")
    def bug(message: Message, _: Context) -> Message:
        raise ZeroDivisionError(f"tensor {message.content}")

    return app


@contextmanager
def _node(site: SiteConfig, /, **options: object) -> Iterator[list[BaseException]]:
    """An agent in a thread; yields the list that its error, if any, goes to."""
    stop, errors = threading.Event(), []

    def run() -> None:
        try:
            _run_node(site, stop, **options)
        except BaseException as err:
            errors.append(err)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield errors
    finally:
        stop.set()
        thread.join(40)
        assert not thread.is_alive()


def _run_node(site: SiteConfig, stop: threading.Event, /, **options: object) -> None:
    settings = {
        "gate": _OpenGate(),
        "server": site.fleet_address,
        "root_certificates": site.ca.read_bytes(),
        "private_key": site.node_key.read_bytes(),
        "site": site.site,
        "state": site.state,
        "heartbeat_seconds": HEARTBEAT,
        "poll_seconds": 0.02,
        "key_patience": 1.0,
        **options,
    }
    run_node(_echo_app(), stop=stop, **settings)  # type: ignore[arg-type]


def _site(consortium: Path, name: str) -> SiteConfig:
    return SiteConfig.load(consortium / "sites" / name / "site.toml")


@pytest.fixture(scope="module")
def udiat(consortium: Path, superlink: SuperLink) -> Iterator[SiteConfig]:
    """The site whose agent serves all tests of this module; it claims to be another site."""
    site = _site(consortium, "udiat")
    with _node(site, site="busi") as errors:
        yield site
        assert errors == []


@pytest.fixture
def session(superlink: SuperLink, node_keys: dict[str, str]) -> Iterator[ServerSession]:
    with open_run(superlink, node_keys=node_keys) as opened:
        yield opened


def _wait_for(condition: Callable[[], object], seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.05)


def _await_site(grid: Grid, site: str) -> int:
    _wait_for(lambda: site in site_nodes(grid))
    return site_nodes(grid)[site]


def _send(grid: Grid, node: int, content: RecordDict | None = None, kind: str = "query") -> str:
    content = content or RecordDict({"c": ConfigRecord({"x": 1})})
    (message_id,) = grid.push_messages([Message(content, dst_node_id=node, message_type=kind)])
    return message_id


def _receive(grid: Grid, message_id: str, seconds: float = 30.0) -> Message:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        for reply in grid.pull_messages([message_id]):
            return reply
        time.sleep(0.02)
    raise AssertionError(f"no reply within {seconds} s")


def test_a_message_goes_to_the_owner_of_the_key_and_comes_back(
    session: ServerSession,
    udiat: SiteConfig,
    superlink: SuperLink,
    record_property: Callable[..., None],
) -> None:
    node = _await_site(session.grid, "udiat")
    sent = RecordDict({"a": ArrayRecord({"w": Array(np.arange(2_000_000.0))})})
    reply = _receive(session.grid, _send(session.grid, node, sent))
    stored = reply.content["a"]["w"].data  # on disk, as all large arrays of a reply
    found = np.load(io.BytesIO(stored.read(0, len(stored))))
    np.testing.assert_array_equal(found, np.arange(2_000_000.0))
    assert reply.metadata.src_node_id == node
    # What a node says of itself decides nothing.
    assert reply.content["who"]["claims"] == "busi"
    assert set(site_nodes(session.grid)) == {"udiat"}

    seconds = []
    for _ in range(10):
        began = time.perf_counter()
        _receive(session.grid, _send(session.grid, node))
        seconds.append(time.perf_counter() - began)
    status = Path(f"/proc/{superlink.pid}/status").read_text()
    memory = status.split("VmRSS:")[1].split("\n")[0].strip()
    print(f"round trip {statistics.median(seconds):.3f} s (median of 10), SuperLink {memory}")
    assert statistics.median(seconds) < 5


def test_an_error_of_the_app_crosses_as_a_fixed_sentence_alone(
    session: ServerSession, udiat: SiteConfig
) -> None:
    node = _await_site(session.grid, "udiat")
    replies = [
        _receive(session.grid, _send(session.grid, node, kind=kind))
        for kind in ("train", "train.bug", "evaluate")
    ]
    reasons = [reply.error.reason for reply in replies]
    errors = (DataError(), ZeroDivisionError(), ValueError())
    assert reasons == [public_reason(error) for error in errors]


def test_a_message_above_the_sites_limit_is_refused_and_a_smaller_one_still_answered(
    session: ServerSession, consortium: Path
) -> None:
    with _node(_site(consortium, "busi"), max_message_bytes=50_000) as errors:
        node = _await_site(session.grid, "busi")
        large = RecordDict({"a": ArrayRecord({"w": Array(np.zeros(100_000))})})
        reply = _receive(session.grid, _send(session.grid, node, large))
        assert reply.error.reason == public_reason(MessageTooLarge())
        assert _receive(session.grid, _send(session.grid, node)).has_content()
    assert errors == []


def test_a_node_that_was_deactivated_behind_its_back_is_online_again_by_itself(
    session: ServerSession, udiat: SiteConfig
) -> None:
    node = _await_site(session.grid, "udiat")
    aside = Fleet(
        udiat.fleet_address,
        udiat.ca.read_bytes(),
        udiat.node_key.read_bytes(),
        heartbeat_seconds=HEARTBEAT,
        max_bytes=2**20,
        admit=_OpenGate().call,
    )
    # Its next heartbeat, at times before the look, has it online again: that is what is tested.
    for _ in range(10):
        aside.deactivate(node)
        if "udiat" not in site_nodes(session.grid):
            break
    else:
        pytest.fail("it was never offline")
    aside.close()
    assert _await_site(session.grid, "udiat") == node
    assert _receive(session.grid, _send(session.grid, node)).has_content()


def test_an_unregistered_key_is_our_error_and_not_an_interrupt(
    consortium: Path, superlink: SuperLink
) -> None:
    stranger = ec.generate_private_key(ec.SECP256R1()).private_bytes(
        Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()
    )
    # In the main thread: Flower's own client would raise KeyboardInterrupt here.
    with pytest.raises(CryptoError, match="does not accept this site's node key"):
        _run_node(_site(consortium, "udiat"), threading.Event(), private_key=stranger)


def test_a_copy_of_a_site_is_refused_while_the_site_itself_goes_on(
    udiat: SiteConfig, session: ServerSession
) -> None:
    with pytest.raises(CryptoError, match="another agent is running with the same key"):
        _run_node(udiat, threading.Event())
    assert "udiat" in site_nodes(session.grid)


def test_a_site_that_is_withdrawn_ends_with_our_error_and_its_key_is_spent(
    session: ServerSession, consortium: Path, superlink: SuperLink, node_keys: dict[str, str]
) -> None:
    with _node(_site(consortium, "tnbc")) as errors:
        _await_site(session.grid, "tnbc")
        register_sites(superlink, {k: v for k, v in node_keys.items() if k != "tnbc"})
        _wait_for(lambda: errors)
    assert isinstance(errors[0], CryptoError)
    with pytest.raises(CryptoError, match="tnbc was withdrawn"):
        register_sites(superlink, node_keys)
    node_keys.pop("tnbc")


def test_a_coordinator_that_another_authority_vouches_for_is_refused(
    consortium: Path, superlink: SuperLink, tmp_path: Path
) -> None:
    provision(["udiat"], tmp_path)
    foreign = (tmp_path / "server" / "ca.pem").read_bytes()
    with pytest.raises(CryptoError, match="authority did not sign"):
        _run_node(_site(consortium, "udiat"), threading.Event(), root_certificates=foreign)


def _status_of(call: Callable[[], object]) -> int:
    with pytest.raises(httpx.HTTPStatusError) as caught:
        call()
    return caught.value.response.status_code


def attacks(address: str, ca: bytes) -> dict[str, int]:
    """What someone who only has the authority's certificate is told, call by call."""
    key = ec.generate_private_key(ec.SECP384R1())
    public = public_key_to_bytes(key.public_key())
    bundle = fab_to_proto(config_only_bundle())
    signer = NodeAuthHttpInterceptor(key, key.public_key())
    with (
        ControlHttpClient.from_server_address(address, False, ca, []) as control,
        RuntimeHttpClient.from_server_address(address, False, ca, []) as runtime,
        FleetHttpClient.from_server_address(address, False, ca, [signer]) as fleet,
    ):
        return {
            "ListNodes": _status_of(lambda: control.ListNodes(ListNodesRequest())),
            "RegisterNode": _status_of(
                lambda: control.RegisterNode(RegisterNodeRequest(public_key=public))
            ),
            "StartRun": _status_of(lambda: control.StartRun(StartRunRequest(fab=bundle))),
            "AcquireTask": _status_of(
                lambda: runtime.AcquireTask(
                    AcquireTaskRequest(supported_task_types=["flwr-serverapp"])
                )
            ),
            "Fleet.RegisterNode": _status_of(
                lambda: fleet.RegisterNode(RegisterNodeFleetRequest(public_key=public))
            ),
        }


def test_the_public_port_refuses_every_call_that_is_not_a_sites(
    superlink: SuperLink, udiat: SiteConfig
) -> None:
    answers = attacks(udiat.fleet_address, udiat.ca.read_bytes())
    assert set(answers.values()) == {404}, answers


def test_the_control_port_refuses_callers_without_the_token(
    superlink: SuperLink, udiat: SiteConfig
) -> None:
    answers = attacks(superlink.control_address, udiat.ca.read_bytes())
    assert set(answers.values()) == {403}, answers


def test_a_parcel_is_taken_from_and_given_to_the_node_of_the_key_that_signs_alone(
    session: ServerSession, udiat: SiteConfig, consortium: Path, superlink: SuperLink
) -> None:
    node = _await_site(session.grid, "udiat")
    stranger = ec.generate_private_key(ec.SECP256R1()).private_bytes(
        Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()
    )
    other = _site(consortium, "busi").node_key.read_bytes()
    asked = Message(RecordDict(), dst_node_id=node, message_type="query")
    asked.metadata.__dict__["_message_id"] = asked.object_id
    reply = Message(RecordDict(), reply_to=asked)
    reply.metadata.__dict__["_message_id"] = reply.object_id
    for key in (stranger, other):
        fleet = Fleet(
            udiat.fleet_address,
            udiat.ca.read_bytes(),
            key,
            heartbeat_seconds=HEARTBEAT,
            max_bytes=2**20,
            admit=_OpenGate().call,
        )
        calls: tuple[Callable[[], object], ...] = (
            partial(fleet.pull, node),
            partial(fleet.push, node, Cleared(reply), 0.1),
        )
        assert [_status_of(call) for call in calls] == [401, 401]
        fleet.close()


def test_a_task_is_not_handed_out_without_the_executors_signature(superlink: SuperLink) -> None:
    with connect(RuntimeHttpClient, superlink, component="SuperExec") as client:
        request = AcquireTaskRequest(supported_task_types=["flwr-serverapp"])
        assert _status_of(lambda: client.AcquireTask(request)) == 401


def test_a_bundle_with_code_is_neither_fetched_nor_unpacked_nor_run(
    superlink: SuperLink,
    udiat: SiteConfig,
    node_keys: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    code = f"open({str(tmp_path / 'ran')!r}, 'w')\n".encode()
    project = zipfile.ZipFile(io.BytesIO(config_only_bundle().content)).read("pyproject.toml")
    names = ("__init__", "app")
    modules = [f"fdfed_{side}/{name}.py" for side in ("client", "server") for name in names]
    hostile = pack({"pyproject.toml": project, **dict.fromkeys(modules, code)})
    monkeypatch.setattr("fdfed_server.flower.run.config_only_bundle", lambda: hostile)
    with open_run(superlink, node_keys=node_keys) as session:
        node = _await_site(session.grid, "udiat")
        assert _receive(session.grid, _send(session.grid, node)).has_content()
        key = load_node_key(udiat.node_key.read_bytes())
        signer = NodeAuthHttpInterceptor(key, key.public_key())
        request = GetFabRequest(
            node=Node(node_id=node), hash_str=hostile.hash_str, run_id=session.run_id
        )
        with FleetHttpClient.from_server_address(
            udiat.fleet_address, False, udiat.ca.read_bytes(), [signer]
        ) as fleet:
            assert _status_of(lambda: fleet.GetFab(request)) == 404
    assert not (tmp_path / "ran").exists()
    assert not (udiat.state / "flwr").exists()
    assert "GetFab" not in (superlink.state / "superlink.log").read_text()


def test_a_run_survives_the_death_of_the_superlink_with_a_message_under_way(
    session: ServerSession, superlink: SuperLink, udiat: SiteConfig
) -> None:
    node, before = _await_site(session.grid, "udiat"), superlink.restarts
    under_way = _send(session.grid, node, kind="query.slow")
    time.sleep(0.6)
    assert superlink.pid is not None
    os.kill(superlink.pid, signal.SIGKILL)
    assert _receive(session.grid, under_way).has_content()
    assert superlink.restarts == before + 1
    assert _await_site(session.grid, "udiat") == node
    assert _receive(session.grid, _send(session.grid, node)).has_content()


@contextmanager
def _member(site: SiteConfig) -> Iterator[tuple[Fleet, int]]:
    """The bare calls of a node that is online."""
    fleet = Fleet(
        site.fleet_address,
        site.ca.read_bytes(),
        site.node_key.read_bytes(),
        heartbeat_seconds=HEARTBEAT,
        max_bytes=2**24,
        admit=_OpenGate().call,
    )
    node = fleet.activate()
    try:
        yield fleet, node
    finally:
        with suppress(httpx.HTTPStatusError):  # it left already
            fleet.deactivate(node)
        fleet.close()


def test_a_message_whose_delivery_was_lost_is_handed_out_again_but_not_for_ever(
    session: ServerSession, consortium: Path
) -> None:
    with _member(_site(consortium, "busi")) as (fleet, node):
        sent = _send(session.grid, node)
        seen = []
        while (found := fleet.pull(node)) is not None:
            seen.append(found[0].metadata.message_id)
        assert seen == [sent] * (1 + MAX_RETURNS)


def test_a_reply_that_was_announced_and_cut_short_is_neither_handed_on_nor_waited_for(
    session: ServerSession, consortium: Path
) -> None:
    with _member(_site(consortium, "busi")) as (fleet, node):
        sent = _send(session.grid, node)
        envelope, tree = fleet.pull(node) or pytest.fail("no message")
        content = {item.object_id: fleet.pull_object(node, envelope.metadata.run_id, item.object_id)
                   for item in iterate_object_tree(tree)}  # fmt: skip
        message = inflate_object_from_contents(sent, unbundled(content))
        message.metadata.__dict__.update(envelope.metadata.__dict__)
        for whole in (False, True):
            # More than a parcel holds, so that a part of it is uploaded after it was announced.
            numbers = {"a": ArrayRecord({"w": Array(np.arange(2_000_000.0) + whole)})}
            reply = Message(RecordDict(numbers), reply_to=message)
            reply.metadata.__dict__["_message_id"] = reply.object_id
            left, upload = fleet.push(node, Cleared(reply), 0.1)
            assert len(left) > 1
            for key in list(left)[: None if whole else 1]:
                part = left[key].deflate()
                fleet.push_object(node, envelope.metadata.run_id, upload, key, part)
            if not whole:
                assert session.grid.pull_messages([sent]) == []
                # Its successor asks for work, and so holds nothing: it is given the message again.
                again, _ = fleet.pull(node) or pytest.fail("the message is gone")
                assert again.metadata.message_id == sent
        answer = _receive(session.grid, sent)
        stored = answer.content["a"]["w"].data
        found = np.load(io.BytesIO(stored.read(0, len(stored))))
        np.testing.assert_array_equal(found, np.arange(2_000_000.0) + 1)
        assert fleet.pull(node) is None, "what was answered is not handed out again"


def test_an_agent_that_was_killed_is_back_at_once_and_does_its_message_again(
    session: ServerSession, consortium: Path
) -> None:
    site = _site(consortium, "busi")
    with _member(site) as (fleet, node):
        sent = _send(session.grid, node)
        assert fleet.pull(node) is not None
        # From here on nothing is heard of it; Flower counts it as online for 20 s more.
        site.state.mkdir(exist_ok=True)
        KnownNode(site.state).keep(node)
        began = time.monotonic()
        with _node(site, alone=True) as errors:
            assert _receive(session.grid, sent).has_content()
        assert time.monotonic() - began < HEARTBEAT
        assert errors == []


def test_an_app_gets_its_configuration_and_its_failure_is_stored_as_a_class_name(
    superlink: SuperLink, node_keys: dict[str, str]
) -> None:
    seen: dict[str, object] = {}
    app = ServerApp()

    @app.main()
    def main(grid: Grid, context: Context) -> None:
        seen.update(context.run_config)
        raise DataError("/data/patients")

    with pytest.raises(DataError):
        run_server_app(app, superlink=superlink, node_keys=node_keys, run_config={"rounds": 3})
    assert seen == {"rounds": 3}
    with connect(ControlHttpClient, superlink, component="flwr-cli") as client:
        runs = client.ListRuns(ListRunsRequest()).run_dict.values()
        newest = max(runs, key=lambda run: run.pending_at)
    assert (newest.status.sub_status, newest.status.details) == ("failed", "DataError")


def test_a_new_run_ends_what_a_dead_coordinator_left_behind(
    superlink: SuperLink, node_keys: dict[str, str]
) -> None:
    with open_run(superlink, node_keys=node_keys) as old:
        with open_run(superlink, node_keys=node_keys) as new:
            assert new.run_id != old.run_id
        with connect(ControlHttpClient, superlink, component="flwr-cli") as client:
            runs = client.ListRuns(ListRunsRequest()).run_dict
    assert runs[old.run_id].status.sub_status == "stopped"
    assert runs[new.run_id].status.sub_status == "completed"


def test_what_the_superlink_writes_is_for_its_owner_alone(superlink: SuperLink) -> None:
    assert superlink.state.stat().st_mode & 0o777 == 0o700
    written = {path.name: path.stat().st_mode & 0o077 for path in superlink.state.rglob("*")}
    assert {"superlink.db", "superlink.log", "superlink.secret"} <= set(written)
    assert set(written.values()) == {0}, written


def test_a_taken_port_is_named_with_the_setting_to_change(
    config: ServerConfig, superlink: SuperLink, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fdfed_server.flower.superlink._PORT_PATIENCE", 0.2)
    with pytest.raises(InvalidInput, match=rf"port {config.fleet_port} .* another fleet_port"):
        SuperLink(config).start()


def test_a_superlink_that_hangs_or_is_down_is_not_ready_until_it_answers_again(
    config: ServerConfig, superlink: SuperLink
) -> None:
    assert SuperLink(config).check() == "is down, and is started again"
    assert superlink.check() == ""
    hung = superlink.pid
    assert hung is not None
    os.kill(hung, signal.SIGSTOP)
    assert superlink.check() == "does not answer"
    os.kill(hung, signal.SIGKILL)
    _wait_for(lambda: superlink.pid not in (None, hung), 30)
    _wait_for(lambda: superlink.check() == "", 30)


def _alive(pid: int) -> bool:
    stat = Path(f"/proc/{pid}/stat")
    return stat.exists() and stat.read_text().rsplit(")", 1)[1].split()[0] != "Z"


def test_the_superlink_does_not_outlive_a_coordinator_that_is_killed(tmp_path: Path) -> None:
    _new_consortium(tmp_path, "udiat")
    program = (
        "import sys, time; from pathlib import Path\n"
        "from fdfed_server.config import FederationConfig\n"
        "from fdfed_server.flower import SuperLink\n"
        "link = SuperLink(FederationConfig.load(Path(sys.argv[1])).server); link.start()\n"
        "print(link.pid, flush=True); time.sleep(60)\n"
    )
    file = tmp_path / "server" / "federation.toml"
    parent = subprocess.Popen(
        [sys.executable, "-c", program, str(file)], stdout=subprocess.PIPE, text=True
    )
    with parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        assert _alive(child)
        parent.kill()
    _wait_for(lambda: not _alive(child), 5)
