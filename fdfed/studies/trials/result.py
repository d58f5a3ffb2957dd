"""What a finished trial says, made of its rounds, and read back from its file."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from fdfed.evaluation.results import RoundRecord, is_known
from fdfed.studies.cotangents import LagError, read_errors
from fdfed.studies.diagnostics import TapDiagnostics
from fdfed.studies.scored_images import ScoredImage
from fdfed.studies.trials.trial import Trial

PLATEAU_SHARE: Final = 0.2
"""The last fifth of the steps, over which a trial is scored."""

RESULT: Final = "result.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialResult:
    """A finished trial. Dice are fractions, on validation images; test images are apart, and only
    of a trial that may read them."""

    name: str
    group: str
    method: str
    config: str
    fold: int
    seed: int
    steps: int
    """Training steps of each site."""
    score: float | None
    """Dice, mean over the last fifth of the steps, then over sites; None if the run diverged."""
    site_scores: Mapping[str, float] = field(default_factory=dict)
    slope: float | None = None
    """Score less the same mean over the fifth before: near zero at a plateau."""
    curve: Sequence[tuple[int, Mapping[str, float]]] = ()
    """(steps, Dice by site) of every validation."""
    alpha: Mapping[str, float] = field(default_factory=dict)
    """α of each tap in the last round."""
    taps: Mapping[str, TapDiagnostics] = field(default_factory=dict)
    """Of a trial that is diagnosed."""
    seconds: float = 0.0
    """Wall-clock seconds of the rounds that this trial trained itself."""
    whole_seconds: float = 0.0
    """Those of all its rounds, whoever trained them."""
    shared_rounds: int = 0
    """First rounds that another trial had trained, bit for bit the same."""
    best_round: int | None = None
    """The round whose common model was tested; None where sites have models of their own."""
    images: Sequence[ScoredImage] = ()
    """The test images under the final model, of a trial that may read them."""
    spectral_norms: Mapping[str, float] = field(default_factory=dict)
    """By layer of the final common model, of a trial whose test images are read."""
    bytes: Mapping[str, int] = field(default_factory=dict)
    """`up` and `down`, all sites and rounds together."""
    exchange: Mapping[str, float | int] = field(default_factory=dict)
    """What the exchange did over the whole run, as in `results.json`, without what the clock says;
    empty without one."""
    cotangents: Mapping[str, Mapping[int, LagError]] = field(default_factory=dict)
    """By tap and lag: how fast the cotangents go stale. A trial that was cut has measured the
    rounds since."""
    failure: str = ""
    """Why there is no score."""
    plan: Mapping[str, Any] = field(default_factory=dict)
    device: str = "cpu"
    """What it was trained on, the rounds of this trial at least."""


def load_results(out: Path) -> dict[str, TrialResult]:
    """Every finished trial below `out`, by its name."""
    found = {}
    for path in sorted((out / "trials").glob(f"*/{RESULT}")):
        values = json.loads(path.read_text(encoding="utf-8"))
        values["taps"] = {tap: TapDiagnostics(**entry) for tap, entry in values["taps"].items()}
        values["cotangents"] = read_errors(values.get("cotangents", {}))
        values["images"] = tuple(ScoredImage(**image) for image in values.get("images", ()))
        values["curve"] = tuple((steps, dice) for steps, dice in values["curve"])
        found[path.parent.name] = TrialResult(**values)
    return found


def result_of(
    trial: Trial,
    rounds: Sequence[RoundRecord],
    *,
    taps: Mapping[str, TapDiagnostics] | None = None,
    shared_rounds: int = 0,
    failure: str = "",
) -> TrialResult:
    plan = trial.plan
    curve = [
        (record.round * plan.steps_per_round, dice)
        for record in rounds
        if (dice := _known_dice(record))
    ]
    steps = plan.rounds * plan.steps_per_round
    last = _mean_after(curve, (1 - PLATEAU_SHARE) * steps, float(steps))
    before = _mean_after(curve, (1 - 2 * PLATEAU_SHARE) * steps, (1 - PLATEAU_SHARE) * steps)
    score = _mean(last.values()) if last else None
    fold, seed = trial.replicate
    return TrialResult(
        name=trial.name,
        group=trial.group,
        method=trial.method,
        config=trial.config,
        fold=fold,
        seed=seed,
        steps=steps,
        score=score,
        site_scores=last,
        slope=score - _mean(before.values()) if score is not None and before else None,
        curve=curve,
        alpha=dict(rounds[-1].alpha) if rounds else {},
        taps=taps or {},
        bytes={way: sum(getattr(record.bytes, way) for record in rounds) for way in ("up", "down")},
        seconds=sum(record.seconds or 0.0 for record in rounds[shared_rounds:]),
        whole_seconds=sum(record.seconds or 0.0 for record in rounds),
        shared_rounds=shared_rounds,
        failure=failure,
        plan=plan.model_dump(mode="json"),
    )


def _known_dice(record: RoundRecord) -> dict[str, float]:
    return {
        site: entry.val_dice for site, entry in record.sites.items() if is_known(entry.val_dice)
    }


def _mean_after(
    curve: Iterable[tuple[int, Mapping[str, float]]], after: float, until: float
) -> dict[str, float]:
    """Mean Dice of each site over the validations in (after, until]."""
    values: dict[str, list[float]] = {}
    for steps, dice in curve:
        if after < steps <= until:
            for site, value in dice.items():
                values.setdefault(site, []).append(value)
    return {site: _mean(entries) for site, entries in values.items()}


def _mean(values: Iterable[float]) -> float:
    known = list(values)
    return sum(known) / len(known)
