"""Asking the sites over Flower: one message to each, and their replies one at a time."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from typing import Final

from flwr.app import Message, RecordDict
from flwr.serverapp import Grid

from fdfed_server.site_reply import SiteReply

_MAX_REASON: Final = 200
"""Characters of what a site says of its failure that are kept."""
_SITE_RAISED: Final = 2
"""Flower's error code for an app that raised; all others are the SuperLink's word on a node."""


def ask(
    grid: Grid,
    nodes: Mapping[str, int],
    records: Mapping[str, RecordDict],
    *,
    kind: str,
    group: int,
    deadline_seconds: float,
    poll_seconds: float,
) -> Iterator[SiteReply]:
    """Sends each site of `nodes` its record, and yields the replies in the order of `nodes`.

    A reply that has been handed on is not kept, so that memory holds one of them at a time.

    Args:
        kind: Flower's type of the messages.
        group: Flower's group of them; the number of the round.
        deadline_seconds: from sending; a site without a reply by then has failed.
    """
    if not nodes:
        return
    messages = [
        Message(records[site], dst_node_id=node, message_type=kind, group_id=str(group))
        for site, node in nodes.items()
    ]
    ids = dict(zip(nodes, grid.push_messages(messages), strict=True))
    deadline = time.monotonic() + deadline_seconds
    for site, message_id in ids.items():
        yield _await_reply(grid, site, message_id, deadline, poll_seconds)


class WaitedFor(Iterator[SiteReply]):
    """The replies, and how long whoever took them has waited for them so far."""

    def __init__(self, replies: Iterator[SiteReply]) -> None:
        self._replies = replies
        self.seconds = 0.0

    def __next__(self) -> SiteReply:
        began = time.perf_counter()
        try:
            return next(self._replies)
        finally:
            self.seconds += time.perf_counter() - began


def _await_reply(
    grid: Grid, site: str, message_id: str, deadline: float, poll_seconds: float
) -> SiteReply:
    while True:
        asked = time.monotonic()
        for message in grid.pull_messages([message_id]):
            if message.has_error():
                reason = message.error.reason or f"Flower error {message.error.code}"
                lost = message.error.code != _SITE_RAISED
                return SiteReply(site=site, record=None, failure=_one_line(reason), lost=lost)
            return SiteReply(site=site, record=message.content)
        if time.monotonic() > deadline:
            return SiteReply(
                site=site, record=None, failure="no reply before the deadline", lost=True
            )
        # A grid may have held the question for longer than that already.
        time.sleep(max(0.0, poll_seconds - (time.monotonic() - asked)))


def _one_line(text: str) -> str:
    """A site's words, fit for a log: one line, printable, of bounded length."""
    printable = "".join(c if c.isprintable() else " " for c in text[:_MAX_REASON])
    return printable + ("…" if len(text) > _MAX_REASON else "")
