"""The coordinator's way to its nodes: Flower's grid, without its habit of ending the process."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Final, Self

from flwr.app import Error, Message, RecordDict
from flwr.app.message import make_message, remove_content_from_message
from flwr.common.constant import SUPERLINK_NODE_ID
from flwr.common.serde import message_from_proto, message_to_proto
from flwr.proto.message_pb2 import ConfirmMessageReceivedRequest, ObjectTree
from flwr.proto.message_pb2 import Message as ProtoMessage
from flwr.proto.node_pb2 import Node, NodeInfo
from flwr.proto.runtime_pb2 import (
    GetNodesRequest,
    PullAppMessagesRequest,
    PullAppMessagesResponse,
    PushAppMessagesRequest,
    PushAppMessagesResponse,
)
from flwr.serverapp import Grid
from flwr.supercore.inflatable.inflatable_object import (
    get_all_nested_objects,
    iterate_object_tree,
    no_object_id_recompute,
)
from flwr.supercore.inflatable.inflatable_protobuf_utils import (
    make_pull_object_fn_protobuf,
    make_push_object_fn_protobuf,
)
from flwr.supercore.inflatable.inflatable_utils import (
    ObjectPullError,
    ObjectPushError,
    pull_objects,
    push_object_contents_from_iterable,
)
from flwr.supercore.interceptors import RuntimeTokenHttpInterceptor
from flwr.supercore.run import Run
from flwr.supercore.runtime import RuntimeHttpClient

from fdfed.errors import ConnectionFailed
from fdfed.process.health import Pulse
from fdfed.wire import Deflatable, Parcel, bundled, fill
from fdfed_server.flower.calls import connect, flower_key, translated
from fdfed_server.flower.messages import stamp
from fdfed_server.flower.pieces import Pieces
from fdfed_server.flower.superlink import SuperLink

_log = logging.getLogger(__name__)

REPLY_UNAVAILABLE: Final = 4
"""Flower's error code for a reply that was announced but cannot be had."""
MAX_REPLY_BYTES: Final = 2 * 2**30
"""Sum over the objects of one reply, as they travel and as arrays in memory; beyond it the reply
counts as unavailable."""
_OBJECT_PAUSES: Final = (0.02, 0.1)
"""First and longest wait, in seconds, for an object that is not there; the SuperLink holds the
question itself for up to a second. (Flower's own are 1 s and 10 s.)"""
_OBJECT_PATIENCE: Final = 600.0
_UPLOADS: Final = 4
_UPLOAD_PAUSE: Final = 2.0
"""How often messages are handed to the SuperLink before it is given up, and the seconds between. A
busy machine may keep it from its database for longer than the database waits."""
_ONLINE: Final = "online"


class ParcelClient(RuntimeHttpClient):
    """Flower's client, and the two calls that take a message's objects along."""

    def push_parcel(
        self, request: PushAppMessagesRequest, objects: Mapping[str, bytes]
    ) -> PushAppMessagesResponse:
        """Flower's `PushMessages`, with objects of the messages."""
        return self._unary_unary(
            path="/v1/runtime/push-parcel",
            rpc_method="PushParcel",
            request=Parcel(request.SerializeToString(), objects),
            response_type=PushAppMessagesResponse,
        )

    def pull_parcel(
        self, request: PullAppMessagesRequest
    ) -> tuple[PullAppMessagesResponse, dict[str, bytes]]:
        """Flower's `PullMessages`, and of the objects of the replies those that fit."""
        parcel = self._unary_unary(
            path="/v1/runtime/pull-parcel",
            rpc_method="PullParcel",
            request=request,
            response_type=Parcel,
        )
        return parcel.read(PullAppMessagesResponse), parcel.objects


class RunGrid(Grid):
    """One run's way to its nodes, in place of Flower's `HttpGrid`, with five departures.

    Messages take their objects along (`fdfed.wire.Parcel`). It shows the control token. On a 401 it
    raises, where Flower sends SIGINT to its own process. An object that is not there yet is asked
    for again after 20 ms, not 1 s. And a reply that cannot be fetched or rebuilt becomes an error
    reply *of its node*, so that one broken or hostile site cannot end the run for all. (Flower's
    own is no base of it: its package loads the SuperLink's database, which lives elsewhere.)

    Args:
        node_keys: site name → OpenSSH public key, from the roster.
        pulse: beats with every look for nodes or replies: the round loop goes round.
    """

    def __init__(
        self,
        superlink: SuperLink,
        *,
        token: str,
        node_keys: Mapping[str, str],
        pulse: Pulse | None = None,
    ) -> None:
        self._pulse = pulse or Pulse()
        self._superlink = superlink
        self._token = token
        self._node = Node(node_id=SUPERLINK_NODE_ID)
        self._run: Run | None = None
        self._client: ParcelClient | None = None
        self.set_sites(node_keys)

    def set_sites(self, node_keys: Mapping[str, str]) -> None:
        """From now on these are the sites; a node of any other key is nobody's."""
        # Replaced, never changed: another thread reads it.
        self._site_of = {flower_key(text): name for name, text in node_keys.items()}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes the connection, if there is one."""
        if self._client is not None:
            self._client.close()
            self._client = None

    def set_run(self, run: Run) -> None:
        """Says which run this is, once it is known."""
        self._run = run

    @property
    def run(self) -> Run:
        """The run."""
        if self._run is None:
            raise RuntimeError("the grid was used before its run was known")
        return self._run

    @property
    def runtime(self) -> ParcelClient:
        """The client of the Runtime API, with this run's token."""
        if self._client is None:
            self._client = connect(
                ParcelClient,
                self._superlink,
                RuntimeTokenHttpInterceptor(token=self._token),
                component="flwr-serverapp",
            )
        return self._client

    def create_message(
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        """`Message(...)`; Flower keeps this for apps of before it could be called."""
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def get_node_ids(self) -> list[int]:
        """The nodes that are online."""
        return [node.node_id for node in self.get_nodes()]

    def nodes_by_site(self) -> dict[str, int]:
        """Site name → node id, for the sites of the roster that are online."""
        nodes, site_of = self.get_nodes(), self._site_of
        return {
            site_of[key]: node.node_id
            for node in nodes
            if node.status == _ONLINE and (key := bytes(node.public_key)) in site_of
        }

    def get_nodes(self) -> list[NodeInfo]:
        """All nodes that are online, as the SuperLink knows them."""
        self._pulse.beat()
        with translated("asking who is online"):
            return list(self.runtime.GetNodes(GetNodesRequest()).nodes)

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        """Sends `messages`; the message ids, in order.

        Raises:
            ConnectionFailed: if the SuperLink cannot store them, also when asked again.
        """
        sent, attempt = list(messages), 0
        if not sent:
            return []
        while True:
            attempt += 1
            try:
                with translated("sending messages"), no_object_id_recompute():
                    # A message that it has already keeps its id; only what is missing goes again.
                    return self._push(sent)
            except ObjectPushError as err:
                if attempt == _UPLOADS:
                    raise ConnectionFailed(
                        "the SuperLink cannot store the coordinator's messages; its log says why. "
                        "Start the coordinator again when it can, the run goes on"
                    ) from err
                _log.warning("the SuperLink did not store a message; sending it again")
                time.sleep(_UPLOAD_PAUSE)

    def _push(self, messages: Iterable[Message]) -> list[str]:
        objects: dict[str, Deflatable] = {}
        request = PushAppMessagesRequest()
        for message in messages:
            root = stamp(message)
            parts = bundled(get_all_nested_objects(message), root)
            children = [ObjectTree(object_id=key) for key in parts if key != root]
            request.messages_list.append(message_to_proto(remove_content_from_message(message)))
            request.message_object_trees.append(ObjectTree(object_id=root, children=children))
            objects |= parts
        fit = fill((object_id, part.deflate()) for object_id, part in objects.items())
        sent = self.runtime.push_parcel(request, fit)
        if sent.objects_to_push:
            push_object_contents_from_iterable(
                ((key, objects[key].deflate()) for key in sent.objects_to_push),
                make_push_object_fn_protobuf(
                    self.runtime.PushObject,
                    node=self._node,
                    run_id=self.run.run_id,
                    session_id=sent.session_id,
                ),
            )
        return list(sent.message_ids)

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        """The replies that have arrived to the messages `message_ids`, each handed out once."""
        self._pulse.beat()
        with translated("fetching replies"):
            request = PullAppMessagesRequest(message_ids=message_ids)
            found, brought = self.runtime.pull_parcel(request)
            pairs = zip(found.messages_list, found.message_object_trees, strict=True)
            return [self._fetch(envelope, tree, brought) for envelope, tree in pairs]

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> list[Message]:
        """Sends `messages`; the replies that have come within `timeout` seconds, or all."""
        waited_for = self.push_messages(messages)
        until = math.inf if timeout is None else time.monotonic() + timeout
        found: list[Message] = []
        while waited_for and time.monotonic() < until:
            found += self.pull_messages(waited_for)
            answered = {reply.metadata.reply_to_message_id for reply in found}
            waited_for = [message_id for message_id in waited_for if message_id not in answered]
        return found

    def _fetch(
        self, envelope: ProtoMessage, tree: ObjectTree, brought: dict[str, bytes]
    ) -> Message:
        """The reply, of what came with it and, for the rest, object by object."""
        run_id, message_id = self.run.run_id, envelope.metadata.message_id
        ask = make_pull_object_fn_protobuf(self.runtime.PullObject, self._node, run_id)
        wanted = [node.object_id for node in iterate_object_tree(tree)]
        came_whole = brought.keys() >= set(wanted)

        def pull(object_id: str) -> bytes:
            content = brought.get(object_id)
            return ask(object_id) if content is None else content

        pieces = Pieces(limited(pull, MAX_REPLY_BYTES), folder=self._superlink.state)
        try:
            contents = pull_objects(
                wanted,
                pieces.pull,
                max_time=_OBJECT_PATIENCE,
                initial_backoff=_OBJECT_PAUSES[0],
                backoff_cap=_OBJECT_PAUSES[1],
            )
        except ObjectPullError as err:
            return _unavailable(envelope, err)
        if not came_whole:
            self.runtime.ConfirmMessageReceived(
                ConfirmMessageReceivedRequest(
                    node=self._node, run_id=run_id, message_object_id=message_id
                )
            )
        try:
            return _rebuilt(envelope, contents, pieces)
        # Whatever a stranger's bytes make Flower's decoder raise, it concerns this reply alone.
        except Exception as err:
            return _unavailable(envelope, err)


def site_nodes(grid: Grid) -> dict[str, int]:
    """Site name → node id of the sites that are online.

    On a `RunGrid`, a site is the owner of the public key under which its node was registered,
    whatever the node says of itself. On a grid that lives in one process the nodes were made by the
    caller, and their names are taken.
    """
    if isinstance(grid, RunGrid):
        return grid.nodes_by_site()
    return {node.name: node.node_id for node in grid.get_nodes()}


def _unavailable(envelope: ProtoMessage, err: Exception) -> Message:
    metadata = message_from_proto(envelope).metadata
    _log.warning("a reply of node %d cannot be used: %s", metadata.src_node_id, err)
    return make_message(metadata=metadata, error=Error(REPLY_UNAVAILABLE, type(err).__name__))


def limited(pull: Callable[[str], bytes], limit: int) -> Callable[[str], bytes]:
    """`pull`, until it has brought more than `limit` bytes in all. Safe to call from threads."""
    lock, total = threading.Lock(), 0

    def bounded(object_id: str) -> bytes:
        nonlocal total
        content = pull(object_id)
        with lock:
            total += len(content)
            if total > limit:
                raise ObjectPullError(object_id, f"the message is larger than {limit} bytes")
        return content

    return bounded


def _rebuilt(envelope: ProtoMessage, contents: dict[str, bytes], pieces: Pieces) -> Message:
    """The reply in `contents`, under the metadata of its envelope: the SuperLink checked those
    against the question; what the reply says of itself is only its sender's word."""
    metadata = message_from_proto(envelope).metadata
    message = pieces.put_together(metadata.message_id, contents, limit=MAX_REPLY_BYTES)
    if message.has_error():
        return make_message(metadata=metadata, error=message.error)
    if not isinstance(message.content, RecordDict):
        raise TypeError(f"a {type(message.content).__name__} came where a RecordDict belongs")
    return make_message(metadata=metadata, content=message.content)
