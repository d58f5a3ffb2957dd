"""What is kept of messages in the SuperLink's store when its database is busy."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from sqlalchemy.exc import OperationalError

from fdfed_server.flower.parcels import Parcels


class _State:
    """A state whose transactions are refused `refusals` times, after what was done in them."""

    def __init__(self, refusals: int) -> None:
        self.refusals = refusals
        self.there = {"a", "b", "c"}
        self.object_store = self
        self._deleted: set[str] = set()

    @contextmanager
    def session(self) -> Iterator[None]:
        self._deleted = set()
        yield
        if self.refusals:
            self.refusals -= 1
            raise OperationalError("delete", {}, Exception("database is locked"))
        self.there -= self._deleted

    def delete(self, message_id: str) -> None:
        self._deleted.add(message_id)


def forget(state: Any) -> None:
    deliveries: Any = None
    Parcels(lambda: state, deliveries).forget(iter(("a", "b")))


@pytest.mark.parametrize("refusals", [0, 1, 2])
def test_what_was_fetched_goes_though_the_database_was_busy(refusals: int) -> None:
    state = _State(refusals)
    forget(state)
    assert state.there == {"c"}


def test_a_database_that_stays_busy_fails_nothing_and_is_told_of(
    caplog: pytest.LogCaptureFixture,
) -> None:
    state = _State(1000)
    with caplog.at_level(logging.WARNING):
        forget(state)
    assert state.there == {"a", "b", "c"}
    assert "database is locked" in caplog.text
