"""The two doors of the SuperLink, and the pieces of its supervision that need no process."""

from __future__ import annotations

import asyncio
import os
import socket
import stat
from pathlib import Path
from unittest import mock

import httpx
import pytest
from flwr.common.config import get_fab_config, get_metadata_from_config
from starlette.types import ASGIApp, Receive, Scope, Send

from fdfed.errors import ConnectionFailed, CryptoError, InvalidInput
from fdfed.wire import PROTOCOL_HEADER
from fdfed_server.config import ServerConfig
from fdfed_server.flower.bundle import config_only_bundle
from fdfed_server.flower.calls import translated
from fdfed_server.flower.environment import flower_environment, prepare_process
from fdfed_server.flower.superlink import SuperLink, _listen, _secret_in
from fdfed_server.flower.surface import (
    CONTROL_HEADER,
    MAX_BODY_BYTES,
    ControlSurface,
    PublicSurface,
    control_token,
)

SECRET = b"s" * 32


async def _inner(scope: Scope, receive: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"inside"})


def _ask(app: ASGIApp, method: str, path: str, headers: dict[str, str] | None = None) -> int:
    async def ask() -> int:
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://x") as client:
            return (await client.request(method, path, headers=headers)).status_code

    return asyncio.run(ask())


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/health", 200),
        ("POST", "/v1/fleet/pull-parcel", 200),
        ("POST", "/v1/fleet/pull-messages", 404),
        ("POST", "/v1/fleet/register-node", 404),
        ("POST", "/v1/fleet/get-fab", 404),
        ("POST", "/v1/fleet/../control/start-run", 404),
        ("POST", "/v1/fleet//pull-parcel", 404),
        ("POST", "/V1/fleet/pull-parcel", 404),
        ("POST", "/v1/control/start-run", 404),
        ("POST", "/v1/runtime/acquire-task", 404),
        ("GET", "/docs", 404),
        ("GET", "/openapi.json", 404),
    ],
)
def test_the_public_door_opens_for_listed_paths_only(method: str, path: str, status: int) -> None:
    assert _ask(PublicSurface(_inner), method, path) == status


def test_health_alone_says_which_formats_are_spoken() -> None:
    async def headers(path: str) -> httpx.Headers:
        transport = httpx.ASGITransport(PublicSurface(_inner, protocol="wire=1 exchange=2"))
        async with httpx.AsyncClient(transport=transport, base_url="http://x") as client:
            return (await client.get(path)).headers

    assert asyncio.run(headers("/health"))[PROTOCOL_HEADER] == "wire=1 exchange=2"
    assert PROTOCOL_HEADER not in asyncio.run(headers("/v1/fleet/pull-parcel"))


@pytest.mark.parametrize(
    ("length", "status"),
    [
        ("0", 200),
        (str(MAX_BODY_BYTES), 200),
        (str(MAX_BODY_BYTES + 1), 413),
        ("9" * 5_000, 413),
        ("-1", 411),
    ],
)
def test_the_public_door_reads_no_body_above_the_limit(length: str, status: int) -> None:
    headers = {"content-length": length}
    assert _ask(PublicSurface(_inner), "POST", "/v1/fleet/push-object", headers) == status


@pytest.mark.parametrize("declared", [[], [(b"content-length", b"5")]], ids=["alone", "both"])
def test_a_body_of_undeclared_length_is_refused_before_it_is_read(
    declared: list[tuple[bytes, bytes]],
) -> None:
    sent: list[int] = []

    async def send(event: dict[str, object]) -> None:
        if event["type"] == "http.response.start":
            sent.append(int(str(event["status"])))

    async def receive() -> dict[str, object]:
        raise AssertionError("the body was read")

    headers = [(b"transfer-encoding", b"chunked"), *declared]
    path = "/v1/fleet/push-object"
    scope = {"type": "http", "method": "POST", "path": path, "headers": headers}
    asyncio.run(PublicSurface(_inner)(scope, receive, send))  # type: ignore[arg-type]
    assert sent == [411]


@pytest.mark.parametrize("door", [PublicSurface(_inner), ControlSurface(_inner, SECRET)])
def test_a_websocket_is_closed_at_both_doors(door: ASGIApp) -> None:
    events: list[dict[str, object]] = []

    async def send(event: dict[str, object]) -> None:
        events.append(event)

    async def receive() -> dict[str, object]:
        return {"type": "websocket.connect"}

    scope = {"type": "websocket", "path": "/health", "headers": []}
    asyncio.run(door(scope, receive, send))  # type: ignore[arg-type]
    assert [event["type"] for event in events] == ["websocket.close"]


@pytest.mark.parametrize(
    ("token", "status"), [(None, 403), ("", 403), ("0" * 64, 403), (control_token(SECRET), 200)]
)
def test_the_control_door_opens_to_the_token_only(token: str | None, status: int) -> None:
    headers = None if token is None else {CONTROL_HEADER: token}
    assert _ask(ControlSurface(_inner, SECRET), "POST", "/v1/control/start-run", headers) == status
    assert _ask(ControlSurface(_inner, SECRET), "GET", "/health", headers) == 200


def test_the_token_tells_nothing_of_the_secret_and_differs_with_it() -> None:
    assert control_token(SECRET) != control_token(b"t" * 32)
    assert SECRET.hex() not in control_token(SECRET)


def test_the_bundle_is_the_same_each_time_and_holds_no_code() -> None:
    bundle = config_only_bundle()
    assert bundle.hash_str == config_only_bundle().hash_str
    assert len(bundle.content) < 500
    config = get_fab_config(bundle.content)
    assert get_metadata_from_config(config)[0] == "fdfed/fdfed"


def test_flower_sees_our_settings_and_none_that_the_shell_exports(tmp_path: Path) -> None:
    shell = {"PATH": "/bin", "FLWR_OIDC_ENABLED": "1", "FLWR_TELEMETRY_ENABLED": "1"}
    environment = flower_environment(tmp_path, shell)
    assert environment == {
        "PATH": "/bin",
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
        "FLWR_HOME": str(tmp_path / "flwr"),
        "NO_PROXY": "localhost,127.0.0.1",
        "no_proxy": "localhost,127.0.0.1",
    }
    assert flower_environment(tmp_path, environment) == environment


def test_preparing_the_process_changes_its_environment_and_its_umask(tmp_path: Path) -> None:
    mask = os.umask(0o022)
    try:
        with mock.patch.dict(os.environ, {"PATH": "/bin", "FLWR_X": "1"}, clear=True):
            prepare_process(tmp_path)
            assert dict(os.environ) == flower_environment(tmp_path, {"PATH": "/bin"})
        assert os.umask(0o022) == 0o077
    finally:
        os.umask(mask)


def test_the_secret_is_made_once_for_its_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    mask = os.umask(0)
    try:
        secret = _secret_in(path)
    finally:
        os.umask(mask)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert len(secret) == 32
    assert _secret_in(path) == secret


def test_a_cut_secret_is_refused(tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(b"short")
    with pytest.raises(CryptoError, match="5 bytes, not 32"):
        _secret_in(tmp_path / "secret")


def test_a_port_that_is_freed_a_moment_later_is_waited_for() -> None:
    holder = socket.socket()
    holder.bind(("127.0.0.1", 0))
    holder.listen()
    port = holder.getsockname()[1]
    loop = asyncio.new_event_loop()
    loop.call_later(0.2, holder.close)
    loop.call_later(0.3, loop.stop)
    listening = loop.run_in_executor(None, _listen, "127.0.0.1", port, "fleet_port")
    loop.run_forever()
    listener = loop.run_until_complete(listening)
    loop.close()
    assert listener.getsockname()[1] == port
    listener.close()


def test_an_address_that_is_not_this_machines_is_named_with_its_setting() -> None:
    with pytest.raises(InvalidInput, match=r"192\.0\.2\.1 cannot be opened .* fleet_port"):
        _listen("192.0.2.1", 40001, "fleet_port")


def test_missing_certificates_are_named_before_a_process_starts(tmp_path: Path) -> None:
    names = {name: tmp_path / name for name in ("ca", "certificate", "key", "state")}
    link = SuperLink(ServerConfig(**names))  # type: ignore[arg-type]
    with pytest.raises(CryptoError, match="provision"):
        link.start()
    assert link.pid is None


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (
            httpx.HTTPStatusError(
                "x",
                request=httpx.Request("POST", "https://h"),
                response=httpx.Response(401),
            ),
            "refused while fetching .HTTP 401",
        ),
        (httpx.ConnectError("x"), "away for too long while fetching"),
    ],
)
def test_http_errors_become_one_line_that_says_what_to_do(error: Exception, message: str) -> None:
    with pytest.raises(ConnectionFailed, match=message), translated("fetching"):
        raise error
