"""What the coordinator is doing, as a small file in its state folder, and how it is read.

The file is replaced at every event and at least every few seconds, so that a reader can tell a
running coordinator from one that was killed.
"""

from __future__ import annotations

import json
import logging
import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Final

from pydantic import TypeAdapter, ValidationError

from fdfed.config import RunPlan
from fdfed.errors import InvalidInput
from fdfed.evaluation.results import RoundRecord
from fdfed.files.atomic_file import write_text
from fdfed.wire import EvaluateResult, Prepared
from fdfed_server.observer import Observer

log = logging.getLogger(__name__)

FILE: Final = "status.json"
_BEAT_SECONDS: Final = 5.0
_STALE_SECONDS: Final = 20.0
_FINISHED: Final = "finished"
_STOPPED: Final = "stopped"
_FAILED: Final = "failed"
_EXCHANGED: Final = ("answered", "dropped", "staleness_mean", "staleness_max")
_ENDS: Final = (_FINISHED, _STOPPED, _FAILED)


@dataclass(frozen=True, slots=True, kw_only=True)
class SiteStatus:
    """One site as the coordinator sees it."""

    online: bool = False
    """Whether the site's exchange stream is open; a run without the exchange has none."""
    num_train: int | None = None
    val_dice: float | None = None
    last_round: int = 0
    answered: int | None = None
    """Steps of its last round that had a cross-site term; None without the exchange."""
    dropped: int | None = None
    staleness_mean: float | None = None
    """Steps by which the replies used were late."""
    staleness_max: int | None = None
    epsilon: float | None = None
    """ε that the site has spent; `None` without differential privacy, when none is shown."""
    note: str = ""
    """Why its last update was left out, if it was."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """The coordinator at one moment."""

    pid: int
    time: float
    """Seconds since the epoch at which this was written."""
    activity: str
    completed_rounds: int = 0
    rounds: int = 0
    phase: int = 1
    strategy: str = ""
    mean_val_dice: float | None = None
    phantoms: bool = False
    sites: Mapping[str, SiteStatus] = field(default_factory=dict)
    notices: tuple[str, ...] = ()
    """What the operator must do soon, such as renew a certificate."""

    @property
    def fresh(self) -> bool:
        """Whether the coordinator still writes it."""
        return not self.ended and time.time() - self.time < _STALE_SECONDS

    @property
    def ended(self) -> bool:
        """Whether the coordinator ended in order: done, stopped, or with an error that it named."""
        return self.activity.partition(":")[0] in _ENDS


def read_status(state: Path) -> Status:
    """The status in a coordinator's state folder.

    Raises:
        InvalidInput: if no coordinator ever ran there, or the file is damaged.
    """
    path = state / FILE
    try:
        return TypeAdapter(Status).validate_json(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError) as err:
        raise InvalidInput(
            f"{state} holds no status: no coordinator has run there. Start one with "
            "`fdfed-server start`, or name its folder with --state"
        ) from err
    except ValidationError as err:
        raise InvalidInput(f"{path} is damaged; it is written anew at the next start") from err


class StatusWriter(Observer):
    """Keeps the status file current; use as a context manager around a run.

    Args:
        present: the sites that are connected now.
        notices: what the operator must do soon.
    """

    def __init__(
        self,
        state: Path,
        present: Callable[[], Sequence[str]],
        *,
        notices: Callable[[], tuple[str, ...]] = tuple,
    ) -> None:
        self._path = state / FILE
        self._present = present
        self._notices = notices
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._status = Status(pid=os.getpid(), time=time.time(), activity="starting")
        self._thread = threading.Thread(target=self._beat, name="status", daemon=True)

    def __enter__(self) -> StatusWriter:
        self._write()
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._ended.set()
        self._thread.join()
        if kind is not None and issubclass(kind, Exception):
            self._update(activity=f"{_FAILED}: {kind.__name__}")
        elif self._status.activity != _FINISHED:
            self._update(activity=_STOPPED)

    def run_started(self, plan: RunPlan, completed_rounds: int) -> None:
        self._update(
            activity="starting",
            rounds=plan.rounds,
            strategy=plan.strategy,
            phantoms=plan.phantoms,
            completed_rounds=completed_rounds,
            sites={site: SiteStatus() for site in plan.sites},
        )

    def waiting_for(self, sites: Sequence[str]) -> None:
        if sites:
            self._update(activity=f"waiting for {', '.join(sites)}")

    def site_prepared(self, prepared: Prepared) -> None:
        self._site(prepared.site, num_train=prepared.num_train)

    def round_started(self, server_round: int, phase: int, attempt: int) -> None:
        again = f", attempt {attempt}" if attempt > 1 else ""
        self._update(activity=f"training round {server_round}{again}", phase=phase)

    def site_answered(self, site: str, server_round: int, failure: str) -> None:
        if not failure:
            self._site(site, last_round=server_round, note="")

    def round_finished(self, record: RoundRecord) -> None:
        for site, entry in record.sites.items():
            changes = {name: getattr(entry, name) for name in _EXCHANGED}
            if entry.privacy is not None:
                changes["epsilon"] = entry.privacy.epsilon
            self._site(site, val_dice=entry.val_dice, note=entry.refused or "", **changes)
        self._update(completed_rounds=record.round, mean_val_dice=record.mean_val_dice)

    def test_finished(self, results: Mapping[str, EvaluateResult]) -> None:
        self._update(activity=_FINISHED)

    def _site(self, site: str, **changes: object) -> None:
        with self._lock:
            known = self._status.sites.get(site, SiteStatus())
            changed = replace(known, **changes)  # type: ignore[arg-type]
            self._status = replace(self._status, sites={**self._status.sites, site: changed})
        self._write()

    def _update(self, **changes: object) -> None:
        with self._lock:
            self._status = replace(self._status, **changes)  # type: ignore[arg-type]
        self._write()

    def _beat(self) -> None:
        while not self._ended.wait(_BEAT_SECONDS):
            self._write()

    def _write(self) -> None:
        with self._lock:
            present = set(self._present())
            sites = {
                name: replace(site, online=name in present)
                for name, site in self._status.sites.items()
            }
            self._status = replace(
                self._status, time=time.time(), sites=sites, notices=self._notices()
            )
            try:
                write_text(self._path, json.dumps(asdict(self._status)))
            except OSError as err:
                # Nobody's training stops because nobody can watch it.
                log.warning("the status cannot be written: %s", err)
