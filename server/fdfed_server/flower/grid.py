"""The coordinator's way to its nodes: Flower's grid, without its habit of ending the process."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Final, Self

from flwr.app import Error, Message, RecordDict
from flwr.app.message import make_message
from flwr.common.serde import message_from_proto
from flwr.proto.message_pb2 import ConfirmMessageReceivedRequest, ObjectTree
from flwr.proto.message_pb2 import Message as ProtoMessage
from flwr.proto.node_pb2 import NodeInfo
from flwr.proto.runtime_pb2 import PullAppMessagesRequest
from flwr.serverapp import Grid
from flwr.supercore.inflatable.inflatable_object import iterate_object_tree
from flwr.supercore.inflatable.inflatable_protobuf_utils import make_pull_object_fn_protobuf
from flwr.supercore.inflatable.inflatable_utils import (
    ObjectPullError,
    ObjectPushError,
    pull_objects,
)
from flwr.supercore.interceptors import RuntimeTokenHttpInterceptor
from flwr.supercore.runtime import RuntimeHttpClient
from flwr.superlink.grid import HttpGrid

from fdfed.errors import ConnectionFailed
from fdfed.health import Pulse
from fdfed_server.flower.calls import connect, flower_key, patient_retry, translated
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


class RunGrid(HttpGrid):
    """Flower's `HttpGrid` for one run, with four departures.

    It shows the control token. On a 401 it raises, where Flower sends SIGINT to its own process.
    An object that is not there yet is asked for again after 20 ms, not 1 s. And a reply that cannot
    be fetched or rebuilt becomes an error reply *of its node*, so that one broken or hostile site
    cannot end the run for all.

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
        super().__init__(superlink.control_address, False, superlink.root_certificates, token=token)
        self._superlink = superlink
        self._retry_invoker = patient_retry()
        self.set_sites(node_keys)

    def set_sites(self, node_keys: Mapping[str, str]) -> None:
        """From now on these are the sites; a node of any other key is nobody's."""
        # Replaced, never changed: another thread reads it.
        self._site_of = {flower_key(text): name for name, text in node_keys.items()}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _connect(self) -> None:
        self._client = connect(
            RuntimeHttpClient,
            self._superlink,
            RuntimeTokenHttpInterceptor(token=self._token),
            component="flwr-serverapp",
        )

    @property
    def runtime(self) -> RuntimeHttpClient:
        """The client of the Runtime API, with this run's token."""
        return self._runtime_client

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
            return list(super().get_nodes())

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        """Sends `messages`; the message ids, in order.

        Raises:
            ConnectionFailed: if the SuperLink cannot store them, also when asked again.
        """
        sent, attempt = list(messages), 0
        while True:
            attempt += 1
            try:
                with translated("sending messages"):
                    # A message that it has already keeps its id; only what is missing goes again.
                    return list(super().push_messages(sent))
            except ObjectPushError as err:
                if attempt == _UPLOADS:
                    raise ConnectionFailed(
                        "the SuperLink cannot store the coordinator's messages; its log says why. "
                        "Start the coordinator again when it can, the run goes on"
                    ) from err
                _log.warning("the SuperLink did not store a message; sending it again")
                time.sleep(_UPLOAD_PAUSE)

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        """The replies that have arrived to the messages `message_ids`, each handed out once."""
        self._pulse.beat()
        with translated("fetching replies"):
            found = self.runtime.PullMessages(PullAppMessagesRequest(message_ids=message_ids))
            pairs = zip(found.messages_list, found.message_object_trees, strict=True)
            return [self._fetch(envelope, tree) for envelope, tree in pairs]

    def _fetch(self, envelope: ProtoMessage, tree: ObjectTree) -> Message:
        run_id, message_id = self.run.run_id, envelope.metadata.message_id
        pull = make_pull_object_fn_protobuf(self.runtime.PullObject, self.node, run_id)
        pieces = Pieces(limited(pull, MAX_REPLY_BYTES), folder=self._superlink.state)
        try:
            contents = pull_objects(
                [node.object_id for node in iterate_object_tree(tree)],
                pieces.pull,
                max_time=_OBJECT_PATIENCE,
                initial_backoff=_OBJECT_PAUSES[0],
                backoff_cap=_OBJECT_PAUSES[1],
            )
        except ObjectPullError as err:
            return _unavailable(envelope, err)
        self.runtime.ConfirmMessageReceived(
            ConfirmMessageReceivedRequest(
                node=self.node, run_id=run_id, message_object_id=message_id
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
