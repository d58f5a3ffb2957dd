"""The coordinator's own connections to its SuperLink, over the control port."""

from __future__ import annotations

import ssl
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Final, TypeVar

import httpx
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_ssh_public_key
from flwr.proto.control_pb2 import (
    ListNodesRequest,
    ListRunsRequest,
    RegisterNodeRequest,
    StopRunRequest,
    UnregisterNodeRequest,
)
from flwr.supercore.control.control_http_client import ControlHttpClient
from flwr.supercore.interceptors import RuntimeVersionHttpInterceptor
from flwr.supercore.primitives.asymmetric import public_key_to_bytes
from flwr.supercore.protobuf.client import (
    ProtobufCall,
    ProtobufClient,
    ProtobufClientInterceptor,
    ProtobufRequestContext,
)
from flwr.supercore.retry import RetryInvoker
from flwr.supercore.retry.retry_invoker import exponential

from fdfed.errors import ConnectionFailed, CryptoError
from fdfed_server.flower.superlink import SuperLink
from fdfed_server.flower.surface import CONTROL_HEADER, control_token

AnyClient = TypeVar("AnyClient", bound=ProtobufClient)

_PATIENCE_SECONDS: Final = 90.0
"""How long a call waits for a SuperLink that is away. Flower gives a run up after 60 s without a
heartbeat, so that more would be for nothing."""
_UNREGISTERED: Final = "unregistered"
_FINISHED: Final = "finished"
_RUNS_LISTED: Final = 1000
"""Newest first. One coordinator has one run at a time, so at most the newest is unfinished."""


class _ControlInterceptor:
    """Shows the control token with every request."""

    def __init__(self, secret: bytes) -> None:
        self._token = control_token(secret)

    def intercept(self, context: ProtobufRequestContext, call_next: ProtobufCall) -> httpx.Response:
        context.request.headers[CONTROL_HEADER] = self._token
        return call_next(context)


def connect(
    client: type[AnyClient],
    superlink: SuperLink,
    *interceptors: ProtobufClientInterceptor,
    component: str,
    patient: bool = True,
) -> AnyClient:
    """A client of the control port; a patient one waits out a restart of the SuperLink.

    Flower's own retry policy is not used: on a 401 it sends SIGINT to the process that it runs in.
    """
    return client.from_server_address(
        superlink.control_address,
        False,
        superlink.root_certificates,
        [
            RuntimeVersionHttpInterceptor(component_name=component),
            _ControlInterceptor(superlink.secret),
            *interceptors,
        ],
        retry_invoker=patient_retry() if patient else None,
    )


def patient_retry() -> RetryInvoker:
    """Tries again while the SuperLink is away or starting, up to 90 s."""
    return RetryInvoker(
        wait_gen_factory=lambda: exponential(base_delay=0.1, max_delay=5),
        recoverable_exceptions=(httpx.TransportError, httpx.HTTPStatusError),
        max_tries=None,
        max_time=_PATIENCE_SECONDS,
        should_giveup=lambda err: not _may_heal(err),
    )


def _may_heal(err: Exception) -> bool:
    if isinstance(err, httpx.HTTPStatusError):
        return err.response.status_code in (502, 503, 504)
    return not isinstance(err.__context__, ssl.SSLCertVerificationError)


@contextmanager
def translated(doing: str) -> Iterator[None]:
    """Turns an HTTP error of the block into a `ConnectionFailed` that says what was going on."""
    try:
        yield
    except httpx.HTTPStatusError as err:
        raise ConnectionFailed(
            f"the SuperLink refused while {doing} (HTTP {err.response.status_code}). If it was "
            "away for more than a minute it has given the run up: start again, the run resumes "
            "from its last round. Else see superlink.log in the state folder"
        ) from err
    except httpx.TransportError as err:
        raise ConnectionFailed(
            f"the SuperLink was away for too long while {doing} ({type(err).__name__}); see "
            "superlink.log in the state folder, then start again: the run resumes"
        ) from err


def flower_key(openssh: str) -> bytes:
    """The form in which Flower stores the public node key `openssh`."""
    key = load_ssh_public_key(openssh.encode())
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise CryptoError("a node key is not an elliptic-curve key; provision the site again")
    return public_key_to_bytes(key)


def register_sites(superlink: SuperLink, node_keys: Mapping[str, str]) -> None:
    """Makes the SuperLink know exactly the sites in `node_keys`, and no other node.

    May be called again with the same or another roster; a node that is no longer listed is cut off
    at once.

    Args:
        node_keys: site name → OpenSSH public key of its Flower node.

    Raises:
        CryptoError: if a key was removed before; Flower never takes a removed key back.
    """
    wanted = {flower_key(text): name for name, text in node_keys.items()}
    with (
        connect(ControlHttpClient, superlink, component="flwr-cli") as client,
        translated("registering the sites"),
    ):
        present = _registered(client)
        for key, node_id in present.items():
            if key not in wanted:
                client.UnregisterNode(UnregisterNodeRequest(node_id=node_id))
        for key, name in wanted.items():
            if key not in present:
                _register(client, key, name)


def _registered(client: ControlHttpClient) -> dict[bytes, int]:
    nodes = client.ListNodes(ListNodesRequest()).nodes_info
    return {bytes(n.public_key): n.node_id for n in nodes if n.status != _UNREGISTERED}


def _register(client: ControlHttpClient, key: bytes, name: str) -> None:
    try:
        client.RegisterNode(RegisterNodeRequest(public_key=key, name=name))
    except httpx.HTTPStatusError as err:
        # The same answer comes when a first try was stored, but its own answer was lost.
        if err.response.status_code != httpx.codes.PRECONDITION_FAILED:
            raise
        if key in _registered(client):
            return
        raise CryptoError(
            f"the node key of site {name} was withdrawn from this coordinator before, and Flower "
            "does not take a withdrawn key back; provision the site anew"
        ) from err


def stop_old_runs(superlink: SuperLink) -> None:
    """Ends what a coordinator that died has left: else sites would still answer its messages."""
    with (
        connect(ControlHttpClient, superlink, component="flwr-cli") as client,
        translated("ending runs of an earlier life"),
    ):
        for run_id, run in client.ListRuns(ListRunsRequest(limit=_RUNS_LISTED)).run_dict.items():
            if run.status.status != _FINISHED:
                client.StopRun(StopRunRequest(run_id=run_id))
