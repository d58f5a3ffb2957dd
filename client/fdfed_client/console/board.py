"""What the hospital's console shows: the audit log added up, and this site's own scores."""

from __future__ import annotations

import json
import threading
from collections import deque
from collections.abc import Iterable, Mapping
from typing import Any, Final

from fdfed import __version__
from fdfed.config import RunPlan
from fdfed.evaluation.results_files import without_nan
from fdfed.wire import EvaluateResult, TrainResult
from fdfed_client.console.words import NEVER, words
from fdfed_client.site import Site

_RECENT: Final = 25
_ROUNDS: Final = 2000
"""Rounds whose scores are kept for the curves; older ones leave the page, not the disk."""


class AgentBoard:
    """The agent as one document; safe to read from other threads.

    Args:
        history: the lines of the audit log from before this process began, as JSON.
    """

    def __init__(self, site: str, *, history: Iterable[str] = ()) -> None:
        self._site = site
        self._lock = threading.Lock()
        self._version = 0
        self._totals: dict[tuple[str, str], dict[str, Any]] = {}
        self._held_back: dict[str, int] = {}
        self._recent: deque[dict[str, Any]] = deque(maxlen=_RECENT)
        self._rounds: deque[dict[str, Any]] = deque(maxlen=_ROUNDS)
        self._step: tuple[int, int, int] | None = None
        self._plan: RunPlan | None = None
        self._joining: str | None = None
        for text in history:
            self._take(json.loads(text))

    @property
    def version(self) -> int:
        """Grows with every change."""
        return self._version

    def noted(self, line: Mapping[str, Any]) -> None:
        """A line of the audit log is on disk."""
        with self._lock:
            self._take(line)
            self._version += 1

    def step_done(self, server_round: int, done: int, total: int) -> None:
        """A step of the training is done."""
        with self._lock:
            self._step = (server_round, done, total)
            self._version += 1

    def answered(self, site: Site, result: TrainResult | EvaluateResult) -> None:
        """The site has trained or scored, and is about to say so."""
        with self._lock:
            self._plan = site.plan
            entry = self._round(result.server_round)
            if isinstance(result, TrainResult):
                entry |= {
                    "loss_seg": result.loss_seg,
                    "seconds": result.seconds,
                    "dropped": result.exchange.dropped,
                }
            elif result.dice is not None:
                entry[result.part] = result.dice.mean
            self._version += 1

    def joined(self, sentence: str) -> None:
        """The site knows whether joining helped it."""
        with self._lock:
            self._joining = sentence
            self._version += 1

    def snapshot(self) -> dict[str, Any]:
        """Everything that the page shows."""
        with self._lock:
            out = [entry for key, entry in self._totals.items() if key[0] == "out"]
            document = {
                "version": self._version,
                "software": __version__,
                "site": self._site,
                "step": self._step,
                "out": out,
                "in": [entry for key, entry in self._totals.items() if key[0] == "in"],
                "bytes_out": sum(entry["bytes"] for entry in out),
                "held_back": dict(self._held_back),
                "recent": list(reversed(self._recent)),
                "rounds": [dict(entry) for entry in self._rounds],
                "joining": self._joining,
                "never": NEVER,
                "plan": self._plan.model_dump(mode="json") if self._plan else None,
                "plan_digest": self._plan.digest if self._plan else None,
            }
        clean: dict[str, Any] = without_nan(document)
        return clean

    def _round(self, server_round: int) -> dict[str, Any]:
        if not self._rounds or self._rounds[-1]["round"] != server_round:
            self._rounds.append({"round": server_round})
        return self._rounds[-1]

    def _take(self, line: Mapping[str, Any]) -> None:
        direction, kind = str(line["direction"]), str(line["kind"])
        if direction == "here" or line.get("state") == "begun":
            return
        refused = line.get("decision") == "refused"
        meaning = words(direction, kind)
        self._recent.append(
            {
                "time": line["time"],
                "direction": direction,
                "words": meaning,
                "bytes": line.get("bytes"),
                "round": line.get("round"),
                "decision": line.get("decision", "allowed"),
                "refused": line.get("rule", "rate") if refused else None,
            }
        )
        if refused:
            rule = str(line.get("rule", "rate"))
            self._held_back[rule] = self._held_back.get(rule, 0) + int(line.get("frames", 1))
            return
        total = self._totals.setdefault(
            (direction, kind), {"kind": kind, "words": meaning, "times": 0, "bytes": 0}
        )
        total["times"] += int(line.get("frames", 1))
        total["bytes"] += int(line.get("bytes", 0))
        total["last"] = line["time"]
