"""The ready phase of masked aggregation: who is in an attempt, and under which number it runs.

The coordinator asks every site that is there for a key, and relays the keys of those that have
one. That fixes the set: an attempt that lacks the answer of one of them has no sum.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from flwr.app import RecordDict

from fdfed.errors import CryptoError, InvalidInput, QuorumNotMet, WireError
from fdfed.files.atomic_file import write_text
from fdfed.privacy import announced_by
from fdfed.wire import Ready, ReadyRequest
from fdfed_server.site_reply import SiteReply

READY_SECONDS: Final = 60.0
"""How long a site may take to announce a key; its work takes milliseconds."""

Asking = Callable[[Mapping[str, int], Mapping[str, RecordDict]], Iterator[SiteReply]]
"""Asks the nodes of these sites, and returns their replies in the same order."""


@dataclass(frozen=True, slots=True)
class ReadySet:
    """The sites of an attempt, and what each of them is told of the others."""

    nodes: dict[str, int]
    masking_keys: tuple[str, ...] = ()


def ready_set(
    asking: Asking, request: ReadyRequest, nodes: Mapping[str, int], *, quorum: int
) -> ReadySet:
    """The sites of `nodes` that announced a key, in the order of `nodes`, with their keys.

    The keys are relayed as they are; each site verifies them by its own roster.

    Raises:
        QuorumNotMet: if they are fewer than `quorum`, or fewer than two.
    """
    ready: dict[str, int] = {}
    keys: list[str] = []
    failures: list[str] = []
    for reply in asking(nodes, dict.fromkeys(nodes, request.to_record())):
        try:
            keys.append(_key_of(reply))
        except (WireError, CryptoError) as err:
            failures.append(f"{reply.site}: {err}")
            continue
        ready[reply.site] = nodes[reply.site]
    if len(ready) < max(2, quorum):
        raise QuorumNotMet(
            f"round {request.server_round}, attempt {request.attempt}: {len(ready)} site(s) "
            f"announced a masking key, {max(2, quorum)} are needed ({'; '.join(failures)})"
        )
    return ReadySet(ready, tuple(keys))


def _key_of(reply: SiteReply) -> str:
    if reply.record is None:
        raise WireError(reply.failure or "no reply")
    announcement = Ready.from_record(reply.record).announcement
    if announced_by(announcement) != reply.site:
        raise WireError("it announced a key in another site's name")
    return announcement


class AttemptCounter:
    """Numbers the attempts of a round over restarts of the coordinator: a site answers each once.

    Args:
        folder: of the run's state; None counts in memory.
    """

    def __init__(self, folder: Path | None) -> None:
        self._file = None if folder is None else folder / "attempt.json"
        self._last = self._load()

    def next(self, server_round: int) -> int:
        """The number of a new attempt of that round; on disk before it is returned."""
        last_round, last = self._last
        self._last = server_round, (last if server_round == last_round else 0) + 1
        if self._file is not None:
            self._file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            write_text(self._file, json.dumps(self._last))
        return self._last[1]

    def _load(self) -> tuple[int, int]:
        if self._file is None or not self._file.exists():
            return 0, 0
        try:
            server_round, attempt = json.loads(self._file.read_text(encoding="utf-8"))
            return int(server_round), int(attempt)
        except (ValueError, TypeError, OverflowError, RecursionError) as err:
            raise InvalidInput(
                f"{self._file} does not hold the number of the last attempt; restore it from a "
                "backup, or start a new run with another folder"
            ) from err
