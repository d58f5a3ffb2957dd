"""What of Flower's messages was really received: read from, and set right in, its own database.

Flower marks a message as delivered when it is handed out. If that answer is lost, or its node dies
before it has replied, nobody asks again and the round stands still until its deadline. And Flower
hands a reply to the coordinator when it is announced: if its node dies within the upload, the rest
never comes. Here a node that asks for work takes back what it was given and has not answered, and
a reply counts from when it is whole.
"""

from __future__ import annotations

import json
import sqlite3
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import accumulate
from pathlib import Path
from typing import Final

MAX_RETURNS: Final = 5
"""How often a message is handed out again: one that kills its node must not do so for ever."""
_BUSY_SECONDS: Final = 5.0

_IS_INCOMPLETE: Final = """
    WITH RECURSIVE part(id) AS (
        VALUES(:root)
        UNION
        SELECT child_id FROM object_children JOIN part ON parent_id = part.id
    )
    SELECT EXISTS(
        SELECT 1 FROM part LEFT JOIN objects ON objects.object_id = part.id
        WHERE objects.object_id IS NULL OR objects.is_available = 0
    )
"""
_UNANSWERED: Final = """
    SELECT ins.message_id, res.message_id
    FROM message_ins AS ins
    LEFT JOIN message_res AS res ON res.reply_to_message_id = ins.message_id
    WHERE ins.dst_node_id = :node AND ins.delivered_at != ''
      AND ins.run_id = (SELECT run_id FROM message_ins ORDER BY created_at DESC LIMIT 1)
"""
_SIZES: Final = """
    SELECT object_id, length(content) AS size FROM objects
    WHERE is_available = 1 AND object_id IN (SELECT value FROM json_each(?))
    ORDER BY size
"""
_CONTENTS: Final = """
    SELECT object_id, content FROM objects
    WHERE is_available = 1 AND object_id IN (SELECT value FROM json_each(?))
"""
_REPLY: Final = """
    SELECT res.message_id, node.online_until
    FROM message_res AS res
    LEFT JOIN node ON node.node_id = res.src_node_id
    WHERE res.reply_to_message_id = :message AND res.delivered_at = ''
"""
_ANY_REPLY: Final = """
    SELECT 1 FROM message_res
    WHERE delivered_at = '' AND reply_to_message_id IN (SELECT value FROM json_each(?)) LIMIT 1
"""
_ANSWER: Final = """
    SELECT 1 FROM message_res WHERE message_id = ? AND reply_to_message_id = ?
"""


class Deliveries:
    """The messages under way in one SuperLink's database; safe to call from any thread.

    Args:
        database: SQLite file that the SuperLink works on.
        clock: seconds since 1970, as Flower stores them.
    """

    def __init__(self, database: Path, *, clock: Callable[[], float] = time.time) -> None:
        self._database = database
        self._clock = clock
        self._lock = threading.Lock()
        self._open: sqlite3.Connection | None = None
        self._returns: Counter[str] = Counter()

    def take_back(self, node_id: int) -> bool:
        """Has what the node was given, and has not answered whole, handed out once more; whether
        there was something.

        To be called when the node asks for work and none is there: a node does one thing at a
        time, so that by asking it says that it holds nothing.
        """
        lost: list[str] = []
        with self._transaction() as database:
            for message, reply in database.execute(_UNANSWERED, {"node": _signed(node_id)}):
                if self._returns[message] >= MAX_RETURNS:
                    continue
                if reply is None or _is_incomplete(database, reply):
                    lost.append(message)
            for message in lost:
                self._returns[message] += 1
                database.execute(
                    "DELETE FROM message_res WHERE reply_to_message_id = ?", (message,)
                )
                database.execute(
                    "UPDATE message_ins SET delivered_at = '' WHERE message_id = ?", (message,)
                )
            # Messages that were answered, or given up, are never asked for again.
            if not lost and len(self._returns) > 1000:
                self._returns.clear()
        return bool(lost)

    def any_reply(self, message_ids: Iterable[str]) -> bool:
        """Whether there is a reply, whole or not, to one of these messages."""
        with self._transaction() as database:
            asked = (json.dumps(list(message_ids)),)
            return database.execute(_ANY_REPLY, asked).fetchone() is not None

    def uploading(self, message_ids: Iterable[str]) -> bool:
        """Whether a reply to one of these messages is announced, but not all there yet.

        One whose node has gone offline is forgotten: the node may upload it again, and until then
        counts as unavailable.
        """
        found = False
        with self._transaction() as database:
            for message in message_ids:
                row = database.execute(_REPLY, {"message": message}).fetchone()
                if row is None or not _is_incomplete(database, row[0]):
                    continue
                if row[1] is None or row[1] < self._clock():
                    database.execute("DELETE FROM message_res WHERE message_id = ?", (row[0],))
                else:
                    found = True
        return found

    def contents(self, object_ids: Iterable[str], room: int) -> dict[str, bytes]:
        """Those of the objects that are there, smallest first, while they fit into `room` bytes."""
        with self._transaction() as database:
            sizes = database.execute(_SIZES, (json.dumps(list(object_ids)),)).fetchall()
            ends = accumulate(size for _, size in sizes)
            fit = [key for (key, _), end in zip(sizes, ends, strict=True) if end <= room]
            return dict(database.execute(_CONTENTS, (json.dumps(fit),)).fetchall())

    def is_answer(self, message_id: str, asked: str) -> bool:
        """Whether the first message is kept as the reply to the second."""
        with self._transaction() as database:
            return database.execute(_ANSWER, (message_id, asked)).fetchone() is not None

    def close(self) -> None:
        """Closes the database; the next look opens it again."""
        with self._lock:
            self._close()

    def _close(self) -> None:
        if self._open is not None:
            self._open.close()
            self._open = None

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._lock:
            if self._open is None:
                self._open = sqlite3.connect(
                    self._database, timeout=_BUSY_SECONDS, check_same_thread=False
                )
            try:
                with self._open:
                    yield self._open
            except sqlite3.Error:
                # Whatever it was, the next look begins anew.
                self._close()
                raise


def _is_incomplete(database: sqlite3.Connection, message: str) -> bool:
    return bool(database.execute(_IS_INCOMPLETE, {"root": message}).fetchone()[0])


def _signed(number: int) -> int:
    """An unsigned 64-bit number as SQLite stores it."""
    return number - 2**64 if number >= 2**63 else number
