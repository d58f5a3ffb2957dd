"""What the coordinator can tell of the sites of a run: the shift that shows in distances alone.

It never has a prototype that it could read, so it has no scatter and cannot standardise a shift as
`fdfed.advisor` does from the sites' summaries. It has the pair terms of every step.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from fdfed.errors import InvalidInput
from fdfed.files.atomic_file import write_text
from fdfed_server.run_state import RunState


@dataclass(frozen=True, slots=True)
class PairAdvice:
    """The sites of a run by their distances, as one of them sees it."""

    base: str
    round: int
    """The newest round that compared sites."""
    gaps: Mapping[str, Mapping[str, float]]
    """`{"first second": {tap: gap}}`, see `gap`."""
    ranking: Mapping[str, float]
    """The other sites, nearest first: the mean over taps of |gap|."""
    forecast: None = None
    """There is none: a distance does not say what it does to the Dice."""


def gap(across: float, first: float, second: float) -> float:
    """log D_st - log(D_ss + D_tt), from the pair terms -log D of two sites and of each.

    By D_st = D_ss + D_tt + 2 <F_s - F_t, B_s - B_t> it is 0 without a shift, above 0 where
    foreground and background are shifted the same way, and below 0 where they are shifted against
    each other. A shift of one class alone, or at right angles, does not show in it. Terms are means
    over a round of logarithms, and distances are of batch means, which chance enlarges alike.
    """
    # The smaller exponent is taken out, so that no distance overflows.
    least = min(first, second)
    own = -least + math.log(math.exp(least - first) + math.exp(least - second))
    return -across - own


def advise(state: RunState, base: str) -> PairAdvice:
    """The other sites of the run, from near to far.

    Raises:
        InvalidInput: if the base is no site of the run, or no round compared sites.
    """
    if base not in state.plan.sites:
        raise InvalidInput(
            f"{base} is no site of this run; its sites are {', '.join(state.plan.sites)}"
        )
    record = next((entry for entry in reversed(state.history) if entry.pairs), None)
    if record is None:
        raise InvalidInput(
            "no round of this run has compared sites: the exchange begins with phase 2, under the "
            "loss fd+exch. Wait for it, or compare summaries with `fdfed advise`"
        )
    gaps: dict[str, dict[str, float]] = {}
    for names, terms in record.pairs.items():
        first, second = names.split(" ")
        if first == second:
            continue
        own = [record.pairs.get(f"{site} {site}", {}) for site in (first, second)]
        gaps[names] = {
            tap: gap(term, own[0][tap], own[1][tap])
            for tap, term in terms.items()
            if tap in own[0] and tap in own[1]
        }
    near = {
        first if second == base else second: _mean_size(gaps[f"{first} {second}"])
        for first, second in (names.split(" ") for names in gaps)
        if base in (first, second) and gaps[f"{first} {second}"]
    }
    ranking = dict(sorted(near.items(), key=lambda entry: (entry[1], entry[0])))
    return PairAdvice(base=base, round=record.round, gaps=gaps, ranking=ranking)


def write_pair_advice(path: Path, advice: PairAdvice) -> None:
    """`advice.json`, atomically."""
    write_text(path, json.dumps(asdict(advice), indent=1) + "\n")


def _mean_size(gaps: Mapping[str, float]) -> float:
    return sum(map(abs, gaps.values())) / len(gaps)
