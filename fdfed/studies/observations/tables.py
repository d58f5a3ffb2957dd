"""The paper's Tables 1, 2 and 4, of runs without and with L_fd."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
from scipy import stats

from fdfed.studies.baselines.analysis import patient_scores
from fdfed.studies.observations.measures import averaged, worst_and_best
from fdfed.studies.scored_images import ScoredImage
from fdfed.studies.trials import TrialResult

BySeed = Mapping[int, TrialResult]

WORST_OFF: Final = {"tnbc": 10, "monuseg": 25, "busbra": 35, "busuclm": 35}
"""The paper's numbers of worst-off images; those of UDIAT for both ultrasound sites."""

TABLE_1: Final[Mapping[str, tuple[str, int, int, float]]] = {
    "TNBC": ("histology", 50, 10, 75.0),
    "MoNuSeg": ("histology", 44, 25, 70.0),
    "UDIAT": ("ultrasound", 163, 35, 25.5),
    "US-TNBC": ("ultrasound", 15, 10, 65.5),
    "AD": ("histology", 10_000, 500, 40.0),
}
"""Published: type, images, worst-off images, and the Dice that they lie below, about."""

TABLE_4: Final = {
    "MoNuSeg, NuSegNet": (0.0015, 0.0032),
    "MoNuSeg, AttnUNet": (0.0019, 0.0007),
    "US-TNBC, CMUNet": (0.0045, 0.0051),
}
"""Published p of Dice and IoU, five runs against one value."""


def datasets(without: BySeed) -> list[dict[str, Any]]:
    """Table 1, by site: test images and patients, worst-off images of the runs without L_fd, and
    the Dice that they lie below."""
    images = averaged(result.images for result in without.values())
    rows = []
    for site in dict.fromkeys(image.site for image in images):
        own = [image for image in images if image.site == site]
        worst, _, threshold = worst_and_best(own, at_most=WORST_OFF.get(site, len(own)))
        rows.append(
            {
                "site": site,
                "test_images": len(own),
                "test_patients": len({image.patient for image in own}),
                "worst_off": len(worst),
                "threshold": threshold if worst else None,
            }
        )
    return rows


def by_difficulty(without: BySeed, with_loss: BySeed) -> list[dict[str, Any]]:
    """Table 2: Dice and IoU of all, the worst-off and the best-off test images, without and with
    L_fd. The sets are fixed by the runs without it, and do not overlap."""
    before, after = (averaged(r.images for r in runs.values()) for runs in (without, with_loss))
    rows = []
    for site in dict.fromkeys(image.site for image in before):
        own = [image for image in before if image.site == site]
        worst, best, _ = worst_and_best(own, at_most=WORST_OFF.get(site, len(own)))
        everything = {image.image for image in own if image.dice is not None}
        for name, chosen in (("worst-off", worst), ("best-off", best), ("all", everything)):
            row: dict[str, Any] = {"site": site, "images": name, "n": len(chosen)}
            for metric in ("dice", "iou"):
                old, new = (_mean(side, site, chosen, metric) for side in (before, after))
                change = None if old is None or new is None else new - old
                row |= {f"{metric}_without": old, f"{metric}_with": new, f"{metric}_change": change}
            rows.append(row)
    return rows


def _mean(images: Sequence[ScoredImage], site: str, names: set[str], metric: str) -> float | None:
    values = [
        value
        for image in images
        if image.site == site and image.image in names
        and (value := getattr(image, metric)) is not None
    ]  # fmt: skip
    return float(np.mean(values)) if values else None


def significance(without: BySeed, with_loss: BySeed) -> list[dict[str, Any]]:
    """Table 4: the paper's one-sample t-test (runs with L_fd against the value of the first run
    without it, whose own spread it leaves out), and two that have no such gap: Welch's over runs,
    and Wilcoxon's over patients, seeds averaged. All two-sided; None where there are too few."""
    rows = []
    sites = dict.fromkeys(image.site for r in without.values() for image in r.images)
    for site in sites:
        for metric in ("dice", "iou"):
            ours, theirs = (_by_run(runs, site, metric) for runs in (with_loss, without))
            rows.append(
                {
                    "site": site,
                    "metric": metric,
                    "runs_with": len(ours),
                    "runs_without": len(theirs),
                    "change": float(np.mean(ours) - np.mean(theirs)) if ours and theirs else None,
                    "one_sample_p": _p(
                        stats.ttest_1samp(ours, theirs[0]).pvalue
                        if len(ours) > 1 and theirs
                        else None
                    ),
                    "welch_p": _p(
                        stats.ttest_ind(ours, theirs, equal_var=False).pvalue
                        if min(len(ours), len(theirs)) > 1
                        else None
                    ),
                    "wilcoxon_p": _wilcoxon(without, with_loss, site, metric),
                }
            )
    return rows


def _by_run(runs: BySeed, site: str, metric: str) -> list[float]:
    found = (patient_scores(r.images, metric) for r in runs.values())  # type: ignore[arg-type]
    return [float(np.mean(list(scores[site].values()))) for scores in found if site in scores]


def _wilcoxon(without: BySeed, with_loss: BySeed, site: str, metric: str) -> float | None:
    sides = [
        patient_scores(averaged(r.images for r in runs.values()), metric).get(site, {})  # type: ignore[arg-type]
        for runs in (without, with_loss)
    ]
    patients = sorted(sides[0].keys() & sides[1].keys())
    differences = [sides[1][patient] - sides[0][patient] for patient in patients]
    if len(patients) < 2 or not any(differences):
        return None
    return _p(stats.wilcoxon(differences).pvalue)


def _p(value: float | None) -> float | None:
    return None if value is None or np.isnan(value) else float(value)
