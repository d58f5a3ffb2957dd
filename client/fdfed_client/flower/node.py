"""The agent as a Flower node: it fetches messages, and answers them with the installed app.

There is no node process beside it, and no app bundle: whatever run a message belongs to, it is
answered by the one `ClientApp` that this hospital installed.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

from flwr.app import Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.proto.message_pb2 import ObjectTree
from flwr.supercore.inflatable.inflatable_object import (
    iterate_object_tree,
    no_object_id_recompute,
)
from flwr.supercore.inflatable.inflatable_utils import (
    ObjectPullError,
    ObjectPushError,
    inflate_object_from_contents,
    pull_objects,
    push_object_contents_from_iterable,
)

from fdfed.errors import FdfedError, InvalidInput, WireError
from fdfed.files.storage import storage_failure
from fdfed.wire import check_expansion, unbundled
from fdfed_client.egress import Cleared, EgressGate, PolicyRefusal, public_reason
from fdfed_client.flower.environment import prepare_process
from fdfed_client.flower.fleet import Fleet, MessageTooLarge
from fdfed_client.flower.known_node import KnownNode
from fdfed_client.flower.link import Heartbeat, Link, MembershipLost, RequestRefused, Stopping
from fdfed_client.flower.presence import Presence

_log = logging.getLogger(__name__)

MAX_MESSAGE_BYTES: Final = 2 * 2**30
"""Default for the largest message that a site takes, as the sum of its objects."""
_APP_RAISED: Final = 2
"""Flower's error code for a client app that raised."""
_OBJECT_PAUSES: Final = (0.02, 0.1)
"""First and longest wait, in seconds, for an object that the coordinator is still uploading; the
question itself is held there for up to a second. (Flower's own are 1 s and 10 s.)"""
_OBJECT_PATIENCE: Final = 600.0
_UPLOADS: Final = 3
"""How often a reply's upload begins anew; its session ends when nothing came for 3 minutes."""
_REJOIN_PAUSE: Final = 1.0
_MIN_HEARTBEAT: Final = 10.0
_MAX_HEARTBEAT: Final = 1800.0


def run_node(
    app: ClientApp,
    *,
    gate: EgressGate,
    server: str,
    root_certificates: bytes,
    private_key: bytes,
    site: str,
    state: Path,
    stop: threading.Event,
    poll_seconds: float = 0.1,
    heartbeat_seconds: float = 15.0,
    key_patience: float | None = None,
    max_message_bytes: int = MAX_MESSAGE_BYTES,
    linger_seconds: float = 0.0,
    on_event: Callable[[str], None] | None = None,
    presence: Presence | None = None,
    alone: bool = False,
) -> None:
    """Serves the coordinator until `stop` is set: a message at a time, in this thread.

    Outages of the coordinator are waited out. An exception of the app becomes an error reply with
    one of a few fixed sentences.

    Args:
        gate: clears every reply and every request before it leaves.
        server: `host:port` of the coordinator's fleet port.
        root_certificates: PEM of the consortium's authority.
        private_key: OpenSSH text of the node's elliptic-curve key.
        site: this site's name, which the app finds in `context.node_config`.
        state: the agent's folder; Flower's few files go below it.
        heartbeat_seconds: the coordinator counts the site as gone after twice this (10 to 1800).
        key_patience: seconds before a refused key is an error. By default a little more than a
            node that was killed is still counted as online, and its successor refused.
        max_message_bytes: a larger message is refused, and the coordinator is told so.
        linger_seconds: how long the node stays, once told to stop, for the coordinator to fetch its
            last reply.
        on_event: gets one line for people whenever the connection changes or a message is done.
        presence: is kept up to date with how the coordinator hears the node.
        alone: the caller has made sure that no other process uses `state`. A node that was killed
            is back at once then, and does the message again that it was at.

    Raises:
        CryptoError: if the coordinator does not know the key, or is not who it should be.
        RefusedByPolicy: if a request would leave that no rule allows.
        InvalidInput: if `heartbeat_seconds` is out of bounds.
    """
    if not _MIN_HEARTBEAT <= heartbeat_seconds <= _MAX_HEARTBEAT:
        raise InvalidInput(
            f"heartbeat_seconds is {heartbeat_seconds}; Flower takes 10 to 1800 seconds"
        )
    prepare_process(state)
    fleet = Fleet(
        server,
        root_certificates,
        private_key,
        heartbeat_seconds=heartbeat_seconds,
        max_bytes=max_message_bytes,
        admit=gate.call,
    )
    tell = on_event or _log.info
    link = Link(
        fleet,
        server=server,
        stop=stop,
        heartbeat_seconds=heartbeat_seconds,
        patience=2 * heartbeat_seconds + 5 if key_patience is None else key_patience,
        tell=tell,
        presence=presence,
        known=KnownNode(state) if alone else None,
    )
    node = _Node(
        app,
        fleet,
        link,
        gate=gate,
        site=site,
        max_bytes=max_message_bytes,
        linger_seconds=linger_seconds,
        tell=tell,
    )
    try:
        while not stop.is_set():
            node.serve(stop, poll_seconds)
            stop.wait(_REJOIN_PAUSE)
    except Stopping:
        return
    finally:
        fleet.close()


class _Node:
    """The work of one node; what it has to remember between messages.

    Flower's `TaskIdentity` is left unset: it is stamped on new messages only, and a node sends none
    but replies, which take their metadata from the message that they answer.
    """

    def __init__(
        self,
        app: ClientApp,
        fleet: Fleet,
        link: Link,
        *,
        gate: EgressGate,
        site: str,
        max_bytes: int,
        linger_seconds: float = 0.0,
        tell: Callable[[str], None],
    ) -> None:
        self._app = app
        self._fleet = fleet
        self._link = link
        self._gate = gate
        self._site = site
        self._max_bytes = max_bytes
        self._linger_seconds = linger_seconds
        self._reply_waits = False
        self._tell = tell
        self._node_id = 0
        self._context: Context | None = None

    def serve(self, stop: threading.Event, poll_seconds: float) -> None:
        """One membership: joins, and answers messages until told to stop or no longer a member."""
        self._node_id = self._link.join()
        self._gate.note_connection("joined")
        try:
            with self._link.heartbeat(self._node_id) as heart:
                while not stop.is_set():
                    asked = time.monotonic()
                    if not self._next(heart):
                        # The coordinator holds the question until there is a message, or a second.
                        stop.wait(max(0.0, poll_seconds - (time.monotonic() - asked)))
                self._linger(heart, poll_seconds)
        except MembershipLost as err:
            self._tell(f"the connection must be made anew: {err}")
        finally:
            self._gate.note_connection("left")
            self._link.leave(self._node_id)

    def _linger(self, heart: Heartbeat, poll_seconds: float) -> None:
        """Stays until the coordinator has fetched the last reply, as far as can be told from here:
        it asks for the next thing then, or has gone.

        Flower answers for a node that has left that it is unavailable, also where a reply of it
        lies there; and the coordinator fetches replies in the order of its sites.
        """
        until = time.monotonic() + self._linger_seconds
        while self._reply_waits and not self._link.is_away and time.monotonic() < until:
            heart.check()
            try:
                if self._link.persist(self._fleet.pull, self._node_id) is not None:
                    return  # It is told that this node has left, and asks again when it is back.
            except (Stopping, RequestRefused, MessageTooLarge):
                return
            time.sleep(poll_seconds)

    def _next(self, heart: Heartbeat) -> bool:
        """Answers one message; False if there was none."""
        heart.check()
        try:
            found = self._link.persist(self._fleet.pull, self._node_id)
        except (RequestRefused, MessageTooLarge) as err:
            raise MembershipLost(str(err)) from err
        if found is None:
            return False
        envelope, tree = found
        began, self._reply_waits = time.monotonic(), False
        try:
            cleared = self._cleared(self._fetch_and_answer(envelope, tree), envelope)
            if not self._send(cleared, time.monotonic() - began):
                self._confirm(envelope)
        except (RequestRefused, ObjectPullError, ObjectPushError) as err:
            # The run has ended meanwhile, or the coordinator sends the round anew.
            self._tell(f"a {envelope.metadata.message_type} message came to nothing: {err}")
        else:
            reply, self._reply_waits = cleared.message, True
            outcome = f"refused ({reply.error.reason})" if reply.has_error() else "answered"
            self._tell(
                f"{envelope.metadata.message_type} message {outcome} after "
                f"{time.monotonic() - began:.1f} s"
            )
        return True

    def _fetch_and_answer(self, envelope: Message, tree: ObjectTree) -> Message:
        try:
            message = self._fetch(envelope, tree)
        except FdfedError as err:
            _log.warning("a message was refused: %s", err)
            return _error_reply(envelope, err)
        self._gate.arrived(message)
        return self._answer(message)

    def _cleared(self, reply: Message, asked: Message) -> Cleared:
        """The reply as it may leave; one that may not becomes the failure that says so."""
        kind = asked.metadata.message_type
        try:
            return self._gate.clear(reply, asked=kind)
        except PolicyRefusal as err:
            return self._gate.clear(_error_reply(asked, err), asked=kind)

    def _fetch(self, envelope: Message, tree: ObjectTree) -> Message:
        """The whole message that `envelope` announces.

        Raises:
            MessageTooLarge: if its objects are larger than this site takes.
            WireError: if it cannot be rebuilt.
        """
        run_id = envelope.metadata.run_id
        lock, total = threading.Lock(), 0

        def pull(object_id: str) -> bytes:
            nonlocal total
            content = self._link.attempt(self._fleet.pull_object, self._node_id, run_id, object_id)
            with lock:
                total += len(content)
                if total > self._max_bytes:
                    raise MessageTooLarge(
                        f"the coordinator's message is larger than {self._max_bytes} bytes, the "
                        "most that this site takes"
                    )
            return content

        contents = pull_objects(
            [node.object_id for node in iterate_object_tree(tree)],
            pull,
            max_time=_OBJECT_PATIENCE,
            initial_backoff=_OBJECT_PAUSES[0],
            backoff_cap=_OBJECT_PAUSES[1],
        )
        return _rebuilt(envelope, contents, limit=self._max_bytes)

    def _answer(self, message: Message) -> Message:
        metadata = message.metadata
        try:
            reply = self._app(message=message, context=self._context_of(metadata.run_id))
            if not isinstance(reply, Message):
                raise TypeError(f"the app returned a {type(reply).__name__}, not a Message")
        except FdfedError as err:
            _log.warning("%s: %s", type(err).__name__, err)
            return _error_reply(message, err)
        except Exception as err:
            failure = storage_failure(err)
            if failure is None:
                _log.exception("the app failed on a %s message", metadata.message_type)
            else:
                _log.error("%s", failure)
            return _error_reply(message, failure or err)
        return reply

    def _context_of(self, run_id: int) -> Context:
        """The app's memory of this run. Of one run only: a coordinator has one at a time, and a
        hostile one must not fill this process with others."""
        if self._context is None or self._context.run_id != run_id:
            self._context = Context(
                run_id=run_id,
                node_id=self._node_id,
                node_config={"site": self._site},
                state=RecordDict(),
                run_config={},
            )
        return self._context

    def _send(self, cleared: Cleared, seconds: float) -> bool:
        """Whether the reply went in one request; the message it answers is confirmed by that."""
        reply = cleared.message
        # The id is the hash of the finished reply. `Metadata.message_id` has no setter: Flower's
        # own node writes it in this way, just before the reply leaves.
        with no_object_id_recompute():
            reply.metadata.__dict__["_message_id"] = reply.object_id
            for attempt in range(1, _UPLOADS + 1):
                try:
                    return self._upload(cleared, seconds)
                except ObjectPushError:
                    if attempt == _UPLOADS:
                        raise
        raise AssertionError("an upload neither ended nor failed")  # pragma: no cover

    def _confirm(self, asked: Message) -> None:
        """Lets the SuperLink forget the message: only now, so that an agent that is killed while it
        works finds it there again."""
        metadata = asked.metadata
        # A run may end with this answer; what it held goes with it.
        with suppress(RequestRefused):
            self._link.attempt(
                self._fleet.confirm, self._node_id, metadata.run_id, metadata.message_id
            )

    def _upload(self, cleared: Cleared, seconds: float) -> bool:
        reply = cleared.message
        attempt, node_id, run_id = self._link.attempt, self._node_id, reply.metadata.run_id
        objects, session = attempt(self._fleet.push, node_id, cleared, seconds)
        push_object_contents_from_iterable(
            ((key, part.deflate()) for key, part in objects.items()),
            lambda object_id, content: attempt(
                self._fleet.push_object, node_id, run_id, session, object_id, content
            ),
        )
        return not objects


def _error_reply(message: Message, err: Exception) -> Message:
    """A reply that says what kind of error came up. Never its text: that may hold a path, a
    patient's name or a value."""
    return Message(Error(_APP_RAISED, public_reason(err)), reply_to=message)


def _rebuilt(envelope: Message, contents: dict[str, bytes], *, limit: int) -> Message:
    metadata = envelope.metadata
    contents = unbundled(contents)
    check_expansion(contents, limit=limit)
    try:
        message = inflate_object_from_contents(metadata.message_id, contents)
    # Whatever a stranger's bytes make Flower's decoder raise.
    except Exception as err:
        raise WireError(
            f"a {metadata.message_type} message cannot be rebuilt ({type(err).__name__}); "
            "coordinator and site must run the same version"
        ) from err
    if (
        not isinstance(message, Message)
        or not message.has_content()
        or not isinstance(message.content, RecordDict)
    ):
        raise WireError(f"a {metadata.message_type} message came without content")
    # The envelope is what this request asked for; the object's own metadata could say otherwise.
    message.metadata.__dict__.update(metadata.__dict__)
    return message
