"""The objects of a message, as they enter and leave the SuperLink's store in one go.

Flower's own handlers have let the message in, or handed it out, when it comes here: whose it is and
whether it may is decided by them, in the same request. What is done here they do too, object by
object in a request each.
"""

from __future__ import annotations

import logging
import sqlite3
import threading
from collections.abc import Callable, Iterable, Mapping
from typing import Final

from flwr.server.superlink.linkstate import SqlLinkState
from sqlalchemy.exc import SQLAlchemyError

from fdfed_server.flower.deliveries import Deliveries

_log = logging.getLogger(__name__)

_TRIES: Final = 3


class _Refused(Exception):
    """The store does not take an object; nothing of the parcel is kept."""


class Parcels:
    """Safe to call from any thread.

    Args:
        state: Flower's, once it is open.
    """

    def __init__(self, state: Callable[[], SqlLinkState], deliveries: Deliveries) -> None:
        self._state = state
        self._deliveries = deliveries
        # Two writers at a time wait for each other in the database, which sleeps in between.
        self._writing = threading.Lock()

    def bring(self, object_ids: Iterable[str], room: int) -> dict[str, bytes]:
        """What is there of these objects, and fits into `room` bytes."""
        try:
            return self._deliveries.contents(object_ids, room)
        except sqlite3.Error as err:
            # The message has been handed out; its objects can be asked for one by one.
            _log.warning("a message goes without its objects: %s", err)
            return {}

    def forget(self, message_ids: Iterable[str]) -> None:
        """Messages have been fetched whole: what they alone are made of goes."""
        state, ids, refusal = self._state(), list(message_ids), ""
        for _ in range(_TRIES):
            try:
                with self._writing, state.session():
                    for message_id in ids:
                        state.object_store.delete(message_id)
                return
            except SQLAlchemyError as err:
                # The database refuses a transaction that has waited too long for Flower's handlers.
                refusal = str(err)
        # They have been handed out, which must not fail now; they go with the run.
        _log.warning("messages that were fetched are kept: %s", refusal)

    def keep(
        self,
        run_id: int,
        session_id: str,
        wanted: Iterable[str],
        objects: Mapping[str, bytes],
        *,
        answer: tuple[str, str] | None = None,
    ) -> list[str]:
        """Puts those of `objects` that are wanted into the store; what is wanted still.

        All or none: none if one is not what its id says, the upload's session has ended, or the
        database is full or busy for too long.

        Args:
            answer: ids of a reply and of the message that it answers, of which nothing is kept
                once the reply is whole.
        """
        state, missing = self._state(), list(wanted)
        brought = [object_id for object_id in missing if object_id in objects]
        left = [object_id for object_id in missing if object_id not in objects]
        # Whether Flower took the reply: who may answer a message is for it to say.
        taken = answer is not None and not left and self._deliveries.is_answer(*answer)
        if not brought and not taken:
            return left
        try:
            with self._writing, state.session():
                for object_id in brought:
                    if not state.store_object(run_id, session_id, object_id, objects[object_id]):
                        raise _Refused
                if answer is not None and taken:
                    state.object_store.delete(answer[1])
        except _Refused:
            return missing
        except SQLAlchemyError as err:
            _log.warning("the objects of a message cannot be kept: %s", err)
            return missing
        return left
