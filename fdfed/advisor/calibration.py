"""What a shift has meant for the Dice so far: pairs that were really trained, and what follows.

A forecast is a straight line through observed pairs, with an interval from the errors that the line
made on pairs it had not seen. Without observed pairs there is no forecast.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from fdfed.config import Frozen, SiteName, read_json
from fdfed.errors import InvalidInput
from fdfed.files.atomic_file import write_text

FORMAT: Final = 1
LEVEL: Final = 0.8
"""Confidence of a forecast's interval. A higher one needs more pairs than any study here has."""
MIN_PAIRS: Final = 8
"""Fewest unordered pairs behind a forecast: with k pairs, k / (k + 1) is the highest level at which
an interval of this kind is finite, and a line through fewer follows single pairs."""
PREDICTORS: Final = ("shift", "share", "histogram", "classifier")
"""The advisor's own, and three that need no network: the share of images that the candidate would
add, the distance of intensity histograms, the AUC of a classifier that tells the sites apart."""

Predictor = Literal["shift", "share", "histogram", "classifier"]


class Observation(Frozen):
    """One candidate that was added to one base, in one training."""

    base: SiteName
    novel: SiteName
    phantoms: bool
    change: float = Field(ge=-1, le=1)
    """Dice at the base with the candidate, less that without: a fraction."""
    shift: float = Field(ge=0)
    """`mean_shift` under the base's own model."""
    share: float = Field(gt=0, lt=1)
    """The candidate's training images over those of both."""
    histogram: float = Field(ge=0, le=1)
    """Wasserstein distance between the grey levels of both sites, in [0, 1]."""
    classifier: float = Field(ge=0, le=1)
    """AUC of telling the sites' images apart by their grey levels."""

    @property
    def pair(self) -> frozenset[str]:
        """The two sites in either role: no direction, share or seed of a pair may vouch for
        another one of the same pair."""
        return frozenset((self.base, self.novel))


class Calibration(Frozen):
    """Observed pairs, and how they were made."""

    format: Literal[1] = FORMAT
    made_by: str = Field(max_length=2000)
    """Network, image size, steps and score of the trainings: a forecast speaks of such trainings
    alone."""
    observations: tuple[Observation, ...] = Field(max_length=100_000)

    def of_kind(self, *, phantoms: bool) -> tuple[Observation, ...]:
        """The observations on phantoms, or those on images; one says nothing of the other."""
        return tuple(entry for entry in self.observations if entry.phantoms == phantoms)


class Forecast(Frozen):
    """The change of Dice at the base that a candidate should bring."""

    change: float
    low: float
    """Ends of the interval of level `LEVEL`."""
    high: float
    pairs: int
    """Unordered pairs behind it."""


class Validation(Frozen):
    """How well one predictor foretold pairs that it had not seen."""

    predictor: str
    """`none` is the mean change of the other pairs, whatever the candidate."""
    pairs: int
    observations: int
    rmse: float
    """Root mean square error of the change of Dice; pairs count alike."""
    mae: float
    rank: float | None
    """Spearman's correlation between foretold and observed; None where all are foretold alike."""
    covered: float | None
    """Share of pairs whose observed changes all lie in the interval of level `LEVEL` that the
    others give; None where they are too few for one."""


def forecast(
    calibration: Calibration | None, *, shift: float, phantoms: bool
) -> tuple[Forecast | None, str]:
    """The forecast for a candidate at this shift, or None; and why, or what it rests on.

    Args:
        calibration: None if there is no file: nothing then says what a shift means for Dice.
        shift: `mean_shift` of base and candidate under the base's model.
    """
    kind = "phantom" if phantoms else "real"
    if calibration is None:
        return None, (
            "no forecast without a calibration file: a shift alone does not say what it does to "
            "the Dice. `fdfed study advisor` makes one"
        )
    seen = calibration.of_kind(phantoms=phantoms)
    pairs = len({entry.pair for entry in seen})
    if pairs < MIN_PAIRS:
        return None, (
            f"no forecast: the calibration holds {pairs} {kind} pairs of sites, and "
            f"{MIN_PAIRS} are needed"
        )
    low, high = (end(entry.shift for entry in seen) for end in (min, max))
    if not low <= shift <= high:
        return None, (
            f"no forecast: a shift of {shift:.2f} lies outside of the {low:.2f} to {high:.2f} that "
            "was observed"
        )
    line = _fit(seen, "shift")
    change = float(line(np.array([shift]))[0])
    half = _half_width(seen, "shift")
    text = f"from {len(seen)} trainings on {pairs} {kind} pairs of sites"
    own, none = validate(seen, "shift"), validate(seen, "none")
    if own.rmse >= none.rmse:
        text += (
            "; on pairs that it had not seen the shift foretold no better than the mean change of "
            f"all pairs (error {own.rmse:.3f} against {none.rmse:.3f} Dice), so take it as that"
        )
    return Forecast(change=change, low=change - half, high=change + half, pairs=pairs), text


def validate(seen: Sequence[Observation], predictor: Predictor | Literal["none"]) -> Validation:
    """Leave-one-pair-out: each pair, in both directions and all its trainings, is foretold by a
    line through all others.

    Raises:
        InvalidInput: with fewer than three pairs, which leave no line to test.
    """
    groups = _groups(seen)
    if len(groups) < 3:
        raise InvalidInput(
            f"validate got {len(groups)} pair(s) of sites; leaving one out must leave two or more"
        )
    foretold, observed, errors, covered = [], [], [], list[float | None]()
    for left_out in groups:
        others = [entry for group in groups if group is not left_out for entry in group]
        line = _fit(others, predictor)
        guess, truth = line(_values(left_out, predictor)), _changes(left_out)
        foretold.append(guess)
        observed.append(truth)
        errors.append(np.abs(guess - truth))
        half = _half_width(others, predictor)
        covered.append(float(errors[-1].max() <= half) if math.isfinite(half) else None)
    return Validation(
        predictor=predictor,
        pairs=len(groups),
        observations=len(seen),
        rmse=math.sqrt(np.mean([np.square(error).mean() for error in errors])),
        mae=float(np.mean([error.mean() for error in errors])),
        rank=_spearman(np.concatenate(foretold), np.concatenate(observed))
        if predictor != "none"
        else None,
        covered=None if None in covered else float(np.mean([c for c in covered if c is not None])),
    )


def write_calibration(path: Path, calibration: Calibration) -> None:
    """The calibration as JSON, atomically."""
    write_text(path, calibration.model_dump_json(indent=1) + "\n")


def load_calibration(path: Path) -> Calibration:
    """The calibration in a file.

    Raises:
        InvalidInput: if the file is missing or is no calibration.
    """
    return read_json(
        Calibration, path, wanted="the calibration.json that `fdfed study advisor` wrote, or none"
    )


Line = Callable[[NDArray[np.float64]], NDArray[np.float64]]


def _groups(seen: Sequence[Observation]) -> list[list[Observation]]:
    groups: dict[frozenset[str], list[Observation]] = {}
    for entry in seen:
        groups.setdefault(entry.pair, []).append(entry)
    return list(groups.values())


def _values(seen: Sequence[Observation], predictor: str) -> NDArray[np.float64]:
    if predictor == "none":
        return np.zeros(len(seen))
    return np.array([getattr(entry, predictor) for entry in seen], dtype=np.float64)


def _changes(seen: Sequence[Observation]) -> NDArray[np.float64]:
    return np.array([entry.change for entry in seen], dtype=np.float64)


def _fit(seen: Sequence[Observation], predictor: str) -> Line:
    """The line of least squares, pairs counting alike; level where the predictor never varies."""
    sizes = {group[0].pair: len(group) for group in _groups(seen)}
    weights = np.array([1 / sizes[entry.pair] for entry in seen])
    weights /= weights.sum()
    x, y = _values(seen, predictor), _changes(seen)
    centre, mean = float(weights @ x), float(weights @ y)
    spread = float(weights @ np.square(x - centre))
    slope = float(weights @ ((x - centre) * (y - mean))) / spread if spread > 1e-12 else 0.0
    return lambda at: mean + slope * (at - centre)


def _half_width(seen: Sequence[Observation], predictor: str) -> float:
    """Half the interval: the conformal quantile of the leave-one-pair-out errors.

    A pair's error is its largest, over directions and trainings. Source: the jackknife of Barber et
    al. 2021, Ann. Statist. 49:486, with pairs in place of points; ⌈level · (k + 1)⌉-th smallest of
    k errors, infinite if that is beyond the k-th.
    """
    groups = _groups(seen)
    errors = []
    for left_out in groups:
        others = [entry for group in groups if group is not left_out for entry in group]
        line = _fit(others, predictor)
        error = np.abs(line(_values(left_out, predictor)) - _changes(left_out))
        errors.append(float(error.max()))
    rank = math.ceil(LEVEL * (len(errors) + 1))
    return sorted(errors)[rank - 1] if rank <= len(errors) else math.inf


def _spearman(first: NDArray[np.float64], second: NDArray[np.float64]) -> float | None:
    from scipy import stats  # noqa: PLC0415  slow to import, and few callers come here

    if np.ptp(first) == 0 or np.ptp(second) == 0:
        return None
    return float(stats.spearmanr(first, second).statistic)
