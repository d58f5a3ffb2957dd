"""What the console shows, gathered from the round loop and, when somebody looks, from the hub."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict
from datetime import datetime
from typing import Any

from fdfed import __version__
from fdfed.config import RunPlan
from fdfed.evaluation.results import RoundRecord
from fdfed.evaluation.results_files import without_nan
from fdfed.membership.expiry import expiry_notices
from fdfed.wire import EvaluateResult, Prepared
from fdfed_server.console.alerts import Alert, alerts
from fdfed_server.hub import HubSnapshot
from fdfed_server.observer import Observer


class Board(Observer):
    """The run as one document; safe to read from other threads.

    Args:
        history: the rounds that were complete before this process began.
        run_id: of the run.
        hub: the exchange's counters now.
        online: sites whose stream is open now.
        roster_version: of the roster in force now.
        certificate_ends: until when each certificate is valid, by what it is.
        paused: whether an operator has paused the run.
        clock: seconds since the epoch.
    """

    def __init__(
        self,
        plan: RunPlan,
        *,
        run_id: str,
        history: Sequence[RoundRecord],
        hub: Callable[[], HubSnapshot],
        online: Callable[[], Collection[str]],
        roster_version: Callable[[], int] = lambda: 1,
        certificate_ends: Callable[[], Mapping[str, datetime]] = dict,
        paused: Callable[[], bool] = lambda: False,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._plan = plan
        self._run_id = run_id
        self._hub = hub
        self._online = online
        self._roster_version = roster_version
        self._certificate_ends = certificate_ends
        self._paused = paused
        self._clock = clock
        self._lock = threading.Lock()
        self._version = 0
        self._rounds = list(history)
        self._sites: dict[str, dict[str, Any]] = {site: {} for site in plan.sites}
        self._activity = "starting"
        self._changed_at = self._started = clock()
        self._ended = False
        self._seen: tuple[frozenset[str], bool] = (frozenset(), False)
        self._missing: frozenset[str] = frozenset()
        self._once_online: set[str] = set()

    @property
    def version(self) -> int:
        """Grows with every change, also of who is online and of a pause."""
        now = (frozenset(self._online()), self._paused())
        with self._lock:
            self._once_online |= now[0]
            if now != self._seen:
                self._seen = now
                self._version += 1
            return self._version

    def run_started(self, plan: RunPlan, completed_rounds: int) -> None:
        self._note(activity="starting")

    def waiting_for(self, sites: Sequence[str]) -> None:
        with self._lock:
            self._missing = frozenset(sites)
        if sites:
            self._note(activity=f"waiting for {', '.join(sites)}")

    def site_prepared(self, prepared: Prepared) -> None:
        entry = {
            "n_train": prepared.num_train,
            "n_val": prepared.num_validation,
            "n_test": prepared.num_test,
            "software": prepared.version,
        }
        self._note(site=prepared.site, entry=entry)

    def round_started(self, server_round: int, phase: int, attempt: int) -> None:
        again = f", attempt {attempt}" if attempt > 1 else ""
        self._note(activity=f"training round {server_round}{again}")

    def site_answered(self, site: str, server_round: int, failure: str) -> None:
        self._note(site=site, entry={"note": failure, "answered": self._clock()})

    def attempt_failed(self, server_round: int, attempt: int, reason: str) -> None:
        self._note(activity=f"round {server_round} is tried again: {reason}")

    def round_finished(self, record: RoundRecord) -> None:
        with self._lock:
            self._rounds.append(record)
        for site, entry in record.sites.items():
            if entry.refused is not None:
                self._note(site=site, entry={"note": entry.refused})
        self._note(activity=f"round {record.round} is complete")

    def test_finished(self, results: Mapping[str, EvaluateResult]) -> None:
        for site, result in results.items():
            if result.dice is not None:
                self._note(site=site, entry={"test_dice": result.dice.mean})
        self._ended = True
        self._note(activity="finished")

    def snapshot(self) -> dict[str, Any]:
        """Everything that the page shows, without NaN: JSON has none."""
        online, hub = set(self._online()), self._hub()
        with self._lock:
            rounds = list(self._rounds)
            sites = {name: dict(entry) for name, entry in self._sites.items()}
            version, activity, changed_at = self._version, self._activity, self._changed_at
            missing, lost = self._missing, self._once_online - online - self._missing
        found = self._alerts(rounds, missing, lost, hub, changed_at)
        document = {
            "version": version,
            "software": __version__,
            "run": self._run(rounds, activity, changed_at),
            "sites": [
                {
                    "name": name,
                    "stream": name in online,
                    "missing": name in missing or not entry,
                    **entry,
                    **_latest(name, rounds),
                }
                for name, entry in sites.items()
            ],
            "rounds": [_round(record) for record in rounds],
            "exchange": _exchange(hub),
            "alerts": [asdict(alert) for alert in found],
            "plan": self._plan.model_dump(mode="json"),
            "roster": self._members(),
        }
        clean: dict[str, Any] = without_nan(document)
        return clean

    def _run(
        self, rounds: Sequence[RoundRecord], activity: str, changed_at: float
    ) -> dict[str, Any]:
        plan, completed = self._plan, rounds[-1].round if rounds else 0
        return {
            "id": self._run_id,
            "activity": activity,
            "changed_at": changed_at,
            "started": self._started,
            "paused": self._paused(),
            "ended": self._ended,
            "strategy": plan.strategy,
            "loss": plan.effective_loss,
            "network": plan.network,
            "phantoms": plan.phantoms,
            "rounds": plan.rounds,
            "completed": completed,
            "phase_1_rounds": plan.phase_1_rounds,
            "phase": plan.phase(min(completed + 1, plan.rounds)),
            "plan_digest": plan.digest,
            "dice": rounds[-1].mean_val_dice if rounds else None,
        }

    def _members(self) -> dict[str, Any]:
        ends = self._certificate_ends()
        return {
            "version": self._roster_version(),
            "certificates": {what: end.isoformat() for what, end in ends.items()},
        }

    def _alerts(
        self,
        rounds: Sequence[RoundRecord],
        missing: Collection[str],
        lost: Collection[str],
        hub: HubSnapshot,
        changed_at: float,
    ) -> list[Alert]:
        if self._ended:
            return []
        return alerts(
            rounds,
            sites=self._plan.sites,
            missing=missing,
            lost=lost,
            refused=sum(hub.refused.values()),
            idle_seconds=0.0 if self._paused() else self._clock() - changed_at,
            round_deadline_seconds=self._plan.round_deadline_seconds,
            certificate_notices=expiry_notices(self._certificate_ends()),
            budget=self._plan.privacy.epsilon if self._plan.privacy else None,
        )

    def _note(
        self, *, activity: str | None = None, site: str = "", entry: Mapping[str, Any] | None = None
    ) -> None:
        with self._lock:
            self._version += 1
            if activity is not None:
                self._activity, self._changed_at = activity, self._clock()
            if site in self._sites:
                self._sites[site] |= entry or {}


def _latest(site: str, rounds: Sequence[RoundRecord]) -> dict[str, Any]:
    """The site in the last round that has it, and the last one that holds its update."""
    found = [r for r in rounds if site in r.sites]
    if not found:
        return {"last_round": None}
    folded = [r.round for r in found if r.sites[site].refused is None]
    return {**asdict(found[-1].sites[site]), "last_round": folded[-1] if folded else None}


def _round(record: RoundRecord) -> dict[str, Any]:
    return {**asdict(record), "mean_val_dice": record.mean_val_dice}


def _exchange(hub: HubSnapshot) -> dict[str, Any]:
    document = asdict(hub)
    document["refused"] = {code.name: count for code, count in hub.refused.items() if count}
    return document
