"""The file that the SuperLink's database begins as."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

from fdfed_server.flower.__main__ import _PAGE_BYTES, _with_large_pages


def page_bytes(database: Path) -> int:
    with closing(sqlite3.connect(database)) as connection:
        return int(connection.execute("PRAGMA page_size").fetchone()[0])


def test_a_new_database_has_large_pages_also_when_it_keeps_a_log(tmp_path: Path) -> None:
    database = _with_large_pages(tmp_path / "superlink.db")
    with closing(sqlite3.connect(database)) as connection:
        # As Flower opens it.
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("CREATE TABLE objects (content BLOB)")
    assert page_bytes(database) == _PAGE_BYTES
    assert page_bytes(_with_large_pages(database)) == _PAGE_BYTES


def test_a_database_that_is_there_stays_as_it_is(tmp_path: Path) -> None:
    database = tmp_path / "superlink.db"
    with closing(sqlite3.connect(database)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("CREATE TABLE objects (content BLOB)")
        connection.execute("INSERT INTO objects VALUES (x'ab')")
        connection.commit()
    _with_large_pages(database)
    assert page_bytes(database) == 4096
    with closing(sqlite3.connect(database)) as connection:
        assert connection.execute("SELECT content FROM objects").fetchall() == [(b"\xab",)]
