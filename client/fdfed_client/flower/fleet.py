"""The agent's side of Flower's fleet protocol: signed requests over TLS, with limits.

Flower's own connection (`http_request_response`) is not used. On a 401 it sends SIGINT to the
process that it runs in; one HTTP 500 ends it silently while its process lives on; it fetches the
app bundle; and it reads answers of any size. Below are its own parts without these.
"""

from __future__ import annotations

import datetime as dt
import email.utils
import ssl
from collections.abc import Callable
from contextlib import closing, suppress
from typing import Final

import httpx
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_ssh_private_key
from flwr.app import Message
from flwr.app.message import remove_content_from_message
from flwr.common.serde import message_from_proto, message_to_proto
from flwr.proto.fleet_pb2 import (
    ActivateNodeRequest,
    DeactivateNodeRequest,
    PullMessagesRequest,
    PullMessagesResponse,
    PushMessagesRequest,
    PushMessagesResponse,
)
from flwr.proto.heartbeat_pb2 import SendNodeHeartbeatRequest
from flwr.proto.message_pb2 import (
    ConfirmMessageReceivedRequest,
    ObjectTree,
    PullObjectRequest,
    PushObjectRequest,
)
from flwr.proto.node_pb2 import Node
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects
from flwr.supercore.inflatable.inflatable_utils import (
    ObjectPullError,
    ObjectPushError,
    ObjectUnavailableError,
)
from flwr.supercore.primitives.asymmetric import public_key_to_bytes
from flwr.supercore.protobuf.client import ProtobufCall, ProtobufRequestContext
from flwr.supernode.fleet_http_client import FleetHttpClient
from flwr.supernode.node_auth_http_interceptor import NodeAuthHttpInterceptor

from fdfed.errors import CryptoError, RefusedByPolicy
from fdfed.wire import ROOM_HEADER, Deflatable, Parcel, bundled, fill
from fdfed_client.egress import Cleared

_FLEET: Final = "/v1/fleet/"
_READ_BYTES: Final = 2**16


class MessageTooLarge(RefusedByPolicy):
    """The coordinator sent more than this site takes."""


class Fleet:
    """The calls of one node to its coordinator. Each is one HTTP request, without any retry.

    Calls raise `httpx.HTTPStatusError` or `httpx.TransportError` as they come, and
    `MessageTooLarge` for an answer that is larger than `max_bytes`.

    Args:
        server: `host:port` of the coordinator's fleet port.
        root_certificates: PEM of the consortium's authority; no other is trusted.
        private_key: text of the node's key file, elliptic curve, OpenSSH.
        heartbeat_seconds: the SuperLink counts the node as gone after twice this without a sign.
        admit: given path and size of each request before it leaves; raises to hold it back.
    """

    def __init__(
        self,
        server: str,
        root_certificates: bytes,
        private_key: bytes,
        *,
        heartbeat_seconds: float,
        max_bytes: int,
        admit: Callable[[str, int], None],
    ) -> None:
        key = load_node_key(private_key)
        self._public_key = public_key_to_bytes(key.public_key())
        self._interval = heartbeat_seconds
        self._transport = _Transport(root_certificates, max_bytes, admit)
        self._announced: frozenset[str] = frozenset()
        self._brought: dict[str, bytes] = {}
        self._client = FleetHttpClient.from_server_address(
            server,
            False,
            root_certificates,
            [NodeAuthHttpInterceptor(key, key.public_key()), self._transport],
        )

    def close(self) -> None:
        """Closes all connections."""
        self._client.close()
        self._transport.close()

    def activate(self) -> int:
        """Reports for duty; the node id that belongs to this key."""
        request = ActivateNodeRequest(
            public_key=self._public_key, heartbeat_interval=self._interval
        )
        return self._client.ActivateNode(request).node_id

    def deactivate(self, node_id: int) -> None:
        """Says goodbye, so that the coordinator need not wait to find out."""
        self._client.DeactivateNode(DeactivateNodeRequest(node_id=node_id))

    def beat(self, node_id: int) -> bool:
        """Whether the SuperLink knows this node; it is online (again) then."""
        request = SendNodeHeartbeatRequest(
            node=Node(node_id=node_id), heartbeat_interval=self._interval
        )
        return self._client.SendNodeHeartbeat(request).success

    def pull(self, node_id: int) -> tuple[Message, ObjectTree] | None:
        """The next message without its content, and the tree of the objects that make it up; what
        comes with it is there for `pull_object`."""
        parcel = self._client._unary_unary(
            path=f"{_FLEET}pull-parcel",
            rpc_method="PullParcel",
            request=PullMessagesRequest(node=Node(node_id=node_id)),
            response_type=Parcel,
        )
        found = parcel.read(PullMessagesResponse)
        self._brought = parcel.objects
        if not found.messages_list:
            return None
        return message_from_proto(found.messages_list[0]), found.message_object_trees[0]

    def pull_object(self, node_id: int, run_id: int, object_id: str) -> bytes:
        """One object; `ObjectUnavailableError` if not there yet, `ObjectPullError` if never."""
        brought = self._brought.pop(object_id, None)
        if brought is not None:
            return brought
        request = PullObjectRequest(node=Node(node_id=node_id), run_id=run_id, object_id=object_id)
        found = self._client.PullObject(request)
        if not found.object_found:
            raise ObjectPullError(object_id, "the SuperLink does not have it")
        if not found.object_available:
            raise ObjectUnavailableError(object_id)
        return found.object_content

    def confirm(self, node_id: int, run_id: int, message_id: str) -> None:
        """Lets the SuperLink forget a message that has been fetched whole."""
        request = ConfirmMessageReceivedRequest(
            node=Node(node_id=node_id), run_id=run_id, message_object_id=message_id
        )
        self._client.ConfirmMessageReceived(request)

    def push(
        self, node_id: int, cleared: Cleared, seconds: float
    ) -> tuple[dict[str, Deflatable], str]:
        """Sends a reply with what fits into one request; the objects that are still to upload, and
        the upload's session. Where there are none, the message it answers needs no `confirm`."""
        reply = cleared.message
        root = reply.metadata.message_id
        objects = bundled(get_all_nested_objects(reply), root)
        self._announced = frozenset(objects)
        parts = [ObjectTree(object_id=key) for key in objects if key != root]
        request = PushMessagesRequest(
            node=Node(node_id=node_id),
            messages_list=[message_to_proto(remove_content_from_message(reply))],
            message_object_trees=[ObjectTree(object_id=root, children=parts)],
            clientapp_runtime_list=[seconds],
        )
        fit = fill((key, part.deflate()) for key, part in objects.items())
        found = self._client._unary_unary(
            path=f"{_FLEET}push-parcel",
            rpc_method="PushParcel",
            request=Parcel(request.SerializeToString(), fit),
            response_type=PushMessagesResponse,
        )
        return {key: objects[key] for key in found.objects_to_push}, found.session_id

    def push_object(
        self, node_id: int, run_id: int, session_id: str, object_id: str, content: bytes
    ) -> None:
        """Uploads one object of the reply that was announced; `ObjectPushError` if the session has
        ended."""
        if object_id not in self._announced:
            raise RefusedByPolicy("an object that is of no cleared reply was held back")
        request = PushObjectRequest(
            node=Node(node_id=node_id),
            run_id=run_id,
            object_id=object_id,
            object_content=content,
            session_id=session_id,
        )
        if not self._client.PushObject(request).stored:
            raise ObjectPushError(object_id, run_id, session_id)


class _Transport:
    """Sends the signed request itself, and reads no more of the answer than is allowed.

    Flower's client takes in an answer whole before anyone can look at it. As the last of its
    interceptors this one never calls the next, so it needs no part of the client replaced.
    """

    def __init__(
        self, root_certificates: bytes, max_bytes: int, admit: Callable[[str, int], None]
    ) -> None:
        try:
            context = ssl.create_default_context(cadata=root_certificates.decode("ascii"))
        except (ssl.SSLError, UnicodeDecodeError) as err:
            raise CryptoError(
                f"the consortium's certificate (ca in site.toml) is not PEM: {err}"
            ) from err
        # Proxies of the environment are honoured: a hospital may have no other way out.
        self._client = httpx.Client(verify=context, follow_redirects=False)
        self._max_bytes = max_bytes
        self._admit = admit

    def close(self) -> None:
        self._client.close()

    def intercept(self, context: ProtobufRequestContext, _: ProtobufCall) -> httpx.Response:
        request = context.request
        # So that an answer is not refused whole for what it might have left to be asked for.
        request.headers[ROOM_HEADER] = str(self._max_bytes // 2)
        self._admit(request.url.path, len(request.content))
        content = bytearray()
        response = self._client.send(request, stream=True)
        with closing(response):
            for chunk in response.iter_bytes(_READ_BYTES):
                content += chunk
                if len(content) > self._max_bytes:
                    raise MessageTooLarge(
                        f"the coordinator's answer is larger than {self._max_bytes} bytes, the "
                        "most that this site takes; it was not read further"
                    )
        # The bytes are decoded by now, so the header that announced an encoding must go.
        headers = [
            (name, value)
            for name, value in response.headers.multi_items()
            if name not in ("content-encoding", "content-length", "transfer-encoding")
        ]
        return httpx.Response(
            response.status_code, headers=headers, content=bytes(content), request=request
        )


def load_node_key(text: bytes) -> ec.EllipticCurvePrivateKey:
    """The private key in `text`.

    Raises:
        CryptoError: if it is not an elliptic-curve key in OpenSSH form without a password.
    """
    try:
        key = load_ssh_private_key(text, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as err:
        raise CryptoError(
            "the node key (node_key in site.toml) cannot be read: it must be an OpenSSH private "
            "key without a password, as `fdfed-server provision` makes it"
        ) from err
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise CryptoError(
            "the node key (node_key in site.toml) is not an elliptic-curve key; use the one that "
            "`fdfed-server provision` made"
        )
    return key


def clock_difference(response: httpx.Response) -> float | None:
    """Seconds by which this machine's clock is ahead of the sender's, by its Date header."""
    with suppress(KeyError, TypeError, ValueError):
        sent = email.utils.parsedate_to_datetime(response.headers["date"])
        return (dt.datetime.now(dt.UTC) - sent).total_seconds()
    return None
