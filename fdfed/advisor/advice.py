"""The advice to a base site: how far each candidate is, tap by tap, and what it may bring."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final, Literal

from fdfed.advisor.calibration import Calibration, Forecast, forecast
from fdfed.advisor.shift import mean_shift, shifts_of
from fdfed.advisor.summary import SiteSummary
from fdfed.config import Frozen, SiteName, read_json
from fdfed.errors import InvalidInput
from fdfed.files.atomic_file import write_text

FORMAT: Final = 1


class TapShift(Frozen):
    """The shift of a pair at one tap, as `Shift`."""

    size: float
    chance: float


class Candidate(Frozen):
    """One site that might join the base."""

    site: SiteName
    shift: float
    """`mean_shift` from the base; the ranking is by it."""
    forecast: Forecast | None
    note: str
    """What the forecast rests on, or why there is none."""


class Advice(Frozen):
    """What `advice.json` holds."""

    format: Literal[1] = FORMAT
    base: SiteName
    model: str
    phantoms: bool
    patients: dict[SiteName, int]
    """Patients of each site at the tap that has the most."""
    shifts: dict[str, dict[str, TapShift]]
    """`{"first second": {tap: shift}}` of every pair of sites."""
    ranking: tuple[Candidate, ...]
    """Nearest first."""


def advise(
    base: str, summaries: Sequence[SiteSummary], *, calibration: Calibration | None = None
) -> Advice:
    """The shift of every pair, the candidates from near to far, and a forecast for each, if a
    calibration allows one.

    Args:
        summaries: of the base and of one candidate or more, under one network: the base's own
            model, or the federation's.

    Raises:
        InvalidInput: if the base or a candidate is missing, a site comes twice, the networks
            differ, or phantoms are among images.
    """
    by_site = {summary.site: summary for summary in summaries}
    if len(by_site) < len(summaries):
        raise InvalidInput("advise got one site twice; give one summary a site")
    if base not in by_site or len(by_site) < 2:
        raise InvalidInput(
            f"advise got summaries of {', '.join(by_site) or 'no site'}; it needs one of the base "
            f"{base} and one of a candidate or more"
        )
    if len({summary.phantoms for summary in summaries}) > 1:
        mixed = ", ".join(summary.site for summary in summaries if summary.phantoms)
        raise InvalidInput(f"{mixed} hold phantoms and the others do not; compare like with like")
    names = [base, *(name for name in by_site if name != base)]
    shifts = {
        f"{first} {second}": shifts_of(by_site[first], by_site[second])
        for i, first in enumerate(names)
        for second in names[i + 1 :]
    }
    near = {name: mean_shift(shifts[f"{base} {name}"]) for name in names[1:]}
    phantoms = by_site[base].phantoms
    ranking = []
    for name in sorted(near, key=lambda name: (near[name], name)):
        found, note = forecast(calibration, shift=near[name], phantoms=phantoms)
        ranking.append(Candidate(site=name, shift=near[name], forecast=found, note=note))
    return Advice(
        base=base,
        model=by_site[base].model,
        phantoms=phantoms,
        patients={name: max(tap.patients for tap in by_site[name].taps.values()) for name in names},
        shifts={
            pair: {tap: TapShift(size=s.size, chance=s.chance) for tap, s in taps.items()}
            for pair, taps in shifts.items()
        },
        ranking=tuple(ranking),
    )


def shift_of(advice: Advice, first: str, second: str) -> Mapping[str, TapShift]:
    """The shifts of a pair, in whichever order it is asked for."""
    pair = advice.shifts.get(f"{first} {second}") or advice.shifts.get(f"{second} {first}")
    if pair is None:
        raise InvalidInput(f"the advice has no pair {first}, {second}")
    return pair


def write_advice(path: Path, advice: Advice) -> None:
    """`advice.json`, atomically."""
    write_text(path, advice.model_dump_json(indent=1) + "\n")


def load_advice(path: Path) -> Advice:
    """The advice in a file.

    Raises:
        InvalidInput: if the file is missing or is no advice.
    """
    return read_json(Advice, path, wanted="an advice.json")
